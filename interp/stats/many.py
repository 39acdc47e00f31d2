"""Paired tests of many features at once: sign flips, Benjamini-Hochberg and max-T over one family.

p_j counts sign patterns (`interp.stats.columns`), q_j corrects it for the number of features, p_max is step-down max-T:
the share of patterns in which the largest t of the feature and all lesser ones reaches its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from interp.stats.columns import Clusters, Flips, cluster_totals, flipped
from interp.stats.tests import benjamini_hochberg

FLIPS = 9_999  # sign patterns drawn at least
MOST_FLIPS = 499_999  # and at most


@dataclass(frozen=True, eq=False)
class FamilyTest:
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
    clusters: Clusters = None,
    alpha: float = 0.05,
    flips: int | None = None,
    seed: int = 0,
) -> FamilyTest:
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
    patterns = Flips(n, drawn, exact, seed)
    p, p_max = flipped(totals, patterns)
    return FamilyTest(
        mean=totals.sum(0) / sizes.sum(),
        p=p,
        q=benjamini_hochberg(p),
        p_max=p_max,
        n=n,
        flips=drawn,
        exact=exact,
        smallest_p=patterns.smallest_p,
        notes=_notes(patterns.smallest_p, features, alpha),
    )


def greatest_p(
    differences: Float[np.ndarray, "row feature"], *, flips: int = FLIPS, seed: int = 0
) -> Float[np.ndarray, "feature"]:
    """One-sided p of every column by step-down max-T over random sign flips of the rows: a mean above zero."""
    return flipped(differences, Flips(len(differences), flips, exact=False, seed=seed), size=np.positive)[1]


def flips_needed(features: int, alpha: float) -> int:
    """Random sign patterns with which one feature of so many can pass Benjamini-Hochberg at `alpha`, at least 9 999."""
    return max(FLIPS, math.ceil(features / alpha))


def units_needed(features: int, alpha: float) -> int:
    """Clusters of rows from which on one feature of so many can pass Benjamini-Hochberg: 2^(1-n) ≤ alpha / features."""
    return 1 + math.ceil(math.log2(features / alpha) - 1e-12)


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
