"""Direct features: those whose move is more than what other moved directions do to them through the encoder.

An encoder is not orthogonal, so h + a d_j moves other features than j. With S the span of decoder directions taken so
far and P_S the projection on it, feature k moved beyond S when f_k(h') − f_k(h + P_S (h' − h)) is not symmetric about
zero over rows: both terms share all that lies inside S, so only what the shift holds outside S is left to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.features.dictionary import Dictionary
from interp.features.reading import TokenReading
from interp.stats.many import sign_flip_family

STEPS = 20  # directions taken at most
ROUNDING = 1e-5  # of the mean norm of an activation: smaller differences are arithmetic, not moves


@dataclass(frozen=True, eq=False)
class RowPair:
    """Activations of start and member at the same tokens, the row each token is in, and a cluster label per row."""

    before: Float[Tensor, "token d_in"]
    after: Float[Tensor, "token d_in"]
    rows: Int[Tensor, "token"]
    clusters: Int[np.ndarray, "row"]

    @classmethod
    def of(cls, start: TokenReading, member: TokenReading, clusters: Int[np.ndarray, "row"]) -> RowPair:
        """From two readings of the same tokens; rows are counted over those that have one."""
        return cls(start.values, member.values, start.rows.unique(return_inverse=True)[1], clusters)

    @property
    def rounding(self) -> float:
        """Differences of this size are arithmetic."""
        return ROUNDING * float(self.before.norm(dim=1).mean())

    def shift(self) -> Float[Tensor, "row d_in"]:
        """Mean shift of each row."""
        return self._by_row(self.after - self.before)

    def error_share(self, dictionary: Dictionary) -> float:
        """|Δh − Δĥ|² / |Δh|² of the mean shift: 0 when features explain it, NaN without a shift."""
        size = dictionary.rows_at_once()
        before, after = (
            torch.cat([dictionary.reconstruct(part) for part in values.split(size)])
            for values in (self.before, self.after)
        )
        moved = self.shift().mean(0)
        error = moved - RowPair(before, after, self.rows, self.clusters).shift().mean(0)
        energy = float(moved.square().sum())
        return float(error.square().sum()) / energy if energy else float("nan")

    def part(self, chosen: Bool[np.ndarray, "row"]) -> RowPair:
        """The tokens of the chosen rows, those rows counted anew."""
        kept = torch.as_tensor(chosen)[self.rows]
        rows = self.rows[kept].unique(return_inverse=True)[1]
        return RowPair(self.before[kept], self.after[kept], rows, self.clusters[chosen])

    def beyond(
        self, dictionary: Dictionary, features: Sequence[int], basis: Float[Tensor, "d_in taken"]
    ) -> Float[np.ndarray, "row feature"]:
        """Row means of f(h') − f(h + P (h' − h)), P the projection on the columns of an orthonormal `basis`."""
        kept, size = [], dictionary.rows_at_once()
        for start in range(0, len(self.before), size):
            before, after = self.before[start : start + size], self.after[start : start + size]
            inside = before + (after - before) @ basis @ basis.T
            kept.append((dictionary.encode(after) - dictionary.encode(inside))[:, list(features)])
        moved = self._by_row(torch.cat(kept)).double().numpy()
        return np.where(np.abs(moved) > self.rounding, moved, 0.0)

    def _by_row(self, values: Float[Tensor, "token wide"]) -> Float[Tensor, "row wide"]:
        sums = torch.zeros(len(self.clusters), values.shape[1]).index_add_(0, self.rows, values)
        return sums / torch.bincount(self.rows, minlength=len(self.clusters))[:, None]


@dataclass(frozen=True)
class Direct:
    """p beyond the directions taken before it, by feature; the direct ones; all directions taken, in order."""

    p_beyond: dict[int, float]
    direct: tuple[int, ...]
    taken: tuple[int, ...]


def direct_features(
    dictionary: Dictionary,
    selection: RowPair,
    estimation: RowPair,
    *,
    reported: Sequence[int],
    live: Sequence[int],
    alpha: float = 0.05,
    seed: int = 0,
) -> Direct:
    """Which of the reported features moved beyond what the others explain: forward, then backward over live directions.

    The next direction d_j is that with the largest |<r, d_j/|d_j|>|, r the part of the selection rows' mean shift
    outside S. It is direct when it is reported and its p beyond S on the estimation rows, max-T over all reported
    ones still left, is at most `alpha`; then or not, S grows by it. It stops when none left has such a p, or after 20
    directions. Last, direct ones that are explained by the rest of S after all (p > alpha) leave it, worst first.
    So once S holds all that was added, a feature is wrongly called direct with probability alpha at most.
    """
    mean = selection.shift().mean(0)
    left, taken, direct, p_beyond = [int(feature) for feature in reported], [], [], {}
    while left:
        basis = _basis(dictionary, taken)
        p_max = _p_beyond(dictionary, estimation, left, basis, seed=seed)
        p_beyond.update(zip(left, p_max, strict=True))
        if min(p_max) > alpha or len(taken) == STEPS:
            break
        chosen = _largest(dictionary, mean - basis @ (basis.T @ mean), live=live, taken=taken)
        taken.append(chosen)
        if chosen in left:
            direct += [chosen] if p_beyond[chosen] <= alpha else []
            left.remove(chosen)
    kept = _confirmed(dictionary, estimation, direct, taken=taken, p_beyond=p_beyond, alpha=alpha, seed=seed)
    return Direct(p_beyond, kept, tuple(taken))


def _confirmed(
    dictionary: Dictionary,
    estimation: RowPair,
    direct: Sequence[int],
    *,
    taken: Sequence[int],
    p_beyond: dict[int, float],
    alpha: float,
    seed: int,
) -> tuple[int, ...]:
    """The direct features that no other direction taken explains; the larger p is written into `p_beyond`."""
    kept, span = list(direct), list(taken)
    while len(span) > 1 and kept:
        p = []
        for feature in kept:
            basis = _basis(dictionary, [other for other in span if other != feature])
            p += _p_beyond(dictionary, estimation, [feature], basis, seed=seed)
        p_beyond.update(
            (feature, max(p_beyond[feature], value)) for feature, value in zip(kept, p, strict=True)
        )
        if max(p) <= alpha:
            break
        worst = kept[int(np.argmax(p))]
        kept.remove(worst)
        span.remove(worst)
    return tuple(kept)


def _p_beyond(
    dictionary: Dictionary,
    estimation: RowPair,
    features: Sequence[int],
    basis: Float[Tensor, "d_in taken"],
    *,
    seed: int,
) -> list[float]:
    """Max-T p over these features of their move beyond a span."""
    moved = estimation.beyond(dictionary, features, basis)
    return sign_flip_family(moved, clusters=estimation.clusters, seed=seed).p_max.tolist()


def _largest(
    dictionary: Dictionary, rest: Float[Tensor, "d_in"], *, live: Sequence[int], taken: list[Any]
) -> int:
    """The live feature, not yet taken, along whose decoder direction most of the rest lies."""
    directions = dictionary.decoder[list(live)]
    along = (directions @ rest).abs() / directions.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    along[[place for place, feature in enumerate(live) if int(feature) in taken]] = -1.0
    return int(live[int(along.argmax())])


def _basis(dictionary: Dictionary, taken: Sequence[int]) -> Float[Tensor, "d_in taken"]:
    """Orthonormal columns that span the taken decoder directions."""
    if not taken:
        return torch.zeros(dictionary.d_in, 0)
    left, sizes, _ = torch.linalg.svd(dictionary.decoder[list(taken)].T, full_matrices=False)
    return left[:, sizes > sizes.max() * 1e-5]
