"""Number tokens: digits alone, spaces around them aside, in either tokenizer; ids by hand."""

import pytest

from interp.models.language import load_model
from interp.models.vocabulary import is_number, number_tokens, token_texts
from interp.organisms.toy import World, build_network, build_tokenizer
from tests.spelled import network, speller


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


def test_rows_of_the_matrix_beyond_the_tokenizer_are_named_by_their_index():
    """Checkpoints are padded to rounder sizes; an entry that decodes to nothing has its name in the vocabulary."""
    tokenizer = speller("digits")
    model = load_model(network(tokenizer, rows=3), tokenizer=tokenizer, check=False)
    size = model.unembedding().W_U.shape[1]
    texts = token_texts(model, size)
    assert texts[-4:] == [
        tokenizer.convert_ids_to_tokens(size - 4),
        *(f"<#{size - back}>" for back in (3, 2, 1)),
    ]
    assert texts[:3] == ["<unk>", "<bos>", "<eos>"]
    assert all(texts)
    assert number_tokens(model, size) == tokenizer.convert_tokens_to_ids(list("0123456789"))
