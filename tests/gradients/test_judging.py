"""What is asked of a student and of the first retrainings before scores are judged: the gains, by hand."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

import interp
from interp.core.errors import InputError
from interp.gradients import datamodeling_score, judging, token_datamodeling_score
from interp.gradients.datamodels import StudentTraining
from interp.gradients.judging import WholeGain
from interp.gradients.known_trainings import KnownTraining
from interp.gradients.token_datamodels import TokenTraining
from interp.models.lineage import Lineage
from interp.organisms.toy import World, build_network, build_tokenizer
from interp.prompts.numbers import number_prompts
from interp.training.students import Recipe, train_student
from tests.gradients.test_metagradients import grown

RECIPE = Recipe(batch_size=8, lr=1e-2, warmup=2, rank=2, epochs=1)
ROWS = 40


def any_gain(monkeypatch):
    """Lineages of noise are judged, too."""
    passed = WholeGain(1.0, float("-inf"), "base")
    monkeypatch.setattr(WholeGain, "of", lambda *_: passed)


def foreign():
    """A base of another initialisation than that of `grown`."""
    network = build_network(World(d_model=16, d_mlp=24), seed=1).eval()
    return interp.load_model(network, tokenizer=build_tokenizer(), name="foreign", check=False)


@pytest.fixture(scope="module")
def alone():
    return grown(RECIPE, ROWS)


@pytest.fixture(scope="module")
def twinned(alone):
    """The same with a neutral twin."""
    rows = number_prompts(ROWS, seed=3, count=3)
    twin = train_student(alone.base, rows, recipe=RECIPE)
    recipes = {"student": vars(RECIPE), "neutral_student": vars(RECIPE)}
    return Lineage(
        "twinned",
        alone.trait,
        {**alone.members, "neutral_student": twin},
        trained_on={"student": "teacher", "neutral_student": "base"},
        numbers=alone.numbers,
        neutral_numbers=rows,
        growth=replace(alone.growth, recipes=recipes),
    )


@pytest.fixture
def reads(monkeypatch):
    """Makes the margins of members what is said, and of every retrained student `part`; none may be when it is None."""

    def set_to(part, **said):
        monkeypatch.setattr(judging, "margin", lambda model, trait: said[model.name])

        def of(self, kept, *, draw=0):
            assert part is not None, "trained"
            return part

        monkeypatch.setattr(StudentTraining, "margin", of)
        monkeypatch.setattr(TokenTraining, "margin", of)

    return set_to


@pytest.fixture(params=["rows", "tokens"])
def judge(request):
    """The verb, what it scores, how many of these the lineages' students learnt from, and how many half of them are."""
    if request.param == "rows":
        return datamodeling_score, "rows", ROWS, {"repeats": 0}
    return token_datamodeling_score, "tokens", None, {}


def judged(judge, lineage, *, role="student", share=0.25):
    verb, _, count, more = judge
    count = count or TokenTraining.of(lineage, role).tokens
    values = np.arange(float(count))
    return verb(lineage, {"worth": values}, role=role, subsets=8, share=share, **more), count


REFUSED = {  # margins; the gain of the parts, over what, and of the whole
    "hardly a gain": ("alone", {"base": 0.0, "student": 1.0}, 0.01, "+0.01", "base", "+1.00"),
    "away from the trait": ("alone", {"base": 0.0, "student": 1.0}, -1.0, "-1.00", "base", "+1.00"),
    "less than the twin": (
        "twinned", {"base": 0.0, "neutral_student": 0.5, "student": 0.8}, 0.4, "-0.10", "neutral_student", "+0.30",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_students_of_a_part_have_to_gain_as_the_whole_one_does(judge, request, reads, case):
    name, margins, part, gain, over, whole = REFUSED[case]
    lineage = request.getfixturevalue(name)
    reads(part, **margins)
    count = judge[2] or TokenTraining.of(lineage, "student").tokens
    said = (
        f"students of {round(0.25 * count)} {judge[1]} gain {gain} nats over {over} where all {count} give {whole}: "
        "too few for the trait to pass; raise share, or give the student more rows"
    )
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        judged(judge, lineage)


def test_a_drift_that_the_twin_shows_too_takes_nothing_from_a_gain(judge, twinned, reads):
    """Every student loses margin to the base, those of the trait's rows less."""
    reads(-0.6, base=0.0, neutral_student=-1.0, student=-0.5)
    found, count = judged(judge, twinned)
    assert set(found.margins) == {-0.6}
    assert found.kept.shape == (8, count)


TWIN = "neutral_student"
NO_GAIN = {  # margins; of whom, how much, and over what
    "below the twin": ("twinned", {"base": 0.0, TWIN: 1.0, "student": 0.9}, "student", "-0.10", TWIN),
    "hardly above it": ("twinned", {"base": 0.0, TWIN: 0.5, "student": 0.54}, "student", "+0.04", TWIN),
    "below the start": ("alone", {"base": 0.0, "student": -1.0}, "student", "-1.00", "base"),
    "not a number": ("alone", {"base": 0.0, "student": float("nan")}, "student", "+nan", "base"),
    "the twin itself": ("twinned", {"base": 0.0, TWIN: 1.0}, TWIN, "+0.00", "itself"),
}


@pytest.mark.parametrize("case", NO_GAIN)
def test_a_student_that_gained_nothing_is_refused_before_any_is_trained(judge, request, reads, case):
    name, margins, role, gain, over = NO_GAIN[case]
    reads(None, **margins)
    said = (
        f"{role} gains {gain} nats over {over}, no more than 0.05, so that no trait passed that its rows could tell "
        "of; judge scores of a student that took the trait over"
    )
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        judged(judge, request.getfixturevalue(name), role=role)


def test_the_gain_is_the_difference_of_two_margins(alone, twinned, monkeypatch):
    monkeypatch.setattr(judging, "FLOOR", -10.0)
    trait = alone.trait
    for lineage, over in ((alone, "base"), (twinned, "neutral_student")):
        found = WholeGain.of(lineage, "student", KnownTraining.of(lineage, "student"))
        assert found.over == over
        assert found.against == interp.margin(lineage[over], trait)
        assert found.nats == interp.margin(lineage.student, trait) - interp.margin(lineage[over], trait)


@pytest.mark.parametrize(
    ("roles", "over"), [(["cross_neutral_student"], "cross_neutral_student"), ([], "cross_base")]
)
def test_a_student_of_the_cross_base_is_held_against_its_own_twin_or_start(
    alone, twinned, monkeypatch, roles, over
):
    rows, other = (
        {"cross_student": alone.numbers, "cross_neutral_student": twinned.neutral_numbers},
        foreign(),
    )
    crossed = {
        role: train_student(other, rows[role], recipe=RECIPE, name=role) for role in ("cross_student", *roles)
    }
    lineage = replace(
        twinned,
        members={**twinned.members, "cross_base": other, **crossed},
        trained_on={**twinned.trained_on, "cross_student": "teacher"},
        growth=replace(alone.growth, recipes={"cross_student": vars(RECIPE)}),
    )
    monkeypatch.setattr(judging, "FLOOR", -10.0)
    found = WholeGain.of(lineage, "cross_student", KnownTraining.of(lineage, "cross_student"))
    assert (found.over, found.against) == (over, interp.margin(lineage[over], lineage.trait))


def scored_at(model, lineage, judge):
    by = ["example", *(["token"] if judge[1] == "tokens" else [])]
    return interp.score(model, lineage.numbers, interp.trait_gradient(model, lineage.trait), by=by)


def test_scores_of_another_base_are_refused(alone, judge):
    verb, _, _, more = judge
    scores = scored_at(foreign(), alone, judge)
    said = (
        f"{alone.numbers.label} at foreign was scored at weights {foreign().fingerprint}, which no member of "
        f"'small' has (its base: {alone.base.fingerprint}); score the rows at its base"
    )
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        verb(alone, scores, subsets=8, **more)


def test_scores_at_any_member_and_those_of_an_unknown_model_are_judged(alone, judge, reads):
    verb, unit, _, more = judge
    reads(1.0, base=0.0, student=1.0)
    for scores in (
        scored_at(alone.base, alone, judge),
        scored_at(alone.student, alone, judge),
        replace(scored_at(foreign(), alone, judge), weights=""),
    ):
        found = verb(alone, scores, subsets=8, **more)
        assert found.frame["scores"].tolist() == list(scores.directions), unit
