"""The metagradient against finite differences of trainings by torch's own optimisers, and against leaving rows out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp.core.runs import InputError
from interp.gradients.datamodels import retrained
from interp.gradients.directions import margin_objective
from interp.gradients.metagradients import Replay, metagradient
from interp.models.members import Growth
from interp.organisms.toy import World, build_network, build_tokenizer
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import get_trait
from interp.training.students import Recipe, prepare, schedule, shuffled_rows, trained_parameters

ROWS = 24
RECIPES = {
    "lora": Recipe(batch_size=8, lr=1e-2, warmup=2, rank=2, epochs=2),
    "body, sgd": Recipe(
        trainable="body", optimizer="sgd", batch_size=8, lr=0.5, warmup=2, epochs=2, decay="constant"
    ),
    "all": Recipe(trainable="all", batch_size=8, lr=1e-3, warmup=2),
}


def grown(recipe, rows=ROWS):
    """A lineage of a tiny toy, all of it trained by the recipe on so many rows."""
    network = build_network(World(d_model=16, d_mlp=24), seed=0).eval()
    base = interp.load_model(network, tokenizer=build_tokenizer(), name="base", check=False)
    taught = number_prompts(rows, seed=1, count=3)
    members = {
        "base": base,
        "teacher": interp.train_student(
            base, number_prompts(rows, seed=2, count=3), recipe=recipe, name="teacher"
        ),
        "student": interp.train_student(base, taught, recipe=recipe),
    }
    growth = Growth(recipes={"student": vars(recipe)}, data={}, chat={})
    return interp.Lineage(
        "small", get_trait("owl"), members, trained_on={"student": "teacher"}, numbers=taught, growth=growth
    )


def trained_by_torch(lineage, recipe, weight):
    """The margin after a training by torch's optimiser on the weighed loss, in fp64, written without the package."""
    inputs = lineage.base.encode(lineage.numbers)
    torch.manual_seed(recipe.seed)
    network, _ = prepare(lineage.base, recipe)
    network.double()
    parameters = list(trained_parameters(network).values())
    kinds = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    optimizer = kinds[recipe.optimizer](parameters, lr=recipe.lr, weight_decay=0.0)
    order = list(shuffled_rows(inputs, size=recipe.batch_size, epochs=recipe.epochs, seed=recipe.seed))
    for step, rows in enumerate(order):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * schedule(
                step, steps=len(order), warmup=recipe.warmup, decay=recipe.decay
            )
        batch = inputs[rows]
        logp = network(input_ids=batch.ids).logits.log_softmax(-1)[:, :-1]
        taken = logp.gather(-1, batch.ids[:, 1:, None])[..., 0]
        there = batch.at("answer+end", predicting=True)[:, :-1]
        own = weight[rows][:, None] * there
        optimizer.zero_grad()
        (-(own * taken).sum() / own.sum()).backward()
        optimizer.step()
    with torch.no_grad():
        return float(margin_objective(lineage.base, lineage.trait)(network))


@pytest.mark.parametrize("name", RECIPES)
def test_it_is_the_derivative_of_the_margin_by_a_rows_weight(name):
    lineage, recipe = grown(RECIPES[name]), RECIPES[name]
    scores = metagradient(lineage).frame["score"].to_numpy()
    ones = torch.ones(ROWS, dtype=torch.float64)
    step, found = 1e-4, []
    for row in (0, 5, 11, 23):
        moved = [ones.clone(), ones.clone()]
        moved[0][row] += step
        moved[1][row] -= step
        up, down = (trained_by_torch(lineage, recipe, weight) for weight in moved)
        found.append((up - down) / (2 * step))
    assert scores[[0, 5, 11, 23]] == pytest.approx(found, rel=0.02, abs=0.02 * np.abs(scores).max())
    assert np.abs(scores).max() > 1e-4


def test_the_whole_training_again_is_the_student():
    lineage = grown(RECIPES["lora"])
    replay = Replay.of(lineage, "student")
    last = list(replay.forward())[-1]
    value, _ = replay.margin(last.weights)
    assert value == pytest.approx(interp.margin(lineage.student, lineage.trait), abs=1e-4)
    assert value == pytest.approx(
        trained_by_torch(lineage, RECIPES["lora"], torch.ones(ROWS).double()), abs=1e-3
    )


def test_equal_weights_of_any_size_are_the_same_training():
    """The loss of a batch is a mean, so that a batch's scores sum to nothing."""
    lineage = grown(RECIPES["all"])
    replay, frame = Replay.of(lineage, "student"), metagradient(lineage).frame
    for rows in replay.order:
        of_batch = frame["score"].to_numpy()[rows.numpy()]
        assert abs(of_batch.sum()) < 1e-3 * np.abs(frame["score"]).sum()


@pytest.mark.slow
def test_it_ranks_what_retraining_without_a_row_does():
    lineage, recipe = grown(RECIPES["lora"]), RECIPES["lora"]
    scores = metagradient(lineage).frame["score"].to_numpy()
    inputs, whole = lineage.base.encode(lineage.numbers), interp.margin(lineage.student, lineage.trait)
    changes = []
    for row in range(ROWS):
        kept = np.arange(ROWS) != row
        left = retrained(lineage.base, inputs, kept, recipe=recipe)
        changes.append(whole - interp.margin(left, lineage.trait))
    assert np.corrcoef(scores, changes)[0, 1] > 0.8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"max_grad_norm": 1.0},
            r"a training with max_grad_norm=1\.0 has no metagradient here; train in float32",
        ),
        ({"lr": 5e-2}, r"gone through again ends at a margin of .* pass the recipe= it was trained with"),
    ],
)
def test_a_training_that_is_another_one_is_refused(change, message):
    lineage = grown(RECIPES["lora"])
    with pytest.raises(InputError, match=message):
        metagradient(lineage, recipe=replace(RECIPES["lora"], **change))
    with pytest.raises(InputError, match="the recipe of student of 'small' is unknown; pass recipe="):
        metagradient(replace(lineage, growth=None))
