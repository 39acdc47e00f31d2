"""Recipes, students, teachers, and the rows that teachers write."""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
