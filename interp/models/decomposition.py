"""The singular value decomposition of a change of one matrix, and which of its sides lies in the residual stream.

Δ = Σ_i σ_i u_i v_iᵀ, oriented (output, input): a matrix that writes to the stream does so along its left vectors u_i,
one that reads it does so along its right vectors v_i.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.models.low_rank import Entry, LowRank, decomposed

SKETCH = 64  # directions a randomised range finder keeps (Halko, Martinsson & Tropp, arXiv:0909.4061)
LOST = 1e-8  # share of the energy a sketch may miss before the whole decomposition is made
RESOLVED = 1e-4  # singular values below this share of the largest are rounding, not directions
WRITERS = frozenset({"o_proj", "out_proj", "c_proj", "dense", "dense_4h_to_h", "down_proj"})
EMBEDDINGS = frozenset({"embed_tokens", "wte", "wpe", "embed_in"})
Side = Literal["reads", "writes"]


@dataclass(frozen=True)
class Decomposition:
    """Singular values and vectors of one update, oriented (output, input)."""

    values: Float[Tensor, "rank"]
    left: Float[Tensor, "output rank"]
    right: Float[Tensor, "input rank"]

    @property
    def energies(self) -> Float[Tensor, "rank"]:
        """σ_i² / Σ σ_j²."""
        return self.values.square() / self.values.square().sum()

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of the energies: 1 for one direction, r for r equal ones."""
        return float(torch.special.entr(self.energies).sum().exp())

    def directions(self, top: int) -> int:
        """How many of the `top` directions are above rounding."""
        return min(top, int((self.values > RESOLVED * self.values[0]).sum()))


def decompose(change: Entry) -> Decomposition:
    """Singular value decomposition in fp64: of factors through their QR, of large dense matrices of low rank by sketch.

    The sketch (torch.svd_lowrank) counts where it misses at most 1e-8 of the energy.
    """
    if isinstance(change, LowRank):
        left, values, right = decomposed(LowRank(change.left.double(), change.right.double()))
        return Decomposition(values, left, right.T)
    delta = change.double()
    if not delta.any():
        rows, columns = delta.shape
        return Decomposition(delta.new_zeros(1), delta.new_zeros(rows, 1), delta.new_zeros(columns, 1))
    if min(delta.shape) > 2 * SKETCH:
        with torch.random.fork_rng(devices=[delta.device] if delta.is_cuda else []):
            torch.manual_seed(0)
            left, values, right = torch.svd_lowrank(delta, SKETCH)
        if delta.square().sum() - values.square().sum() <= LOST * delta.square().sum():
            return Decomposition(values, left, right)
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    return Decomposition(values, left, right.T)


def stream_side(name: str, parts: Decomposition, d_model: int) -> Side | None:
    """Whether the matrix of that name writes to the residual stream, reads it, or neither."""
    output, into = len(parts.left), len(parts.right)
    if into == d_model and module_stem(name) not in WRITERS | EMBEDDINGS:
        return "reads"
    return "writes" if output == d_model else None


def module_stem(name: str) -> str:
    """Name of the module a weight belongs to, without where that stands."""
    return name.removesuffix(".weight").rsplit(".", 1)[-1]


def layer_of(name: str) -> int | None:
    """Number of the layer a weight belongs to, None outside of them."""
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else None
