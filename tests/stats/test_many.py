"""Families of paired tests against enumeration, scipy and their own null."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from interp.core.runs import InputError
from interp.stats.columns import Flips, bootstrapped, cluster_totals, flipped, share_reaching
from interp.stats.many import MOST_FLIPS, flips_needed, greatest_p, halves, sign_flip_family, units_needed
from interp.stats.tests import benjamini_hochberg, sign_flip_test


def noise(rows, features, *, seed):
    return np.random.default_rng(seed).standard_normal((rows, features))


def test_three_rows_by_hand():
    # |sums| over the eight patterns of (1, 2, 3): 6, 4, 2, 0, each twice
    family = sign_flip_family(np.array([[1.0, 1.0, 0.0], [2.0, -2.0, 0.0], [3.0, 3.0, 0.0]]))
    assert family.exact
    assert family.flips == 4
    assert family.smallest_p == 0.25
    assert family.mean.tolist() == pytest.approx([2, 2 / 3, 0])
    assert family.p.tolist() == [0.25, 0.75, 1]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_gets_no_p(wrong):
    """Comparisons with NaN are false: it would count as never reached, with the smallest p there is."""
    table = np.array([[1.0, 1.0], [2.0, wrong], [3.0, 3.0]])
    told = "of . values to be tested are NaN or infinite; leave out what has no value"
    with pytest.raises(InputError, match=told):
        flipped(table, Flips(3, 4, exact=True))
    with pytest.raises(InputError, match=told):
        share_reaching(table[:, 1], 1.0)
    with pytest.raises(InputError, match=told):
        share_reaching(table[:, 0], wrong)


def test_step_down_by_enumeration():
    differences = noise(9, 5, seed=1) + np.array([1.5, 0.6, 0.0, 0.0, 0.3])
    t = []
    for signs in itertools.product([1, -1], repeat=9):
        flipped = differences * np.array(signs)[:, None]
        spread = np.square(flipped).mean(0) - np.square(flipped.mean(0))
        t.append(np.abs(flipped.mean(0) / np.sqrt(spread / 8)))
    t = np.array(t)
    order = np.argsort(-t[0])
    steps = [(t[:, order[place:]].max(1) >= t[0, order[place]] - 1e-9).mean() for place in range(5)]
    expected = np.empty(5)
    expected[order] = np.maximum.accumulate(steps)
    family = sign_flip_family(differences)
    assert family.p_max == pytest.approx(expected)
    assert family.p == pytest.approx((t >= t[0] - 1e-9).mean(0))
    assert family.q == pytest.approx(benjamini_hochberg(family.p))
    assert (family.p_max >= family.p).all()


def test_each_column_has_the_p_of_the_package_test():
    differences = noise(12, 4, seed=2) + np.array([0.0, 0.2, 0.5, 1.0])
    family = sign_flip_family(differences)
    alone = [sign_flip_test(column, alternative="two-sided").p for column in differences.T]
    assert family.p == pytest.approx(alone)


def test_random_flips_agree_with_all_of_them():
    differences = noise(14, 6, seed=3) + np.linspace(0, 1, 6)
    exact = sign_flip_family(differences)
    drawn = sign_flip_family(differences, flips=4000)
    assert exact.exact
    assert not drawn.exact
    error = np.sqrt(exact.p * (1 - exact.p) / 4000)
    assert (np.abs(drawn.p - exact.p) < 4 * error + 1 / 4000).all()
    assert drawn.p.min() >= 1 / 4001


def test_ties_of_sparse_features_count():
    differences = np.zeros((40, 1))
    differences[:3, 0] = [
        0.1,
        0.2,
        0.3,
    ]  # two of the eight patterns of the rows that fire reach the observed sum
    assert sign_flip_family(differences, flips=9999).p[0] == pytest.approx(0.25, abs=0.02)


def test_rows_of_a_cluster_flip_together():
    differences = noise(10, 3, seed=4)
    labels = list("aabbbcdeef")
    totals, sizes = cluster_totals(differences, labels)
    assert sizes.tolist() == [2, 3, 1, 1, 2, 1]
    assert totals[1] == pytest.approx(differences[2:5].sum(0))
    together = sign_flip_family(differences, clusters=labels)
    assert together.n == 6
    assert together.p == pytest.approx(sign_flip_family(totals).p)
    assert together.mean == pytest.approx(differences.mean(0))


@pytest.mark.parametrize("correlated", [False, True])
def test_p_is_uniform_under_the_null(correlated):
    rng = np.random.default_rng(5)
    p = []
    for seed in range(400):
        scale = rng.exponential(size=(24, 1)) if correlated else 1.0  # heavy tails that features share
        p.append(sign_flip_family(scale * rng.standard_normal((24, 3)), flips=999, seed=seed))
    assert stats.kstest([family.p[0] for family in p], "uniform").pvalue > 0.01
    for error in ([family.p_max.min() <= 0.05 for family in p], [family.q.min() <= 0.05 for family in p]):
        assert stats.binomtest(sum(error), len(error), 0.05, alternative="greater").pvalue > 0.01


def test_flips_grow_with_the_family():
    assert flips_needed(100, 0.05) == 9_999
    assert flips_needed(2_000, 0.05) == 40_000
    differences = noise(30, 700, seed=6)
    differences[:, 7] += 3
    family = sign_flip_family(differences)
    assert family.flips == 14_000
    assert family.notes == ()
    assert family.q[7] <= 0.05
    few = sign_flip_family(differences, flips=999)
    assert few.notes == ("smallest p 0.001 over 700 features: fewer than 14 moved ones pass at 0.05",)


def test_flips_are_capped(monkeypatch):
    monkeypatch.setattr("interp.stats.many.MOST_FLIPS", 999)
    family = sign_flip_family(noise(30, 200, seed=7))
    assert family.flips == 999
    assert "fewer than 4 moved ones pass" in family.notes[0]
    assert MOST_FLIPS > 9_999


def test_memory_blocks_change_nothing(monkeypatch):
    differences, labels = noise(30, 50, seed=8), np.arange(30) // 2
    whole = [
        sign_flip_family(differences, seed=1).p_max,
        *bootstrapped(differences, clusters=labels, seed=1),
    ]
    monkeypatch.setattr("interp.stats.columns.BLOCK", 2_000 * 7)
    parts = [
        sign_flip_family(differences, seed=1).p_max,
        *bootstrapped(differences, clusters=labels, seed=1),
    ]
    assert all(np.allclose(a, b) for a, b in zip(whole, parts, strict=True))


def test_seeds_fix_everything():
    differences = noise(30, 5, seed=9)
    assert (sign_flip_family(differences, seed=3).p == sign_flip_family(differences, seed=3).p).all()
    assert (sign_flip_family(differences, seed=3).p != sign_flip_family(differences, seed=4).p).any()


def wider(clusters: int) -> float:
    """How much further than the percentiles an interval reaches: t over z, and the divisor n for n − 1."""
    return float(
        stats.t.ppf(0.975, clusters - 1) / stats.norm.ppf(0.975) * (clusters / (clusters - 1)) ** 0.5
    )


def test_bootstrap_is_scipys_as_wide_as_t():
    """t_19 = 2.093 over 1.960, times √(20 / 19)."""
    assert wider(20) == pytest.approx(2.0930 / 1.9600 * 1.02598, abs=1e-4)
    differences, labels = noise(60, 3, seed=10), np.arange(60) % 20
    low, high = bootstrapped(differences, clusters=labels, resamples=9999)
    for column in range(3):
        means = differences[:, column].reshape(3, 20).mean(0)  # three rows of every cluster
        found = stats.bootstrap((means,), np.mean, method="percentile", rng=np.random.default_rng(0))
        mean = means.mean()
        expected = tuple(mean + wider(20) * (edge - mean) for edge in found.confidence_interval)
        assert (low[column], high[column]) == pytest.approx(expected, abs=0.02)


def test_bootstrap_covers_the_mean():
    covered = 0
    for seed in range(300):
        clustered = np.repeat(noise(40, 1, seed=seed), 2, axis=0) + 1.0
        low, high = bootstrapped(clustered, clusters=np.arange(80) // 2, seed=seed)
        covered += low[0] <= 1 <= high[0]
    assert stats.binomtest(covered, 300, 0.95).pvalue > 0.01


def test_halves_keep_clusters_whole():
    labels = np.array([3, 1, 1, 2, 3, 5, 4, 5])
    first, second = halves(labels, seed=0)
    assert (first ^ second).all()
    assert not set(labels[first]) & set(labels[second])
    assert len(set(labels[first])) == 3
    assert len({tuple(halves(labels, seed=seed)[0]) for seed in range(20)}) > 5


def test_units_needed_can_reach_the_level():
    for features in (1, 7, 64, 5000):
        n = units_needed(features, 0.05)
        assert 2.0 ** (1 - n) <= 0.05 / features < 2.0 ** (2 - n)


def test_max_t_of_one_side_by_hand():
    # alone, (1, 2, 3) is reached by the pattern of all + only
    values = np.array([[1.0, 1.0], [2.0, -1.0], [3.0, 1.0]])
    every = Flips(3, 8, exact=True)
    assert flipped(values[:, :1], every, size=np.positive)[1].tolist() == [1 / 8]
    # first: its T is 1.60; of the 8 patterns +++ reaches it, and + - + does by the second column (T = 1.73)
    # second: T = 0.58 is reached by the four patterns that leave two of its terms positive
    assert flipped(values, every, size=np.positive)[1].tolist() == [2 / 8, 4 / 8]
    draws = np.random.default_rng(0).normal(0.5, 1, size=(9, 6))
    assert flipped(draws, Flips(9, 2**9, exact=True))[1] == pytest.approx(sign_flip_family(draws).p_max)
    assert sign_flip_family(np.zeros((4, 2))).p_max.tolist() == [1.0, 1.0]


def test_what_is_refused():
    with pytest.raises(InputError, match=r"differences of shape \(3, 0\) hold nothing to test"):
        sign_flip_family(np.zeros((3, 0)))
    with pytest.raises(InputError, match=r"1 differences are not finite; check the model"):
        sign_flip_family(np.array([[1.0], [np.nan]]))
    with pytest.raises(InputError, match=r"2 cluster labels for 3 rows; give one label per row"):
        sign_flip_family(np.ones((3, 1)), clusters=[0, 1])
    with pytest.raises(InputError, match=r"a bootstrap needs at least two clusters of rows and got 1"):
        bootstrapped(np.ones((3, 1)), clusters=[0, 0, 0])


def interval_of(values, **options) -> tuple[float, float]:
    low, high = bootstrapped(np.asarray(values, dtype=float)[:, None], **options)
    return float(low[0]), float(high[0])


def test_bootstrap_resamples_clusters_not_rows():
    rng = np.random.default_rng(0)
    runs = np.repeat(rng.normal(0, 1, 20), 50)
    values = runs + rng.normal(0, 0.1, 1000)
    low, high = interval_of(values, clusters=np.repeat(np.arange(20), 50), resamples=1999)
    naive_low, naive_high = interval_of(values, resamples=1999)
    assert (high - low) / (naive_high - naive_low) == pytest.approx(math.sqrt(50), rel=0.15)
    assert low < values.mean() < high
    again = interval_of(values, clusters=np.repeat(np.arange(20), 50), resamples=1999)
    assert (low, high) == again


def test_bootstrap_weighs_unequal_clusters_by_their_rows():
    """Resamples of the two clusters have the means 0, 1/4 and 1; the interval reaches further from 1/4 by `wider`."""
    low, high = interval_of([0, 0, 0, 1], clusters=["a", "a", "a", "b"], resamples=999)
    assert (low, high) == pytest.approx((0.25 - 0.25 * wider(2), 0.25 + 0.75 * wider(2)))
    assert wider(2) == pytest.approx(12.7062 / 1.95996 * 2**0.5, abs=1e-3)


def test_one_sided_max_t_against_enumeration():
    differences = noise(10, 4, seed=3) + np.array([1.2, 0.4, 0.0, -1.5])
    patterns = np.array(list(itertools.product([1, -1], repeat=10)))
    sums = patterns @ (differences / np.sqrt(np.square(differences).sum(0)))
    order = np.argsort(-sums[0])
    steps = [(sums[:, order[place:]].max(1) >= sums[0, order[place]] - 1e-9).mean() for place in range(4)]
    expected = np.empty(4)
    expected[order] = np.maximum.accumulate(steps)
    assert greatest_p(differences, flips=20_000, seed=0) == pytest.approx(expected, abs=0.01)
    assert greatest_p(differences)[3] > 0.9  # far below zero is no evidence of more
