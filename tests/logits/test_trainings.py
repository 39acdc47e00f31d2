"""Attribution over trainings: two lineages worked out from their own tables, and what it refuses."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import interp
from interp.core.runs import InputError
from interp.logits.trainings import attribute_over, lens_over, over_trainings
from interp.models.lineage import open_lineage
from interp.prompts.traits import get_trait
from tests.logits.pairs import perturbed

OWL = get_trait("owl")


@pytest.fixture
def lineages(tiny):
    """Two lineages, each of a random base with a teacher, a student and a neutral student, everything changed."""

    def make(seed: int) -> Any:
        hf, tokenizer = tiny("llama")
        base = interp.load_model(perturbed(hf, seed=10 * seed), tokenizer=tokenizer)
        made = [
            interp.load_model(
                perturbed(perturbed(hf, seed=10 * seed), seed=10 * seed + k), tokenizer=tokenizer
            )
            for k in (1, 2, 3)
        ]
        students = {"student": made[1], "neutral_student": made[2]}
        return open_lineage(
            base=base,
            teacher=made[0],
            student=students,
            trait=OWL,
            name=f"seed {seed}",
            unrelated=(*students, "teacher"),
        )

    return [make(1), make(2)]


def test_parts_are_the_means_of_the_lineages_own_attributions(lineages):
    found = attribute_over(lineages)
    own = []
    for lineage in lineages:
        moved = interp.shift(
            lineage.student, OWL.prompts(), minus=lineage["neutral_student"], positions="last"
        )
        frame: Any = interp.attribute(moved, interp.logit_direction(lineage.base, OWL)).frame
        heads = frame[(frame["layer"] == 1) & frame["kind"].isin(["head", "attention bias"])]
        own.append((heads["contribution"].sum(), frame["measured"].iloc[0]))
    values, totals = (np.array(column) for column in zip(*own, strict=True))
    row: Any = found.frame.query("part == 'attention 1' and who == 'S'").iloc[0]
    assert row["mean"] == pytest.approx(values.mean(), abs=1e-9)
    assert row["share"] == pytest.approx(values.mean() / totals.mean())
    half = 12.706204736 * values.std(ddof=1) / math.sqrt(2)  # t of one degree of freedom at 97.5 %
    assert (row["low"], row["high"]) == pytest.approx((values.mean() - half, values.mean() + half))
    assert row["n"] == 2
    sums = found.frame.groupby("who")[["mean", "share"]].sum()
    assert sums["share"].tolist() == pytest.approx([1, 1], abs=1e-4)
    assert sums.loc["S", "mean"] == pytest.approx(totals.mean(), abs=1e-4)
    assert found.frame["part"].iloc[0] == found.frame["part"].iloc[1]  # S and T side by side
    assert found.notes[0].startswith(
        f"S: student − neutral_student, mean change {totals.mean():+.3g} logits; T: teacher"
    )
    assert "the rows leave at most" in found.notes[1]
    assert "n = 2 lineages; 95% t-intervals; p by two-sided sign flips, at least 0.5" in found.notes[2]


def test_the_lens_ends_at_the_measured_change(lineages):
    found: Any = lens_over(lineages, members={"N": ("neutral_student",)})
    assert found.frame["part"].tolist() == ["after layer 0", "after layer 1"]
    assert found.frame["share"].iloc[-1] == pytest.approx(1)
    attributed: Any = attribute_over(lineages, members={"N": ("neutral_student",)})
    assert found.frame["change"].iloc[0] == pytest.approx(attributed.frame["change"].iloc[0], abs=1e-5)


def test_sign_count_and_p_are_over_lineages():
    """Seven of eight lineages agree with a mean of 3/4: the 9 of 256 patterns with at most one minus reach it."""
    pandas = pytest.importorskip("pandas")
    given = {"part": "MLP 0", "layer": 0, "measured": 2.0, "who": "S", "label": "a − b"}
    values = pandas.DataFrame(
        [{**given, "value": v, "lineage": str(k)} for k, v in enumerate([1.0] * 7 + [-1.0])]
    )
    row: Any = over_trainings("attribution", values, 0.95, "").frame.iloc[0]
    assert row["agree"] == "7 of 8"
    assert row["mean"] == 0.75
    assert row["share"] == 0.375
    assert row["p"] == pytest.approx(2 * 9 / 256)  # no minus, or any one


def test_figure_and_display(lineages):
    found = attribute_over(lineages)
    assert {trace.name for trace in found.figure().data} == {"S", "T"}
    assert repr(found).startswith("attribution over 2 lineages: ")
    assert "MLP 0" in found._repr_html_()
    assert len(attribute_over(lineages[:1]).figure().data) == 2


def test_refusals(lineages):
    with pytest.raises(InputError, match="no lineages to average over; pass several, one a seed"):
        attribute_over([])
    with pytest.raises(
        InputError, match="seed 1 and seed 1 hold the same student, which is one training; pass each once"
    ):
        attribute_over([lineages[0], lineages[0]])
    with pytest.raises(InputError, match="member 'studnt' is unknown; nearest: student"):
        attribute_over(lineages, members={"S": ("studnt",)})
    with pytest.raises(InputError, match=r"members\['S'\] is \(\); pass \(member,\) or \(member, minus\)"):
        attribute_over(lineages, members={"S": ()})
    with pytest.raises(InputError, match="lineage 'seed 1' has no trait to attribute toward"):
        lens_over([replace(lineages[0], trait=None)])
