"""Sparse features of a shift: training and loading SAEs, which features moved, and where the student leans.

A sibling of `logits` and `gradients`: it imports activations and models, and neither of the other two analyses.
"""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
