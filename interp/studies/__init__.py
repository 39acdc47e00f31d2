"""The frozen claims about subliminal learning, and what measures them."""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
