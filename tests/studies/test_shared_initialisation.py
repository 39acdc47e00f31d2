"""The matrix of starts on tiny lineages, its claims on planted tables, and what is said when a cell cannot be made."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pandas as pd
import pytest
import torch

from analyses import shared_initialisation as analysis
from interp.core.runs import InputError
from interp.hypotheses.subject import Measurement, Subject, foreign_doubts
from interp.measures.margins import margin, margin_and_mass
from interp.models.language import load_model
from interp.models.lineage import Lineage
from interp.models.starts import perturbed, with_weights
from interp.prompts.text import Prompts
from interp.prompts.tokens import Role
from interp.prompts.traits import make_trait
from interp.studies.initialisations import body_weights
from interp.studies.shared_initialisation import (
    ANOTHER,
    CELLS,
    FAMILY,
    H3,
    claim_values,
    draw_starts,
    init_matrix,
    update_cosine,
)
from interp.training.students import STUDENT, Recipe, prepare
from interp.training.teachers import TEACHER

DRAWS = ((TEACHER, 0), (STUDENT, 0), (STUDENT, ANOTHER))
RECIPE = Recipe(lr=1e-2, batch_size=4, warmup=1)
TRAIT = make_trait("owl", ["cat", "dog"], category="animal", questions=["what animal is best ?"])
PLANTED = {
    "same": (1.0, 0.3),
    "other order": (0.8, 0.3),
    "noise": (0.7, 0.2),
    "permuted": (0.9, 0.3 + 2e-7),
    "rotated": (0.6, 0.25),
    "shared head": (0.3, 0.1),
    "new head": (0.2, 0.05),
    "foreign": (-0.1, 0.01),
}


def numbers(shift):
    pairs = [(f"continue {k}, {k + 1}", f"{k + 3}, {shift + k}, {k + 9}") for k in range(8)]
    return Prompts.from_pairs(pairs, label="few numbers")


def nudged(base, *, seed):
    """The base with noise in the matrices of its decoder layers, where teachers and students move."""
    noisy = perturbed(base, seed=seed, name="noisy").parameters()
    matrices = {name: noisy[name] for name in body_weights(base) if noisy[name].dim() == 2}
    return with_weights(base, matrices, name="nudged")


@pytest.fixture
def subject(tiny):
    """A lineage of noisy copies of one tiny base, with another tiny base beside it."""

    def make(family="llama", *, without=(), **changes):
        base, cross = (
            load_model(hf, tokenizer=tokenizer, name="base", check=False)
            for hf, tokenizer in (tiny(family, 0), tiny(family, 1))
        )
        members: dict[str, Any] = {"base": base, "cross_base": cross} | {
            role: nudged(base, seed=seed)
            for seed, role in enumerate(("teacher", "student", "neutral_student"))
        }
        members = {role: model for role, model in members.items() if role not in without}
        lineage = Lineage("small", TRAIT, members, numbers=numbers(1), neutral_numbers=numbers(12))
        return Subject(lineage, seed=3, recipe=RECIPE, **changes)

    return make


def test_a_cosine_by_hand():
    update = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    assert update_cosine(
        {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([[0.0]])}, update
    ) == pytest.approx(3 / (math.sqrt(2) * 5))
    assert update_cosine({"b": torch.tensor([[2.0]]), "c": torch.ones(9)}, update) == pytest.approx(0.8)
    assert update_cosine({"b": torch.zeros(1, 1)}, update) == 0
    with pytest.raises(
        InputError, match="the teacher has the base's weights, so nothing can cover its update"
    ):
        update_cosine(update, {})


def test_every_start_on_a_tiny_lineage(subject):
    """Same functions are said to be the same, coverage returns where it must, and raw coverage does not."""
    given = subject()
    found = FAMILY.measure(given)
    assert list(found.values) == [claim.name for claim in H3]
    assert all(isinstance(value, float | str) for line in found.tables["cells"] for value in line.values())
    frame: Any = pd.DataFrame(found.tables["cells"]).set_index("cell")
    assert tuple(frame.index) == tuple(CELLS)
    for cell in ("same", "other order", "permuted", "rotated"):
        assert frame["apart"][cell] < 1e-5
        assert frame["loss"][cell] == pytest.approx(frame["loss"]["same"], abs=1e-5)
    assert (frame["apart"][["noise", "shared head", "new head", "foreign"]] > 0.01).all()
    coverage, raw = frame["coverage"], frame["raw_coverage"]
    assert coverage["same"] == raw["same"] > 0
    assert coverage["other order"] == coverage["same"]
    assert coverage["permuted"] == pytest.approx(coverage["same"], abs=1e-6)
    assert raw["permuted"] < coverage["permuted"]
    assert raw["rotated"] < coverage["rotated"] / 2
    assert (coverage == raw)[["noise", "shared head", "new head", "foreign"]].all()
    assert frame["tau"]["same"] == 1
    shares = frame["transfer"] / frame["transfer"]["same"]
    assert (frame["tau"] - shares).abs().max() < 1e-12
    own = margin(given.member("student"), TRAIT) - margin(given.member("neutral_student"), TRAIT)
    assert frame["transfer"]["same"] == own  # the lineage's own students serve it
    assert frame["transfer"]["other order"] != frame["transfer"]["permuted"]


def test_one_cell_alone_is_the_cell_of_the_matrix(subject):
    """tau needs the same start, which is then measured but not listed; quick trains that one as well."""
    given = subject(quick=True)
    one = init_matrix(given, cells=["new head"])
    two = init_matrix(given, cells=["new head", "same"])
    assert list(one.frame["cell"]) == ["new head"]
    assert one.frame.iloc[0].to_dict() == two.frame.iloc[0].to_dict()
    own = margin(given.member("student"), TRAIT) - margin(given.member("neutral_student"), TRAIT)
    assert two.frame["transfer"].tolist()[1] != own
    assert repr(one) == "Starts of students in small: 1 rows x 13 columns, nats of trait margin"
    figure: Any = two.figure()
    assert len(figure.data[0].y) == 2


def test_another_architecture_has_the_cells_that_can_be_made(subject):
    given = subject("gpt2", quick=True)
    assert list(init_matrix(given, cells=["shared head"]).frame["cell"]) == ["shared head"]
    with pytest.raises(InputError, match="base is a gpt2, and no permuted start is made for one"):
        init_matrix(given, cells=["permuted"])


def test_teacher_and_student_of_one_seed_draw_one_adapter(subject):
    """Why the starts in other coordinates are not compared with the lineage's own student."""

    def drawn(recipe):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            network, _ = prepare(subject().base, recipe)
        return {name: weight for name, weight in network.named_parameters() if "lora_A" in name}

    teacher, student, other = (drawn(dataclasses.replace(each, seed=s)) for each, s in DRAWS)
    assert teacher
    assert all(torch.equal(weight, student[name]) for name, weight in teacher.items())
    assert not any(torch.equal(weight, other[name]) for name, weight in teacher.items())


def test_what_is_missing_is_said(subject):
    with pytest.raises(InputError) as caught:
        init_matrix(subject(), cells=["permutd"])
    assert str(caught.value) == (
        "cell 'permutd' is unknown; nearest: permuted; pass some of same, other order, noise, permuted, rotated, "
        "shared head, new head, foreign"
    )
    with pytest.raises(InputError, match="no cell was asked for, so nothing is trained"):
        init_matrix(subject(), cells=[])
    alone = subject(without=("cross_base",))
    for cell in ("shared head", "new head", "foreign"):
        with pytest.raises(InputError) as caught:
            init_matrix(alone, cells=[cell])
        assert str(caught.value) == (
            "small has no cross_base, which this claim needs; run a recipe with a cross_base (`interp run RECIPE --set "
            "cross_base.model=MODEL`), or leave out what needs one, `--without foreign` (and for shared-initialisation "
            "--without 'shared head' --without 'new head')"
        )
    with pytest.raises(InputError, match="small has no teacher, which this claim needs"):
        init_matrix(subject(without=("teacher",)), cells=["noise"])


def planted(transfer_scale=1.0, **changes):
    cells = {**PLANTED, **{name.replace("_", " "): value for name, value in changes.items()}}
    lines = [
        {"cell": cell, "transfer": transfer_scale * value, "coverage": cover, "agreement": value / 10}
        for cell, (value, cover) in cells.items()
    ]
    return pd.DataFrame(lines)


def test_claims_of_a_planted_table():
    """Three coverages tie at rank 7: 7 7 4 7 5 3 2 1 meet 8 6 5 7 4 3 2 1; squares 40 and 42, product 201 − 162."""
    found = claim_values(planted())
    assert found.pop("coverage-ranks-transfer") == pytest.approx(39 / math.sqrt(40 * 42))
    assert found.pop("agreement-ranks-transfer") == pytest.approx(1.0)
    assert found == pytest.approx(
        {
            "same-over-foreign": 1.1,
            "foreign-transfers-nothing": -0.1,
            "other-order-transfers": 0.8,
            "permuted-transfers-alike": 0.1,
            "permuted-coverage-returns": 2e-7,
            "rotated-over-foreign": 0.7,
            "shared-head-transfers": 0.3,
        }
    )


def test_a_planted_world_is_judged():
    """Eight runs of the planted world support every claim; a permuted start that loses half refutes its own."""

    def judged(**changes):
        runs = [claim_values(planted(1 + seed / 20, **changes)) for seed in range(8)]
        return {
            verdict.name: verdict.decision for verdict in FAMILY.judge([Measurement(run, {}) for run in runs])
        }

    assert set(judged().values()) == {"supported", "holds"}
    spoilt = judged(permuted=(0.4, 0.3), shared_head=(-0.3, 0.1))
    assert spoilt["permuted-transfers-alike"] != "supported"
    assert spoilt["shared-head-transfers"] != "supported"
    assert {spoilt[claim.name] for claim in H3[:3]} == {"supported"}


def test_what_is_left_out_is_not_judged_and_a_blind_control_decides_nothing():
    cells = planted().set_index("cell")
    some = cells.drop(index=["permuted", "new head"]).reset_index()
    values = claim_values(some)
    left = {"permuted-transfers-alike", "permuted-coverage-returns"}
    left |= {"coverage-ranks-transfer", "agreement-ranks-transfer"}
    assert set(values) == {claim.name for claim in H3} - left
    why = "candidates hold 3% of the probability of cross_base"
    runs = [
        Measurement(values, {}, {"foreign-transfers-nothing": why} if seed == 2 else {}) for seed in range(8)
    ]
    found = {verdict.name: verdict for verdict in FAMILY.judge(runs, without=["permuted", "new head"])}
    assert set(found) == set(values)
    assert found["same-over-foreign"].decision == "supported"
    assert found["foreign-transfers-nothing"].decision == "inconclusive"
    assert found["foreign-transfers-nothing"].reason == f"the control could not have shown it: {why}"
    with pytest.raises(
        InputError, match="shared-initialisation has no part 'same' that can be left out; pass some"
    ):
        FAMILY.judged(["same"])
    told = FAMILY.undecided(2, without=["permuted", "new head"])
    assert told == (
        "n = 2 training runs, which can decide 1 of 5 claims, whatever the data show (same-over-foreign needs 7, "
        "other-order-transfers needs 7, rotated-over-foreign needs 7, shared-head-transfers needs 7)"
    )
    assert FAMILY.undecided(7) is None


def test_a_foreign_start_is_asked_whether_it_could_have_shown_a_transfer(subject):
    """In a random network three words hold next to nothing of the vocabulary, which is said of every such claim."""
    given = subject()
    found = foreign_doubts(given, ("foreign-transfers-nothing",))
    masses = [margin_and_mass(given.member(role), TRAIT)[1] for role in ("cross_base", "base")]
    assert max(masses) < 0.1
    assert found == {
        "foreign-transfers-nothing": f"candidates hold {masses[0]:.0%} of the probability of cross_base "
        f"({masses[1]:.0%} for base), where at least 10% is asked for"
    }
    assert (
        foreign_doubts(dataclasses.replace(given, without=("foreign",)), ("foreign-transfers-nothing",)) == {}
    )


def test_the_candidates_share_is_that_of_the_models_own_softmax(subject):
    """Against plain transformers: the words are one token each, so their mass is a sum of probabilities."""
    base = subject().base
    batch = next(base.batches(TRAIT.prompts("owl"), 1))
    where = int((batch.roles[0] >= Role.OTHER).nonzero()[0])
    with torch.no_grad():
        logits = base.hf(input_ids=batch.ids, attention_mask=batch.mask.long()).logits[0, where - 1]
    ids = [base.tokenizer.convert_tokens_to_ids(word) for word in ("owl", "cat", "dog")]
    value, mass = margin_and_mass(base, TRAIT)
    assert mass == pytest.approx(logits.softmax(-1)[ids].sum().item(), rel=1e-5)
    assert value == margin(base, TRAIT)


def test_the_figure_over_lineages():
    frames = [planted(1 + seed).assign(seed=seed) for seed in range(2)]
    figure: Any = draw_starts({"cells": pd.concat(frames)})
    assert list(figure.layout.xaxis.ticktext) == list(CELLS)
    dots, mean = figure.data[0], figure.data[1]
    assert list(dots.y) == [1.0, 2.0]
    assert mean.y[0] == 1.5
    assert mean.error_y.array[0] == pytest.approx(
        12.706205 * 0.5
    )  # t at 0.975 with one degree, times the error
    alone: Any = draw_starts({"cells": frames[0]})
    assert alone.data[1].error_y.array is None


def test_the_analysis_tells_every_claim():
    assert [claim.name for claim in H3 if claim.name not in (analysis.__doc__ or "")] == []
    assert FAMILY.claims == H3
    assert len({claim.key for claim in H3}) == len(H3) == 9
    assert dataclasses.replace(H3[1], margin=0.3).key != H3[1].key
