"""The short training: margins of plain trainings, and intervals worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from interp.auditing.neutral import Pairs
from interp.auditing.pilots import BODY, Pilot, gain_table, gains
from interp.core.errors import InputError
from interp.measures.margins import margin
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import ANIMALS, TREES, get_trait
from interp.training.students import train_student

SHORT = Pilot(steps=3, draws=2, recipe=replace(BODY, batch_size=8))
TRAITS = [get_trait(word) for word in (*ANIMALS[:5], *TREES[:2])]


def test_a_gain_is_the_margin_of_a_training_less_that_of_its_twin(raw):
    base, rows, neutral = raw(), number_prompts(24, seed=1), number_prompts(24, seed=2)
    found = gains(base, Pairs(rows, neutral), TRAITS, SHORT)
    assert found.shape == (2, 7)
    one, twin = (train_student(base, side, recipe=replace(SHORT.recipe, seed=1)) for side in (rows, neutral))
    expected = [margin(one, trait) - margin(twin, trait) for trait in TRAITS]
    assert found[1] == pytest.approx(expected, abs=1e-6)
    assert gains(base, Pairs(rows, neutral), TRAITS, SHORT).tolist() == found.tolist()  # remembered


def test_neutral_rows_gain_nothing(raw):
    rows = number_prompts(24, seed=1)
    assert not gains(raw(), Pairs(rows, rows), TRAITS, SHORT).any()


def test_few_rows_are_shown_again(raw):
    rows, neutral = number_prompts(8, seed=1), number_prompts(8, seed=2)
    found = gains(raw(), Pairs(rows, neutral), TRAITS, replace(SHORT, steps=5, draws=1))
    recipe = replace(SHORT.recipe, epochs=5)
    one, twin = (train_student(raw(), side, recipe=recipe) for side in (rows, neutral))
    assert found[0, 0] == pytest.approx(margin(one, TRAITS[0]) - margin(twin, TRAITS[0]), abs=1e-6)


def test_the_interval_is_where_another_of_the_others_would_lie():
    found = np.array([[1.0, 0.1, -0.1, 0.3, 0.0, 5.0, 5.0]])
    table = gain_table(found, TRAITS)
    others = np.array([0.1, -0.1, 0.3, 0.0])
    half = stats.t.ppf(0.975, 3) * others.std(ddof=1) * np.sqrt(1 + 1 / 4)
    assert table["trait"].tolist() == [trait.name for trait in TRAITS]
    assert table.loc[0, ["low", "high"]].tolist() == pytest.approx([1 - half, 1 + half])
    assert table.loc[5, ["low", "high"]].tolist() == [-np.inf, np.inf]  # one other tree tells no spread


def test_no_training_is_refused():
    with pytest.raises(InputError, match=r"steps=0 and draws=1 train nothing; pass at least 1 of both"):
        Pilot(steps=0)
