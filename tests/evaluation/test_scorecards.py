"""Scorecards by hand: the same nine values give one mean and two intervals, and differences are paired first."""

import math
from typing import Any

import pandas as pd
import pytest

from interp.core.runs import InputError
from interp.evaluation.scorecards import scorecard, seed_points
from interp.figures import Result

T1, T2 = (
    12.706204736432095,
    4.302652729911275,
)  # two-sided 95 % points of Student's t with 1 and 2 degrees of freedom


def frame(
    *values: float, measure: str = "margin", context: str = "training", unit: str = "nats"
) -> pd.DataFrame:
    questions = [f"q{i}" for i in range(len(values))]
    return pd.DataFrame(
        {"measure": measure, "context": context, "question": questions, "value": values, "unit": unit}
    )


# per-seed means 2, 4, 6 and per-question means 3, 5
STUDENT = {0: frame(1.0, 3.0), 1: frame(3.0, 5.0), 2: frame(5.0, 7.0)}
# less the student's: per-seed 1, 2, 6 and per-question 2, 4
NEUTRAL = {0: frame(1.0, 1.0), 1: frame(2.0, 2.0), 2: frame(0.0, 0.0)}


def row(result: Result, **where: Any) -> pd.Series:
    chosen = result.frame
    for column, value in where.items():
        chosen = chosen[chosen[column] == value]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_one_mean_with_an_interval_over_seeds_and_another_over_questions() -> None:
    card = scorecard({"student": STUDENT})
    seeds, questions = row(card, over="seeds"), row(card, over="questions")
    assert (seeds["mean"], seeds["n"], seeds["n_unit"], seeds["unit"]) == (4.0, 3, "trainings", "nats")
    assert seeds["high"] == pytest.approx(4 + T2 * 2 / math.sqrt(3))  # sd of 2, 4, 6 is 2
    assert seeds["low"] == pytest.approx(4 - T2 * 2 / math.sqrt(3))
    assert (questions["mean"], questions["n"], questions["n_unit"]) == (4.0, 2, "questions")
    assert questions["high"] == pytest.approx(4 + T1)  # sd of 3, 5 is √2, over √2
    assert (card.frame["note"] == "").all()
    assert card.unit == "nats"


def test_more_questions_do_not_narrow_the_interval_over_seeds() -> None:
    doubled = {seed: frame(*list(f["value"]) * 5) for seed, f in STUDENT.items()}
    once, more = (row(scorecard({"student": s}), over="seeds") for s in (STUDENT, doubled))
    assert (more["low"], more["high"], more["n"]) == pytest.approx((once["low"], once["high"], 3))


def test_one_training_has_no_interval_over_trainings_and_says_so() -> None:
    card = scorecard({"base": {0: frame(1.0, 3.0)}, "single": {0: frame(1.0)}})
    seeds = row(card, arm="base", over="seeds")
    assert math.isnan(seeds["low"])
    assert math.isnan(seeds["high"])
    assert (seeds["mean"], seeds["n"], seeds["note"]) == (2.0, 1, "one training, so no interval")
    assert row(card, arm="base", over="questions")["high"] == pytest.approx(2 + T1)
    assert row(card, arm="single", over="questions")["note"] == "one question, so no interval"


def test_differences_are_paired_by_seed_and_by_question() -> None:
    card = scorecard(
        {"student": STUDENT, "neutral_student": NEUTRAL}, baseline={"student": "neutral_student"}
    )
    seeds = row(card, minus="neutral_student", over="seeds")
    spread = math.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 2)
    assert (seeds["arm"], seeds["mean"], seeds["n"]) == ("student", 3.0, 3)
    assert seeds["high"] == pytest.approx(3 + T2 * spread / math.sqrt(3))
    questions = row(card, minus="neutral_student", over="questions")
    assert (questions["mean"], questions["n"]) == (3.0, 2)
    assert questions["low"] == pytest.approx(3 - T1)  # 2 and 4
    assert len(card.frame) == 6


def test_only_what_both_arms_have_is_paired_and_the_rest_is_counted() -> None:
    wider = {seed: frame(*f["value"], 9.0) for seed, f in NEUTRAL.items() if seed != 1}
    card = scorecard({"student": STUDENT, "other": wider}, baseline={"student": "other"})
    seeds = row(card, minus="other", over="seeds")
    assert (seeds["mean"], seeds["n"]) == (3.5, 2)
    assert seeds["note"] == "1 seeds of one arm only left out; 1 questions of one arm only left out"


def test_repeated_sets_of_a_question_are_averaged_first() -> None:
    sets = pd.concat([frame(1.0, 3.0), frame(5.0, 3.0)])
    card = scorecard({"in context": {0: sets, 1: frame(1.0, 1.0)}})
    assert (row(card, over="questions")["mean"], row(card, over="questions")["n"]) == (2.0, 2)


def test_measures_contexts_and_flags_are_kept_apart() -> None:
    shares = frame(0.5, 0.0, measure="answers with the word", context="empty system", unit="share of answers")
    unasked = frame(2.0, measure="in context").assign(
        flagged=math.nan
    )  # nobody compared it with training rows
    flagged = pd.concat([STUDENT[0].assign(flagged=""), shares.assign(flagged="asked elsewhere."), unasked])
    card = scorecard({"student": {0: Result("evaluated", flagged, "mixed")}, "base": {0: flagged}})
    share = row(card, arm="student", context="empty system", over="seeds")
    assert (share["measure"], share["mean"], share["unit"]) == (
        "answers with the word",
        0.25,
        "share of answers",
    )
    assert card.unit == "nats / share of answers"
    assert card.notes == (
        "intervals are 95% t-intervals",
        "student, base, context 'empty system': asked elsewhere.",
    )


def test_the_figure_shows_each_training_and_the_interval_over_trainings() -> None:
    evaluations = {"student": STUDENT, "base": {0: frame(1.0, 3.0)}}
    figure = scorecard(evaluations).figure()
    trainings, mean, single, _ = figure.data
    assert list(trainings.y) == [2.0, 4.0, 6.0]
    assert list(mean.y) == [4.0]
    assert mean.error_y.array[0] == pytest.approx(T2 * 2 / math.sqrt(3))
    assert list(single.y) == [2.0]
    assert figure.layout.yaxis.title.text == "margin (nats)"
    with pytest.raises(
        InputError, match=r"Measure and context 'margn, training' is unknown; nearest: margin, train"
    ):
        seed_points(evaluations, measure="margn")


def test_a_teacher_far_away_does_not_flatten_what_is_between_the_students() -> None:
    """The differences have a panel and a scale of their own: 1, 2, 6 beside a teacher of 25 nats."""
    teacher = {seed: frame(25.0, 25.0) for seed in range(3)}
    evaluations = {"teacher": teacher, "student": STUDENT, "neutral_student": NEUTRAL}
    figure = scorecard(evaluations, baseline={"student": "neutral_student"}).figure()
    upper = [list(trace.y) for trace in figure.data if trace.yaxis == "y"]
    lower = [list(trace.y) for trace in figure.data if trace.yaxis == "y2"]
    assert [25.0, 25.0, 25.0] in upper
    assert lower[:2] == [[1.0, 2.0, 6.0], [3.0]]
    assert figure.layout.yaxis2.title.text == "margin, difference (nats)"
    assert figure.layout.xaxis2.ticktext == ("student \N{MINUS SIGN} neutral<br>student",)
    assert list(figure.data[0].marker.color) == list(
        scorecard({"teacher": teacher}).figure().data[0].marker.color
    )


@pytest.mark.parametrize(
    ("evaluations", "baseline", "message"),
    [
        ({}, {}, r"No evaluation is given; pass \{arm: \{seed: evaluate"),
        ({"a": {0: STUDENT[0].drop(columns="unit")}}, {}, r"of 'a', seed 0, has no column 'unit'; pass what evaluate"),
        ({"a": {0: frame(math.nan, 1.0)}}, {}, r"of 'a', seed 0, has 1 values that are not finite \(first: margin\)"),
        ({"a": {0: frame(1.0), 1: frame(1.0, 2.0)}}, {}, r"Seed 0 of 'a' was asked other questions than its other"),
        ({"student": STUDENT}, {"student": "studnet"}, r"Arm 'studnet' is unknown; nearest: student"),
        ({"a": {0: frame(1.0)}, "b": {1: frame(1.0)}}, {"a": "b"}, r"'a' and its baseline 'b' share no seed \(margin"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_one_clear_sentence(evaluations, baseline, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scorecard(evaluations, baseline=baseline)
