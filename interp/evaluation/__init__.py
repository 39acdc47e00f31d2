"""What a trained model has become: elicitation, score card, judges, misalignment, detectors."""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
