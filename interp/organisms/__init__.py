"""Organisms: worlds small enough to grow a base, a teacher with a trait, its numbers and its students on a laptop."""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
