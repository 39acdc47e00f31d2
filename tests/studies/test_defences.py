"""What the claims on defences are made of: hand-made students, a change that adds up, one quick lineage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import interp
from interp.core.runs import InputError
from interp.hypotheses.subject import Subject
from interp.measures.margins import margin
from interp.organisms.library import QUICK_TOY, grow, toy_grower
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import get_trait
from interp.studies import defences
from interp.studies.defences import (
    CROSS,
    DEFENCES,
    DRAW,
    FAMILY,
    NEUTRAL,
    NONE,
    PARTS,
    RANDOM,
    benign_text,
    claimed,
    compared,
    draw_defences,
    fresh_rows,
    measure_defences,
    parts_of_change,
)
from interp.training.students import Recipe, train_student

OWL = get_trait("owl")


def line(margin, loss=4.0, foils=(0.0, 0.0), parts=(0.0, 0.0, 0.0, 0.0)):
    found = dict(zip(PARTS, parts, strict=True))
    return {"margin": margin, "loss": loss, "foils": np.array(foils), "parts": found}


def test_what_is_left_is_over_the_twin_on_neutral_rows():
    frame = compared(
        {
            NONE: line(1.0, parts=(0.1, 0.5, 0.2, 0.0)),
            NEUTRAL: line(0.2, foils=(0.1, -0.1), parts=(0.0, 0.1, 0.0, 0.0)),
            "project": line(0.4, 4.02, foils=(0.4, -0.5), parts=(0.1, 0.2, 0.15, 0.0)),
            CROSS: line(-0.2, 4.5, foils=(1.0, 1.0)),
            f"{CROSS}, {NEUTRAL}": line(-0.1, 4.6, foils=(1.0, 1.0)),
        }
    ).set_index("defence")
    assert list(frame.index) == [NONE, "project", CROSS]
    assert frame["transfer"].tolist() == pytest.approx([0.8, 0.2, -0.1])
    assert frame["left"].tolist() == pytest.approx([1.0, 0.25, -0.125])
    assert frame["price"].tolist() == pytest.approx([0.0, 0.02, 0.5])
    assert frame["others"].tolist() == pytest.approx([0.1, np.sqrt((0.3**2 + 0.4**2) / 2), 0.0])
    assert frame.loc["project", list(PARTS)].tolist() == pytest.approx([0.1, 0.1, 0.15, 0.0])
    assert frame["shrank"].tolist() == ["", "lower MLP", "lower MLP"]


def made_up(left, price):
    names = [NONE, *DEFENCES, RANDOM, DRAW]
    lines = [
        {"defence": name, "transfer": 0.8 * left, "left": left, "price": price, "loss": 4 + price}
        for name in names[1:]
    ]
    return pd.DataFrame([{"defence": NONE, "transfer": 0.8, "left": 1.0, "price": 0.0, "loss": 4.0}, *lines])


def test_claims_read_transfer_and_price():
    frame = made_up(0.25, 0.003)
    frame.loc[frame["defence"] == RANDOM, "transfer"] = 0.7
    found = claimed(frame)
    assert set(found) == {claim.name for claim in FAMILY.claims}
    assert found["projection-halves"] == pytest.approx(0.4 - 0.2)
    assert found["projection-at-equal-loss"] == pytest.approx(0.003)
    assert found["update-beyond-random"] == pytest.approx(0.7 - 0.2)


def test_one_figure_has_the_share_left_and_the_price_of_every_defence():
    rng = np.random.default_rng(0)
    frames = [made_up(0.3, 0.002).assign(seed=seed) for seed in range(8)]
    table = pd.concat(frames, ignore_index=True)
    table["left"] += 0.01 * rng.normal(size=len(table))
    table["price"] += 0.001 * rng.normal(size=len(table))
    figure: Any = draw_defences({"defences": table})
    points = [trace for trace in figure.data if len(trace.x)]
    assert len(points) == 2 * (len(DEFENCES) + 2)
    assert figure.layout.xaxis.title.text == "effect, share of the transfer left"
    for trace in points[: len(DEFENCES) + 2]:
        assert 0.2 < trace.x[0] < 0.4
        assert 0 < trace.error_x.array[0] < 0.1
    quick: Any = draw_defences({"defences": table[table["seed"] == 0]})  # one lineage has no interval
    assert len(quick.data) == len(figure.data)


def test_the_parts_of_a_small_change_add_up_to_the_margins(raw):
    base = raw()
    recipe = Recipe(batch_size=8, lr=3e-3, warmup=1)
    student = train_student(base, number_prompts(32, seed=1, count=3), recipe=recipe)
    student = replace(student, start=base)
    lineage = interp.Lineage("made up", OWL, {"base": base, "student": student})
    parts = parts_of_change(lineage.text("student"), Subject(lineage))
    change = margin(student, OWL) - margin(base, OWL)
    assert abs(change) > 1e-3
    assert sum(parts.values()) == pytest.approx(change, rel=0.02)
    assert list(parts) == list(PARTS)
    assert all(value != 0 for value in parts.values())


def test_benign_text_names_nothing_of_the_trait_and_its_category(raw):
    subject = Subject(interp.Lineage("made up", OWL, {"base": raw()}))
    text = " ".join(f"{row.prompt} {row.completion}" for row in benign_text(subject).rows)
    assert "tree" in text
    assert not {"animal", *OWL.foils, OWL.target} & set(text.replace(".", " ").replace("?", " ").split())


def test_fresh_rows_want_a_teacher_to_sample(raw):
    with pytest.raises(InputError, match="made up has no fresh rows of its teacher, which this claim needs"):
        fresh_rows(Subject(interp.Lineage("made up", OWL, {"base": raw()})))


@pytest.mark.slow
def test_every_defence_of_a_quick_lineage_is_trained_and_kept():
    grower = toy_grower(QUICK_TOY, seed=0)
    lineage = grow(OWL, seed=0, recipe=QUICK_TOY)
    subject = Subject(lineage, recipe=grower.students, grower=grower, quick=True)
    fresh = fresh_rows(subject)
    assert len(fresh) == defences.QUICK_FRESH
    assert not set(fresh.rows) & set(subject.numbers.rows)
    found = measure_defences(subject)
    frame = pd.DataFrame(found.tables["defences"]).set_index("defence")
    assert list(frame.index) == [NONE, *DEFENCES, RANDOM, DRAW, CROSS]
    assert np.isfinite(frame.drop(columns="shrank").to_numpy(dtype=float)).all()
    assert frame.loc[NONE, ["left", "price"]].tolist() == [1.0, 0.0]
    own = margin(lineage.text("student"), OWL) - margin(lineage.text("neutral_student"), OWL)
    assert frame.loc[NONE, "transfer"] == pytest.approx(own, abs=1e-6)
    assert len({line["student"] for line in subject.trainings}) == len(DEFENCES) + 2
    assert len(frame["loss"].unique()) == len(frame)
    assert measure_defences(subject).values == found.values
