"""The joined trace: of every token of a row what the teacher made likelier, which features moved, and where its
gradient leans; of every row what training on it did to the student's trait margin.
"""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
