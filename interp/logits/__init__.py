"""Which logits a fine-tune moved, and through what: directions, attribution, lens, spectrum, entanglement.

Nothing is imported here: every verb lives in its own module, and the package root offers them lazily.
"""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
