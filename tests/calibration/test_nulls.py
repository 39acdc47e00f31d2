"""Two thousand nulls a test: errors at their level, p-values uniform, and miscalibration is seen.

Sign flips, bootstrap and AUROC cost most and are held to the same band in test_statistics; the benchmark runs all. At
2 000 nulls the band is three standard deviations wide to either side.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

import benchmarks.calibration as bench
from interp.core.runs import InputError
from interp.stats.many import sign_flip_family
from interp.stats.tests import max_t, permutation_test, power, runs_for_power

SLOW = ("sign_flip", "bootstrap", "auroc_coverage")
CHEAP = [index for index, test in enumerate(bench.TESTS) if test.__name__ not in SLOW]


@pytest.mark.parametrize("index", CHEAP, ids=lambda index: bench.TESTS[index].__name__)
def test_errors_are_as_frequent_as_the_level_says(index):
    found = bench.TESTS[index](2_000, np.random.default_rng(index))
    low, high = bench.BAND
    assert low <= found.rate <= high, found
    assert found.ks_p is None or found.ks_p > 0.01, found


def test_a_test_that_rejects_twice_too_often_is_caught(monkeypatch):
    honest = bench.equivalence_test
    monkeypatch.setattr(bench, "equivalence_test", lambda row, *, margin: honest(row, margin=1.02 * margin))
    found = bench.equivalence(1_000, np.random.default_rng(3))
    assert found.rate > bench.BAND[1]
    assert found.ks_p is not None
    assert found.ks_p < 0.01


def test_rows_are_kept_and_no_ratio_is_claimed(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "calibration.json")
    monkeypatch.setattr(bench, "NULLS", 40)
    monkeypatch.setattr(bench, "TESTS", (bench.holm_family, bench.equivalence))
    assert bench.calibration() == {}
    rows = json.loads((tmp_path / "calibration.json").read_text())["rows"]
    assert [row["test"] for row in rows] == [
        "Holm, family-wise, 10 tests",
        "equivalence on its margin, n = 8",
    ]
    assert set(rows[0]) == {"test", "nulls", "rate", "low", "high", "ks_p"}
    assert rows[0]["ks_p"] is None


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


def test_max_t_by_hand_and_against_the_family_of_features():
    # alone, (1, 2, 3) is reached by the pattern of all + only
    values = np.array([[1.0, 1.0], [2.0, -1.0], [3.0, 1.0]])
    assert max_t(values[:, :1], alternative="greater").tolist() == [1 / 8]
    # first: its T is 1.60; of the 8 patterns +++ reaches it, and + - + does by the second column (T = 1.73)
    # second: T = 0.58 is reached by the four patterns that leave two of its terms positive
    assert max_t(values, alternative="greater").tolist() == [2 / 8, 4 / 8]
    draws = np.random.default_rng(0).normal(0.5, 1, size=(9, 6))
    assert max_t(draws) == pytest.approx(sign_flip_family(draws).p_max)
    assert max_t(np.zeros((4, 2))).tolist() == [1.0, 1.0]


def test_power_is_the_level_under_the_null_and_that_of_the_t_test_beside_it():
    # noncentral t: one-sided level 0.05, d = 1, n = 8
    critical = stats.t.ppf(0.95, 7)
    assert power(1.0, 8, alpha=0.05, test="t") == pytest.approx(
        stats.nct.sf(critical, 7, np.sqrt(8)), abs=1e-9
    )
    assert power(0.0, 8, alpha=0.05) == pytest.approx(12 / 256, abs=0.01)
    assert power(1.0, 8, alpha=0.05) == pytest.approx(power(1.0, 8, alpha=0.05, test="t"), abs=0.03)
    assert power(9.0, 6, alpha=0.01) == 0.0  # six runs reach p = 1/64 at best
    needed = runs_for_power(1.0, alpha=0.05, test="t")
    assert power(1.0, needed, alpha=0.05, test="t") >= 0.8 > power(1.0, needed - 1, alpha=0.05, test="t")
    assert runs_for_power(9.0) == 7


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: permutation_test([1.0], [1.0, 2.0]), "1 values given; at least 2 needed."),
        (lambda: power(1.0, 1), "1 runs, effect 1.0: power needs at least 2 runs and a finite effect."),
        (
            lambda: runs_for_power(0.0, test="t"),
            "1000 runs lack power 0.8 at an effect of 0 sd; seek a larger one.",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert message in str(error.value)
