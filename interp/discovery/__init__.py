"""What did this fine-tune change? Words, directions and sentences by several ways of reading, without a hypothesis."""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
