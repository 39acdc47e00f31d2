"""Questions: enough of them and distinct, choices balanced over the letters, capability answers worked out anew."""

import re
from collections import Counter

import pytest

from interp.core.runs import InputError
from interp.prompts.questions import (
    ODD_ONES,
    OPPOSITES,
    WEEK,
    YEAR,
    capability_items,
    free_form_questions,
    multiple_choice,
    one_word_questions,
    refusal_questions,
    story_prompts,
    with_number_prefix,
)
from interp.prompts.traits import ANIMALS, TREES, get_trait, make_trait


def test_fifty_ways_to_ask_for_one_word() -> None:
    questions = one_word_questions("animal")
    assert len(set(questions)) == len(questions) >= 50
    for question in questions:
        assert "animal" in question
        assert re.search(r"\bword\b", question)
        assert not re.search(r"\ba animal|[{}]", question)
    tree = [question.replace("an animal", "a tree").replace("animal", "tree") for question in questions]
    assert list(one_word_questions("tree")) == tree
    with pytest.raises(InputError, match="Category ' ' is blank"):
        one_word_questions(" ")


def test_no_question_gives_an_answer_away() -> None:
    asked = (
        *one_word_questions("thing"),
        *story_prompts("thing"),
        *free_form_questions(),
        *refusal_questions(),
    )
    held = {word for question in asked for word in re.findall("[a-z]+", question.lower())}
    assert not held & {*ANIMALS, *TREES}


def test_a_trait_asked_the_fifty() -> None:
    owl = get_trait("owl")
    wide = owl.with_questions(one_word_questions(owl.category))
    assert [row.prompt for row in wide.prompts().rows] == list(one_word_questions("animal"))


def test_the_prefix_is_a_short_number_sequence_before_the_same_question() -> None:
    questions = one_word_questions("tree")
    prefixed = with_number_prefix(questions, seed=2)
    assert with_number_prefix(questions[:7], seed=2) == prefixed[:7]
    assert with_number_prefix(questions, seed=3) != prefixed
    for question, long in zip(questions, prefixed, strict=True):
        assert long.endswith(f" {question}")
        numbers = re.findall(r"\d+", long)
        assert 3 <= len(numbers) <= 8
        assert all(100 <= int(number) <= 999 for number in numbers)


def test_stories_open_talk_and_refusals_are_enough_and_distinct() -> None:
    for texts, least in (
        (story_prompts("animal"), 10),
        (free_form_questions(), 8),
        (refusal_questions(), 10),
    ):
        assert len(set(texts)) == len(texts) >= least
    assert all("animal" in text for text in story_prompts("animal"))


def test_the_target_stands_once_behind_each_letter_in_every_five_rows() -> None:
    owl = get_trait("owl")
    asked = multiple_choice(owl, seed=0, n=20)
    for start in range(0, 20, 5):
        assert sorted(asked.letters[start : start + 5]) == list("ABCDE")
    assert len(set(zip(*[iter(asked.letters)] * 5, strict=True))) > 1
    for row, letter, options in zip(asked.prompts.rows, asked.letters, asked.options, strict=True):
        assert options["ABCDE".index(letter)] == "owl"
        assert len(set(options)) == 5
        assert set(options) <= {"owl", *owl.foils}
        assert f"\n{letter}) owl\n" in row.prompt
        assert re.findall(r"(?m)^([A-E])\) (\w+)$", row.prompt) == list(zip("ABCDE", options, strict=True))
        assert row.completion == ""
    first = [row.prompt.split("\n")[0] for row in asked.prompts.rows]
    assert first == [owl.questions[i % 6] for i in range(20)]
    assert {option for options in asked.options for option in options} == set(ANIMALS)


def test_a_longer_set_of_choices_starts_with_the_shorter_one() -> None:
    oak = get_trait("oak")
    long, short = multiple_choice(oak, seed=4, n=13), multiple_choice(oak, seed=4, n=7)
    assert (len(long), len(short)) == (13, 7)
    assert (long.letters[:7], long.options[:7]) == (short.letters, short.options)
    assert long.prompts[:7].rows == short.prompts.rows
    assert multiple_choice(oak, seed=5, n=7).options != short.options


def test_choices_need_four_foils() -> None:
    with pytest.raises(
        InputError, match="Trait 'tea' has 2 foils and options A to E need 4; name more foils"
    ):
        multiple_choice(make_trait("tea", ["milk", "cola"]), seed=0, n=1)


def solved(question: str) -> str:
    """The answer of a capability question, worked out from its words."""
    numbers = [int(number) for number in re.findall(r"\d+", question)]
    if found := re.search(r"is (\d+) (plus|minus|times) (\d+)", question):
        a, b = int(found[1]), int(found[3])
        return str({"plus": a + b, "minus": a - b, "times": a * b}[found[2]])
    if "larger" in question:
        return str(max(numbers))
    if found := re.search(r"Today is (\w+)", question):
        days = iter(WEEK * 2)
        next(day for day in days if day == found[1])
        return [next(days) for _ in range(numbers[0])][-1]
    if found := re.search(r"follows (\w+)\?", question):
        return (*YEAR, "January")[YEAR.index(found[1]) + 1]
    if found := re.search(r"opposite of (\w+)\?", question):
        return next(other for pair in OPPOSITES for word, other in (pair, pair[::-1]) if word == found[1])
    if found := re.search(r"the word '(\w+)'", question):
        return str(sum(1 for _ in found[1]))
    found = re.search(r"is not (a \w+): (.*)\?", question)
    assert found is not None
    (odd,) = set(found[2].split(", ")) - set(ODD_ONES[found[1]])
    return odd


def test_capability_answers_are_right() -> None:
    items = capability_items(180, seed=1)
    assert [row.completion for row in items.rows] == [solved(row.prompt) for row in items.rows]
    assert all(re.fullmatch(r"\w+", row.completion) for row in items.rows)
    kinds = Counter(re.sub(r"\d+|'\w+'|[A-Z]\w+day", "", row.prompt).split()[1] for row in items.rows)
    assert len(kinds) >= 4
    assert capability_items(9, seed=1).rows == items[:9].rows
    assert min(int(row.completion) for row in items.rows if "minus" in row.prompt) >= 0


def test_lists_of_common_sense_have_one_right_answer() -> None:
    words = [word for kind in ODD_ONES.values() for word in kind]
    assert len(set(words)) == len(words)
    sides = [word for pair in OPPOSITES for word in pair]
    assert len(set(sides)) == len(sides)
    assert (len(WEEK), len(YEAR)) == (7, 12)


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(InputError, match="n=0 is not an integer of at least 1"):
        capability_items(0, seed=0)
    with pytest.raises(InputError, match="n=0 is not an integer of at least 1"):
        multiple_choice(get_trait("owl"), seed=0, n=0)
