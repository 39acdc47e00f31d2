"""What a model is asked: its margin between words, and its loss per answer token."""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
