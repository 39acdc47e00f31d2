"""What everything stands on: errors, content keys, run folders, provenance, pages, processes, stored tensors."""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
