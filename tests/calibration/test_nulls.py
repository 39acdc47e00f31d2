"""Two thousand nulls a test: errors at their level, p-values uniform, and miscalibration is seen.

Sign flips, bootstrap, AUROC and exchanges of prompts cost most and are held to the same band in tests/stats and
tests/gradients; the benchmark runs all. At
2 000 nulls the band is three standard deviations wide to either side.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

import benchmarks.calibration as bench

SLOW = ("sign_flip", "bootstrap", "auroc_coverage", "pairs", "two_samples")
CHEAP = [index for index, test in enumerate(bench.TESTS) if test.__name__ not in SLOW]


@pytest.mark.slow
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
