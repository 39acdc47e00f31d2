"""Plants and nulls of every method: does it find what was planted, and nothing else?"""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
