"""Folds of prompts, and the trap they avoid: a direction that holds the row it scores."""

from __future__ import annotations

import numpy as np
import pytest

from interp.core.runs import InputError
from interp.gradients.nulls.crossfit import cross_fit, prompt_folds
from interp.prompts.text import Prompts
from tests.gradients.standins import asked


def gradients(rows: int, size: int, *, seed: int, lean: float = 0.0) -> np.ndarray:
    """Unit-variance gradients that mean nothing, but for `lean` along the first axis."""
    found = np.random.default_rng(seed).normal(size=(rows, size))
    found[:, 0] += lean
    return found


def numbered(rows: Prompts) -> list[int]:
    return [int(row.prompt.split()[1]) for row in rows.rows]


def fitted(table: np.ndarray, rows: Prompts, **options):
    """Cross-fit with each fold's mean gradient as its direction."""
    return cross_fit(
        rows,
        fit=lambda part: table[numbered(part)].mean(axis=0),
        score=lambda part, mean: table[numbered(part)] @ mean,
        **options,
    )


def test_self_inclusion_makes_noise_lean_and_cross_fitting_does_not():
    """cos(g_i, mean) is 1 / sqrt(n) = 0.177 for 32 rows of noise that are in the mean, and 0 for rows left out."""
    inside, outside = [], []
    for seed in range(20):
        table = gradients(32, 2000, seed=seed)
        unit = table / np.linalg.norm(table, axis=1, keepdims=True)
        mean = table.mean(axis=0)
        inside.append((unit @ mean / np.linalg.norm(mean)).mean())

        def along(part, mean, unit=unit):
            return unit[numbered(part)] @ mean / np.linalg.norm(mean)

        leave_one_out = cross_fit(
            asked(32), k=32, fit=lambda part, table=table: table[numbered(part)].mean(axis=0), score=along
        )
        outside.append(leave_one_out.scores.mean())
    assert np.mean(inside) == pytest.approx(1 / np.sqrt(32), rel=0.05)
    assert abs(np.mean(outside)) < 4 * np.std(outside, ddof=1) / np.sqrt(20) + 1e-3


def test_folds_split_prompts_and_are_disjoint_and_even():
    rows = asked(10) + asked(10) + asked(3)
    folds = prompt_folds(rows, k=5, seed=0)
    by_prompt = {}
    for prompt, fold in zip(numbered(rows), folds, strict=True):
        by_prompt.setdefault(prompt, set()).add(int(fold))
    assert all(len(found) == 1 for found in by_prompt.values())
    sizes = np.bincount([next(iter(found)) for found in by_prompt.values()])
    assert sizes.tolist() == [2] * 5


def test_no_row_is_scored_by_a_direction_that_saw_its_prompt():
    seen = []

    def fit(part):
        return set(numbered(part))

    def score(part, known):
        seen.append(known.isdisjoint(numbered(part)))
        return np.array(numbered(part), dtype=float)

    rows = asked(9) + asked(9)
    found = cross_fit(rows, k=3, fit=fit, score=score)
    assert seen == [True] * 3
    assert found.scores.tolist() == numbered(rows)  # in the order of the rows


def test_a_planted_lean_is_found():
    table = gradients(200, 50, seed=3, lean=1.0)
    test = fitted(table, asked(200), k=4).test()
    assert test.p < 0.001
    assert test.n == 200


def test_two_answers_to_one_prompt_are_one_unit():
    table = gradients(60, 20, seed=0)
    assert fitted(table, asked(60) + asked(60), k=3).test().n == 60


def test_too_few_prompts_for_the_folds():
    with pytest.raises(InputError, match="3 prompts make no 5 folds; pass k from 2 to 3, or more prompts"):
        prompt_folds(asked(3), k=5, seed=0)
