"""Sign flips and bootstraps of many columns at once, in bounded memory: what the p-values of this package count.

Under H0 paired differences d are symmetric about zero, so every pattern of signs s is equally likely, and p_j is the
share of patterns with Σ_c s_c d_cj ≥ Σ_c d_cj (or of the sizes of both), exactly over all of them or (b + 1) / (m + 1)
over m random ones (Phipson and Smyth 2010). Step-down max-T compares t = mean / √((Σd²/n − mean²)/(n − 1)) (Westfall
and Young 1993); Σd² is the same under every flip, so t grows with |Σ s d| / √Σd².

One tolerance holds everywhere: sums of the same values in another order differ in their last digits, so a statistic
reaches the observed one when it falls short by at most 1e-9 of its own scale, which for a sum is √Σd².
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from interp.core.runs import InputError

Clusters = Sequence[Any] | np.ndarray | None
EQUAL = 1e-9  # of the statistic's scale: what counts as equal to the observed value
BLOCK = 2**22  # values held at a time
RESAMPLES = 2_000


@dataclass(frozen=True)
class Flips:
    """Sign patterns of `n` units: the first `count` of all there are when `exact`, else `count` random ones.

    Half of all patterns are enough where only the size of a sum counts, since −s gives the same.
    """

    n: int
    count: int
    exact: bool
    seed: int = 0

    @property
    def smallest_p(self) -> float:
        """The p of a statistic that no other pattern reaches."""
        return float(self.share(int(self.exact)))

    def share(self, reached: Any) -> Any:
        """p from how many of the patterns reach the observed one; random ones do not hold it, so it is added."""
        spare = 0 if self.exact else 1
        return (reached + spare) / (self.count + spare)

    def blocks(self, width: int) -> Iterator[Float[np.ndarray, "pattern unit"]]:
        """Signs ±1, as many patterns at a time as keep `width` numbers of each in memory."""
        rng = np.random.default_rng(self.seed)
        size = max(1, BLOCK // width // 4) * 4  # four signs to a draw of the generator
        for start in range(0, self.count, size):
            part = min(size, self.count - start)
            if self.exact:
                bits = np.arange(start, start + part)[:, None] >> np.arange(self.n)[None, :] & 1
            else:
                octets = rng.integers(0, 256, size=(part, (self.n + 7) // 8), dtype=np.uint8)
                bits = np.unpackbits(octets, axis=1, count=self.n)
            yield 2.0 * bits - 1.0


def flipped(
    totals: Float[np.ndarray, "unit column"], flips: Flips, *, size: Callable[..., Any] = np.abs
) -> tuple[Float[np.ndarray, "column"], Float[np.ndarray, "column"]]:
    """p of every column alone, and adjusted by step-down max-T; `size` is np.abs, or np.positive for "greater".

    The adjusted p of the column with the k-th largest t is the share of patterns in which the largest t of it and all
    smaller ones reaches its own, made non-decreasing. Raises InputError for a value that is no number, which would
    count as never reached and so make p small.
    """
    _check_finite(totals)
    norm = np.sqrt(np.square(totals).sum(0))
    unit = totals / np.where(norm > 0, norm, 1)
    order = np.argsort(-size(unit.sum(0)), kind="stable")
    unit = unit[:, order]
    least = size(unit.sum(0)) - EQUAL
    alone, highest = np.zeros(len(order), dtype=int), np.zeros(len(order), dtype=int)
    for signs in flips.blocks(max(unit.shape)):
        found = size(signs @ unit)
        alone += (found >= least).sum(0)
        highest += (np.maximum.accumulate(found[:, ::-1], axis=1)[:, ::-1] >= least).sum(0)
    back = np.argsort(order)
    return flips.share(alone)[back], np.maximum.accumulate(flips.share(highest))[back]


def reaching(
    draws: Float[np.ndarray, "*draw"], observed: float, *, scale: float = 1.0
) -> Bool[np.ndarray, "*draw"]:
    """Which draws of a statistic are at least the observed one; `scale` is the typical size of the statistic."""
    return draws >= observed - EQUAL * scale


def share_reaching(draws: Float[np.ndarray, "draw"], observed: float, *, scale: float = 1.0) -> float:
    """p = (b + 1) / (m + 1), b of the m draws of the null at least as large as the observed value.

    Raises InputError for a draw or value that is NaN or infinite.
    """
    _check_finite(np.append(draws, observed))
    return float((reaching(draws, observed, scale=scale).sum() + 1) / (len(draws) + 1))


def _check_finite(values: np.ndarray) -> None:
    if wrong := int((~np.isfinite(values)).sum()):
        raise InputError(
            f"{wrong} of {values.size} values to be tested are NaN or infinite; leave out what has no value, or look "
            "for NaN in the models and rows"
        )


def bootstrapped(
    differences: Float[np.ndarray, "row column"],
    *,
    clusters: Clusters = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "column"], Float[np.ndarray, "column"]]:
    """Bootstrap intervals (low, high) of every column's mean, whole clusters resampled together.

    The percentiles' distances from the mean are widened by t_{n-1} / z · √(n / (n − 1)), since resamples of n clusters
    spread like the normal law with the variance over n. The same resamples serve all columns. InputError with fewer
    than two clusters.
    """
    from scipy.special import ndtri, stdtrit

    totals, sizes = cluster_totals(differences, clusters)
    n, columns = totals.shape
    if n < 2:
        raise InputError(f"a bootstrap needs at least two clusters of rows and got {n}; give more rows")
    weights = resample_counts(n, resamples, seed=seed)
    counts = (weights @ sizes)[:, None]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    width = max(1, BLOCK // resamples)
    edges = [
        np.quantile(weights @ totals[:, start : start + width] / counts, tails, axis=0, method="weibull")
        for start in range(0, columns, width)
    ]
    mean = totals.sum(0) / sizes.sum()
    wider = stdtrit(n - 1, tails[1]) / ndtri(tails[1]) * math.sqrt(n / (n - 1))
    low, high = mean + wider * (np.concatenate(edges, axis=1) - mean)
    return low, high


def resample_counts(n: int, resamples: int, *, seed: int) -> Float[np.ndarray, "resample unit"]:
    """How often each of `n` units is drawn in each resample of as many, with replacement."""
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(float)


def cluster_totals(
    differences: Float[np.ndarray, "row column"], clusters: Clusters
) -> tuple[Float[np.ndarray, "cluster column"], Float[np.ndarray, "cluster"]]:
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


def ratio(value: float, spread: float) -> float:
    """value / spread; where nothing spreads 0 for a value of zero and ±∞ for any other."""
    if spread == 0:
        return 0.0 if value == 0 else math.copysign(math.inf, value)
    return value / spread
