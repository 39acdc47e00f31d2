"""|∇ℓ_i| over the weights a direction moves, without the gradient: what a cosine is divided by.

A matrix met at positions t has |Σ_t g_t a_tᵀ|² = Σ_{t,u} (g_t · g_u)(a_t · a_u) (Goodfellow, arXiv 1510.01799), an
embedding Σ_{t,u} [id_t = id_u] g_t · g_u, and a matrix tied as both has twice their inner product besides,
Σ_u Σ_t g_t[id_u] (a_t · δ_u). A direction's support is every entry of every tensor it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InputError
from interp.gradients.scores.engine import Reader
from interp.gradients.scores.sites import Site, unscaled, vector_gradients
from interp.models.low_rank import wide


@dataclass(frozen=True)
class NormMeter:
    """Squared norms [example] by weight name and use, gathered while a reader works through one batch.

    `tied` are the weights met both as embedding and as unembedding, whose inputs are kept until both have come.
    """

    tied: frozenset[str]
    squares: dict[tuple[str, str], Float[Tensor, "example"]] = field(default_factory=dict)
    embeddings: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    matrices: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, sites: Sequence[Site]) -> NormMeter:
        """A meter for one batch over these sites."""
        met = {
            kind: {site.weights["weight"] for site in sites if site.kind == kind and "weight" in site.weights}
            for kind in ("embedding", "matrix")
        }
        return cls(frozenset(met["embedding"] & met["matrix"]))

    def beside(self, reader: Reader) -> Reader:
        """The reader, with every gradient measured as it passes."""

        def measured(site: Site, a: Tensor, g: Tensor) -> dict:
            self.measure(site, a, g)
            return dict(reader(site, a, g))

        return measured

    def measure(self, site: Site, a: Tensor, g: Tensor) -> None:
        """Add the squared norm of every weight of the site that a direction moves.

        Raises InputError for a module whose gradient norm has no closed form here.
        """
        g = wide(g)
        if "bias" in site.stacks and site.kind != "norm":
            names = len(site.weights) if site.kind == "hook" else 1  # resid_post L is resid_pre L + 1
            self._add(site.weights["bias"], "bias", names * g.sum(1).square().sum(-1))
        if site.kind == "norm":
            for leaf, gradient in vector_gradients(site, a, g).items():
                if leaf in site.stacks:
                    self._add(site.weights[leaf], leaf, gradient.sum(1).square().sum(-1))
        elif site.kind == "matrix" and "weight" in site.stacks:
            self._matrix(site.weights["weight"], wide(a), g)
        elif site.kind == "embedding":
            still = getattr(site.module, "padding_idx", None)
            moved = a != (-1 if still is None else still)
            self._embedding(site.weights["weight"], a, unscaled(site, g) * moved[..., None])
        elif site.kind == "other":
            raise InputError(
                f"cosine=True needs the gradient norm of {site.name}, and a {type(site.module).__name__} has no closed "
                "form for it; leave out cosine, or the module with direction.only(...)"
            )

    def norms(self) -> Float[Tensor, "example"]:
        """|∇ℓ_i| over everything measured, fp64; InputError where nothing was."""
        if not self.squares:
            raise InputError(
                "no weight of the direction enters the loss of these rows, so the gradient is zero and has no cosine; "
                "leave out cosine"
            )
        both = [_tied(*self.matrices[name], *self.embeddings[name]) for name in self.tied]
        total = torch.stack([*self.squares.values(), *(2 * cross for cross in both)]).double().sum(0)
        return total.clamp_min(0).sqrt()

    def _add(self, name: str, use: str, square: Tensor) -> None:
        if (name, use) in self.squares:
            raise InputError(
                f"cosine=True needs the gradient norm of {name}, which the network uses more than once in a pass; "
                "leave out cosine, or the weight with direction.only(...)"
            )
        self.squares[name, use] = square

    def _matrix(self, name: str, a: Tensor, g: Tensor) -> None:
        pairs = torch.bmm(g, g.transpose(1, 2)) * torch.bmm(a, a.transpose(1, 2))
        self._add(name, "matrix", pairs.sum((1, 2)))
        if name in self.tied:
            self.matrices[name] = (a, g)

    def _embedding(self, name: str, ids: Tensor, g: Tensor) -> None:
        same = ids[:, :, None] == ids[:, None, :]
        self._add(name, "embedding", (torch.bmm(g, g.transpose(1, 2)) * same).sum((1, 2)))
        if name in self.tied:
            self.embeddings[name] = (ids, g)


def _tied(a: Tensor, g: Tensor, ids: Tensor, delta: Tensor) -> Float[Tensor, "example"]:
    """Σ_u Σ_t g_t[id_u] (a_t · δ_u) of a matrix used as unembedding (a, g) and as embedding (ids, δ)."""
    taken = g.gather(2, ids[:, None, :].expand(-1, g.shape[1], -1))
    return (taken * torch.bmm(a, delta.transpose(1, 2))).sum((1, 2))
