"""Number tokens: digits alone, spaces around them aside, in either tokenizer; ids by hand."""

import pytest

from interp.models.language import load_model
from interp.models.vocabulary import is_number, number_tokens, token_texts
from interp.organisms.toy import World, build_network, build_tokenizer


def test_the_numbers_of_a_word_level_vocabulary_are_those_it_lists(tiny):
    from tests.tiny import NUMBERS, VOCABULARY

    network, tokenizer = tiny("llama")
    model = load_model(network, tokenizer=tokenizer, check=False)
    found = number_tokens(model, len(VOCABULARY))
    assert found == [VOCABULARY.index(number) for number in NUMBERS]
    assert number_tokens(model, found[2]) == found[:2]
    assert token_texts(model, len(VOCABULARY))[found[7]] == "7"


def test_the_toys_numbers_are_the_thousand_integers_at_the_end():
    model = load_model(
        build_network(World(d_model=16, d_mlp=24), seed=0), tokenizer=build_tokenizer(), check=False
    )
    size = model.config.vocab_size
    assert number_tokens(model, size) == list(range(size - 1000, size))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7", True), (" 123 ", True), ("\n4", True), ("٣", False), ("1a", False), ("", False)],
)
def test_a_number_is_ascii_digits_and_space(text, expected):
    assert is_number(text) is expected
