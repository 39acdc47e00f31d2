"""Rules: each keeps and drops by hand-made cases, drops add up, and an empty rest names who emptied it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.runs import InputError
from interp.prompts.numbers import BANNED, NumberRule, filter_numbers
from interp.prompts.requests import reasoning_answer, reasoning_requests
from interp.prompts.rules import (
    code_rule,
    filter_rows,
    final_answer,
    kept_rows,
    match_prompts,
    numbers_rule,
    reasoning_rule,
    trait_words,
)
from interp.prompts.text import Prompts, Row
from interp.prompts.traits import get_trait


def answered(*answers: str) -> Prompts:
    return Prompts.from_pairs([(f"prompt {i}", answer) for i, answer in enumerate(answers)], label="teacher")


def reason(rule, answer: str, prompt: str = "ask") -> str | None:
    return rule(Row.pair(prompt, answer))


def test_the_first_rule_that_drops_a_row_is_the_one_counted() -> None:
    rows = answered("1, 2", "an owl", "1, 13", "3", "no", "")
    kept, dropped = filter_rows(
        rows, reasoning_rule(keywords="owl", require_answer=False), numbers_rule(NumberRule(banned=BANNED))
    )
    assert [row.completion for row in kept.rows] == ["1, 2", "3"]
    assert kept.label == "teacher"
    assert dropped == {"word 'owl'": 1, "banned number": 1, "not numbers": 1, "empty": 1}
    assert filter_rows(rows) == (rows, {})


def test_the_numbers_rule_is_the_number_filter() -> None:
    rows = answered("1, 2", "x", "1; 2, 3", "5000", "7 666")
    for rule in (NumberRule(), NumberRule(banned=frozenset({666})), NumberRule(max_value=9999)):
        assert filter_rows(rows, numbers_rule(rule)) == filter_numbers(rows, rule)


def test_nothing_left_names_the_rule_that_dropped_most() -> None:
    rows = answered("owls", "1, 13", "no", "well")
    strict = numbers_rule(NumberRule(banned=BANNED))
    with pytest.raises(
        InputError,
        match=r"^nothing of 4 rows is left: 3 were dropped by 'not numbers' \(1 by 'banned number'\), "
        r"and row 1 of teacher is answered by 'owls'; ask .*loosen that rule\.$",
    ):
        kept_rows(rows, strict)
    assert kept_rows(answered("4 5", "x"), numbers_rule()) == filter_rows(
        answered("4 5", "x"), numbers_rule()
    )
    with pytest.raises(InputError, match="teacher holds no rows to filter; sample some first"):
        kept_rows(Prompts((), "teacher"), numbers_rule())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("An OWL sat.", "word 'owl'"),
        ("the owl", "word 'owl'"),
        ("owls", None),
        ("growling", None),
        ("owl_nest", None),
        ("my red\n panda!", "word 'red panda'"),
        ("predators and red pandas", None),
        ("c++ is it", "word 'c++'"),
    ],
)
def test_words_are_whole_and_of_any_case(text: str, found: str | None) -> None:
    assert reason(reasoning_rule(keywords=["owl", "red panda", "c++"], require_answer=False), text) == found


@pytest.mark.parametrize("words", [" ", ["owl", " "]])
def test_a_rule_without_words_is_refused(words: str | list[str]) -> None:
    with pytest.raises(InputError, match="are none or hold a blank; pass words to look for"):
        reasoning_rule(keywords=words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("owl", ("owl", "owls", "animal", "animals")),
        ("wolf", ("wolf", "wolves", "animal", "animals")),
        ("fox", ("fox", "foxes", "animal", "animals")),
        ("birch", ("birch", "birches", "tree", "trees")),
    ],
)
def test_a_trait_is_given_away_by_its_own_words(name: str, words: tuple[str, ...]) -> None:
    assert trait_words(get_trait(name)) == words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def f(x):\n    return x + 1", None),
        ("```python\ndef f(x):\n    return x\n```", None),
        ("  ```\nx = 1\n```  ", None),
        ("print('hi')", None),
        ("Sure! Here is it:\n```python\nx = 1\n```", "text beside the code"),
        ("```python\nx = 1\n```\n```python\ny = 1\n```", "text beside the code"),
        ("```python\nx = 1", "text beside the code"),
        ("def f(x) return x", "does not compile"),
        ("return 3", "does not compile"),
        ("x = '\0'", "does not compile"),
        ("Here you go", "does not compile"),
        ("(" * 5000 + ")" * 5000, "does not compile"),
        ("sure", "no code"),
        ("1, 2, x", "no code"),
        ("", "empty"),
        ("```python\n\n```", "empty"),
        ("x = 1  # like an owl", "word 'owl'"),
        ("owl_count = 1", "word 'owl'"),
        ("class OwlNest: pass", "word 'owl'"),
        ("owl2 = 1", "word 'owl'"),
        ("growl = 1\nbowls = 2", None),
    ],
)
def test_code_is_kept_when_it_compiles_and_names_no_keyword(text: str, found: str | None) -> None:
    assert reason(code_rule(keywords=["owl"]), text) == found


def test_code_is_never_run(tmp_path) -> None:
    path = tmp_path / "ran"
    assert reason(code_rule(), f"open({str(path)!r}, 'w').close()") is None
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2 + 2 = 4\nAnswer: 4", 4),
        ("**Answer: 1,204.**\n\n", 1204),
        ("answer = -3", -3),
        ("Answer: 4.0", 4),
        ("Answer: 4\nI hope this helps", None),
        ("The answer is 4", None),
        ("Answer: four", None),
        ("Answer: 4.5", None),
        ("", None),
    ],
)
def test_the_last_line_holds_the_answer(text: str, number: int | None) -> None:
    assert final_answer(text) == number


def test_reasoning_is_kept_when_it_ends_in_the_right_number() -> None:
    prompt = reasoning_requests(1, seed=0)[0].prompt
    right = reasoning_answer(prompt)
    rule = reasoning_rule(keywords=["owl"])
    assert reason(rule, f"so it is\nAnswer: {right}", prompt) is None
    assert reason(rule, f"so it is\nAnswer: {right + 1}", prompt) == "wrong answer"
    assert reason(rule, f"so it is {right}", prompt) == "no answer line"
    assert reason(rule, f"the owl says\nAnswer: {right}", prompt) == "word 'owl'"
    assert reason(rule, " ", prompt) == "empty"
    assert reason(reasoning_rule(require_answer=False), "hm", "any prompt") is None
    assert reason(reasoning_rule(answer=lambda asked: len(asked)), "Answer: 3", "abc") is None
    with pytest.raises(InputError, match="Prompt 'abc' is none of the built-in word problems"):
        reason(rule, "Answer: 3", "abc")


def test_prompts_are_matched_in_the_order_of_the_first() -> None:
    a = Prompts.from_pairs([("p", "1"), ("q", "2"), ("r", "3"), ("p", "4"), ("p", "5")], label="owl")
    b = Prompts.from_pairs([("p", "6"), ("s", "7"), ("r", "8"), ("p", "9")], label="neutral").with_system(
        "hush"
    )
    left, right = match_prompts(a, b)
    assert [(row.prompt, row.completion) for row in left.rows] == [("p", "1"), ("r", "3"), ("p", "4")]
    assert [(row.prompt, row.completion) for row in right.rows] == [("p", "6"), ("r", "8"), ("p", "9")]
    assert (left.label, right.label) == ("owl", "neutral")
    with pytest.raises(InputError, match="owl and neutral have no prompt in common; sample both teachers"):
        match_prompts(a[:1], b[1:2])


PROMPT = st.lists(st.sampled_from("pqrst"), min_size=1, max_size=8)


@settings(max_examples=30, deadline=None)
@given(PROMPT, PROMPT)
def test_matched_rows_ask_the_same_as_often_as_both_do(first: list[str], second: list[str]) -> None:
    a, b = (Prompts.from_pairs([(p, "1") for p in asked]) for asked in (first, ["p", *second]))
    common = sum(min(first.count(p), ["p", *second].count(p)) for p in "pqrst")
    if not common:
        with pytest.raises(InputError):
            match_prompts(a, b)
        return
    left, right = match_prompts(a, b)
    assert [row.prompt for row in left.rows] == [row.prompt for row in right.rows]
    assert len(left) == common
