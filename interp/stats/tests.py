"""Small-sample tests over training runs: sign-flip, permutation, equivalence, multiplicity, intervals.

Sign-flip test: under H0 differences are symmetric about X, so all 2^n sign patterns of d − X are equally likely and
p = #{patterns with mean >= observed} / 2^n, or (b + 1) / (m + 1) over m random ones (Phipson & Smyth 2010).
Equivalence: two one-sided t tests against -margin and +margin, p = the larger of the two (Schuirmann 1987).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from interp.core.runs import InputError
from interp.stats.columns import Flips, flipped, reaching

Alternative = Literal["greater", "less", "two-sided"]
Values = Sequence[float | int] | np.ndarray
EXACT_LIMIT = 100_000


@dataclass(frozen=True)
class SignFlip:
    """Outcome of a sign-flip test; `exact` says whether all patterns were enumerated."""

    mean: float
    p: float
    smallest_p: float
    n: int
    alternative: Alternative
    exact: bool


@dataclass(frozen=True)
class Permutation:
    """Outcome of a permutation test of two groups; `exact` says whether all assignments were enumerated."""

    difference: float
    p: float
    smallest_p: float
    n: tuple[int, int]
    exact: bool


@dataclass(frozen=True)
class Equivalence:
    """Outcome of two one-sided t tests; `interval` is the 1 - 2 alpha t-interval of the mean.

    `p_outside` is the p of a mean that lies outside on the side it was found on.
    """

    mean: float
    p: float
    interval: tuple[float, float]
    margin: float
    alpha: float
    n: int
    p_outside: float = 1.0

    @property
    def equivalent(self) -> bool:
        """Whether the mean lies inside ±margin at level alpha."""
        return self.p <= self.alpha


@dataclass(frozen=True)
class Auroc:
    """Area under the ROC curve, its DeLong interval of that level, and how many scores of each class it rests on."""

    value: float
    interval: tuple[float, float]
    n_positive: int
    n_negative: int
    level: float = 0.95


def sign_flip_test(
    differences: Values,
    *,
    alternative: Alternative = "greater",
    above: float = 0.0,
    flips: int = EXACT_LIMIT - 1,
    seed: int = 0,
) -> SignFlip:
    """Test whether paired differences are symmetric about `above`, one difference per training run.

    All 2^n sign patterns are enumerated when 2^n <= 1e5 (n <= 16); above that `flips` are drawn with `seed`.
    The two-sided p is twice the smaller one-sided p, at most 1. Patterns and ties are those of `interp.stats.columns`.

    >>> sign_flip_test([0.2, 0.1, 0.4]).p  # one pattern of eight
    0.125
    """
    values = _values(differences, minimum=1) - above
    exact = 2 ** len(values) <= EXACT_LIMIT
    patterns = Flips(len(values), 2 ** len(values) if exact else flips, exact, seed)
    sides = {"greater": [1], "less": [-1], "two-sided": [1, -1]}[alternative]
    found = [float(flipped(side * values[:, None], patterns, size=np.positive)[0][0]) for side in sides]
    p = min(1.0, len(sides) * min(found))
    smallest = smallest_sign_flip_p(len(values), alternative=alternative, flips=flips)
    return SignFlip(above + float(values.mean()), p, smallest, len(values), alternative, exact)


def smallest_sign_flip_p(
    n: int, *, alternative: Alternative = "greater", flips: int = EXACT_LIMIT - 1
) -> float:
    """Return the smallest p that n runs can reach: 2^-n one-sided, twice that two-sided."""
    one_sided = 0.5**n if 2**n <= EXACT_LIMIT else 1 / (flips + 1)
    return min(1.0, one_sided * (2 if alternative == "two-sided" else 1))


def runs_needed(alpha: float, *, alternative: Alternative = "greater") -> int:
    """Return how many runs a sign-flip test needs before its smallest reachable p is at most alpha."""
    _level(alpha, "alpha")
    return max(1, math.ceil(math.log2((2 if alternative == "two-sided" else 1) / alpha) - 1e-12))


def permutation_test(
    first: Values,
    second: Values,
    *,
    alternative: Alternative = "greater",
    permutations: int = EXACT_LIMIT - 1,
    seed: int = 0,
) -> Permutation:
    """Test whether two independent groups of runs are exchangeable, by mean(first) - mean(second).

    p = #{assignments with difference >= observed} / C(n + m, n) where these are at most 1e5; above that
    (b + 1) / (k + 1) over k drawn with `seed`. InputError for a group of fewer than two.

    >>> permutation_test([3, 4], [1, 2]).p  # one assignment of six
    0.16666666666666666
    """
    one, other = _values(first, minimum=2), _values(second, minimum=2)
    pool = np.concatenate([one, other])
    assignments = math.comb(len(pool), len(one))
    exact = assignments <= EXACT_LIMIT
    sums = _group_sums(pool, len(one), assignments if exact else permutations, exact=exact, seed=seed)
    spare, scale = 0 if exact else 1, float(np.linalg.norm(pool))
    sides = {"greater": [1], "less": [-1], "two-sided": [1, -1]}[alternative]
    found = [reaching(side * sums, side * float(one.sum()), scale=scale).sum() + spare for side in sides]
    possible = len(sums) + spare
    p = min(1.0, len(sides) * int(min(found)) / possible)
    gap = float(one.mean() - other.mean())
    return Permutation(gap, p, len(sides) / possible, (len(one), len(other)), exact)


def _group_sums(
    pool: Float[np.ndarray, "run"], size: int, count: int, *, exact: bool, seed: int
) -> Float[np.ndarray, "assignment"]:
    """Sum of the first group under every assignment of runs to it, or under `count` random ones."""
    if exact:
        return pool[np.array(list(combinations(range(len(pool)), size)))].sum(1)
    rng, sums = np.random.default_rng(seed), []
    for part in np.array_split(np.arange(count), max(1, count * len(pool) // 4_000_000)):
        sums.append(rng.permuted(np.tile(pool, (len(part), 1)), axis=1)[:, :size].sum(axis=1))
    return np.concatenate(sums)


def t_interval(values: Values, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the two-sided t-interval of the mean; a single value gives (-inf, inf).

    >>> [round(end, 2) for end in t_interval([1.0, 2.0, 3.0])]
    [-0.48, 4.48]
    """
    from scipy.special import stdtrit

    sample = _values(values, minimum=1)
    _level(confidence, "confidence")
    if len(sample) == 1:
        return (-math.inf, math.inf)
    half = stdtrit(len(sample) - 1, (1 + confidence) / 2) * sample.std(ddof=1) / math.sqrt(len(sample))
    return (float(sample.mean() - half), float(sample.mean() + half))


def half_width(values: Any, *, confidence: float = 0.95) -> float:
    """Return half of the t-interval of the mean, what a whisker draws; 0 for a single value, which has none."""
    low, high = t_interval(np.asarray(values), confidence=confidence)
    return (high - low) / 2 if np.size(values) > 1 else 0.0


def standard_error(values: Any) -> Any:
    """Return the standard deviation along the last axis / √n: a number for a vector, else an array or a tensor.

    A single value gives NaN.
    """
    n = values.shape[-1]
    if n < 2:
        found = values[..., 0] * math.nan
    else:
        found = (values.std(-1, ddof=1) if isinstance(values, np.ndarray) else values.std(-1)) / n**0.5
    return found if found.ndim else float(found)


def equivalence_test(differences: Values, *, margin: float, alpha: float = 0.05) -> Equivalence:
    """Test by two one-sided t tests whether the mean difference lies within ±margin.

    A single run cannot show equivalence: its p is 1. Differences without spread give p = 0 inside the margin.
    Raises InputError for a margin that is not positive.

    >>> equivalence_test([0.1, -0.1, 0.05, -0.05], margin=1.0).p < 0.01
    True
    """
    values = _values(differences, minimum=1)
    _level(alpha, "alpha", below=0.5)
    if not (math.isfinite(margin) and margin > 0):
        raise InputError(
            f"margin {margin} is not a positive number; give the largest difference that counts as none."
        )
    lower = _one_sided_t(values + margin)
    upper = _one_sided_t(margin - values)
    interval = t_interval(values, confidence=1 - 2 * alpha)
    outside = min(_one_sided_t(values - margin), _one_sided_t(-margin - values))
    return Equivalence(float(values.mean()), max(lower, upper), interval, margin, alpha, len(values), outside)


def largest_outlier_p(values: Values) -> float:
    """Return Grubbs's p that the largest of normal values is one of them, at most 1 (Grubbs 1950).

    p = K P(T > t), t² = K(K − 2)G² / ((K − 1)² − KG²), G = (largest − mean) / sd over all K, T of K − 2 degrees.
    """
    from scipy.special import stdtr

    sample = _values(values, minimum=3)
    k, spread = len(sample), float(sample.std(ddof=1))
    if spread == 0:
        return 1.0
    g = float(sample.max() - sample.mean()) / spread
    left = (k - 1) ** 2 - k * g * g
    t = math.sqrt(k * (k - 2) * g * g / left) if left > 0 else math.inf
    return min(1.0, k * float(stdtr(k - 2, -t)))


def holm(p_values: Values) -> Float[np.ndarray, "tests"]:
    """Return Holm's adjusted p-values, max over j <= i of (m - j + 1) p_(j): family-wise error."""
    p = _p_values(p_values)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted


def benjamini_hochberg(p_values: Values) -> Float[np.ndarray, "tests"]:
    """Return Benjamini-Hochberg q-values: false discovery rate, independent or positively dependent tests.

    >>> benjamini_hochberg([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.04, 0.04]
    """
    from scipy.stats import false_discovery_control

    return false_discovery_control(_p_values(p_values))


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion, such as an elicitation rate; InputError without a trial.

    >>> [round(end, 3) for end in wilson_interval(5, 10)]
    [0.237, 0.763]
    """
    if not 0 <= successes <= trials or trials < 1:
        raise InputError(
            f"{successes} successes in {trials} trials is impossible; at least 1 trial, at most all succeed."
        )
    _level(confidence, "confidence")
    return _wilson(successes, trials, confidence)


def auroc(positive: Values, negative: Values, *, confidence: float = 0.95) -> Auroc:
    """Return P(positive > negative) + P(tie) / 2 over all pairs of scores, with DeLong's interval inside [0, 1].

    The variance is that of DeLong, DeLong and Clarke-Pearson (1988) through midranks (Sun and Xu 2014): scores count
    as independent within and between the classes. Where it is zero or undefined (perfect separation, every score
    tied, one score in a class) the interval is Wilson's over min(n_positive, n_negative) disjoint pairs, which are
    independent trials of the same probability: wider than the truth, never a point.

    >>> auroc([3, 4], [1, 2]).value
    1.0
    """
    from scipy.special import ndtri

    above, below = _values(positive, minimum=1), _values(negative, minimum=1)
    _level(confidence, "confidence")
    wins, losses = _placements(above, below)
    value = float(wins.mean())
    pairs = min(len(above), len(below))
    variance = wins.var(ddof=1) / len(wins) + losses.var(ddof=1) / len(losses) if pairs > 1 else 0.0
    if variance > 0:
        half = float(ndtri((1 + confidence) / 2)) * math.sqrt(variance)
        interval = (max(0.0, value - half), min(1.0, value + half))
    else:
        interval = _wilson(value * pairs, pairs, confidence)
    return Auroc(value, interval, len(above), len(below), confidence)


def _wilson(successes: float, trials: int, confidence: float) -> tuple[float, float]:
    from statsmodels.stats.proportion import proportion_confint

    ends: Any = proportion_confint(successes, trials, alpha=1 - confidence, method="wilson")
    return (float(ends[0]), float(ends[1]))


def _placements(
    positive: Float[np.ndarray, "positive"], negative: Float[np.ndarray, "negative"]
) -> tuple[Float[np.ndarray, "positive"], Float[np.ndarray, "negative"]]:
    """For each score the share of the other class that it stands right of: below a positive, above a negative."""
    from scipy.stats import rankdata

    m, n = len(positive), len(negative)
    joint = rankdata(np.concatenate([positive, negative]))
    return (joint[:m] - rankdata(positive)) / n, 1 - (joint[m:] - rankdata(negative)) / m


def _one_sided_t(values: Float[np.ndarray, "run"]) -> float:
    """p of H0: mean <= 0; a sample without spread is decided by its sign, one value decides nothing."""
    from scipy.special import stdtr

    if len(values) == 1:
        return 1.0
    if np.ptp(values) == 0:
        return 0.0 if values[0] > 0 else 1.0
    t = values.mean() / values.std(ddof=1) * math.sqrt(len(values))
    return float(stdtr(len(values) - 1, -t))


def _p_values(p_values: Values) -> Float[np.ndarray, "tests"]:
    p = _values(p_values, minimum=1, what="p-values")
    if p.min() < 0 or p.max() > 1:
        raise InputError(f"p-values must lie in [0, 1], found {p.min():g} to {p.max():g}; pass raw p-values.")
    return p


def _values(values: Values, *, minimum: int, what: str = "values") -> Float[np.ndarray, "value"]:
    array = np.asarray(values, dtype=float).ravel()
    if len(array) < minimum:
        raise InputError(f"{len(array)} {what} given; at least {minimum} needed.")
    if bad := int((~np.isfinite(array)).sum()):
        raise InputError(f"{bad} of {len(array)} {what} are not finite; drop or fix those runs.")
    return array


def _level(value: float, name: str, *, below: float = 1) -> None:
    if not 0 < value < below:
        raise InputError(f"{name} {value} is outside (0, {below}); give a probability such as 0.05.")
