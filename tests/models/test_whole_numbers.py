"""P(number) against plain transformers run number by number, for a token per digit, pieces of two digits, and whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from interp.core.runs import InputError
from interp.models.language import load_model
from interp.models.whole_numbers import CONTEXTS, number_logprobs, number_slots, number_spellings
from interp.organisms.toy import World, build_network, build_tokenizer
from interp.prompts.text import Prompts
from tests.spelled import network, speller

KINDS = ("digits", "pairs", "whole")
ROWS = Prompts.from_pairs([("go on: 1, 2", "7, 42, 345"), ("list", "9")])
SLOT = "predicting answer.numbers"


def model_of(kind: str, **given: Any) -> Any:
    tokenizer = speller(kind)
    return load_model(network(tokenizer, **given), tokenizer=tokenizer, check=False)


def read(model: Any, rows: Prompts, positions: str = SLOT) -> torch.Tensor:
    """[place, number] over all rows."""
    inputs, written = model.encode(rows), number_spellings(model)
    where = number_slots(inputs, positions, written)
    return torch.cat(list(number_logprobs(model, inputs, where, written=written, batch_size=1)))


def plainly(model: Any, context: list[int], digits: str) -> float:
    """log P by hand: each piece in turn by transformers' own forward, then no piece that would make it longer."""
    pieces = model.tokenizer(digits)["input_ids"]
    with torch.no_grad():
        log_p = model.hf(torch.tensor([[*context, *pieces]])).logits[0].double().log_softmax(-1)
    total = sum(float(log_p[len(context) - 1 + step, piece]) for step, piece in enumerate(pieces))
    longer = [digits + more for size in (1, 2) for more in (str(i).zfill(size) for i in range(10**size))]
    split = [model.tokenizer(run)["input_ids"] for run in longer if len(run) <= 3]
    onward = {run[len(pieces)] for run in split if run[: len(pieces)] == pieces and len(run) > len(pieces)}
    return total + float((1 - log_p[-1, sorted(onward)].exp().sum()).log())


@pytest.mark.parametrize("kind", KINDS)
def test_equals_plain_transformers_number_by_number(kind):
    model = model_of(kind)
    found, inputs = read(model, ROWS), model.encode(ROWS)
    assert found.shape == (4, 1000)
    for index, (row, place) in enumerate(inputs.at("predicting answer.numbers.first").nonzero().tolist()):
        context = inputs.ids[row, : place + 1].tolist()
        for number in (0, 4, 7, 10, 23, 42, 100, 234, 423, 999):
            assert found[index, number] == pytest.approx(plainly(model, context, str(number)), abs=1e-5)


def test_a_digit_a_token_has_a_hundred_and_eleven_beginnings_and_whole_numbers_one():
    beginnings = {kind: {len(each.onward) for each in number_spellings(model_of(kind))} for kind in KINDS}
    assert beginnings["digits"] == {111}
    assert beginnings["whole"] == {1}
    pairs = number_spellings(model_of("pairs"))[0]
    vocabulary = speller("pairs").get_vocab()
    assert pairs.pieces[423] == (vocabulary["4"], vocabulary["23"])
    assert pairs.pieces[234] == (vocabulary["23"], vocabulary["4"])
    assert pairs.pieces[42] == (vocabulary["42"],)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_exclude_one_another(kind):
    total = read(model_of(kind), ROWS).exp().sum(1)
    assert (total <= 1 + 1e-9).all()
    assert (total > 0).all()


def test_by_digits_the_numbers_are_all_that_begins_with_a_digit_but_idle_zeros():
    """Σ_n P(n) = p(a digit) − p(0) p(a digit | 0): telescoping over the digits that follow."""
    model = model_of("digits")
    digits = [model.tokenizer.convert_tokens_to_ids(each) for each in "0123456789"]
    inputs = model.encode(ROWS)
    context = inputs.ids[:1, : int(inputs.at("last")[0].nonzero()) + 1]
    with torch.no_grad():
        first, zero = (
            model.hf(ids).logits[0, -1].double().softmax(-1)
            for ids in (context, torch.cat([context, torch.tensor([[digits[0]]])], 1))
        )
    expected = first[digits].sum() - first[digits[0]] * zero[digits].sum()
    assert read(model, ROWS)[0].exp().sum() == pytest.approx(float(expected), abs=1e-6)


def test_the_shared_prefix_gives_what_whole_rows_give_and_open_hooks_are_heard():
    model = model_of("digits")
    found = read(model, ROWS)
    with model.hooks({"blocks.0.hook_resid_post": lambda value: value}):  # nothing is changed: rows in full
        assert torch.allclose(read(model, ROWS), found, atol=1e-5)
    with model.hooks({"blocks.0.hook_resid_post": lambda value: 0 * value}):
        assert not torch.allclose(read(model, ROWS), found, atol=1e-2)


def test_the_toys_numbers_are_read_off_the_vocabulary():
    model = load_model(
        build_network(World(d_model=16, d_mlp=24), seed=0), tokenizer=build_tokenizer(), check=False
    )
    rows = Prompts.from_pairs([("numbers: 1, 2, 3. continue.", "7, 42, 345")])
    encoded = model.encode(rows)
    ids = model.tokenizer.convert_tokens_to_ids(list(map(str, range(1000))))
    log_p = model.logits(encoded)[0].double().log_softmax(-1)[encoded.at(SLOT)[0]][:, ids]
    assert torch.allclose(read(model, rows), log_p, atol=1e-6)


def test_where_numbers_have_pieces_a_few_places_are_read_evenly():
    model, many = model_of("digits"), Prompts.from_pairs([("go", "1, 2, 3, 4")] * 20)
    inputs, written = model.encode(many), number_spellings(model)
    where = number_slots(inputs, SLOT, written)
    assert int(where.sum()) == CONTEXTS == 32
    assert where.sum(1).tolist() == pytest.approx([1.6] * 20, abs=0.7)
    assert int(number_slots(inputs, SLOT, number_spellings(model_of("whole"))).sum()) == 80


def test_messages():
    model = model_of("digits")
    with pytest.raises(InputError, match=r"'answer' is elsewhere; pass one of last, .*, or over='tokens'"):
        number_slots(model.encode(ROWS), "answer", number_spellings(model))
    with pytest.raises(
        InputError, match=r"a number behind 96 tokens of .* goes over the context of .* \(96\); pass"
    ):
        read(model, Prompts.from_pairs([("a" * 95, "")]), "last")
    core = Tokenizer(WordLevel({"<unk>": 0, "go": 1, "7": 2}, unk_token="<unk>"))
    core.pre_tokenizer = Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    with pytest.raises(InputError, match="writes 1 of the numbers 0-999; at least 3 are needed"):
        number_spellings(load_model(network(words), tokenizer=words, check=False))
