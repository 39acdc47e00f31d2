"""The whole experiment from one recipe: base, teachers, numbers, students, controls, evaluations, report."""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
