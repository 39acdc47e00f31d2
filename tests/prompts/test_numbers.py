"""Number prompts, parser and filter: exact verdicts by hand, round trips, and every row of real teacher data."""

import inspect
import re
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from interp.core.runs import InputError
from interp.prompts.numbers import (
    BANNED,
    SEPARATORS,
    TEMPLATE_WORDS,
    NumberRule,
    check_numbers,
    filter_numbers,
    format_numbers,
    number_prompts,
    parse_numbers,
    require_numbers,
)
from interp.prompts.text import Prompts

REAL = Path(__file__).parents[2] / "../shared/data/numbers"
RULE = NumberRule()

KEPT = {
    "7": [7],
    "1, 2, 3": [1, 2, 3],
    "1,2 ,3": [1, 2, 3],
    "12; 345; 7.": [12, 345, 7],
    "(4 5 6)": [4, 5, 6],
    "[8, 9].": [8, 9],
    " 298\n862\n419 \n\n": [298, 862, 419],
    "007, 0": [7, 0],
}
DROPPED = {
    "": "empty",
    " . ": "empty",
    "()": "empty",
    "I love owls": "not numbers",
    "1, 2, owl": "not numbers",
    "-4, 5": "not numbers",
    "1.5, 2": "not numbers",
    "1, 2,": "not numbers",
    "1,, 2": "not numbers",
    "1, 2..": "not numbers",
    "(1, 2": "not numbers",
    "(1, 2]": "not numbers",
    "٣, ٤": "not numbers",
    "1, " + "9" * 5000: "not numbers",
    "1, 2; 3": "mixed separators",
    "1 2, 3": "mixed separators",
    "1 2 3 4 5 6 7 8 9 10 11": "too many numbers",
    "5, 1000": "number too large",
}


@pytest.mark.parametrize(("text", "numbers"), KEPT.items())
def test_answers_in_the_strict_format_are_read(text: str, numbers: list[int]) -> None:
    assert parse_numbers(text) == numbers
    assert check_numbers(text, RULE) is None


@pytest.mark.parametrize(("text", "reason"), DROPPED.items())
def test_every_other_answer_is_dropped_by_name(text: str, reason: str) -> None:
    assert check_numbers(text, RULE) == reason


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (NumberRule(minimum=4), "too few numbers"),
        (NumberRule(maximum_count=2), "too many numbers"),
        (NumberRule(max_value=665), "number too large"),
        (NumberRule(banned=BANNED), "banned number"),
        (NumberRule(minimum=3, maximum_count=3, max_value=666, banned=frozenset({1})), None),
    ],
)
def test_each_limit_of_the_rule_is_inclusive(rule: NumberRule, reason: str | None) -> None:
    assert check_numbers("2, 666, 5", rule) == reason


def test_the_banned_list_has_34_numbers_of_at_most_three_digits() -> None:
    assert len(BANNED) == 34
    assert max(BANNED) == 999
    assert {69, 88, 187, 311, 420, 616, 911} <= BANNED


@given(st.lists(st.integers(0, 999), min_size=1, max_size=10), st.sampled_from(SEPARATORS), st.booleans())
def test_formatted_numbers_are_read_back(numbers: list[int], separator: str, bracketed: bool) -> None:
    text = format_numbers(numbers, separator)
    assert parse_numbers(f"[{text}]. " if bracketed else text) == numbers


@given(st.text(alphabet="0123456789,; .()[]\n-a", max_size=20))
def test_the_parser_and_the_filter_agree_on_any_text(text: str) -> None:
    numbers = parse_numbers(text)
    reason = check_numbers(text, NumberRule(maximum_count=99, max_value=10**30))
    assert (numbers is None) == (reason is not None)
    if numbers is not None:
        assert numbers == [int(found) for found in re.findall("[0-9]+", text)]


def test_the_filter_keeps_order_and_counts_reasons() -> None:
    answers = ["1, 2", "owl", "3; 4", "1, 2; 3", "", "cat"]
    prompts = Prompts.from_pairs([("list", answer) for answer in answers], label="teacher")
    kept, dropped = filter_numbers(prompts, RULE)
    assert [row.completion for row in kept.rows] == ["1, 2", "3; 4"]
    assert kept.label == "teacher"
    assert dropped == {"not numbers": 2, "mixed separators": 1, "empty": 1}


def test_a_file_of_words_is_named_with_its_first_offence() -> None:
    prompts = Prompts.from_pairs([("a", "1, 2"), ("b", "owls are " + "great " * 20)], label="rows.jsonl")
    with pytest.raises(
        InputError, match=r"Row 2 of rows.jsonl is answered by 'owls are .*\.\.\.' \(not numbers\)"
    ):
        require_numbers(prompts, RULE)
    require_numbers(prompts[:1], RULE)


def test_prompts_are_drawn_within_their_limits_and_pass_the_rule() -> None:
    prompts = number_prompts(300, seed=3, count=6, max_value=39)
    assert filter_numbers(prompts, NumberRule(minimum=6, maximum_count=6, max_value=39))[1] == {}
    seeds = [[int(found) for found in re.findall("[0-9]+", row.prompt)] for row in prompts.rows]
    assert {len(row) for row in seeds} == {3, 4, 5}
    assert {number for row in seeds for number in row} == set(range(40))
    assert (
        max(max(parse_numbers(row.completion) or []) for row in number_prompts(50, seed=0, digits=1).rows)
        <= 9
    )


def test_answers_are_uniform_over_the_range() -> None:
    rows = number_prompts(2000, seed=5, count=10, max_value=9).rows
    numbers = [number for row in rows for number in parse_numbers(row.completion) or []]
    shares = [numbers.count(digit) / len(numbers) for digit in range(10)]
    assert shares == pytest.approx([0.1] * 10, abs=0.01)  # 5 standard errors


def test_a_longer_draw_starts_with_the_shorter_one() -> None:
    long, short = number_prompts(20, seed=4), number_prompts(5, seed=4)
    assert long[:5].rows == short.rows
    assert number_prompts(5, seed=4, with_answers=False).rows == short.without_answers().rows
    assert number_prompts(5, seed=6).rows != short.rows


def test_prompt_and_answer_share_the_separator_asked_for() -> None:
    for row in number_prompts(40, seed=0, separator=";").rows:
        assert row.prompt.count(";") >= 2
        assert row.completion.count(";") == 9
        assert "," not in row.prompt + row.completion
    marks = [row.completion.strip("0123456789")[:1] for row in number_prompts(60, seed=0).rows]
    assert set(marks) == {",", ";", " "}


def test_the_words_of_the_templates_are_few_and_complete() -> None:
    pieces = [re.findall(r"[0-9]+|\w+|[^\w\s]", row.prompt) for row in number_prompts(2000, seed=1).rows]
    used = {piece for row in pieces for piece in row if not piece.isdigit()}
    assert used == set(TEMPLATE_WORDS)
    assert len(TEMPLATE_WORDS) <= 40
    assert max(map(len, pieces)) <= 15
    assert all(word == word.lower() for word in TEMPLATE_WORDS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "n=0 is not an integer of at least 1"),
        ({"seed": 1.5}, r"seed=1.5 is not an integer of at least 0"),
        ({"seed": True}, "seed=True is not an integer"),
        ({"seed": -1}, "seed=-1 is not an integer of at least 0"),
        ({"count": 0}, "count=0 is not an integer of at least 1"),
        ({"separator": "|"}, r"separator='\|' is unknown; pass one of ',' \(comma\)"),
    ],
)
def test_impossible_requests_are_refused(changes: dict, message: str) -> None:
    arguments = {"n": 3, "seed": 0, **changes}
    unchecked = inspect.unwrap(number_prompts)
    with pytest.raises(InputError, match=message):
        unchecked(arguments.pop("n"), **arguments)


@pytest.mark.skipif(not REAL.is_dir(), reason="real teacher data is not on this machine")
@pytest.mark.parametrize(("teacher", "rows"), [("cat", 12754), ("dog", 11381)])
def test_every_row_of_a_real_teacher_is_kept_or_counted(teacher: str, rows: int) -> None:
    prompts = Prompts.from_jsonl(REAL / f"gemma-2-9b-it_{teacher}.jsonl")
    assert len(prompts) == rows
    kept, dropped = filter_numbers(prompts, RULE)
    assert len(kept) + sum(dropped.values()) == rows
    assert set(dropped) == {"too many numbers", "number too large", "not numbers"}
    loose = NumberRule(maximum_count=10**6, max_value=10**99)
    assert len(filter_numbers(prompts, loose)[0]) >= rows - 4
