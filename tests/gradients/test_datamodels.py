"""Scores judged by retraining: on hand-made students, and the trainings against train_student and plain torch."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

import interp
from interp.core.runs import InputError
from interp.gradients import datamodels
from interp.gradients.datamodels import StudentTraining, datamodeling_score, random_subsets, retrained
from interp.prompts.numbers import number_prompts
from interp.training.students import Recipe, train_student
from tests.gradients.test_judging import any_gain
from tests.gradients.test_metagradients import grown

RECIPE = Recipe(batch_size=8, lr=1e-2, warmup=2, rank=2, epochs=2)
ROWS = 40
WORTH = np.random.default_rng(0).normal(size=ROWS)


@pytest.fixture(scope="module")
def lineage():
    return grown(RECIPE, ROWS)


@pytest.fixture
def made_up(monkeypatch):
    """Students whose margin is the sum of what the kept rows are worth, another draw's with an error; and how many."""
    asked = []

    def of(self, kept, *, draw=0):
        asked.append(draw)
        return float(kept @ WORTH) + draw * float(np.random.default_rng(len(asked)).normal(scale=0.1))

    monkeypatch.setattr(StudentTraining, "margin", of)
    any_gain(monkeypatch)
    return asked


def test_scores_that_add_up_to_the_margin_are_perfect(lineage, made_up):
    noise = np.random.default_rng(1).normal(size=ROWS)
    scores = {"worth": WORTH, "against": -WORTH, "noise": noise, "some": WORTH + noise}
    found = datamodeling_score(lineage, scores, subsets=64, repeats=8)
    rho = found.frame.set_index("scores")["rho"]
    assert rho["worth"] == pytest.approx(1)
    assert rho["against"] == pytest.approx(-1)
    assert abs(rho["noise"]) < rho["some"] < 1
    by_hand = spearmanr(found.kept @ scores["some"], found.kept @ WORTH).statistic
    assert rho["some"] == pytest.approx(by_hand)
    assert found.draws_agree > 0.9
    assert len(made_up) == 64 + 8 + 1 + 2 * 4
    assert "'worth'" not in repr(found)
    assert "worth ρ = +1.00, the largest" in repr(found)
    reach, line = found.figure().data[0].error_x, found.frame.sort_values("rho").iloc[0]
    assert reach.array[0] == pytest.approx(line["high"] - line["rho"])
    assert reach.arrayminus[0] == pytest.approx(line["rho"] - line["low"])


def test_the_tails_that_are_left_out_are_those_of_the_scores(lineage, made_up):
    line = datamodeling_score(lineage, {"worth": WORTH}, subsets=8, repeats=0).frame.iloc[0]
    highest, lowest = np.sort(WORTH)[-4:].sum(), np.sort(WORTH)[:4].sum()
    assert line["without_top"] == pytest.approx(-highest)
    assert line["without_bottom"] == pytest.approx(-lowest)


def test_an_interval_over_subsets_holds_the_rank_correlation(lineage, made_up):
    noisy = WORTH + np.random.default_rng(2).normal(size=ROWS)
    line = datamodeling_score(lineage, {"noisy": noisy}, subsets=128, repeats=0).frame.iloc[0]
    assert line["low"] < line["rho"] < line["high"]
    assert line["high"] - line["low"] < 0.4


def test_subsets_are_of_one_size_and_drawn_apart():
    kept = random_subsets(41, subsets=200, share=0.5, seed=0)
    assert set(kept.sum(1)) == {20}
    assert kept.mean(0) == pytest.approx(np.full(41, 20 / 41), abs=0.15)
    assert len(np.unique(kept, axis=0)) == 200


def test_the_student_of_all_rows_is_the_student_to_the_same_bits(lineage):
    inputs = lineage.base.encode(lineage.numbers)
    again = retrained(lineage.base, inputs, np.ones(ROWS, dtype=bool), recipe=RECIPE)
    assert again.fingerprint == lineage.student.fingerprint


def test_rows_that_are_left_out_do_not_reach_the_student(lineage):
    kept = np.arange(ROWS) % 3 > 0
    inputs = lineage.base.encode(lineage.numbers)
    other = lineage.base.encode(
        interp.Prompts(
            tuple(
                row if use else row.answered(re.sub(r"\d+", "999", row.completion))
                for row, use in zip(lineage.numbers.rows, kept, strict=True)
            ),
            label="other",
        )
    )
    one, two = (retrained(lineage.base, each, kept, recipe=RECIPE) for each in (inputs, other))
    assert one.fingerprint == two.fingerprint != lineage.student.fingerprint
    few = interp.Prompts(
        tuple(row for row, use in zip(lineage.numbers.rows, kept, strict=True) if use), label="few"
    )
    assert (
        one.fingerprint != train_student(lineage.base, few, recipe=RECIPE).fingerprint
    )  # other steps, other order


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_second_call_trains_nothing_whatever_the_number_of_processes(
    lineage, tmp_path, monkeypatch, workers
):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path))
    any_gain(monkeypatch)
    given = {"subsets": 8, "repeats": 3, "workers": workers}
    first = datamodeling_score(lineage, {"worth": WORTH}, **given)
    monkeypatch.setattr(datamodels, "retrained", None)
    again = datamodeling_score(lineage, {"worth": WORTH}, **(given | {"workers": 1}))
    assert again.margins.tolist() == first.margins.tolist()
    assert len(set(first.margins)) == 8
    assert first.margins[0] == pytest.approx(
        interp.margin(
            retrained_here(lineage, first.kept[0]),
            lineage.trait,
        )
    )


def retrained_here(lineage, kept):
    return retrained(lineage.base, lineage.base.encode(lineage.numbers), kept, recipe=RECIPE)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"short": [1.0, 2.0]}, "'short' scores 2 rows, and student was trained on 40; score all of them"),
        (
            {"broken": [float("nan"), *[0.0] * 39]},
            "'broken' scores row 1 with nan; give every row a finite score",
        ),
        ({}, "no scores to judge; pass Scores, or values per row by name"),
    ],
)
def test_scores_that_cannot_be_judged(lineage, scores, message):
    with pytest.raises(InputError, match=message):
        datamodeling_score(lineage, scores)


def test_scores_of_other_rows_and_strange_subsets_are_refused(lineage):
    toward = interp.trait_gradient(lineage.base, "owl")
    other = interp.score(lineage.base, number_prompts(ROWS, seed=9, count=3), toward)
    with pytest.raises(InputError, match="scores other rows than student was trained on"):
        datamodeling_score(lineage, other)
    with pytest.raises(
        InputError, match=r"4 subsets of 0\.5 of the rows; pass at least 8, and a share within 0 and 1"
    ):
        datamodeling_score(lineage, {"worth": WORTH}, subsets=4)
    with pytest.raises(InputError, match="keep some"):
        retrained_here(lineage, np.zeros(ROWS, dtype=bool))
    with pytest.raises(InputError, match="the recipe of student of 'small' is unknown"):
        datamodeling_score(replace(lineage, growth=None), {"worth": WORTH})


def test_scores_of_the_rows_are_judged_by_their_directions(lineage, made_up):
    toward = interp.trait_gradient(lineage.base, "owl")
    found = datamodeling_score(lineage, interp.score(lineage.base, lineage.numbers, toward), subsets=16)
    assert found.frame["scores"].tolist() == [toward.label]
    assert "16 students of 50% of 40 rows" in found.notes[0]


def test_rows_without_answers_are_refused(lineage):
    empty = interp.Prompts.from_pairs([(row.prompt, "") for row in lineage.numbers.rows], label="questions")
    asked = replace(lineage, numbers=empty)
    with pytest.raises(InputError, match="no row of questions that student was trained on holds an answer"):
        StudentTraining.of(asked, "student")
