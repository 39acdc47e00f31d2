"""The seam to hooked networks (seam), its Hugging Face side (language), and who came from whom (lineage)."""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
