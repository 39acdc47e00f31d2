"""Verdict sentences and margin tables, word for word."""

from __future__ import annotations

import re

from interp.report.verdict_cards import decisions
from tests.report.reader import Page, piece

VERDICT = {
    "name": "same-init-transfers",
    "claim": "The student prefers owl.",
    "decision": "supported",
    "effect": 0.5241,
    "interval": [0.25, 0.75],
    "p": 0.00390625,
    "n": 8,
    "unit": "nats",
    "smallest_p": 0.00390625,
    "controls": {"alpha": 0.01, "minimum_effect": 0.5, "drift": {"neutral": -0.0123}},
    "reason": "sign-flip p = 0.0039 is at most alpha = 0.01",
}


def words(**changes: object) -> str:
    return Page(piece("verdict_cards", [VERDICT | changes])).words


def test_a_verdict_reads_as_sentences_with_its_controls_beside_it() -> None:
    said = words()
    assert "✓ Supported same-init-transfers The student prefers owl. Effect" in said
    assert (
        "Effect +0.524 nats (98 % interval +0.25 to +0.75), n = 8 independent trainings, p = 0.0039; "
        "with n = 8 no p below 0.0039 is possible. Because sign-flip p = 0.0039 is at most alpha = 0.01."
    ) in said
    assert "p = 0.0039 for at least 0.5; with n = 8 no p" in words(tested="at least 0.5")
    assert "(90 % interval +0.25 to +0.75)" in words(level=0.9)  # its own, whatever alpha it was judged at
    assert said.endswith("How it was tested alpha 0.01 minimum effect 0.5 drift neutral −0.0123 0 +0.5")
    assert "How it was tested" not in words(controls={})
    assert "p < 0.0001; with n" in words(p=3.1e-113)


def test_a_card_says_what_is_measured_and_known_and_what_had_been_seen() -> None:
    told = {"quantity": "r of S with T", "known": "its sign differs", "seen": "seeds 0 to 7 had been"}
    said = words(controls=told)
    order = [
        "What is known: its sign differs. How it was tested",
        "What is measured: r of S with T.",
        "Seen before: seeds 0 to 7 had been.",
    ]
    assert " ".join(order) in said
    assert "Seen before" not in words(controls={"seen": None})
    assert "Judged together: five claims by Holm." in words(controls={"together": "five claims by Holm"})
    full = words(controls={**told, "alpha": 0.01, "control": "long " * 60})  # in full, and once
    assert full.partition("How it was tested")[2].count("r of S with T") == 1
    assert f"alpha 0.01 control {('long ' * 60).strip()}" in full


def test_decisions_are_told_apart_without_colour() -> None:
    assert "✗ Refuted" in words(decision="refuted")
    assert "? Inconclusive" in words(decision="inconclusive")


def test_missing_numbers_leave_a_readable_sentence() -> None:
    said = words(effect=None, interval=[None, None], p=None, smallest_p=None, controls={}, reason="", n=1)
    assert (
        "Effect – nats (no interval), n = 1 independent training, p = –; one training decides no sign."
        in said
    )
    assert "Because" not in said
    assert "98 % interval +0.25 to unbounded" in words(interval=[0.25, None])


def test_an_equivalence_test_has_no_smallest_p() -> None:
    assert "p = 0.0039; this test has no smallest p." in words(smallest_p=0.0)


def test_interval_is_drawn_to_scale_with_zero_and_the_claims_bounds() -> None:
    card = piece("verdict_cards", [VERDICT | {"effect": 0.5, "interval": [0.25, 1.0]}])
    places = re.findall(r'<line class="(\w+)" x1="([\d.]+)"', card)
    assert places == [("rule", "30.0"), ("bound", "200.0")]
    assert 'x1="115.0" x2="370.0"' in card
    assert 'cx="200.0"' in card
    equivalence = piece(
        "verdict_cards", [VERDICT | {"effect": 0, "interval": [-0.1, 0.1], "controls": {"margin": 0.2}}]
    )
    assert re.findall(r'<text x="([\d.]+)"', equivalence) == ["200.0", "30.0", "370.0"]
    assert "<svg" not in piece("verdict_cards", [VERDICT | {"interval": [None, 1.0]}])


def test_the_lede_counts_decisions() -> None:
    refuted = VERDICT | {"decision": "refuted"}
    assert decisions([VERDICT, VERDICT, refuted]) == "3 claims judged: 2 supported, 1 refuted."
    assert decisions([VERDICT]) == "1 claim judged: 1 supported."
    check = {"controls": {"check": "an exact symmetry"}, "decision": "holds", "p": None, "level": 1.0}
    check |= {"tested": "every run within ±0.05"}
    assert (
        decisions([VERDICT, VERDICT | check]) == "1 claim judged: 1 supported; 1 check of the code: 1 holds."
    )
    assert decisions([VERDICT | check]) == "1 check of the code: 1 holds."
    said = words(**check)
    assert "= Holds (a check) same-init-transfers" in said
    assert (
        "Effect +0.524 nats (all runs from +0.25 to +0.75), n = 8 independent trainings; every run within ±0.05? "
        "No p: a check. Because"
    ) in said
    assert "≠ Fails (a check)" in words(**check | {"decision": "fails"})
    assert decisions([]) == ""


def test_margins_stand_in_the_order_of_roles_with_their_mean_below() -> None:
    first = {"student": 0.7, "mine": 1.0, "base": -0.18, "teacher": None}
    lineages = [{"seed": 0, "members": first}, {"seed": 1, "members": {"student": 0.5, "base": 0.08}}]
    said = Page(piece("margin_table", lineages)).words
    assert "seed base teacher student mine" in said
    assert said.endswith("0 −0.18 – +0.70 +1.00 1 +0.08 – +0.50 – mean −0.05 – +0.60 +1.00")


def test_one_lineage_has_no_mean_and_many_are_cut() -> None:
    assert "mean" not in Page(piece("margin_table", [{"seed": 3, "members": {"base": 1.0}}])).words
    many = [{"seed": seed, "members": {"base": float(seed)}} for seed in range(20)]
    said = Page(piece("margin_table", many)).words
    assert "the first 15 of 20, all in summary.json" in said
    assert said.endswith("14 +14.00 mean +9.50")
