"""Paired tests of many features at once: sign flips, max-T and bootstrap intervals, vectorised and bounded in memory.

p_j = (b_j + 1) / (m + 1), b_j the sign patterns of m with |Σ_c s_c D_cj| ≥ |Σ_c D_cj|, or exactly over all patterns
(Phipson and Smyth 2010); p_max is step-down max-T (Westfall and Young 1993) of t = mean / √((Σd²/n − mean²)/(n − 1)).
Σd² is the same under every flip, so t grows with |Σ s d| / √Σd², which is what is compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.core.runs import InputError
from interp.stats.tests import benjamini_hochberg

FLIPS = 9_999  # sign patterns drawn at least
MOST_FLIPS = 499_999  # and at most
RESAMPLES = 2_000
BLOCK = 2**22  # values held at a time
ROUNDING = 1e-5  # of √Σd²: sums this close to the observed one count as equal to it


@dataclass(frozen=True, eq=False)
class Family:
    """Outcome for a family of features; `n` units were flipped in `flips` patterns, all of them when `exact`.

    `p` is two-sided and of each feature alone, `q` controls the false discovery rate, `p_max` the family-wise error.
    """

    mean: Float[np.ndarray, "feature"]
    p: Float[np.ndarray, "feature"]
    q: Float[np.ndarray, "feature"]
    p_max: Float[np.ndarray, "feature"]
    n: int
    flips: int
    exact: bool
    smallest_p: float
    notes: tuple[str, ...] = ()


def sign_flip_family(
    differences: Float[np.ndarray, "row feature"],
    *,
    clusters: Sequence[Any] | np.ndarray | None = None,
    alpha: float = 0.05,
    flips: int | None = None,
    seed: int = 0,
) -> Family:
    """Test of every column of paired differences for symmetry about zero, rows of one cluster flipped together.

    All patterns are enumerated when they are no more than would be drawn; `flips` defaults to what a lone feature
    needs to pass Benjamini-Hochberg at `alpha`, features / alpha, between 9 999 and 499 999 (a note tells when that
    is too few). InputError without a column, and when a value is not finite.
    """
    totals, sizes = cluster_totals(differences, clusters)
    n, features = totals.shape
    wanted = flips_needed(features, alpha) if flips is None else flips
    exact = n <= 60 and 2 ** (n - 1) <= wanted
    drawn = 2 ** (n - 1) if exact else wanted if flips is not None else min(wanted, MOST_FLIPS)
    alone, highest = _exceedances(totals, _patterns(n, drawn, exact=exact, seed=seed, width=max(n, features)))
    spare = 0 if exact else 1  # the observed pattern is among all of them, not among those drawn
    p, p_max = (alone + spare) / (drawn + spare), (highest + spare) / (drawn + spare)
    smallest = 1 / (drawn + spare)
    return Family(
        mean=totals.sum(0) / sizes.sum(),
        p=p,
        q=benjamini_hochberg(p),
        p_max=p_max,
        n=n,
        flips=drawn,
        exact=exact,
        smallest_p=smallest,
        notes=_notes(smallest, features, alpha),
    )


def bootstrap_family(
    differences: Float[np.ndarray, "row feature"],
    *,
    clusters: Sequence[Any] | np.ndarray | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "feature"], Float[np.ndarray, "feature"]]:
    """Percentile bootstrap intervals (low, high) of every column's mean, whole clusters resampled together.

    The same resamples serve all columns. InputError with fewer than two clusters.
    """
    totals, sizes = cluster_totals(differences, clusters)
    n, features = totals.shape
    if n < 2:
        raise InputError(f"a bootstrap needs at least two clusters of rows and got {n}; give more rows")
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    weights = np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(float)
    counts = (weights @ sizes)[:, None]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    width = max(1, BLOCK // resamples)
    edges = [
        np.quantile(weights @ totals[:, start : start + width] / counts, tails, axis=0)
        for start in range(0, features, width)
    ]
    low, high = np.concatenate(edges, axis=1)
    return low, high


def flips_needed(features: int, alpha: float) -> int:
    """Random sign patterns with which one feature of so many can pass Benjamini-Hochberg at `alpha`, at least 9 999."""
    return max(FLIPS, math.ceil(features / alpha))


def units_needed(features: int, alpha: float) -> int:
    """Clusters of rows from which on one feature of so many can pass Benjamini-Hochberg: 2^(1-n) ≤ alpha / features."""
    return 1 + math.ceil(math.log2(features / alpha) - 1e-12)


def cluster_totals(
    differences: Float[np.ndarray, "row feature"], clusters: Sequence[Any] | np.ndarray | None
) -> tuple[Float[np.ndarray, "cluster feature"], Float[np.ndarray, "cluster"]]:
    """Sums over the rows of each cluster in double precision, and how many rows it has.

    Raises InputError for an empty array, values that are not finite, and a number of labels that is not that of
    the rows.
    """
    values = np.asarray(differences, dtype=float)
    if 0 in values.shape:
        raise InputError(f"differences of shape {values.shape} hold nothing to test; give rows and features")
    if not np.isfinite(values).all():
        raise InputError(
            f"{int((~np.isfinite(values)).sum())} differences are not finite; check the model's weights"
        )
    if clusters is None:
        return values, np.ones(len(values))
    if len(clusters) != len(values):
        raise InputError(f"{len(clusters)} cluster labels for {len(values)} rows; give one label per row")
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    order = np.argsort(index, kind="stable")
    sizes = np.bincount(index)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return np.add.reduceat(values[order], starts, axis=0), sizes.astype(float)


def _patterns(
    n: int, count: int, *, exact: bool, seed: int, width: int
) -> Iterator[Float[np.ndarray, "flip cluster"]]:
    """Signs ±1, a block at a time; all patterns whose first sign is + when exact, since -s gives the same |sum|."""
    rng, size = (
        np.random.default_rng(seed),
        max(1, BLOCK // width // 4) * 4,
    )  # four signs to a draw of the generator
    for start in range(0, count, size):
        part = min(size, count - start)
        if exact:
            bits = np.arange(start, start + part)[:, None] >> np.arange(n)[None, :] & 1
        else:
            bits = np.unpackbits(
                rng.integers(0, 256, size=(part, (n + 7) // 8), dtype=np.uint8), axis=1, count=n
            )
        yield 1 - 2 * bits.astype(np.float32)


def _exceedances(
    totals: Float[np.ndarray, "cluster feature"], patterns: Iterator[Float[np.ndarray, "flip cluster"]]
) -> tuple[Int[np.ndarray, "feature"], Float[np.ndarray, "feature"]]:
    """Patterns that reach each feature's own statistic, and those whose largest one over it and lesser ones does."""
    norm = np.sqrt(np.square(totals).sum(0))
    unit = totals / np.where(norm > 0, norm, 1)
    order = np.argsort(-np.abs(unit.sum(0)), kind="stable")
    unit = unit[:, order]
    least = (np.abs(unit.sum(0)) - ROUNDING).astype(np.float32)
    unit = unit.astype(np.float32)
    alone, highest = np.zeros(len(order), dtype=int), np.zeros(len(order), dtype=int)
    for signs in patterns:
        reached = np.abs(signs @ unit)
        alone += (reached >= least).sum(0)
        largest = np.maximum.accumulate(reached[:, ::-1], axis=1)[:, ::-1]
        highest += (largest >= least).sum(0)
    back = np.argsort(order)
    return alone[back], np.maximum.accumulate(highest).astype(float)[back]


def _notes(smallest: float, features: int, alpha: float) -> tuple[str, ...]:
    if smallest * features <= alpha:
        return ()
    together = math.ceil(smallest * features / alpha)
    return (
        f"smallest p {smallest:.2g} over {features} features: fewer than {together} moved ones pass at {alpha:g}",
    )


def halves(
    clusters: Sequence[Any] | np.ndarray, *, seed: int
) -> tuple[Bool[np.ndarray, "row"], Bool[np.ndarray, "row"]]:
    """Rows for selection and rows for estimation, whole clusters dealt at random; selection has the odd one."""
    labels, index = np.unique(np.asarray(clusters), return_inverse=True)
    dealt = np.random.default_rng(seed).permutation(len(labels))
    first = np.isin(index, dealt[: (len(labels) + 1) // 2])
    return first, ~first
