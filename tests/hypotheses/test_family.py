"""A family is judged claim by claim, or all claims together by Holm's p; checks and withdrawn claims stand outside."""

from __future__ import annotations

import dataclasses

import pytest

from interp.core.runs import InputError
from interp.hypotheses.claims import Hypothesis
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement

ALPHA = 0.004
CLAIM = Hypothesis("first", "it grows", "after − before", "nothing", 0.0, ALPHA, "difference", "cm")
CLAIMS = tuple(dataclasses.replace(CLAIM, name=name) for name in ("first", "second", "third"))
RUNS = [float(each) for each in range(1, 11)]
VALUES = {
    "first": RUNS,  # 1 of 1024 sign patterns reaches the sum
    "second": [-1.0, *RUNS[1:]],  # 2 do: this one and the one above
    "third": [-1.0, -2.0, *RUNS[2:]],  # 5 do: flipped are nothing, 1, 2, 3, or 1 and 2
}


def family(**changes):
    given = {"correction": "holm", "alpha": ALPHA} | changes
    return Family("growth", given.pop("claims", CLAIMS), lambda given: Measurement({}, {}), **given)


def found(values):
    names = list(values)
    return [Measurement(dict(zip(names, run, strict=True)), {}) for run in zip(*values.values(), strict=True)]


def test_holm_decides_by_the_corrected_p_and_keeps_the_raw_one():
    verdicts = family().judge(found(VALUES))
    assert [each.p for each in verdicts] == [1 / 1024, 2 / 1024, 5 / 1024]
    corrected = [each.controls["p after Holm over 3 claims"] for each in verdicts]
    assert corrected == [3 / 1024, 4 / 1024, 5 / 1024]  # 3 × 1, 2 × 2, 1 × 5
    assert [each.decision for each in verdicts] == ["supported", "supported", "inconclusive"]
    assert (
        verdicts[2].reason
        == "p = 0.00488 after Holm over 3 claims is above alpha = 0.004, the opposite not shown"
    )
    assert "p = 0.00098, 0.0029 after Holm over 3 claims, n = 10" in repr(verdicts[0])


def test_without_a_correction_each_claim_is_decided_alone():
    alone = [dataclasses.replace(each, alpha=0.005) for each in CLAIMS]
    verdicts = family(claims=tuple(alone), correction="none").judge(found(VALUES))
    assert [each.decision for each in verdicts] == ["supported"] * 3
    assert not any(key.startswith("p after") for each in verdicts for key in each.controls)


def test_opposites_are_corrected_over_all_opposites():
    verdicts = family().judge(found(VALUES | {"first": [-each for each in RUNS]}))
    assert verdicts[0].decision == "refuted"
    assert verdicts[0].reason == "the opposite is shown: p = 0.00293 after Holm over 3 claims"
    assert [each.decision for each in verdicts[1:]] == ["inconclusive"] * 2  # 2 × 3 / 1024 = 0.0059


def test_an_equivalence_is_corrected_with_the_differences():
    claims = (CLAIMS[0], dataclasses.replace(CLAIM, name="second", kind="equivalence", margin=0.5))
    near = [0.01, -0.01] * 5
    verdicts = family(claims=claims).judge(found({"first": RUNS, "second": near}))
    assert verdicts[1].decision == "supported"
    assert (
        verdicts[0].controls["p after Holm over 2 claims"] == 1 / 1024
    )  # the larger of two is left as it is
    away = family(claims=claims).judge(found({"first": RUNS, "second": [2 + each for each in near]}))
    assert away[1].decision == "refuted"


def test_checks_and_withdrawn_claims_are_not_counted():
    claims = (
        *CLAIMS[:2],
        dataclasses.replace(CLAIMS[2], check="an identity", alpha=0.05, margin=0.5),
        dataclasses.replace(CLAIM, name="fourth", withdrawn="it could not fail"),
    )
    held = found(VALUES | {"third": [0.5] * 10})
    verdicts = family(claims=claims).judge(held)
    assert [each.name for each in verdicts] == ["first", "second", "third"]
    assert verdicts[1].controls["p after Holm over 2 claims"] == 2 / 1024
    assert (verdicts[2].decision, verdicts[2].p) == ("holds", None)
    assert family(claims=claims).needed() == {"first": 9, "second": 9, "third": 1}  # 2 / 2⁹ = 0.0039


def test_runs_needed_under_holm_are_those_of_the_level_shared_out():
    assert set(family().needed().values()) == {10}  # 3 / 2¹⁰ = 0.0029, 3 / 2⁹ = 0.0059
    nine = tuple(dataclasses.replace(CLAIM, name=f"claim {i}", alpha=0.01) for i in range(9))
    assert set(family(claims=nine, alpha=0.01).needed().values()) == {10}  # 9 / 2¹⁰ = 0.0088
    assert family().undecided(9) == (
        "n = 9 training runs, which can decide no claim, whatever the data show (first needs 10, second needs 10, "
        "third needs 10)"
    )
    assert family().undecided(10) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"correction": "holms"},
            "correction 'holms' is unknown; nearest: holm; pass one of these for 'growth'",
        ),
        (
            {"alpha": 0.01},
            "'first' has alpha 0.004 in 'growth', whose claims are judged together at 0.01 by Holm; write 0.01 into "
            "the claim",
        ),
    ],
)
def test_a_family_that_cannot_be_judged_is_refused(changes, words):
    with pytest.raises(InputError) as error:
        family(**changes)
    assert words in str(error.value)


def test_the_rule_is_told_in_words():
    assert family().rule == "Holm over its claims at 0.004"
    assert family(correction="none").rule == "each claim at its own level"
