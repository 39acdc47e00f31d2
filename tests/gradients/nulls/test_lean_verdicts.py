"""Each rule of the verdict within one lineage, and what it takes to speak about several."""

from __future__ import annotations

import numpy as np
import pytest

from interp.core.runs import InputError
from interp.gradients.nulls.lean_verdicts import across_lineages, lean_verdict
from tests.gradients.standins import sample

LABELS = ("own", "other", "third")


def rows(*, own: float = 0.0, other: float = 0.0, n: int = 200, seed: int = 0):
    """Scores along three directions whose means are given in standard deviations."""
    noise = np.random.default_rng(seed).normal(size=(n, 3))
    return sample(noise + np.array([own, other, 0.0]), labels=LABELS)


NEUTRAL = rows(seed=1)


def test_supported_when_every_control_is_exceeded():
    verdict = lean_verdict(rows(own=1.0), neutral=NEUTRAL)
    assert verdict.decision == "supported"
    assert [test.null for test in verdict.tests] == [
        "N1 neutral teacher",
        "mismatched: other",
        "mismatched: third",
    ]
    assert verdict.p == max(test.p for test in verdict.tests) <= 0.01
    assert verdict.nearest == min(test.effect for test in verdict.tests) > 0
    assert verdict.interval[0] < verdict.effect < verdict.interval[1]


def test_a_single_lineage_never_counts_its_prompts_as_trainings():
    verdict = lean_verdict(rows(own=1.0), neutral=NEUTRAL)
    assert (verdict.n, verdict.trainings) == (200, 1)
    assert "within one lineage, n = 200 prompts (1 training" in repr(verdict)
    assert all(test.unit == "prompts within one lineage" for test in verdict.tests)
    assert verdict.claim.startswith("within one lineage, these rows lean along own")
    kept = verdict.to_verdict()
    assert kept.n == 1
    assert kept.controls["prompts"] == 200
    assert kept.to_json()["controls"]["scope"] == "within one lineage"


def test_exceeding_the_neutral_teacher_alone_is_not_enough():
    verdict = lean_verdict(rows(own=1.0, other=1.0), neutral=NEUTRAL)
    assert verdict.decision == "inconclusive"
    assert verdict.reason.startswith("mismatched: other: p = ")


def test_exceeding_mismatched_directions_alone_is_not_enough():
    """All rows, neutral ones too, lean along the direction: a common mode."""
    neutral = rows(own=1.0, seed=1)
    verdict = lean_verdict(rows(own=1.0), neutral=neutral)
    assert verdict.decision == "inconclusive"
    assert abs(verdict.effect) < 0.4


def test_refuted_when_a_control_exceeds_the_rows():
    assert lean_verdict(rows(own=-1.0), neutral=NEUTRAL).decision == "refuted"
    verdict = lean_verdict(rows(own=0.5, other=2.0), neutral=NEUTRAL)
    assert verdict.decision == "refuted"
    assert verdict.reason.startswith("mismatched: other exceeds the rows (p = ")
    assert verdict.reason.endswith("times 3 controls)")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mismatched": ["other"]}, "no neutral teacher's rows were scored: pass neutral="),
        ({"neutral": NEUTRAL, "mismatched": []}, "no mismatched direction was scored"),
        ({"mismatched": []}, "no neutral teacher's rows were scored: pass neutral=; no mismatched direction"),
    ],
)
def test_without_its_controls_nothing_is_supported(options, reason):
    verdict = lean_verdict(rows(own=5.0), **options)
    assert verdict.decision == "inconclusive"
    assert verdict.reason.startswith(reason)


def test_too_few_prompts_are_inconclusive_however_clear():
    verdict = lean_verdict(rows(own=50.0, n=5), neutral=rows(n=5, seed=1))
    assert verdict.decision == "inconclusive"
    assert verdict.reason == "5 prompts reach p = 0.0312 at best, above alpha = 0.01"


def test_directions_of_another_scale_are_compared_in_standard_deviations():
    strong, neutral = rows(own=0.2, other=1.0, n=400), rows(n=400, seed=1)
    scale = np.array([1000.0, 1.0, 1.0])
    loud, quiet = (sample(each.scores * scale, labels=LABELS) for each in (strong, neutral))
    assert lean_verdict(loud, neutral=quiet).decision == "refuted"


def test_lineages_count_once_each():
    verdicts = [lean_verdict(rows(own=1.0, seed=10 + s), neutral=rows(seed=30 + s)) for s in range(7)]
    verdict = across_lineages(verdicts)
    assert (verdict.decision, verdict.n, verdict.p) == ("supported", 7, 1 / 128)
    assert verdict.controls["supported within"] == "7 of 7"
    assert across_lineages(verdicts[:3]).decision == "inconclusive"


def test_lineages_without_controls_are_refused():
    bare = lean_verdict(rows(own=1.0), mismatched=["other"])
    with pytest.raises(
        InputError, match="1 of 1 lineages lack a neutral or a mismatched control; score both"
    ):
        across_lineages([bare])
    with pytest.raises(InputError, match="no verdict was given; pass one lean_verdict per lineage"):
        across_lineages([])
    with pytest.raises(InputError, match=r"alpha 0.7 is outside"):
        lean_verdict(rows(), alpha=0.7)
