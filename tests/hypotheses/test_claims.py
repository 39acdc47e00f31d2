"""A claim keeps its key until a word or a number of it changes, and is judged by the rule it names."""

from __future__ import annotations

import dataclasses

import pytest

from interp.core.runs import InputError
from interp.hypotheses.claims import Hypothesis, check_claim

CLAIM = Hypothesis(
    "plants-grow", "plants grow", "height after − before", "plants in the dark", 0.0, 0.05, "difference", "cm"
)
EQUAL = dataclasses.replace(CLAIM, kind="equivalence", margin=0.5)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "plants-shrink"},
        {"claim": "plants grow."},
        {"quantity": "height after"},
        {"control": "none"},
        {"margin": 0.1},
        {"alpha": 0.01},
        {"kind": "equivalence", "margin": 0.1},
        {"unit": "mm"},
    ],
)
def test_every_part_of_a_claim_is_in_its_key(change):
    edited = dataclasses.replace(CLAIM, **change)
    assert edited.key != CLAIM.key
    with pytest.raises(InputError) as error:
        check_claim(CLAIM.key, edited)
    assert str(error.value) == (
        f"the data of {edited.name!r} were recorded under claim {CLAIM.key} and the claim is now {edited.key}: "
        "a claim edited after its data; restore its wording, or measure again under the new one"
    )


def test_an_unedited_claim_passes_and_cannot_be_changed_in_place():
    check_claim(CLAIM.key, dataclasses.replace(CLAIM))
    assert CLAIM.key == "7520169aa17d1bc3"  # the same in every process
    with pytest.raises(dataclasses.FrozenInstanceError):
        CLAIM.margin = 1.0  # pyright: ignore[reportAttributeAccessIssue]


def test_a_difference_is_judged_by_its_sign_and_by_its_margin_when_it_has_one():
    heights = [1.0, 1.2, 0.9, 1.1, 1.0]
    verdict = CLAIM.judge(heights, controls={"pots": 5})
    assert (verdict.name, verdict.decision, verdict.n, verdict.unit) == ("plants-grow", "supported", 5, "cm")
    assert verdict.p == pytest.approx(1 / 32)
    assert verdict.controls["claim key"] == CLAIM.key
    assert verdict.controls["pots"] == 5
    assert "minimum_effect" not in verdict.controls
    assert dataclasses.replace(CLAIM, margin=2.0).judge(heights).decision == "refuted"
    assert CLAIM.judge([-each for each in heights]).decision == "refuted"
    assert dataclasses.replace(CLAIM, alpha=0.01).judge(heights).decision == "inconclusive"


def test_a_margin_is_what_the_difference_is_tested_against():
    heights = [1.0, 1.2, 0.9, 1.1, 1.0]
    (above_0, above_1) = (dataclasses.replace(CLAIM, margin=margin).judge(heights) for margin in (0.0, 1.0))
    assert (above_0.decision, above_0.tested) == ("supported", "more than 0")
    assert (above_1.decision, above_1.tested) == ("inconclusive", "at least 1")  # the mean is 1.04
    assert (
        above_1.p == 3 / 8
    )  # of the signs of .2, −.1 and .1, which are left, three in eight sum to .2 or more


def test_what_is_said_of_a_claim_afterwards_is_no_part_of_its_key():
    said = dataclasses.replace(CLAIM, check="it follows", reading="in centimetres since a date")
    assert said.key == CLAIM.key
    controls = said.judge([1.0]).controls
    assert (controls["check"], controls["reading"]) == ("it follows", "in centimetres since a date")
    assert not {"check", "reading"} & set(CLAIM.judge([1.0]).controls)


def test_an_equivalence_is_judged_by_its_margin():
    assert EQUAL.judge([0.1, -0.1, 0.05, -0.05]).decision == "supported"
    assert EQUAL.judge([1.1, 0.9, 1.05, 0.95]).decision == "refuted"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"kind": "diference"},
            "'diference' is unknown; nearest: difference, equivalence; pass one of these for 'plants-grow'",
        ),
        ({"alpha": 0.5}, "alpha 0.5 of 'plants-grow' is outside (0, 0.5); give a level such as 0.01"),
        ({"margin": -1.0}, "margin -1.0 of 'plants-grow' is not zero or a positive number; write one before"),
        (
            {"kind": "equivalence"},
            "margin 0.0 of 'plants-grow' is not a positive number; write one before the data",
        ),
        ({"margin": float("inf")}, "margin inf of 'plants-grow' is not zero or a positive number"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(change, words):
    with pytest.raises(InputError) as error:
        dataclasses.replace(CLAIM, **change)
    assert words in str(error.value)
