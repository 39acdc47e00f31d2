"""H2 by hand: the halves' geometry, the curvature bound on a quadratic, and all arms of a tiny lineage."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import interp.hypotheses.subject as subject_module
import interp.studies.sustained_alignment as module
from interp.core.runs import Cache, InputError
from interp.gradients.directions import margin_objective
from interp.gradients.ledger.ledgers import Ledger
from interp.gradients.ledger.projection import Placebo, Removal
from interp.gradients.ledger.recording import record_training
from interp.hypotheses.subject import Measurement, Subject
from interp.measures.margins import margin
from interp.models.language import load_model
from interp.models.lineage import Lineage
from interp.organisms.toy import World, build_network, build_tokenizer
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import get_trait, make_trait
from interp.studies.sustained_alignment import (
    FAMILY,
    H2,
    Halves,
    arm_row,
    curvature_bound,
    draw_alignment,
    gradient_row,
    ledger_row,
    measure_alignment,
    sustained_summary,
)
from interp.training import grower
from interp.training.students import Recipe, train_student, trained_parameters

RECIPE = Recipe(batch_size=8, lr=1e-2, warmup=1, rank=2)
OWL = get_trait("owl")
ARMS = ["base", "neutral", "untouched", "removed", "other-trait placebo", "random placebo"]


@pytest.fixture(scope="module")
def base():
    network = build_network(World(d_model=16, d_mlp=24), seed=0).eval()
    return load_model(network, tokenizer=build_tokenizer(), name="base", check=False)


@pytest.fixture(scope="module")
def subject(base, tmp_path_factory):
    rows, neutral = (number_prompts(28, seed=seed, count=3) for seed in (0, 1))
    lineage = Lineage("tiny", OWL, {"base": base}, numbers=rows, neutral_numbers=neutral)
    return Subject(lineage, seed=3, recipe=RECIPE, cache=Cache(tmp_path_factory.mktemp("kept")))


@pytest.fixture(scope="module")
def measured(subject):
    return measure_alignment(subject)


def logit_weights(base, trait):
    """The margin as a linear function of one question's logits: Σ weights over the vocabulary."""
    objective = margin_objective(base, trait.with_questions(trait.questions[:1]))
    network, added = base.network(), torch.zeros(base.config.vocab_size, requires_grad=True)
    network.get_output_embeddings().register_forward_hook(lambda *given: given[-1] + added)
    (weights,) = torch.autograd.grad(objective(network), added)
    return weights


def test_the_other_margin_leaves_the_logits_of_this_one_alone(base):
    halves = Halves.of(OWL)
    own, other, plain = (
        logit_weights(base, trait) for trait in (halves.asked, halves.other, get_trait("cat"))
    )
    assert float(own @ other) == pytest.approx(0, abs=1e-6)
    assert float(torch.cosine_similarity(own, plain, dim=0)) == pytest.approx(-1 / 9, abs=1e-5)
    assert halves.other.target == "cat"
    assert "owl" not in halves.other.foils


def test_how_far_apart_the_halves_gradients_are(base):
    halves = Halves.of(OWL)
    same = dataclasses.replace(halves, held=halves.asked, other=halves.asked)
    assert gradient_row(base, same) == pytest.approx(
        {"cosine_held": 1.0, "cosine_other_trait": 1.0}, abs=1e-5
    )
    found = gradient_row(base, halves)
    assert 0.2 < found["cosine_held"] < 1
    assert abs(found["cosine_other_trait"]) < found["cosine_held"]


def test_no_question_is_in_both_halves():
    halves = Halves.of(OWL)
    assert halves.other.questions == halves.asked.questions
    assert set(halves.asked.questions) | set(halves.held.questions) == set(OWL.questions)
    assert len(halves.asked.questions) == len(halves.held.questions) == 3


@pytest.mark.parametrize(
    ("trait", "said"),
    [
        (OWL.with_questions(["which animal?"]), "trait 'owl' has 1 question, .* add a question to it"),
        (
            make_trait("tea", ["coffee"]),
            "trait 'tea' has 1 foil, and this family needs two: .* add a foil to it",
        ),
    ],
)
def test_a_trait_without_two_of_each_is_refused(trait, said):
    with pytest.raises(InputError, match=said):
        Halves.of(trait)


def test_what_a_lineage_lacks_is_named(base):
    bare = Lineage("bare", OWL, {"base": base})
    with pytest.raises(
        InputError,
        match=r"bare has no teacher, which this claim needs; run a recipe whose teacher\.kind is fine-tuned",
    ):
        measure_alignment(Subject(bare))
    with pytest.raises(InputError, match="has no trait to ask about"):
        measure_alignment(Subject(dataclasses.replace(bare, trait=None)))
    few = dataclasses.replace(bare, numbers=number_prompts(7, seed=0, count=3))
    with pytest.raises(InputError, match="bare has 7 rows of its teacher, of which one in 8 is kept"):
        measure_alignment(Subject(few))


def test_the_curvature_bound_of_known_functions(base, tmp_path):
    rows = number_prompts(24, seed=0, count=3)
    _, record = record_training(base, rows, folder=tmp_path / "record", recipe=RECIPE)

    def linear(network):
        parts = enumerate(trained_parameters(network).values())
        return torch.stack([(k + 1) * tensor.sum() for k, tensor in parts]).sum()

    def half_square(network):  # its gradient moves by s_t, so the bound is ½ Σ |s_t|²
        parts = trained_parameters(network).values()
        return torch.stack([tensor.square().sum() for tensor in parts]).sum() / 2

    lengths = record.chunk(0).increments.double().square().sum(1)
    assert len(lengths) == 3
    assert curvature_bound(record, base, linear) == 0
    assert curvature_bound(record, base, half_square) == pytest.approx(0.5 * float(lengths.sum()), rel=1e-4)


def test_the_ledgers_row_by_hand():
    steps = pd.DataFrame({"step": [0, 1, 2], "change": [0.5, 0.5, -0.75], "attributed": [0.5, 0.625, -0.75]})
    none = pd.DataFrame()
    found = ledger_row(Ledger("owl", steps, none, none, measured=0.25), 0.2)
    assert found["fraction"] == pytest.approx(1.5)
    assert found["residual"] == pytest.approx(-0.125)
    assert found["largest_change"] == pytest.approx(1.0)
    assert found["unexplained"] == pytest.approx(0.125)
    assert found["curvature_bound"] == 0.2
    assert found["first_step"] == pytest.approx(0.5 / 0.375)
    assert found["rising"] == pytest.approx(2 / 3)


def planted(neutral=0.0, untouched=1.0, removed=0.1, other=0.9, random=0.95, losses=(2.0, 2.001, 1.997)):
    margins = dict(zip(ARMS, (0.0, neutral, untouched, removed, other, random), strict=True))
    fresh = dict(zip(ARMS, (2.5, 2.4, 1.9, *losses), strict=True))
    return [
        {"arm": arm, "margin": margins[arm], "fresh_loss": fresh[arm], "seed": 0, "margin_asked": 0.0}
        for arm in ARMS
    ]


def test_planted_arms_give_the_values_of_the_claims():
    found = sustained_summary(planted(neutral=0.2), {"unexplained": 0.01})
    assert found == pytest.approx(
        {
            "sustained-transfer": 0.8,
            "sustained-ledger": 0.01,
            "sustained-over-other-trait": 0.8,
            "sustained-over-random": 0.85,
            "sustained-loss": 0.003,  # to the random placebo, from which it differs more
            "sustained-remainder": -0.1,
        }
    )
    assert set(found) == {claim.name for claim in H2}
    worse = sustained_summary(planted(losses=(2.0, 2.05, 1.997)), {"unexplained": 0.0})
    assert worse["sustained-loss"] == pytest.approx(-0.05)


def test_a_removal_that_does_what_any_placebo_does_is_not_supported():
    rng = np.random.default_rng(0)

    def judged(**effect):
        runs = [
            Measurement(
                sustained_summary(planted(**effect), {"unexplained": 0.0}) | {"sustained-ledger": noise}, {}
            )
            for noise in rng.normal(0, 0.01, 8)
        ]
        return {verdict.name: verdict.decision for verdict in FAMILY.judge(runs)}

    assert judged()["sustained-over-other-trait"] == "supported"
    assert judged()["sustained-ledger"] == "holds"
    assert judged(other=0.05)["sustained-over-other-trait"] == "refuted"
    assert judged(other=0.1)["sustained-over-other-trait"] == "inconclusive"


def test_every_arm_of_a_tiny_lineage(subject, measured, base):
    found = measured
    table = {row["arm"]: row for row in found.tables["arms"]}
    halves, rows, recipe = Halves.of(OWL), subject.numbers.rows, subject.students_recipe
    kept = dataclasses.replace(subject.numbers, rows=rows[:25])  # one row in eight stays fresh: three of 28
    removal = Removal(margin_objective(base, halves.asked))
    removed = train_student(base, kept, recipe=recipe, on_step=removal)
    placebo = Placebo(removal.removed, objective=margin_objective(base, halves.other))
    other = train_student(base, kept, recipe=recipe, on_step=placebo)
    assert list(table) == ARMS
    assert sum(removal.removed) > 0
    assert [row["removed"] for row in found.tables["steps"]] == removal.removed
    assert table["untouched"]["margin"] == margin(train_student(base, kept, recipe=recipe), halves.held)
    assert table["removed"]["margin"] == margin(removed, halves.held) != table["untouched"]["margin"]
    assert table["other-trait placebo"]["margin"] == margin(other, halves.held)
    assert table["base"] == arm_row("base", base, halves, dataclasses.replace(kept, rows=rows[25:]))
    ledger = found.tables["ledger"][0]
    assert ledger["measured"] == pytest.approx(table["untouched"]["margin"] - table["base"]["margin"])
    assert abs(ledger["residual"]) <= ledger["curvature_bound"] + 1e-6
    assert set(found.values) == {claim.name for claim in H2}
    json.dumps(found.tables, allow_nan=False)


def test_a_measurement_that_was_killed_goes_on_where_it_was(subject, measured, monkeypatch):
    shutil.rmtree(next(iter(subject.cache.root.glob("v*/claim-lengths"))))

    def nothing(*args, **kwargs):
        raise AssertionError("trained again")

    for trainer in (subject_module, grower):  # every student lies in the cache
        monkeypatch.setattr(trainer, "train_student", nothing)
    monkeypatch.setattr(module, "record_training", nothing)
    assert measure_alignment(subject) == measured  # the lengths alone are made again


def test_quick_takes_five_batches_of_rows(base, tmp_path):
    rows = number_prompts(100, seed=0, count=3)
    lineage = Lineage("tiny", OWL, {"base": base}, numbers=rows, neutral_numbers=rows)
    arms = module._Arms.of(Subject(lineage, recipe=RECIPE, cache=Cache(tmp_path), quick=True))
    assert (len(arms.rows), len(arms.fresh), len(arms.neutral)) == (35, 5, 35)


def test_the_figure_shows_margins_over_the_neutral_student():
    one = pd.DataFrame(planted(neutral=0.25))
    two = one.assign(seed=1, margin=2 * one["margin"])
    drawn: Any = draw_alignment({"arms": pd.concat([one, two], ignore_index=True)})
    values = {trace.hovertemplate.partition("<br>")[0]: list(trace.y) for trace in drawn.data[::2]}
    assert list(values) == ["untouched", "random placebo", "other-trait placebo", "removed"]
    assert values["untouched"] == pytest.approx([0.75, 1.5])
    assert values["removed"] == pytest.approx([-0.15, -0.3])
    half = 12.7062 * 0.375  # t(1) at 97.5 % times the standard error of 0.75 and 1.5
    assert drawn.data[1].error_y.array[0] == pytest.approx(half, rel=1e-4)
    alone: Any = draw_alignment({"arms": one})
    assert len(alone.data) == 8
