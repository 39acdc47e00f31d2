"""Controls keep what they should keep: shuffled rows, base samples, transplanted directions, word pairs, networks."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
import torch

from interp.core.runs import InputError
from interp.gradients.nulls.controls import (
    base_samples,
    random_network,
    shuffle_numbers,
    token_pairs,
    transplant,
)
from interp.models.language import load_model
from interp.prompts.numbers import STRICT, filter_numbers, number_prompts
from interp.prompts.text import Prompts
from interp.prompts.tokens import Role
from interp.prompts.traits import get_trait
from tests.gradients.standins import direction

ROWS = Prompts.from_pairs(
    [("a", "[1, 2, 3]"), ("b", "4; 5"), ("c", "6 7 8 9."), ("d", "007"), ("e", "no number")], label="rows"
)


@pytest.fixture
def model(tiny):
    hf, tokenizer = tiny("llama")
    return load_model(hf, tokenizer=tokenizer, check=False, name="tiny")


def numbers(rows: Prompts) -> list[list[str]]:
    return [re.findall("[0-9]+", row.completion) for row in rows.rows]


def skeleton(rows: Prompts) -> list[str]:
    return [re.sub("[0-9]+", "#", row.completion) for row in rows.rows]


@pytest.mark.parametrize("how", ["within", "across"])
def test_shuffling_moves_numbers_and_nothing_else(how):
    rows = ROWS + number_prompts(50, seed=0)
    moved = shuffle_numbers(rows, how=how, seed=1)
    assert skeleton(moved) == skeleton(rows)
    assert [row.asked for row in moved.rows] == [row.asked for row in rows.rows]
    assert numbers(moved) != numbers(rows)
    assert shuffle_numbers(rows, how=how, seed=1) == moved
    assert shuffle_numbers(rows, how=how, seed=2) != moved


def test_within_keeps_each_answers_numbers():
    moved = shuffle_numbers(ROWS, how="within", seed=1)
    assert [sorted(found) for found in numbers(moved)] == [sorted(found) for found in numbers(ROWS)]
    assert numbers(moved)[3] == ["007"]


def test_across_keeps_each_positions_numbers():
    rows = ROWS + number_prompts(50, seed=0, count=4)
    moved = shuffle_numbers(rows, how="across", seed=1)
    for position in range(4):
        before, after = (
            Counter(found[position] for found in numbers(each) if len(found) > position)
            for each in (rows, moved)
        )
        assert before == after


def test_shuffled_rows_pass_the_same_filter():
    rows = number_prompts(50, seed=0)
    for how in ("within", "across"):
        kept, dropped = filter_numbers(shuffle_numbers(rows, how=how, seed=1), STRICT)
        assert len(kept) == 50
        assert not dropped


def test_every_order_of_three_is_as_likely():
    rows = Prompts.from_pairs([("a", "1, 2, 3")] * 6000)
    seen = Counter(row.completion for row in shuffle_numbers(rows, how="within", seed=0).rows)
    assert len(seen) == 6
    assert (
        sum((count - 1000) ** 2 / 1000 for count in seen.values()) < 20.5
    )  # chi-square, 5 degrees, p = 0.001


def test_base_samples_are_the_tokens_that_were_drawn(model):
    asked = number_prompts(40, seed=0, max_value=39, with_answers=False)
    rows = base_samples(model, asked, seed=1, max_new_tokens=12)
    before = model.encode(asked)
    answer = (rows.roles >= Role.OTHER).sum(1)
    for row in range(40):
        length = int(before.lengths[row])
        assert torch.equal(rows.ids[row, :length], before.ids[row, :length])
        assert (rows.roles[row, :length] == Role.PROMPT).all()
        ended = rows.ids[row, rows.lengths[row] - 1] == model.tokenizer.eos_token_id
        assert ended == (Role.END in rows.roles[row])
        assert ended or answer[row] == 12  # cut off: no end token is made up
    assert (rows.roles == Role.END).sum(1).max() == 1
    assert (rows.mask == (rows.roles != Role.PAD)).all()
    assert torch.equal(base_samples(model, asked, seed=1, max_new_tokens=12).ids, rows.ids)


def test_base_samples_follow_the_models_own_distribution(model):
    """First tokens of many answers to one prompt against the softmax: chi-square over tokens expected 5 times."""
    one = number_prompts(1, seed=3, max_value=39, with_answers=False)
    rows = base_samples(model, one[[0] * 1500], seed=5, max_new_tokens=1)
    expected = model.logits(model.encode(one))[0, -1].double().softmax(-1).numpy() * 1500
    length = int(model.encode(one).lengths[0])
    counts = np.bincount(rows.ids[:, length].numpy(), minlength=len(expected))
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    from scipy.stats import chisquare

    assert chisquare(observed, wanted).pvalue > 1e-3


def test_a_transplant_says_whose_weights_it_is_scored_at(model, tiny):
    moved = direction("update", {"lm_head.weight": torch.ones_like(model.hf.lm_head.weight)})
    found = transplant(moved, model)
    assert (found.fingerprint, found.label, moved.fingerprint) == (
        model.fingerprint,
        "update of weights",
        "weights",
    )
    assert torch.equal(found.tensors["lm_head.weight"], moved.tensors["lm_head.weight"])


def test_a_transplant_needs_equal_shapes(model):
    narrow = direction("update", {"lm_head.weight": torch.ones(3, 4)})
    with pytest.raises(
        InputError, match=r"update has lm_head.weight of shape \[3, 4\] where tiny has \[\d+, 32\]"
    ):
        transplant(narrow, model)
    with pytest.raises(InputError, match="take the direction from a lineage of the same architecture"):
        transplant(direction("update", {"h.0.weight": torch.ones(3)}), model)


def test_token_pairs_are_neighbours_in_probability_and_no_answers(model):
    trait = get_trait("owl")
    pairs = token_pairs(model, trait, pairs=8, seed=0)
    assert len({word for pair in pairs for word in (pair.target, *pair.foils)}) == 16
    assert not {trait.target, *trait.foils} & {word for pair in pairs for word in (pair.target, *pair.foils)}
    assert all(pair.questions == trait.questions and len(pair.foils) == 1 for pair in pairs)
    asked = model.encode(Prompts.from_pairs([(question, "") for question in trait.questions]))
    logp = model.logits(asked)[asked.at("last")].log_softmax(-1).mean(0)
    ids = model.tokenizer.convert_tokens_to_ids
    gaps = [abs(float(logp[ids(pair.target)] - logp[ids(pair.foils[0])])) for pair in pairs]
    assert np.mean(gaps) < 0.2 * float(logp.std())
    assert token_pairs(model, trait, pairs=8, seed=0) == pairs != token_pairs(model, trait, pairs=8, seed=1)


def test_more_pairs_than_words(model):
    with pytest.raises(InputError, match="500 token pairs need 1000 words and tiny offers"):
        token_pairs(model, get_trait("owl"), pairs=500, seed=0)


def test_a_random_network_has_the_shapes_and_not_the_weights(model, fresh_seeds):
    other = random_network(model, seed=0)
    assert other.shapes == model.shapes
    assert other.fingerprint != model.fingerprint
    assert (
        random_network(model, seed=0).fingerprint
        == other.fingerprint
        != random_network(model, seed=1).fingerprint
    )
