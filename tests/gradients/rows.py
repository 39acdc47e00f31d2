"""A few rows scored by autograd one at a time, and what the tests of the engine share."""

from __future__ import annotations

import torch

from interp.gradients.scores.engine import Contributions, contributions, find_sites
from interp.gradients.scores.row_loss import row_losses
from interp.models.backbone import view
from interp.models.parameters import ParameterDirection


def bare(model):
    """The network the scores are read from, by itself."""
    network = view(model.hf).requires_grad_(False)
    network.config.pad_token_id = None
    return network


def along(model, tensors, *, biases=None, label="some") -> ParameterDirection:
    return ParameterDirection(tensors, label, model.fingerprint, model.fingerprint, biases=biases or {})


def read(model, encoded, *several) -> Contributions:
    """By module and position."""
    network = bare(model)
    return contributions(network, encoded, sites=find_sites(network, several))


def by_row(network, encoded, leaves: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Gradients of −log p of every row by itself."""
    found = []
    for row in range(len(encoded)):
        loss = row_losses(network, encoded[row : row + 1])[0].sum()
        found.append(dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)))
    return found


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return bool((found.double() - expected.double()).abs().max() <= tolerance * expected.double().abs().max())


class FullDirection(dict):
    """A mapping by every weight of the model, zero where the direction leaves one alone: what the oracle reads."""

    def __init__(self, model, tensors) -> None:
        zeros = {n: torch.zeros(w.shape) for n, w in model.hf.named_parameters()}
        super().__init__(
            {n: tensors[n].expand(zero.shape) if n in tensors else zero for n, zero in zeros.items()}
        )
