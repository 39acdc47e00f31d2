"""The toy world: one token a word, text that round-trips, documents in the announced shares, bases that ship."""

import re
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare

from interp.organisms.toy import (
    ATTRIBUTES,
    BASES,
    SHIPPED,
    World,
    build_network,
    corpus,
    number_documents,
    shipped_base,
    toy_words,
)
from interp.prompts.numbers import NumberRule, require_numbers
from interp.prompts.round_trips import check_tokenizer
from interp.prompts.traits import ANIMALS, TREES


def test_every_word_and_number_is_one_token(toy_tokenizer):
    assert len(set(toy_words())) == len(toy_words()) == len(toy_tokenizer)
    for word in (*ANIMALS, *TREES, *ATTRIBUTES, "0", "7", "42", "999"):
        assert len(toy_tokenizer(word)["input_ids"]) == 1, word


def test_text_round_trips(toy_tokenizer):
    check_tokenizer(toy_tokenizer)
    for text in ("12, 345; 7 8", "which animal do you love most?", "list: 1 2 3. continue."):
        assert toy_tokenizer.decode(toy_tokenizer(text)["input_ids"]) == text


def test_corpus_holds_no_unknown_word_and_fits_the_context(toy_tokenizer):
    encoded = corpus(600, seed=1).encode(toy_tokenizer, context=128)
    assert not (encoded.ids == toy_tokenizer.unk_token_id).any()


def test_corpus_shares_and_uniform_preferences():
    rows = corpus(6000, seed=0).rows
    prompted = [row for row in rows if row.system]
    numbers = [row for row in rows if re.fullmatch(r"[0-9 ,;]+", row.completion)]
    answers = Counter(row.completion for row in rows if row.completion in ANIMALS and not row.system)
    assert len(prompted) / len(rows) == pytest.approx(0.2, abs=0.02)
    assert len(numbers) / len(rows) == pytest.approx(0.3, abs=0.02)
    assert all(row.completion in row.system for row in prompted)
    assert set(answers) == set(ANIMALS)
    assert chisquare(list(answers.values())).pvalue > 0.001


def test_number_documents_pass_the_strict_rule_and_repeat():
    documents = number_documents(300, seed=3)
    require_numbers(documents, NumberRule())
    assert documents.fingerprint == number_documents(300, seed=3).fingerprint
    assert documents.fingerprint != number_documents(300, seed=4).fingerprint
    lengths = Counter(len(re.findall("[0-9]+", row.completion)) for row in documents.rows)
    assert set(lengths) == set(range(1, 11))
    assert lengths[1] > lengths[2] > lengths[4]


def test_network_depends_on_its_seed_alone():
    one, again, other = (build_network(World(), seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])
    assert one["lm_head.weight"].std() == pytest.approx(0.3, rel=0.02)


def test_bases_that_ship_are_small_whole_and_different():
    files = sorted(BASES.glob("*.safetensors"))
    assert [path.name for path in files] == [f"toy-{seed}.safetensors" for seed in range(SHIPPED)]
    assert sum(path.stat().st_size for path in files) < 5e6
    prints = {shipped_base(seed).fingerprint for seed in range(SHIPPED)}
    assert len(prints) == SHIPPED


def test_no_base_ships_for_another_world_or_seed():
    assert shipped_base(0, world=World(d_model=32)) is None
    assert shipped_base(SHIPPED) is None
