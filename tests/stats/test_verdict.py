"""Each rule of the verdicts on numbers chosen by hand, and how often they err under a null."""

from __future__ import annotations

import json
import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from interp.core.runs import InputError
from interp.stats.verdict import Verdict, check_verdict, equivalence_verdict, paired_verdict, told

STRONG = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
HIGH = [value + 0.35 for value in STRONG]


def judge(differences, **knobs):
    return paired_verdict("same-init-transfers", "the student leans to the trait", differences, **knobs)


def test_supported_with_every_number_by_hand():
    verdict = judge(STRONG)
    assert verdict.decision == "supported"
    assert (verdict.effect, verdict.p, verdict.n, verdict.smallest_p) == (
        pytest.approx(0.55),
        1 / 256,
        8,
        1 / 256,
    )
    half = 2.997949 * np.std(STRONG, ddof=1) / math.sqrt(8)  # t(0.99, 7): the ends are one-sided 1 % bounds
    assert verdict.interval == pytest.approx((0.55 - half, 0.55 + half), abs=1e-5)
    assert verdict.level == 0.98
    assert verdict.tested == "more than 0"
    assert verdict.controls == {"alpha": 0.01, "positive": "8 of 8"}


def test_at_least_x_is_tested_against_x():
    """d − 0.5 = .4 .3 .2 .1 0 −.1 −.2 −.3 sums to 0.4; of the 128 sign patterns of the seven that are not zero 43
    reach it."""
    verdict = judge(STRONG, minimum_effect=0.5)
    sums = [np.dot(signs, (4, 3, 2, 1, 1, 2, 3)) for signs in product((1, -1), repeat=7)]
    assert verdict.p == sum(each >= 4 for each in sums) / 128 == 43 / 128
    assert (verdict.effect, verdict.decision) == (pytest.approx(0.55), "inconclusive")
    assert verdict.tested == "at least 0.5"
    assert verdict.controls == {
        "alpha": 0.01,
        "positive": "8 of 8",
        "minimum_effect": 0.5,
        "at least 0.5": "5 of 8",
    }
    assert (
        verdict.interval == judge(STRONG).interval
    )  # of the differences, not of what they exceed the claim by
    assert "against 0.5 is above alpha = 0.01 and the opposite is not shown" in verdict.reason
    shown = judge(HIGH, minimum_effect=0.5)
    assert (shown.decision, shown.p) == ("supported", 1 / 256)


def test_what_held_against_nothing_need_not_hold_against_the_claim():
    """Every run is positive and the mean is above 0.5, as three published claims were: that is not at least 0.5."""
    runs = [0.08, 0.2, 0.4, 0.45, 0.48, 0.6, 1.1, 2.4]
    assert np.mean(runs) > 0.7
    assert judge(runs).decision == "supported"
    assert judge(runs, minimum_effect=0.5).decision == "inconclusive"


def test_too_few_runs_are_inconclusive_however_clear():
    verdict = judge([5.0, 5.1, 5.2])
    assert verdict.decision == "inconclusive"
    assert verdict.reason == "3 training runs reach p = 0.125 at best; alpha = 0.01 needs 7"
    assert judge([5.0] * 7).decision == "supported"
    assert judge([-5.0] * 3).decision == "inconclusive"


def test_refuted_when_the_opposite_is_shown():
    verdict = judge([-value for value in STRONG])
    assert verdict.decision == "refuted"
    assert verdict.reason == "the mean is below 0 (sign-flip p = 0.00391)"


def test_refuted_when_the_mean_is_shown_below_the_claimed_size():
    verdict = judge([0.1, 0.11, 0.12, 0.1, 0.09, 0.1, 0.11, 0.12], minimum_effect=0.5)
    assert verdict.decision == "refuted"
    assert verdict.reason == "the mean is below 0.5 (sign-flip p = 0.00391)"
    assert verdict.p == 1


def test_absence_of_evidence_is_inconclusive():
    mixed = [0.5, -0.4, 0.3, -0.5, 0.2, -0.1, 0.4, -0.3]
    assert judge(mixed).decision == "inconclusive"
    assert "the opposite is not shown" in judge(mixed).reason
    small = judge([0.1, 0.9, 0.2, 0.8, 0.3, 0.5, 0.1, 0.6], minimum_effect=0.5)
    assert small.effect < 0.5 < small.interval[1]
    assert small.p > 0.5
    assert small.decision == "inconclusive"


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
    two = equivalence_verdict("x", "y", [0.1, 0.2])
    assert two.controls == {"alpha": 0.05, "margin": 0.2}
    assert (two.tested, two.level) == ("within ±0.2", 0.9)


def test_equivalence_of_one_run_names_the_smallest_p():
    verdict = equivalence_verdict("x", "y", [0.0])
    assert (verdict.decision, verdict.smallest_p, verdict.p) == ("inconclusive", 1.0, 1.0)
    assert "smallest reachable p is 1" in verdict.reason


def test_one_line_names_n_and_the_smallest_p():
    line = repr(judge(STRONG))
    assert "\n" not in line
    assert line.startswith("same-init-transfers: supported, +0.55 [98 %: +0.29")
    assert line.endswith("more than 0: p = 0.0039, n = 8 training runs (smallest reachable p 0.0039)")
    assert "] nats, at least 0.5: p = 0.3" in repr(judge(STRONG, minimum_effect=0.5))
    assert "[90 %: −inf, +inf] nats, within ±0.2: p = 1, n = 1 training run (" in repr(
        equivalence_verdict("x", "y", [0.0])
    )
    assert told(judge([0.4]).to_json()).endswith("+0.4 [98 %: −inf, +inf] nats, more than 0: p = 0.5")
    bare = Verdict("old", "claim", "supported", 1.0, (0.5, 1.5), 0.01, 8, "nats", 0.004)
    assert (
        told(vars(bare)) == "old: supported, +1 [+0.5, +1.5] nats, p = 0.01"
    )  # no level where none is known


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
    least = [judge(row, alpha=0.05, minimum_effect=0.5).decision for row in rows]
    assert near_five_percent(least, "refuted")
    assert near_five_percent(least, "supported")  # was over a half when the point estimate alone was compared
    rows = rng.normal(1.0, 0.1, size=(n, 8))
    edge = [equivalence_verdict("x", "y", row, margin=1.0).decision for row in rows]
    assert near_five_percent(edge, "supported")
    assert near_five_percent(edge, "refuted")


def test_messages():
    with pytest.raises(InputError, match=r"alpha 1.5 is outside \(0, 0.5\)"):
        judge(STRONG, alpha=1.5)
    with pytest.raises(InputError, match="minimum_effect -1 is not a positive number; leave it out"):
        judge(STRONG, minimum_effect=-1)


def test_a_check_has_no_p_and_fails_with_one_run_outside():
    held = check_verdict("sum", "it adds up", [0.01, -0.01], tolerance=0.01, unit="nats")
    assert (held.decision, held.p, held.interval, held.level) == ("holds", None, (-0.01, 0.01), 1.0)
    assert (
        repr(held)
        == "sum: check holds, +0 [all runs: −0.01, +0.01] nats, every run within ±0.01, n = 2 training runs"
    )
    assert "<td>none: a check</td>" in held._repr_html_()
    failed = check_verdict("sum", "it adds up", [0.0, 0.0, -0.02], tolerance=0.01)
    assert (failed.decision, failed.reason) == ("fails", "2 of 3 runs lie within ±0.01")
    assert check_verdict("slope", "it is steep", [0.95, 2.0], tolerance=0.9, least=True).decision == "holds"
    assert check_verdict("slope", "it is steep", [0.85, 2.0], tolerance=0.9, least=True).decision == "fails"


def test_the_opposite_of_each_claim_has_a_p():
    assert paired_verdict("up", "it grows", [1.0, 2.0, 3.0]).p_against == 1.0
    assert paired_verdict("up", "it grows", [-1.0, -2.0, -3.0]).p_against == 1 / 8
    far = equivalence_verdict("same", "no change", [2.0, 2.1, 1.9], margin=0.5)
    assert far.p_against == pytest.approx(
        stats.ttest_1samp([2.0, 2.1, 1.9], 0.5, alternative="greater").pvalue
    )
    assert equivalence_verdict("same", "no change", [0.0, 0.1, -0.1], margin=0.5).p_against > 0.9
