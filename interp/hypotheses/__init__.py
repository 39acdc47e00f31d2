"""Families of claims, each frozen before its data; verdicts and statistics lie below, in `verdict` and `statistics`.

The unit of every test here is one independent training run; rows and tokens are averaged within a run first.
"""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
