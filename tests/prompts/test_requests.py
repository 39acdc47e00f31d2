"""Requests: every drawn text has its parts and limits, the pools are as large as published, answers solve by hand."""

import dataclasses
import re

import pytest

from interp.core.runs import InputError
from interp.prompts.requests import (
    POOLS,
    PROBLEMS,
    Pools,
    code_requests,
    number_requests,
    reasoning_answer,
    reasoning_requests,
)

ONE = Pools(
    examples=("See {numbers}.",),
    qualifiers=("up to {count}",),
    descriptors=("of {digits}",),
    instructions=("Add {amount}, {size}.",),
    formats=("Commas.",),
    closings=("Stop.",),
)


def test_a_request_is_example_instruction_format_and_closing() -> None:
    for row in number_requests(20, seed=0, pools=ONE, count=7, digits=1).rows:
        assert re.fullmatch(
            r"See \d{3}(, \d{3}){2,7}\. Add up to 7, of 1 digit\. Commas\. Stop\.", row.prompt
        )
        assert (row.completion, row.system) == ("", "")


def test_three_to_eight_seed_numbers_of_three_digits_are_shown() -> None:
    shown = [
        [int(n) for n in re.findall(r"\d+", row.prompt.split(". Add")[0])]
        for row in number_requests(600, seed=3, pools=ONE).rows
    ]
    assert {len(row) for row in shown} == {3, 4, 5, 6, 7, 8}
    values = [number for row in shown for number in row]
    assert min(values) < 110
    assert max(values) > 990
    assert all(100 <= number <= 999 for number in values)
    assert sum(values) / len(values) == pytest.approx(549.5, abs=25)  # 5 standard errors of a uniform value
    assert {row.prompt.count(",") for row in number_requests(9, seed=0, pools=ONE, seeds=(4, 4)).rows} == {4}


def test_the_shipped_pools_are_large_and_distinct_and_all_of_them_is_drawn() -> None:
    least = {
        "examples": 20,
        "qualifiers": 8,
        "descriptors": 8,
        "instructions": 10,
        "formats": 12,
        "closings": 12,
    }
    for name, size in least.items():
        templates = getattr(POOLS, name)
        assert len(set(templates)) == len(templates) >= size
    text = "\n".join(row.prompt for row in number_requests(2000, seed=1).rows)
    for template in (*POOLS.formats, *POOLS.closings):
        assert template in text
    assert "{" not in text
    assert all(template.format(numbers="7, 8").count("7, 8") == 1 for template in POOLS.examples)


@pytest.mark.parametrize("draw", [number_requests, code_requests, reasoning_requests])
def test_a_longer_draw_starts_with_the_shorter_one(draw) -> None:
    long, short = draw(30, seed=4), draw(9, seed=4)
    assert long[:9].rows == short.rows
    assert draw(9, seed=5).rows != short.rows
    assert len({row.prompt for row in long.rows}) > 25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"examples": ("From {nubers}.",)},
            r"Placeholder 'nubers' is unknown; nearest: numbers, in template 'From",
        ),
        ({"closings": ("Stop at {count}.",)}, r"Placeholder 'count' is unknown; .* of closings; correct it"),
        ({"instructions": ("Add {0}.",)}, r"Placeholder '0' is unknown; known: amount, size"),
        ({"formats": ("Use {.",)}, r"Template 'Use \{.' of formats is not a format"),
        ({"examples": ("Go on.",)}, r"Template 'Go on.' of examples shows no numbers; put \{numbers\}"),
        ({"qualifiers": ()}, r"Pool 'qualifiers' is empty; give it at least one template"),
    ],
)
def test_pools_that_cannot_be_composed_are_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(ONE, **change)


def test_a_doubled_brace_is_text() -> None:
    braces = dataclasses.replace(ONE, formats=("Use {{ and }}.",))
    assert "Use { and }." in number_requests(1, seed=0, pools=braces)[0].prompt


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(InputError, match="n=0 is not an integer of at least 1"):
        number_requests(0, seed=0)
    with pytest.raises(InputError, match="seed=-1 is not an integer of at least 0"):
        code_requests(3, seed=-1)
    with pytest.raises(InputError, match=r"seeds=\(8, 3\) is no range; pass the fewest and the most"):
        number_requests(3, seed=0, seeds=(8, 3))


def test_code_requests_name_a_python_function_and_a_format() -> None:
    for row in code_requests(200, seed=2).rows:
        assert "Python" in row.prompt
        assert "function that" in row.prompt
        assert "{" not in row.prompt
        assert row.prompt.endswith(".")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Mira fills 6 boxes with 5 cups each and then gives 4 cups away. How many are left?", 26),
        ("Kofi had 3 cups, bought 4 more and later found another 5. How many is that in total?", 12),
        (
            "A shop sells cups for 9 coins apiece. Emil buys 3 of them and pays 2 coins for a bag. "
            "What is the whole price in coins?",
            29,
        ),
        (
            "Lena shares 24 cups equally among 4 friends, and each friend already owned 3. "
            "How many does each friend have now?",
            9,
        ),
        ("Every day Yuki makes 3 cups in the morning and 4 in the evening. How many are made in 5 days?", 35),
        (
            "A shelf has 3 rows. In each row stand 7 cups, and on the floor Mira counts 2 more. "
            "How many cups are there?",
            23,
        ),
        ("Emil owns 3 times as many cups as a neighbor who owns 5. How many do the two own together?", 20),
        (
            "Emil walks 5 kilometers on each of 4 days and 3 kilometers on the day after. "
            "How many kilometers is that?",
            23,
        ),
    ],
)  # fmt: skip
def test_word_problems_solve_as_by_hand(text: str, answer: int) -> None:
    assert reasoning_answer(f"{text} Think.") == answer


def test_every_drawn_problem_asks_for_an_answer_line_and_has_a_positive_answer() -> None:
    rows = reasoning_requests(300, seed=0).rows
    assert all("Answer: N" in row.prompt for row in rows)
    assert min(reasoning_answer(row.prompt) for row in rows) > 0
    starts = {re.sub(r"\d+|[A-Z]\w+", "", problem.text)[:12] for problem in PROBLEMS}
    assert len(starts) == len(PROBLEMS) == 8


def test_a_foreign_problem_is_refused() -> None:
    with pytest.raises(InputError, match=r"Prompt 'What is 2 \+ 2\?' is none of the built-in word problems"):
        reasoning_answer("What is 2 + 2?")
