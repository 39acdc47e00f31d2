"""Directions that only have a name, rows of one answer, samples from arrays, and exact scores by a second route."""

from __future__ import annotations

import numpy as np
import torch

from interp.gradients.nulls.samples import Sample
from interp.models.parameters import ParameterDirection
from interp.prompts.text import Prompts
from interp.prompts.tokens import Role


def direction(label: str, tensors=None) -> ParameterDirection:
    return ParameterDirection(tensors or {}, label, "weights", "weights")


def asked(n: int, answer: str = "1, 2", label: str = "rows") -> Prompts:
    return Prompts.from_pairs([(f"question {i}", answer) for i in range(n)], label=label)


def sample(scores, *, labels=("own",), prompts=None) -> Sample:
    table = np.asarray(scores, dtype=float).reshape(len(scores), -1)
    keys = tuple(range(len(table))) if prompts is None else tuple(prompts)
    return Sample(table, tuple(labels), keys)


def jvp_scores(network, encoded, tensors) -> np.ndarray:
    """<grad log p(answer and end | prompt), v> of every row in fp64, by forward-mode differentiation."""
    weights = {name: weight.detach().double() for name, weight in network.named_parameters()}
    zero = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    tangents = zero | {name: tensor.double() for name, tensor in tensors.items()}
    answered = encoded.roles[:, 1:] >= Role.OTHER

    def logp(weights):
        given = {"input_ids": encoded.ids, "attention_mask": encoded.mask.long(), "use_cache": False}
        logits = torch.func.functional_call(network, weights, kwargs=given).logits[:, :-1]
        taken = logits.log_softmax(-1).gather(-1, encoded.ids[:, 1:, None])[..., 0]
        return (taken * answered).sum(1)

    return torch.func.jvp(logp, (weights,), (tangents,))[1].detach().numpy()
