"""Spearman's rank correlation ρ of many lines with one, its nulls, and its interval over resampled units.

permuted: one side changes places within groups of items that are alike. flipped: every unit's difference changes sign.
resampled: units are drawn with replacement. ρ is −1 to 1, so that its ties are told apart at 1e-9.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from interp.stats.columns import Flips, resample_counts

RESAMPLES = 1_999


def spearman(
    several: Float[np.ndarray, "draw item"],
    one: Float[np.ndarray, "item"],
    *,
    groups: Int[np.ndarray, "item"] | None = None,
) -> Float[np.ndarray, "draw"]:
    """Spearman's rank correlation of every line of `several` with `one`; zero for a line without spread.

    With `groups` ranks are taken and centred within each group of items.
    """
    ranks, fixed = (centred_ranks(values, groups) for values in (several, one))
    size = np.linalg.norm(ranks, axis=1) * np.linalg.norm(fixed)
    return np.divide(ranks @ fixed, size, out=np.zeros(len(ranks)), where=size > 0)


def centred_ranks(
    values: Float[np.ndarray, "*draw item"], groups: Int[np.ndarray, "item"] | None = None
) -> Float[np.ndarray, "*draw item"]:
    """Ranks along the last axis less their mean, within each group where there are any."""
    from scipy.stats import rankdata

    if groups is None:
        ranks = rankdata(values, axis=-1)
        return ranks - ranks.mean(-1, keepdims=True)
    ranks = np.empty(values.shape)
    for group in np.unique(groups):
        ranks[..., groups == group] = centred_ranks(values[..., groups == group])
    return ranks


def shuffled_within(
    values: Float[np.ndarray, "item"],
    groups: Int[np.ndarray, "item"],
    *,
    draws: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "draw item"]:
    """The values, permuted anew within every group in each draw."""
    shuffled = np.tile(values, (draws, 1))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        shuffled[:, members] = rng.permuted(shuffled[:, members], axis=1)
    return shuffled


def permuted_null(
    u: Float[np.ndarray, "item"],
    t: Float[np.ndarray, "item"],
    groups: Int[np.ndarray, "item"],
    *,
    draws: int,
    seed: int,
) -> Float[np.ndarray, "draw"]:
    """ρ with t permuted within every group."""
    return spearman(shuffled_within(t, groups, draws=draws, rng=np.random.default_rng(seed)), u)


def flipped_null(
    differences: Float[np.ndarray, "unit item"], t: Float[np.ndarray, "item"], *, draws: int, seed: int
) -> Float[np.ndarray, "draw"]:
    """ρ of the mean difference with t, the sign of every unit's difference drawn anew."""
    n, items = differences.shape
    blocks = Flips(n, draws, exact=False, seed=seed).blocks(max(n, items))
    return np.concatenate([spearman(signs @ differences / n, t) for signs in blocks])


def rank_interval(
    x: Float[np.ndarray, "item"], y: Float[np.ndarray, "item"], *, seed: int
) -> tuple[float, float]:
    """2.5 % and 97.5 % points of Spearman's ρ of x and y over resampled items."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(x), size=(RESAMPLES, len(x)))
    found = [float(spearman(x[None, items], y[items])[0]) for items in drawn]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def resampled_interval(
    values: Float[np.ndarray, "unit item"], t: Float[np.ndarray, "item"], *, seed: int
) -> tuple[float, float]:
    """2.5 % and 97.5 % points of ρ of the mean with t over resampled units; NaN for one unit."""
    n = len(values)
    if n < 2:
        return float("nan"), float("nan")
    counts = resample_counts(n, RESAMPLES, seed=seed)
    low, high = np.percentile(spearman(counts @ values / n, t), [2.5, 97.5])
    return float(low), float(high)
