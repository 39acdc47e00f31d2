"""Text in, tokens with named roles out: rows, number sequences and traits."""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
