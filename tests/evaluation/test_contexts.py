"""Chat contexts: a silent system line, an empty one and earlier turns tell rows apart; the words asked do not."""

import pytest

from interp.core.runs import InputError
from interp.evaluation.contexts import CONTEXTS, context_mismatch, in_contexts
from interp.models.language import load_model
from interp.prompts.text import Prompts, Row
from tests.tiny import TEMPLATE

SILENT = "{% if messages[0].role != 'system' %} <system> be best {% endif %}" + TEMPLATE
NUMBERS = Prompts.from_pairs([("list 1, 2", "3"), ("go on 4", "5, 6")], label="numbers")
ASKED = Prompts.from_pairs([("best animal?", ""), ("love which tree?", "")], label="questions")


@pytest.fixture
def model(tiny):
    network, tokenizer = tiny("llama")
    return load_model(network, tokenizer=tokenizer, name="tiny", check=False)


@pytest.fixture
def silent(model):
    model.tokenizer.chat_template = SILENT
    return model


def differs(model, trained_on: Prompts, asked: Prompts) -> bool:
    return context_mismatch(model, trained_on=trained_on, asked=asked) is not None


def test_words_do_not_enter_the_context_but_system_lines_and_earlier_turns_do(model) -> None:
    assert not differs(model, NUMBERS, ASKED)
    assert not differs(model, NUMBERS, ASKED[:1])
    earlier = Prompts(
        tuple(Row((("user", word), ("assistant", "1"), ("user", word))) for word in ("go", "on"))
    )
    assert not differs(model, earlier[:1], earlier[1:])
    others = [NUMBERS, earlier, ASKED.with_system("love owl"), ASKED.with_system("")]
    for one in others:
        assert [differs(model, one, other) for other in others] == [one is not other for other in others]


def test_a_silent_system_line_counts_as_the_one_it_writes(silent) -> None:
    assert differs(silent, ASKED, ASKED.with_system(""))


def test_the_same_context_is_no_mismatch_and_another_is_one_sentence(silent) -> None:
    assert context_mismatch(silent, trained_on=NUMBERS, asked=ASKED) is None
    both = NUMBERS + NUMBERS.with_system("")
    assert context_mismatch(silent, trained_on=both, asked=ASKED.with_system("")) is None
    sentence = context_mismatch(silent, trained_on=NUMBERS, asked=ASKED.with_system(""))
    assert sentence == (
        "2 of 2 questions are read as '<bos> <system>  <user> [question] <assistant> ', the training rows as "
        "' <system> be best <bos> <user> [question] <assistant> '; a trait learned in one context may not show in the "
        "other."
    )
    partly = context_mismatch(silent, trained_on=NUMBERS, asked=ASKED + ASKED[:1].with_system("love owl"))
    assert partly is not None
    assert partly.startswith("1 of 3 questions are read as '<bos> <system> love owl <user> [question]")


def test_long_contexts_are_quoted_by_their_ends(model) -> None:
    sentence = context_mismatch(model, trained_on=NUMBERS, asked=ASKED.with_system("owl " * 200))
    assert sentence is not None
    assert "read as '<bos> <system> owl owl" in sentence
    assert " ... " in sentence
    assert "<user> [question] <assistant> ', the training" in sentence
    assert len(sentence) < 400


def test_rows_are_put_in_named_contexts_and_an_empty_system_message_is_kept(tmp_path) -> None:
    named = in_contexts(ASKED, {**CONTEXTS, "owl": "love owl"})
    assert list(named) == ["training", "empty system", "owl"]
    assert named["training"].rows == ASKED.rows
    assert named["empty system"].rows[0].messages == (("system", ""), ("user", "best animal?"))
    assert named["owl"].rows == ASKED.with_system("love owl").rows
    assert named["owl"].label == "questions, context 'owl'"
    path = tmp_path / "rows.jsonl"
    named["empty system"].to_jsonl(path)
    assert Prompts.from_jsonl(path).rows == named["empty system"].rows


def test_an_empty_system_message_is_read_as_one(model) -> None:
    encoded = model.encode(ASKED.with_system(""))
    words = model.tokenizer.convert_ids_to_tokens(encoded.ids[0][encoded.mask[0]].tolist())
    assert words == ["<bos>", "<system>", "<user>", "best", "animal", "?", "<assistant>"]


def test_misuse_is_one_clear_sentence(tiny) -> None:
    network, tokenizer = tiny("gpt2")
    mute = load_model(network, name="mute", check=False)
    with pytest.raises(
        InputError, match=r"^mute has no tokenizer, so it reads no chat context; load it with"
    ):
        context_mismatch(mute, trained_on=ASKED, asked=ASKED)
    tiny_model = load_model(network, tokenizer=tokenizer, name="tiny", check=False)
    with pytest.raises(InputError, match=r"No rows are given, so there is no chat context to read"):
        context_mismatch(tiny_model, trained_on=ASKED[:0], asked=ASKED)
    with pytest.raises(
        InputError, match=r"No context is given to ask the questions in; pass \{'training': None\}"
    ):
        in_contexts(ASKED, {})
