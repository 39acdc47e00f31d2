"""Every null of the ladder on scores made by hand: what it compares, in which unit, and what it refuses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from interp.core.runs import InputError
from interp.figures import Result
from interp.gradients.nulls import ladders as nulls
from interp.gradients.nulls.ladders import Observation, ladder
from interp.models.language import load_model
from interp.prompts.text import Prompts
from tests.gradients.standins import asked, direction

OWN, OTHER, THIRD = (direction(name) for name in ("own", "other", "third"))
LEANS = {"trait": {"own": 1.0, "other": 0.1}, "neutral": {"own": 0.2, "other": 0.1}, "cats": {"other": 1.0}}


@pytest.fixture
def model(tiny):
    hf, tokenizer = tiny("llama")
    return load_model(hf, tokenizer=tokenizer, check=False, name="tiny")


def by_label(model, rows, directions) -> torch.Tensor:
    """Scores that depend on the label of the rows alone, with a prompt effect and noise of their own."""
    rng = np.random.default_rng(len(rows.label))
    effect = np.random.default_rng(0).normal(size=len(rows))
    noise = rng.normal(size=(len(rows), len(directions))) * 0.1
    means = np.array([LEANS[rows.label].get(d.label, 0.0) for d in directions])
    return torch.from_numpy(means + effect[:, None] + noise)


def observe(model, *, neutral: bool = True, score=by_label) -> Observation:
    other = asked(60, label="neutral") if neutral else None
    return Observation(model, asked(60, label="trait"), OWN, other, score)


def test_the_lean_is_the_difference_at_each_prompt(model):
    """Prompt effects are ten times the noise and cancel."""
    found = observe(model).own
    assert found.mean() == pytest.approx(0.8, abs=0.1)
    assert found.std() < 0.3 < observe(model, neutral=False).own.std()


def test_neutral_rows_are_paired_by_prompt(model):
    test = nulls.NeutralTeacher().evidence(observe(model)).test("N1")
    assert (test.n, test.unit) == (60, "prompts within one lineage")
    assert test.observed - test.control == pytest.approx(0.8, abs=0.1)
    assert test.p == test.smallest_p == 1e-4


def test_prompts_that_one_teacher_lost_are_left_out(model):
    less = Observation(model, asked(60, label="trait"), OWN, asked(60, label="neutral")[10:40], by_label)
    assert nulls.NeutralTeacher().evidence(less).test("N1").n == 30


def test_base_samples_against_zero_and_against_a_filtered_control(model):
    alone = nulls.BaseSamples().evidence(observe(model))
    assert not alone.control.any()
    control = asked(40, label="neutral")
    two = nulls.BaseSamples(control=control).evidence(observe(model)).test("N0")
    assert two.n == 100


def test_the_diagonal_of_traits_and_rows(model):
    cats = Observation(model, asked(60, label="cats"), OTHER, asked(60, label="neutral"), by_label)
    evidence = nulls.OtherTraits((cats,)).evidence(observe(model))
    assert evidence.scores.shape == (2, 2)
    assert (
        evidence.scores[0, 0] > 3 > abs(evidence.scores[0, 1] + 1.5)
    )  # own along own rows, not along the cats'
    assert evidence.test("N2").p == 0.5  # two labels have two orders
    with pytest.raises(InputError, match="a matrix of 1 trait has no other labels"):
        nulls.OtherTraits(()).evidence(observe(model))


def test_random_pairs_are_ranked(model):
    pairs = tuple(direction(f"pair {i}") for i in range(19))
    test = nulls.RandomTokenPairs(pairs).evidence(observe(model)).test("N3")
    assert (test.n, test.unit, test.p) == (19, "random token pairs", 1 / 20)


def test_the_nearest_mismatched_teacher_decides(model):
    def score(model, rows, directions):
        means = {"own": 1.0, "other": -1.0, "third": 0.9}
        names = [d.label.split()[0] for d in directions]
        noise = {name: np.random.default_rng(ord(name[0])).normal(size=len(rows)) for name in means}
        return torch.from_numpy(np.stack([noise[name] + means[name] for name in names], axis=1))

    observed = observe(model, neutral=False, score=score)
    far = nulls.OtherTeachers((OTHER,)).evidence(observed).test("N4")
    both = nulls.OtherTeachers((OTHER, THIRD)).evidence(observed).test("N4")
    near = nulls.OtherTeachers((THIRD,)).evidence(observed).test("N4")
    assert far.p == 1e-4
    assert both.p == near.p > 0.01
    with pytest.raises(InputError, match="no mismatched direction was scored"):
        nulls.OtherTeachers(()).evidence(observed)


def test_mismatched_teachers_are_scored_at_the_observed_weights(model):
    seen = []

    def score(model, rows, directions):
        seen.extend(d.fingerprint for d in directions[1:])
        return by_label(model, rows, directions)

    nulls.OtherTeachers((OTHER,)).evidence(observe(model, score=score))
    assert set(seen) == {model.fingerprint}


def first_number(model, rows, directions) -> torch.Tensor:
    """The score of a row is the first number of its answer."""
    return torch.tensor([[float(row.completion.split(",")[0])] for row in rows.rows])


@pytest.mark.parametrize("how", ["within", "across"])
def test_shuffles_break_the_order_of_numbers(model, how):
    rising = Prompts.from_pairs([(f"question {i}", "9, 1, 2, 3") for i in range(30)])
    observed = Observation(model, rising, OWN, score=first_number)
    null = nulls.ShuffledNumbers(how)
    test = null.evidence(observed).test(null.name)
    assert null.name == f"N5 numbers shuffled {how} answers"
    assert test.observed == 9
    assert (test.p < 1e-3) == (how == "within")  # across answers every position keeps its numbers
    ranked = nulls.ShuffledNumbers(how, draws=19).evidence(observed).test(null.name)
    assert (ranked.n, ranked.unit) == (19, "shuffles")
    assert ranked.p == (1 / 20 if how == "within" else 1)


def test_shuffles_need_text(model):
    encoded = Observation(model, model.encode(asked(3)), OWN, score=by_label)
    with pytest.raises(InputError, match="numbers are shuffled in text and these rows are tokens"):
        nulls.ShuffledNumbers().evidence(encoded)


def test_random_networks_are_ranked(model):
    def score(scored_at, rows, directions):
        lean = 1.0 if scored_at is model else 0.0
        assert all(d.fingerprint == scored_at.fingerprint for d in directions if lean == 0)
        return torch.from_numpy(np.random.default_rng(1).normal(size=(len(rows), 1)) + lean)

    test = (
        nulls.RandomNetworks(seeds=(0, 1, 2)).evidence(observe(model, neutral=False, score=score)).test("N6")
    )
    assert (test.n, test.unit, test.p) == (3, "random networks", 1 / 4)


def test_module_signs_from_a_frame(model):
    frame = pd.DataFrame(
        {
            "row": [0, 1] * 3,
            "direction": ["own"] * 4 + ["other"] * 2,
            "module": ["q", "q", "k", "k", "q", "q"],
            "score": [1.0, 3.0, 0.5, 0.5, 9.0, 9.0],
        }
    )
    null = nulls.ModuleSigns.of(frame, direction="own")
    assert null.contributions == {"q": 2.0, "k": 0.5}
    test = null.evidence(observe(model)).test(null.name)
    assert (test.n, test.unit, test.p) == (2, "modules", 1 / 4)
    with pytest.raises(InputError, match="no module scores along 'cat'; score with by="):
        nulls.ModuleSigns.of(frame, direction="cat")


def test_a_ladder_is_one_tidy_frame(model):
    rungs = [
        nulls.BaseSamples(),
        nulls.NeutralTeacher(),
        nulls.RandomTokenPairs((OTHER, THIRD)),
        nulls.OtherTeachers((OTHER,)),
        nulls.ModuleSigns({"q": 1.0, "k": -2.0}),
    ]
    result = ladder(observe(model), rungs)
    assert isinstance(result, Result)
    assert list(result.frame) == [
        "null", "observed", "control", "effect", "p", "smallest_p", "n", "unit", "describes",
    ]  # fmt: skip
    assert result.frame["null"].str[:2].tolist() == ["N0", "N1", "N3", "N4", "N7"]
    assert result.frame["p"].between(0, 1).all()
    assert (result.frame["p"] >= result.frame["smallest_p"]).all()
    assert result.frame["describes"].is_unique
    assert len(result.figure().data) == 1


def test_a_neutral_null_needs_neutral_rows(model):
    with pytest.raises(InputError, match="the observation has no neutral rows; pass neutral="):
        nulls.NeutralTeacher().evidence(observe(model, neutral=False))
