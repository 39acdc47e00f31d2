"""Small-sample tests over training runs: sign-flip, permutation, equivalence, multiplicity, intervals, power.

Sign-flip test: under H0 differences are symmetric about X, so all 2^n sign patterns of d − X are equally likely and
p = #{patterns with mean >= observed} / 2^n, or (b + 1) / (m + 1) over m random ones (Phipson & Smyth 2010).
Equivalence: two one-sided t tests against -margin and +margin, p = the larger of the two (Schuirmann 1987).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from interp.core.runs import InputError

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
    """Outcome of two one-sided t tests; `interval` is the 1 - 2 alpha t-interval of the mean."""

    mean: float
    p: float
    interval: tuple[float, float]
    margin: float
    alpha: float
    n: int

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
    The two-sided p is twice the smaller one-sided p, at most 1.
    """
    from scipy.stats import permutation_test

    values = _values(differences, minimum=1) - above
    exact = 2 ** len(values) <= EXACT_LIMIT
    # scipy wants two observations; an added zero leaves the exact p as it is, since it doubles both counts
    padded = values if len(values) > 1 else np.append(values, 0.0)
    outcome = permutation_test(
        (padded,),
        lambda sample, axis: np.mean(sample, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=EXACT_LIMIT if exact else flips,
        batch=max(1, 1_000_000 // len(padded)),
        alternative=alternative,
        rng=np.random.default_rng(seed),
    )
    smallest = smallest_sign_flip_p(len(values), alternative=alternative, flips=flips)
    mean, p = above + float(values.mean()), float(outcome.pvalue)
    return SignFlip(mean, p, smallest, len(values), alternative, exact)


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
    """
    from scipy import stats

    groups = _values(first, minimum=2), _values(second, minimum=2)
    n = len(groups[0]), len(groups[1])
    assignments = math.comb(sum(n), n[0])
    exact = assignments <= EXACT_LIMIT
    outcome = stats.permutation_test(
        groups,
        lambda one, other, axis: one.mean(axis=axis) - other.mean(axis=axis),
        vectorized=True,
        n_resamples=EXACT_LIMIT if exact else permutations,
        batch=max(1, 1_000_000 // sum(n)),
        alternative=alternative,
        rng=np.random.default_rng(seed),
    )
    smallest = (1 + (alternative == "two-sided")) / (assignments if exact else permutations + 1)
    return Permutation(float(outcome.statistic), float(outcome.pvalue), smallest, n, exact)


def max_t(
    differences: Float[np.ndarray, "run test"],
    *,
    alternative: Literal["greater", "two-sided"] = "two-sided",
    flips: int = EXACT_LIMIT - 1,
    seed: int = 0,
) -> Float[np.ndarray, "test"]:
    """Adjusted p-values of many tests on the same runs: step-down max-T under sign flips of whole runs.

    t grows with T = sum d / sqrt(sum d^2), whose denominator no flip changes. The p of the test with the k-th largest
    T is the share of sign patterns in which the largest T of it and all smaller ones reaches its own (Westfall and
    Young 1993), made non-decreasing: family-wise error, however the tests depend.
    """
    columns = np.asarray(differences, dtype=float)
    _values(columns, minimum=1)
    norm = np.linalg.norm(columns, axis=0)
    unit = columns / np.where(norm > 0, norm, 1)
    size = np.abs if alternative == "two-sided" else np.positive
    order = np.argsort(-size(unit.sum(0)), kind="stable")
    unit, exact = unit[:, order], 2 ** len(columns) <= EXACT_LIMIT
    observed, reached, signs = size(unit.sum(0)) - 1e-9, 0, _sign_patterns(len(columns), flips, seed)
    for block in np.array_split(signs, math.ceil(len(signs) * unit.shape[1] / 4e6)):
        largest = np.maximum.accumulate(size(block @ unit)[:, ::-1], axis=1)[:, ::-1]
        reached = reached + (largest >= observed).sum(0)
    p = (reached + (not exact)) / (len(signs) + (not exact))
    return np.maximum.accumulate(p)[np.argsort(order)]


def power(
    effect: float,
    n: int,
    *,
    alpha: float = 0.01,
    test: Literal["sign-flip", "t"] = "sign-flip",
    seed: int = 0,
) -> float:
    """Chance that a one-sided test of n runs has p <= alpha when the mean is `effect` standard deviations above zero.

    "t" is exact; "sign-flip" is simulated up to n = 12 and above that taken from the t test. InputError below two runs.
    """
    from statsmodels.stats.power import TTestPower

    _level(alpha, "alpha")
    if n < 2 or not math.isfinite(effect):
        raise InputError(f"{n} runs, effect {effect}: power needs at least 2 runs and a finite effect.")
    if test == "t" or n > 12:
        return float(TTestPower().power(effect, n, alpha, alternative="larger"))
    draws = np.random.default_rng(seed).normal(effect, 1, size=(4_000, n))
    p = (_sign_patterns(n, 0, seed) @ draws.T >= draws.sum(1) - 1e-9).mean(0)
    return float((p <= alpha).mean())


def runs_for_power(
    effect: float, *, target: float = 0.8, alpha: float = 0.01, test: Literal["sign-flip", "t"] = "sign-flip"
) -> int:
    """Return the fewest runs with which `power` reaches `target`; InputError when 1 000 do not."""
    _level(target, "target")
    for n in range(max(2, runs_needed(alpha) if test == "sign-flip" else 2), 1_001):
        if power(effect, n, alpha=alpha, test=test) >= target:
            return n
    raise InputError(f"1000 runs lack power {target:g} at an effect of {effect:g} sd; seek a larger one.")


def t_interval(values: Values, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the two-sided t-interval of the mean; a single value gives (-inf, inf)."""
    from scipy.special import stdtrit

    sample = _values(values, minimum=1)
    _level(confidence, "confidence")
    if len(sample) == 1:
        return (-math.inf, math.inf)
    half = stdtrit(len(sample) - 1, (1 + confidence) / 2) * sample.std(ddof=1) / math.sqrt(len(sample))
    return (float(sample.mean() - half), float(sample.mean() + half))


def bootstrap_interval(
    values: Values,
    *,
    clusters: Sequence[Any] | np.ndarray | None = None,
    confidence: float = 0.95,
    resamples: int = 9_999,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean, resampling whole clusters (training seeds).

    `clusters` labels each value with its run; without it every value is a run of its own. Below some ten clusters
    the interval is too narrow, so verdicts use `t_interval` over run means.
    """
    from scipy.stats import bootstrap

    sample = _values(values, minimum=2)
    sums, counts = _cluster_sums(sample, clusters)
    _level(confidence, "confidence")
    outcome = bootstrap(
        (sums, counts),
        lambda totals, sizes, axis=-1: totals.sum(axis=axis) / sizes.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=confidence,
        n_resamples=resamples,
        batch=max(1, 1_000_000 // len(sums)),
        rng=np.random.default_rng(seed),
    )
    return (float(outcome.confidence_interval.low), float(outcome.confidence_interval.high))


def equivalence_test(differences: Values, *, margin: float, alpha: float = 0.05) -> Equivalence:
    """Test by two one-sided t tests whether the mean difference lies within ±margin.

    A single run cannot show equivalence: its p is 1. Differences without spread give p = 0 inside the margin.
    Raises InputError for a margin that is not positive.
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
    return Equivalence(float(values.mean()), max(lower, upper), interval, margin, alpha, len(values))


def holm(p_values: Values) -> Float[np.ndarray, "tests"]:
    """Return Holm's adjusted p-values, max over j <= i of (m - j + 1) p_(j): family-wise error."""
    p = _p_values(p_values)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return adjusted


def benjamini_hochberg(p_values: Values) -> Float[np.ndarray, "tests"]:
    """Return Benjamini-Hochberg q-values: false discovery rate, independent or positively dependent tests."""
    from scipy.stats import false_discovery_control

    return false_discovery_control(_p_values(p_values))


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion, such as an elicitation rate; InputError without a trial."""
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


def _sign_patterns(n: int, flips: int, seed: int) -> Float[np.ndarray, "pattern run"]:
    """All 2^n patterns of signs where there are few, else `flips` random ones."""
    if 2**n <= EXACT_LIMIT:
        return 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    return np.random.default_rng(seed).choice([-1.0, 1.0], size=(flips, n))


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


def _cluster_sums(sample: Float[np.ndarray, "value"], clusters: Sequence[Any] | np.ndarray | None):
    if clusters is None:
        return sample, np.ones(len(sample))
    if len(clusters) != len(sample):
        raise InputError(
            f"{len(clusters)} cluster labels for {len(sample)} values; give one label per value."
        )
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    if index.max() < 1:
        raise InputError("all values share one cluster; a bootstrap over runs needs at least two.")
    return np.bincount(index, weights=sample), np.bincount(index).astype(float)


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
