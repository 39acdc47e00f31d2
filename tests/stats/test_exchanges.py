"""Every exchange on numbers chosen by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from interp.stats.exchanges import Matrix, Paired, Ranked, TwoSample, standardised
from interp.stats.tests import sign_flip_test


def test_paired_by_hand():
    found = Paired(np.array([3.0, 1.0, 2.0]), np.array([1.0, 0.0, 1.0])).test("null")
    assert (found.observed, found.control, found.n) == (2.0, pytest.approx(2 / 3), 3)
    assert (
        found.p == found.smallest_p == 1 / 8
    )  # all differences positive: the largest of the 8 sign patterns
    assert found.effect == pytest.approx((4 / 3) / np.std([2, 1, 1], ddof=1))
    assert Paired(np.array([3.0, 1.0, 2.0]), np.array([1.0, 0.0, 1.0])).reversed().test("null").p == 1.0


def test_many_pairs_agree_with_the_sign_flip_test_of_the_package():
    values = np.random.default_rng(0).normal(0.15, 1, size=100)
    ours = Paired(values, np.zeros(100)).test("null")
    reference = sign_flip_test(values, flips=9_999, seed=1)
    assert ours.p == pytest.approx(reference.p, abs=4 * math.sqrt(2 * reference.p / 9_999))
    assert ours.smallest_p == reference.smallest_p == 1 / 10_000


def test_equal_scores_prove_nothing():
    same = np.full(30, 0.1) * 3
    assert Paired(same, same).test("null").p == 1.0
    assert Paired(same, same).test("null").effect == 0.0
    assert TwoSample(same, same[:7]).test("null").p == 1.0
    assert Ranked(0.3, np.full(19, 0.1) * 3, "directions").test("null").p == 1.0
    assert Matrix(np.full((3, 3), 0.3)).test("null").p == 1.0


def test_ranked_by_hand():
    found = Ranked(2.5, np.array([1.0, 2.0, 3.0, 0.0]), "directions").test("null")
    assert (found.p, found.smallest_p, found.n, found.unit) == (2 / 5, 1 / 5, 4, "directions")
    assert found.effect == pytest.approx((2.5 - 1.5) / np.std([1, 2, 3, 0], ddof=1))


def test_matrix_by_hand():
    scores = np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    found = Matrix(scores).test("null")
    assert (found.observed, found.control, found.n) == (2.0, 0.0, 3)
    assert found.p == found.smallest_p == pytest.approx(1 / 6)


def test_effects_of_rows_and_columns_leave_a_matrix_test_alone():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(5, 5))
    shifted = scores + 10 * rng.normal(size=(5, 1)) + 10 * rng.normal(size=(1, 5))
    assert Matrix(scores).test("null").p == Matrix(shifted).test("null").p


def test_two_samples_of_unequal_size():
    found = TwoSample(np.array([5.0, 6.0, 7.0]), np.arange(5.0) - 2).test("null")
    assert found.n == 8
    assert found.p == pytest.approx(1 / 56, abs=0.005)  # one of the 56 ways to choose three of eight
    assert found.effect == pytest.approx(6 / math.sqrt((1 + 2.5) / 2))


def test_standardised_mean():
    assert standardised(np.array([1.0, 2.0, 3.0])) == 2.0
    assert standardised(np.array([2.0, 2.0])) == math.inf
