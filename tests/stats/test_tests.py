"""The tests against values worked out by hand, against statsmodels, and their error rates under nulls."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from interp.core.runs import InputError
from interp.stats.columns import bootstrapped
from interp.stats.tests import (
    auroc,
    benjamini_hochberg,
    equivalence_test,
    holm,
    largest_outlier_p,
    permutation_test,
    runs_needed,
    sign_flip_test,
    smallest_sign_flip_p,
    t_interval,
    wilson_interval,
)

SEVEN = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]


def test_sign_flip_of_three_by_hand():
    # sums of (±3, ±2, ±1): 6 4 2 0 0 -2 -4 -6, so the mean of (3, 2, -1) is reached or beaten by two of eight
    assert sign_flip_test([3, 2, 1]).p == 1 / 8
    assert sign_flip_test([3, 2, -1]).p == 2 / 8
    assert sign_flip_test([3, -2, -1]).p == 5 / 8
    assert sign_flip_test([3, 2, -1], alternative="less").p == 7 / 8
    assert sign_flip_test([3, 2, -1], alternative="two-sided").p == 4 / 8


def test_sign_flip_of_eight_by_hand():
    # one negative difference: smallest in size -> only it and the all-positive pattern reach the mean
    assert sign_flip_test([*SEVEN, 0.2]).p == 1 / 256
    assert sign_flip_test([*SEVEN, -0.2]).p == 2 / 256
    # -0.3 instead: flipping it, or flipping only 0.2 against it, or both signs as observed
    assert sign_flip_test([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, -0.3, 0.2]).p == 3 / 256
    assert sign_flip_test([*SEVEN, 0.2]).exact


def test_ties_count_as_reaching_the_observed_mean():
    assert sign_flip_test([0.0, 0.0, 0.0]).p == 1.0
    assert sign_flip_test([1.0, 1.0, 0.0]).p == 1 / 4


def test_one_run_reaches_one_half():
    outcome = sign_flip_test([2.0])
    assert (outcome.p, outcome.smallest_p, outcome.n) == (0.5, 0.5, 1)


def test_exact_to_sixteen_runs_then_sampled_with_its_seed():
    rng = np.random.default_rng(0)
    values = rng.normal(0.2, 1, 17)
    exact, sampled = sign_flip_test(values[:16]), sign_flip_test(values, flips=999, seed=3)
    assert exact.exact
    assert exact.p * 2**16 == round(exact.p * 2**16)
    assert not sampled.exact
    assert sampled.p * 1000 == pytest.approx(round(sampled.p * 1000))
    assert sampled == sign_flip_test(values, flips=999, seed=3)
    assert sampled.p != sign_flip_test(values, flips=999, seed=4).p
    assert sampled.smallest_p == 1 / 1000


def test_sampled_p_is_never_zero_and_near_the_exact_one():
    assert sign_flip_test(np.ones(40) + np.arange(40) / 100, flips=99).p == 1 / 100
    values = np.random.default_rng(0).normal(0.4, 1, 17)
    reference = stats.ttest_1samp(values, 0, alternative="greater")[1]
    assert sign_flip_test(values, flips=19_999).p == pytest.approx(reference, abs=0.02)


def test_permutation_by_hand():
    # of the six ways to split 1 2 3 4 in pairs, only {3, 4} has a difference of at least 2
    found = permutation_test([3, 4], [1, 2])
    assert (found.difference, found.p, found.smallest_p, found.n, found.exact) == (
        2.0,
        1 / 6,
        1 / 6,
        (2, 2),
        True,
    )
    assert permutation_test([3, 4], [1, 2], alternative="less").p == 1
    assert permutation_test([3, 4], [1, 2], alternative="two-sided").p == 2 / 6
    sampled = permutation_test(np.arange(12) + 100, np.arange(12), permutations=99)
    assert (sampled.p, sampled.smallest_p, sampled.exact) == (1 / 100, 1 / 100, False)


def test_smallest_p_and_runs_needed():
    assert smallest_sign_flip_p(8) == 1 / 256
    assert smallest_sign_flip_p(8, alternative="two-sided") == 1 / 128
    assert [runs_needed(alpha) for alpha in (0.05, 0.01, 0.125)] == [5, 7, 3]
    assert runs_needed(0.05, alternative="two-sided") == 6
    for alpha in (0.05, 0.01, 0.001):
        n = runs_needed(alpha)
        assert smallest_sign_flip_p(n) <= alpha < smallest_sign_flip_p(n - 1)


def test_t_interval_by_hand():
    # mean 2, sd 1, n 3, t(0.975, 2) = 4.30265
    low, high = t_interval([1, 2, 3])
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-6)
    assert t_interval([5.0]) == (-math.inf, math.inf)


def test_equivalence_agrees_with_statsmodels():
    rng = np.random.default_rng(0)
    for n in (2, 3, 8, 30):
        values = rng.normal(0.05, 0.2, n)
        ours = equivalence_test(values, margin=0.2)
        described = DescrStatsW(values)
        assert ours.p == pytest.approx(described.ttost_mean(-0.2, 0.2)[0], rel=1e-9)
        assert ours.interval == pytest.approx(described.tconfint_mean(alpha=0.1), rel=1e-9)
        assert ours.equivalent == (ours.interval[0] >= -0.2 and ours.interval[1] <= 0.2)


def test_equivalence_without_spread_or_with_one_run():
    assert equivalence_test([0.1, 0.1, 0.1], margin=0.2).p == 0.0
    assert equivalence_test([0.3, 0.3, 0.3], margin=0.2).p == 1.0
    assert equivalence_test([0.0], margin=0.2).p == 1.0


def test_holm_and_bh_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert benjamini_hochberg([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    p = np.random.default_rng(0).random(50) ** 3
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1])


def test_wilson_by_hand():
    # 8 of 10: centre (8 + z²/2) / (10 + z²), half width z sqrt(8 * 2 / 10 + z²/4) / (10 + z²)
    z = 1.959964
    centre, half = (8 + z * z / 2) / (10 + z * z), z * math.sqrt(1.6 + z * z / 4) / (10 + z * z)
    assert wilson_interval(8, 10) == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_auroc_by_hand():
    # 3 beats 1 and 2, 2 beats 1 and ties with 2: 3.5 of 4 pairs; wins (1, 0.75), losses (1, 0.75)
    outcome = auroc([3, 2], [1, 2])
    half = 1.959964 * math.sqrt(2 * (0.125**2 * 2) / 2)
    assert outcome.value == 3.5 / 4
    assert outcome.interval == pytest.approx((0.875 - half, 1.0), abs=1e-6)
    assert (outcome.n_positive, outcome.n_negative) == (2, 2)


def test_auroc_agrees_with_mann_whitney_and_with_the_pairwise_delong_variance():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 9, 40) + 1, rng.integers(0, 9, 25)
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    variance = wins.mean(1).var(ddof=1) / 40 + wins.mean(0).var(ddof=1) / 25
    outcome = auroc(positive, negative)
    assert outcome.value == pytest.approx(stats.mannwhitneyu(positive, negative).statistic / 1000)
    assert outcome.value - outcome.interval[0] == pytest.approx(1.959964 * math.sqrt(variance), abs=1e-6)
    swapped = auroc(negative, positive)
    assert (1 - swapped.value, 1 - swapped.interval[1]) == pytest.approx((outcome.value, outcome.interval[0]))
    assert auroc(np.exp(positive), np.exp(negative)) == outcome  # ranks are all that counts


def test_auroc_without_variance_is_as_sure_as_its_disjoint_pairs():
    assert auroc([5, 6, 7], [1, 2, 3, 4]).interval == wilson_interval(3, 3)
    assert auroc([1.0, 1.0], [1.0, 1.0]).interval == wilson_interval(1, 2)
    low, high = auroc([2.5], [1, 2, 3, 4]).interval
    assert low < 0.1
    assert high > 0.9


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_auroc_interval_covers(shift):
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(shift / math.sqrt(2))
    pairs = zip(rng.normal(shift, 1, (1500, 60)), rng.normal(0, 1, (1500, 60)), strict=True)
    misses = [not low <= truth <= high for low, high in (auroc(*pair).interval for pair in pairs)]
    assert 0.035 <= np.mean(misses) <= 0.07


def _uniform(p: np.ndarray, step: float = 0.0) -> float:
    """KS p-value of uniformity; a p on a grid is spread over its own step, which is exact under the null."""
    spread = p - step * np.random.default_rng(1).random(len(p))
    return float(stats.kstest(spread, "uniform").pvalue)


@pytest.mark.parametrize(
    ("law", "alternative", "step"),
    [
        ("normal", "greater", 1 / 256),
        ("normal", "two-sided", 2 / 256),
        ("standard_cauchy", "greater", 1 / 256),
    ],
)
def test_exact_sign_flip_is_calibrated(law, alternative, step):
    draws = getattr(np.random.default_rng(0), law)(size=(2000, 8))
    p = np.array([sign_flip_test(row, alternative=alternative).p for row in draws])
    assert _uniform(p, step) > 0.01
    assert 0.035 <= (p <= 0.05).mean() <= 0.065


def test_sampled_sign_flip_is_calibrated():
    draws = np.random.default_rng(0).normal(size=(2000, 20))
    p = np.array([sign_flip_test(row, flips=199, seed=index).p for index, row in enumerate(draws)])
    assert _uniform(p, 1 / 200) > 0.01
    assert 0.035 <= (p <= 0.05).mean() <= 0.065


@pytest.mark.parametrize("edge", [-1.0, 1.0])
def test_equivalence_is_calibrated_on_the_margin(edge):
    draws = np.random.default_rng(0).normal(edge, 0.1, size=(2000, 8))
    p = np.array([equivalence_test(row, margin=1.0).p for row in draws])
    assert _uniform(p) > 0.01
    assert 0.035 <= (p <= 0.05).mean() <= 0.065


def test_t_interval_and_cluster_bootstrap_cover():
    rng = np.random.default_rng(0)
    t_misses = [not low <= 0 <= high for low, high in map(t_interval, rng.normal(size=(2000, 8)))]
    assert 0.035 <= np.mean(t_misses) <= 0.065
    labels = np.repeat(np.arange(80), 5)
    values = np.repeat(rng.normal(size=(1000, 80)), 5, axis=1) + rng.normal(size=(1000, 400))
    intervals = [
        [float(edge[0]) for edge in bootstrapped(row[:, None], clusters=labels, resamples=399, seed=i)]
        for i, row in enumerate(values)
    ]
    assert 0.035 <= np.mean([not low <= 0 <= high for low, high in intervals]) <= 0.065


def test_holm_holds_the_family_error_and_bh_the_false_discovery_rate():
    rng = np.random.default_rng(0)
    nulls = rng.random((2000, 20))
    assert 0.035 <= np.mean([holm(row).min() <= 0.05 for row in nulls]) <= 0.065
    found = np.concatenate([rng.random((2000, 20)) * 1e-6, nulls], axis=1)
    rate = [(q := benjamini_hochberg(row) <= 0.05)[20:].sum() / q.sum() for row in found]
    assert 0.02 <= np.mean(rate) <= 0.03  # 0.05 times the share of true nulls


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sign_flip_test([]), "0 values given; at least 1 needed."),
        (lambda: sign_flip_test([1.0, math.nan]), "1 of 2 values are not finite"),
        (lambda: equivalence_test([1.0, 2.0], margin=0.0), "margin 0.0 is not a positive number"),
        (lambda: equivalence_test([1.0, 2.0], margin=1.0, alpha=0.5), "alpha 0.5 is outside (0, 0.5)"),
        (lambda: t_interval([1, 2], confidence=95), "confidence 95 is outside (0, 1)"),
        (lambda: permutation_test([1.0], [1.0, 2.0]), "1 values given; at least 2 needed."),
        (lambda: auroc([], [1.0]), "0 values given; at least 1 needed."),
        (lambda: auroc([1.0], [math.nan]), "1 of 1 values are not finite"),
        (lambda: holm([0.1, 1.2]), "p-values must lie in [0, 1], found 0.1 to 1.2"),
        (lambda: wilson_interval(3, 2), "3 successes in 2 trials is impossible"),
    ],
)
def test_messages(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert message in str(error.value)


def test_an_outlier_by_grubbs_table():
    """Grubbs (1950): of ten values G reaches 2.176 with p = .05 one-sided, of three 1.153."""
    for k, critical in ((10, 2.176), (20, 2.557)):
        rest = np.linspace(-1, 1, k - 1)

        def short(top, rest=rest, critical=critical):
            values = np.append(rest, top)
            return (top - values.mean()) / values.std(ddof=1) - critical

        top = brentq(short, 1.0, 50.0)
        assert largest_outlier_p(np.append(rest, top)) == pytest.approx(0.05, abs=5e-4)
    assert largest_outlier_p([1.0, 1.0, 1.0]) == 1.0
    assert largest_outlier_p([0.0, 0.1, -0.1, 1e9]) < 1e-6


def test_grubbs_p_is_calibrated_under_normal_values():
    rng = np.random.default_rng(0)
    found = [largest_outlier_p(rng.standard_normal(12)) for _ in range(2000)]
    assert 0.035 < np.mean(np.array(found) <= 0.05) < 0.065
