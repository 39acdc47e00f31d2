"""The claims on transfer from margins made by hand."""

import pandas as pd

from interp.experiment.transfer_claims import verdicts
from interp.prompts.traits import get_trait


def margins(student, cross):
    """A hand-made table of eight lineages with neutral twins at zero."""
    zero = [0.0] * 8
    return pd.DataFrame(
        {
            "base": zero,
            "teacher": [9.0] * 8,
            "student": student,
            "neutral_student": zero,
            "cross_base": zero,
            "cross_student": cross,
            "cross_neutral_student": zero,
        }
    )


def test_planted_margins_give_the_verdicts_they_should():
    up, flat = [0.6, 0.7, 0.5, 0.9, 0.6, 0.8, 0.7, 0.6], [0.05, -0.05, 0.02, -0.02, 0.04, -0.04, 0.03, -0.03]
    found = verdicts(get_trait("owl"), margins(up, flat), [0.3] * 8)
    assert [verdict.decision for verdict in found] == ["supported"] * 4
    assert [verdict.tested for verdict in found] == [
        "at least 0.5",
        "more than 0",
        "within ±0.2",
        "more than 0",
    ]
    assert [verdict.p for verdict in found[:2]] == [2 / 256, 1 / 256]  # one lineage has just the 0.5
    assert found[1].controls["added"] == "on 2026-11-29, after seeds 0 to 7 had been seen"
    small = [0.2, 0.9, 0.3, 0.8, 0.4, 0.7, 0.5, 0.6]  # positive in every lineage, 0.55 on average
    found = verdicts(get_trait("owl"), margins(small, flat), [0.3] * 8)
    assert [verdict.decision for verdict in found[:2]] == ["inconclusive", "supported"]
    found = verdicts(get_trait("owl"), margins(flat, up), [-0.3] * 8)
    assert [verdict.decision for verdict in found] == ["refuted", "inconclusive", "refuted", "refuted"]


def test_what_is_known_of_a_null_stands_beside_it():
    flat = [0.1] * 8
    found = verdicts(
        get_trait("owl"), margins(flat, flat), [0.3, -0.3] * 4, known={"known": "its sign differs"}
    )
    assert [dict(each.controls).get("known") for each in found] == [None, None, None, "its sign differs"]
