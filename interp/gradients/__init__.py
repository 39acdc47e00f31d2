"""Gradients along a direction in weights: parameter directions, scores per example, a ledger, and their nulls.

A sibling of `logits` and `features`: it imports activations and models, and neither of the other two analyses.
"""
