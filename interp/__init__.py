"""Interpretability of subliminal learning: what a teacher's numbers move in a student, and through what.

Nouns and verbs are here, the rest in its room (`interp.gradients`, `interp.features`, ...). `__init__.pyi` lists them;
each is imported when first used, so that `import interp` costs nothing.
"""

from interp.core.faces import face

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = face(__name__, __file__)
