"""Which trait would these rows give this base, and how much of it: who wrote them, and what a short training shows."""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
