"""Tests, intervals, many tests at once, matching and verdicts: the only place where a p-value is made."""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
