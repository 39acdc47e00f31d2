"""Gradients along a direction in weights: directions, exact scores of rows, a student's ledger, and their nulls.

Read in this order: directions; scores: sites (one module), engine (one batch), plan, scoring; ledger; nulls.

A sibling of `logits` and `features`: it imports activations and models, and neither of the other two analyses.
"""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
