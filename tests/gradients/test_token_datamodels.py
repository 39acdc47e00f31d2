"""Scores of tokens judged by retraining: on hand-made students, and the trainings against train_student and torch."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp.core.runs import InputError
from interp.gradients.token_datamodels import TokenTraining, token_datamodeling_score
from interp.training.students import Recipe, prepare, schedule, shuffled_rows, trained_parameters
from tests.gradients.test_judging import any_gain
from tests.gradients.test_metagradients import grown

RECIPE = Recipe(trainable="body", optimizer="sgd", batch_size=8, lr=0.5, warmup=2, epochs=2, decay="constant")
ROWS = 24


@pytest.fixture(scope="module")
def lineage():
    return grown(RECIPE)


@pytest.fixture(scope="module")
def training(lineage):
    return TokenTraining.of(lineage, "student")


@pytest.fixture
def made_up(monkeypatch, training):
    """Students whose margin is the sum of what the kept tokens are worth."""
    worth = np.random.default_rng(0).normal(size=training.tokens)
    monkeypatch.setattr(TokenTraining, "margin", lambda _, kept: float(kept @ worth))
    any_gain(monkeypatch)
    return worth


def test_the_student_of_all_tokens_is_the_student_to_the_same_bits(lineage, training):
    again = training.student(np.ones(training.tokens, dtype=bool))
    assert again.fingerprint == lineage.student.fingerprint


def test_rows_without_an_answer_are_in_no_batch_as_in_the_students_training(lineage):
    """`train_student` leaves them out before it deals rows to batches."""
    unanswered = interp.Prompts.from_pairs([("numbers: 1", "")]).rows
    rows = interp.Prompts((*unanswered, *lineage.numbers.rows[:11], *unanswered, *lineage.numbers.rows[11:]))
    members = {**lineage.members, "student": interp.train_student(lineage.base, rows, recipe=RECIPE)}
    training = TokenTraining.of(replace(lineage, members=members, numbers=rows), "student")
    again = training.student(np.ones(training.tokens, dtype=bool))
    assert again.fingerprint == members["student"].fingerprint


@pytest.mark.parametrize("parts", [1, 2])
def test_a_token_that_is_left_out_teaches_nothing(lineage, parts):
    """Against torch's own gradient descent on the loss of the tokens that are kept, the batch in parts or whole."""
    training = TokenTraining.of(lineage, "student", replace(RECIPE, accumulate=parts))
    kept = np.random.default_rng(1).random(training.tokens) < 0.5
    inputs, start = training.inputs, lineage.base
    weight = torch.zeros(inputs.ids.shape)
    rows, places = inputs.at("answer+end").nonzero().unbind(1)
    weight[rows, places] = torch.from_numpy(kept).float()
    torch.manual_seed(RECIPE.seed)
    network, _ = prepare(start, RECIPE)
    parameters = trained_parameters(network)
    optimizer = torch.optim.SGD(list(parameters.values()), lr=RECIPE.lr)
    order = list(shuffled_rows(inputs, size=RECIPE.batch_size, epochs=RECIPE.epochs, seed=RECIPE.seed))
    for step, chosen in enumerate(order):
        rate = schedule(step, steps=len(order), warmup=RECIPE.warmup, decay=RECIPE.decay)
        optimizer.param_groups[0]["lr"] = RECIPE.lr * rate
        ids, own = inputs.ids[chosen], weight[chosen][:, 1:]
        logp = network(input_ids=ids, attention_mask=inputs.mask[chosen].long()).logits.log_softmax(-1)
        taken = logp[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
        optimizer.zero_grad()
        (-(own * taken).sum() / own.sum()).backward()
        optimizer.step()
    student, moved = training.student(kept).parameters(), 0.0
    for name, value in network.state_dict().items():
        assert torch.allclose(student[name], value, atol=1e-5), name
        moved = max(moved, float((value - start.parameters()[name]).abs().max()))
    assert moved > 1e-2


def test_scores_that_add_up_to_the_margin_are_perfect(lineage, made_up):
    noise = np.random.default_rng(3).normal(size=len(made_up))
    scores = {"worth": made_up, "against": -made_up, "noise": noise}
    found = token_datamodeling_score(lineage, scores, subsets=32)
    rho = found.frame.set_index("scores")["rho"]
    assert rho["worth"] == pytest.approx(1)
    assert rho["against"] == pytest.approx(-1)
    assert abs(rho["noise"]) < 0.6
    assert f"around the {made_up.sum():+.2f} of all tokens' student" in found.notes[0]
    assert np.isnan(found.draws_agree)
    assert "worth ρ = +1.00, the largest" in repr(found)
    assert list(found.figure().data[0].y) == found.frame.sort_values("rho")["scores"].tolist()
    assert set(found.kept.sum(1)) == {round(0.5 * len(made_up))}
    assert "of 50% of" in found.notes[0]


def test_without_the_tokens_of_the_tails(lineage, made_up):
    """A tenth at either end: what the margin loses is what those tokens were worth."""
    scores = {"worth": made_up, "against": -made_up}
    found = token_datamodeling_score(lineage, scores, subsets=8).frame.set_index("scores")
    tenth, ordered = round(0.1 * len(made_up)), np.sort(made_up)
    highest, lowest = ordered[-tenth:].sum(), ordered[:tenth].sum()
    assert found.loc["worth", ["without_top", "without_bottom"]].tolist() == pytest.approx(
        [-highest, -lowest]
    )
    assert found.loc["against", ["without_top", "without_bottom"]].tolist() == pytest.approx(
        [-lowest, -highest]
    )


def test_scores_by_token_are_in_the_order_of_the_tokens(lineage, training, made_up):
    toward = interp.trait_gradient(lineage.base, lineage.trait)
    scores = interp.score(lineage.base, lineage.numbers, toward, by=["example", "token"])
    frame = scores.frame
    rows, places = training.inputs.at("answer+end").nonzero().unbind(1)
    assert (frame["row"].to_numpy() == rows.numpy()).all()
    assert (frame["token"].to_numpy() == places.numpy()).all()
    by_hand = {"by hand": frame["score"].to_numpy()}
    ours, theirs = (token_datamodeling_score(lineage, each, subsets=16).frame for each in (scores, by_hand))
    assert ours["rho"].tolist() == theirs["rho"].tolist()


def test_a_students_margin_is_remembered(training, monkeypatch, tmp_path):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path))
    kept = np.arange(training.tokens) % 2 == 0
    value = training.margin(kept)
    monkeypatch.setattr(TokenTraining, "student", None)
    assert training.margin(kept) == value


def test_what_cannot_be_judged_is_refused(lineage, training, made_up):
    n = training.tokens
    short, gap = {"few": np.ones(n - 1)}, {"gap": np.where(np.arange(n) == 2, np.nan, 1.0)}
    toward = interp.trait_gradient(lineage.base, lineage.trait)
    whole = interp.score(lineage.base, lineage.numbers, toward)
    other = interp.score(lineage.base, lineage.numbers[:4], toward, by=["example", "token"])
    refusals = (
        (short, f"'few' scores {n - 1} tokens, and the answers that student was trained on have {n}, ends counted;"),
        (gap, "'gap' scores token 3 with nan; give every token a finite score"),
        ({}, "no scores to judge; pass Scores by token"),
        (whole, "scores by example; score with by=['example', 'token']"),
        (other, "scores other rows than student was trained on"),
    )  # fmt: skip
    for scores, said in refusals:
        with pytest.raises(InputError, match=re.escape(said)):
            token_datamodeling_score(lineage, scores)
    with pytest.raises(InputError, match=re.escape("4 subsets of 0.5 of the tokens; pass at least 8")):
        token_datamodeling_score(lineage, {"worth": made_up}, subsets=4)
