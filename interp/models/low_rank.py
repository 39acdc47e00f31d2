"""A tensor in full or as two thin factors, and the arithmetic that never multiplies the factors out.

<L R, M S> = Σ (Lᵀ M) ∘ (R Sᵀ), <L R, V> = Σ L ∘ (V Rᵀ), L R + M S = [L M] [R; S]. The best approximation of rank r
is the first r terms of the singular value decomposition (Eckart and Young 1936).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 2**22  # numbers multiplied at a time: a sum in fp64 then needs no copy of a whole embedding


@dataclass(frozen=True, eq=False)
class LowRank:
    """left @ right, in the orientation in which the weight is stored."""

    left: Float[Tensor, "rows rank"]
    right: Float[Tensor, "rank columns"]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the product."""
        return (self.left.shape[0], self.right.shape[1])

    @property
    def rank(self) -> int:
        """Number of columns of `left`."""
        return self.left.shape[1]

    def dense(self) -> Float[Tensor, "rows columns"]:
        """The product."""
        return self.left @ self.right


Entry = Tensor | LowRank


def dense(entry: Entry) -> Tensor:
    """The tensor in full."""
    return entry.dense() if isinstance(entry, LowRank) else entry


def widened(entry: Entry) -> Entry:
    """The entry without its graph, in fp32 unless it is wider."""
    if isinstance(entry, LowRank):
        return LowRank(wide(entry.left), wide(entry.right))
    return wide(entry)


def on_cpu(entry: Entry) -> Entry:
    """The entry in the processor's memory, without its graph."""
    if isinstance(entry, LowRank):
        return LowRank(entry.left.detach().cpu(), entry.right.detach().cpu())
    return entry.detach().cpu()


def wide(tensor: Tensor) -> Tensor:
    """The tensor without its graph, in fp32 unless it is wider."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def times(entry: Entry, scale: float) -> Entry:
    """scale · entry; a low-rank entry keeps its right factor."""
    return LowRank(entry.left * scale, entry.right) if isinstance(entry, LowRank) else entry * scale


def plus(a: Entry, b: Entry) -> Entry:
    """a + b: low-rank where both are, as factors side by side."""
    if isinstance(a, LowRank) and isinstance(b, LowRank):
        return LowRank(torch.cat([a.left, b.left], 1), torch.cat([a.right, b.right]))
    return dense(a) + dense(b)


def dot(a: Entry, b: Entry) -> float:
    """<a, b>, products in fp32 at least and sums in fp64."""
    if isinstance(a, LowRank) and isinstance(b, LowRank):
        lefts = a.left.double().T @ b.left.to(a.left).double()
        rights = a.right.double() @ b.right.to(a.right).double().T
        return float((lefts * rights).sum())
    if isinstance(a, LowRank):
        return _sum_of_products(a.left, dense(b).to(a.left) @ a.right.T)
    if isinstance(b, LowRank):
        return dot(b, a)
    return _sum_of_products(a, b.to(a))


def norm(entry: Entry) -> float:
    """Square root of <entry, entry>, which rounding may leave a little below zero where factors cancel."""
    return max(0.0, dot(entry, entry)) ** 0.5


def _sum_of_products(a: Tensor, b: Tensor) -> float:
    blocks = zip(a.flatten().split(BLOCK), b.flatten().split(BLOCK), strict=True)
    return float(sum((x.double() * y.double()).sum() for x, y in blocks))


def truncated(entry: Entry, rank: int) -> LowRank:
    """The best approximation of at most that rank; singular values go to the left factor."""
    U, S, V = decomposed(entry)
    return LowRank(U[:, :rank] * S[:rank], V[:rank].clone())


def compressed(entry: Entry, tolerance: float) -> Entry:
    """The factors of smallest rank that leave out at most tolerance · |entry|, when they hold fewer numbers than it."""
    rows, columns = entry.shape
    U, S, V = decomposed(entry)
    left_out = (
        S.double().square().flip(0).cumsum(0).flip(0).sqrt()
    )  # norm of what a rank of 0, 1, ... leaves out
    rank = int((left_out > tolerance * left_out[0]).sum())
    if rank * (rows + columns) < rows * columns:
        return LowRank(U[:, :rank] * S[:rank], V[:rank].clone())
    return entry


def decomposed(entry: Entry) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, Vᵀ of the thin decomposition; of factors through their QR, so that the product is never formed."""
    if not isinstance(entry, LowRank):
        return torch.linalg.svd(entry, full_matrices=False)
    left, inner = torch.linalg.qr(entry.left)
    right, outer = torch.linalg.qr(entry.right.T)
    U, S, V = torch.linalg.svd(inner @ outer.T, full_matrices=False)
    return left @ U, S, V @ right.T
