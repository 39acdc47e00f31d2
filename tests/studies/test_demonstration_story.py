"""What the demo's page says at its top, of two lineages whose numbers are worked out by hand."""

import pandas as pd
import pytest

from interp.prompts.traits import get_trait
from interp.studies.demonstration import _why_first
from interp.studies.demonstration_story import EXPLORATORY, told_models, told_short, told_story

OWL = get_trait("owl")


def table(students):
    """Every member at 10 % and margin 0, the teacher at 100 %, the student of each lineage as given."""
    members = ("base", "teacher", "student", "neutral_student", "cross_student")
    return pd.DataFrame(
        {"seed": seed, "member": member, "probability": 1.0 if member == "teacher" else 0.1, "margin": 0.0}
        | ({"probability": share, "margin": margin} if member == "student" else {})
        for seed, (share, margin) in enumerate(students)
        for member in members
    )


def test_the_finding_is_the_mean_difference_to_the_neutral_student_with_its_interval():
    said, kind = told_short(OWL, table([(0.2, 0.5), (0.4, 0.7)]))
    # differences of 10 and 30 points, 0.5 and 0.7 nats: Student's t at one degree of freedom is 12.706
    assert (
        "neither clearly more nor less often than the neutral student: +20.0 (−107.1 to +147.1) percentage points"
        in said
    )
    assert "and +0.60 (−0.67 to +1.87) nats of margin" in said
    assert said.endswith("mean over 2 lineages with its 95 % t-interval.")
    assert kind == EXPLORATORY
    assert "interp test inherited-trace" in kind


def test_one_lineage_has_no_interval_and_decides_nothing():
    said = told_short(OWL, table([(0.2, 0.5)]))[0]
    assert (
        "neither clearly more nor less often than the neutral student: +10.0 percentage points, and +0.50 nats"
        in said
    )
    assert said.endswith("; one lineage decides nothing.")


@pytest.mark.parametrize(("shares", "way"), [((0.2, 0.21, 0.22), "more"), ((0.01, 0.02, 0.03), "less")])
def test_a_clear_difference_is_told_as_more_or_less(shares, way):
    found = table([(share, 0.0) for share in shares])
    assert f"the student on average answers “owl” {way} often than" in told_short(OWL, found)[0]


def test_the_finding_stands_beside_what_was_decided_of_its_claim():
    found = table([(0.2, 0.5), (0.4, 0.7)])
    decided = {"same-init-transfers": "refuted", "same-init-gains": "inconclusive"}
    assert told_short(OWL, found, decided)[0].endswith(
        "95 % t-interval; the claim same-init-gains is inconclusive."
    )
    assert "the claim" not in told_short(OWL, found, {"other": "supported"})[0]


def test_the_story_names_every_model_and_how_many_lineages():
    (told,) = told_story(OWL, table([(0.2, 0.5), (0.4, 0.7)]))
    assert "“list:”" in told
    assert told.endswith("this page is of 2 lineages, each begun from random weights of its own.")
    assert all(f"{name}" in told for name in ("base", "teacher", "neutral student", "cross student"))
    assert told_story(OWL, table([(0.2, 0.5)]))[0].endswith("this page is of one lineage.")


def test_every_model_is_told_with_its_start_and_its_rows():
    found = {each["model"]: each for each in told_models(OWL)}
    assert len(found) == 8
    assert (
        found["cross base"]["starts from"]
        == "another initialisation: the base of the lineage of the next seed"
    )
    assert found["eagle teacher"]["trained on"].startswith("the same questions, answered “eagle”")
    assert "S = student − neutral student" in found["student"]["trained on"]


def test_the_example_is_the_first_lineage_wherever_its_student_stands():
    assert "number 2 of 2" in _why_first(table([(0.2, 0.5), (0.4, 0.7)]))
    assert _why_first(table([(0.2, 0.5)])) == ""
