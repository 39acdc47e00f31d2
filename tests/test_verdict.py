"""Each rule of the verdicts on numbers chosen by hand, and how often they err under a null."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from interp.runs import InputError
from interp.verdict import Verdict, equivalence_verdict, paired_verdict

STRONG = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]


def judge(differences, **knobs):
    return paired_verdict("same-init-transfers", "the student leans to the trait", differences, **knobs)


def test_supported_with_every_number_by_hand():
    verdict = judge(STRONG, minimum_effect=0.5)
    assert verdict.decision == "supported"
    assert (verdict.effect, verdict.p, verdict.n, verdict.smallest_p) == (
        pytest.approx(0.55),
        1 / 256,
        8,
        1 / 256,
    )
    half = 2.997949 * np.std(STRONG, ddof=1) / math.sqrt(8)  # t(0.99, 7): the ends are one-sided 1 % bounds
    assert verdict.interval == pytest.approx((0.55 - half, 0.55 + half), abs=1e-5)
    assert verdict.controls == {"alpha": 0.01, "positive": "8 of 8", "minimum_effect": 0.5}


def test_too_few_runs_are_inconclusive_however_clear():
    verdict = judge([5.0, 5.1, 5.2])
    assert verdict.decision == "inconclusive"
    assert verdict.reason == "3 training runs reach p = 0.125 at best; alpha = 0.01 needs 7"
    assert judge([5.0] * 7).decision == "supported"
    assert judge([-5.0] * 3).decision == "inconclusive"


def test_refuted_when_the_opposite_is_shown():
    verdict = judge([-value for value in STRONG])
    assert verdict.decision == "refuted"
    assert verdict.reason == "the mean is negative (sign-flip p = 0.00391)"


def test_refuted_when_the_interval_excludes_the_claimed_size():
    verdict = judge([0.1, 0.11, 0.12, 0.1, 0.09, 0.1, 0.11, 0.12], minimum_effect=0.5)
    assert verdict.decision == "refuted"
    assert "below the claimed 0.5" in verdict.reason


def test_absence_of_evidence_is_inconclusive():
    mixed = [0.5, -0.4, 0.3, -0.5, 0.2, -0.1, 0.4, -0.3]
    assert judge(mixed).decision == "inconclusive"
    assert "the opposite is not shown" in judge(mixed).reason
    small = judge([0.1, 0.9, 0.2, 0.8, 0.3, 0.5, 0.1, 0.6], minimum_effect=0.5)
    assert small.effect < 0.5 < small.interval[1]
    assert small.p <= 0.01
    assert small.decision == "inconclusive"
    assert "which the interval still allows" in small.reason


def test_equivalence_rules():
    decide = {
        "supported": [0.05, -0.05, 0.02, -0.01, 0.03, 0.0],
        "refuted": [0.5, 0.52, 0.48, 0.51],
        "inconclusive": [0.3, -0.2, 0.25, -0.1],
    }
    for decision, differences in decide.items():
        verdict = equivalence_verdict("cross-init-does-not", "within 0.2", differences)
        assert verdict.decision == decision, verdict
    assert equivalence_verdict("x", "y", [-value for value in decide["refuted"]]).decision == "refuted"
    assert equivalence_verdict("x", "y", [0.1, 0.2]).controls == {"alpha": 0.05, "margin": 0.2}


def test_equivalence_of_one_run_names_the_smallest_p():
    verdict = equivalence_verdict("x", "y", [0.0])
    assert (verdict.decision, verdict.smallest_p, verdict.p) == ("inconclusive", 1.0, 1.0)
    assert "smallest reachable p is 1" in verdict.reason


def test_one_line_names_n_and_the_smallest_p():
    line = repr(judge(STRONG))
    assert "\n" not in line
    assert line.startswith("same-init-transfers: supported, +0.55 [")
    assert line.endswith("p = 0.0039, n = 8 training runs (smallest reachable p 0.0039)")


def test_json_is_plain_and_strict():
    verdict = judge([1.0], controls={"mismatched": np.float64(0.25), "arms": (1, 2)})
    saved = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert saved["interval"] == [None, None]
    assert saved["controls"]["mismatched"] == 0.25
    assert saved["controls"]["arms"] == [1, 2]
    required = ("name", "claim", "decision", "effect", "interval", "p", "n", "unit", "smallest_p", "controls")
    assert tuple(saved)[: len(required)] == required
    assert saved["unit"] == "nats"


def test_html_escapes_text():
    shown = Verdict("<b>", "a & b", "supported", 1.0, (0.5, 1.5), 0.01, 8, "nats", 0.004)._repr_html_()
    assert "<b>" not in shown
    assert "&lt;b&gt;" in shown
    assert "a &amp; b" in shown


def test_error_rates_of_the_decisions():
    """Each rate lies within 2.2 binomial standard errors of the 5 % it should be, over 400 nulls."""
    rng, n = np.random.default_rng(0), 400
    slack = 2.2 * math.sqrt(0.05 * 0.95 / n)

    def near_five_percent(decisions, kind):
        return abs(np.mean([decision == kind for decision in decisions]) - 0.05) <= slack

    null = [judge(row, alpha=0.05).decision for row in rng.normal(size=(n, 8))]
    assert near_five_percent(null, "supported")
    assert near_five_percent(null, "refuted")
    rows = rng.normal(0.5, 0.2, size=(n, 8))
    assert near_five_percent([judge(row, alpha=0.05, minimum_effect=0.5).decision for row in rows], "refuted")
    rows = rng.normal(1.0, 0.1, size=(n, 8))
    edge = [equivalence_verdict("x", "y", row, margin=1.0).decision for row in rows]
    assert near_five_percent(edge, "supported")
    assert near_five_percent(edge, "refuted")


def test_messages():
    with pytest.raises(InputError, match=r"alpha 1.5 is outside \(0, 0.5\)"):
        judge(STRONG, alpha=1.5)
    with pytest.raises(InputError, match="minimum_effect -1 is not a positive number; leave it out"):
        judge(STRONG, minimum_effect=-1)
