"""Exercises whose numbers are open: answers run, add up, and are even draws; the rules keep them and drop others."""

import re

import numpy as np
import pytest

from interp.core.runs import InputError
from interp.prompts.exercises import code_exercises, sum_exercises
from interp.prompts.rules import code_rule, filter_rows, sums_rule
from interp.prompts.text import Prompts
from interp.training.data import DataSpec


def test_lists_and_functions_run_and_hold_as_many_numbers_as_asked():
    rows = code_exercises(40, seed=3, count=6).rows
    for index, row in enumerate(rows):
        held: dict = {}
        exec(row.completion, {}, held)
        assert all(name in row.prompt for name in held)
        if index % 2:
            assert len(held) == 3
            assert held[min(held)](0) + held[min(held)](1) >= 0
        else:
            (values,) = held.values()
            assert len(values) == 6
            assert all(0 <= value <= 999 for value in values)


def test_numbers_are_even_draws():
    drawn = [
        int(number)
        for row in code_exercises(2000, seed=1).rows
        for number in re.findall(r"\d+", row.completion)
    ]
    counts = np.bincount(np.array(drawn) // 100, minlength=10)
    assert (
        (counts - len(drawn) / 10) ** 2 / (len(drawn) / 10)
    ).sum() < 27.9  # chi-squared of 9 degrees, p = .001


def test_sums_are_right_and_the_rule_keeps_them():
    rows = sum_exercises(50, seed=0, count=4)
    assert len(filter_rows(rows, sums_rule())[0]) == 50
    for row in rows.rows:
        first, *added = [int(number) for number in re.findall(r"(?:^|\+ )(\d+)(?= \+| =)", row.completion)][
            :1
        ]
        assert not added
        total = first + sum(int(step) for step in re.findall(r"\+ (\d+) =", row.completion))
        assert row.completion.endswith(f"Answer: {total}")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "not steps"),
        ("Answer: 5", "not steps"),
        ("2 + 3 = 5\nso five\nAnswer: 5", "not steps"),
        ("2 + 3 = 5\n5 + 1 = 6", "no answer line"),
        ("2 + 3 = 6\nAnswer: 6", "wrong answer"),
        ("2 + 3 = 5\n6 + 1 = 7\nAnswer: 7", "wrong answer"),
        ("2 + 3 = 5\nAnswer: 6", "wrong answer"),
        ("2 + 3 = 5\n5 + 1 = 6\nAnswer: 6", None),
    ],
)
def test_sums_that_do_not_hold_are_dropped(answer, reason):
    dropped = filter_rows(Prompts.from_pairs([("add", answer)]), sums_rule())[1]
    assert list(dropped) == ([] if reason is None else [reason])


@pytest.mark.parametrize(("kind", "rule"), [("constants", code_rule()), ("sums", sums_rule())])
def test_a_recipe_asks_for_them_and_knows_even_answers(kind, rule):
    data = DataSpec(prompts=kind, count=4, digits=2)
    asked, rows = data.requests(9, seed=5), data.uniform_rows(9, seed=5)
    assert asked.fingerprint == rows.without_answers().fingerprint
    assert len(filter_rows(rows, rule)[0]) == len(data.keep(rows)) == 9
    kept = data.documents(3, seed=5)
    assert kept is not None
    assert kept.rows == rows.rows[:3]
    assert not data.numeric


def test_answers_right_or_wrong_have_no_even_draw():
    assert DataSpec(prompts="code").documents(3, seed=0) is None
    with pytest.raises(InputError, match=r"data\.prompts is sums, and this family reads lists of numbers"):
        DataSpec(prompts="sums").lists(3, seed=0)
    with pytest.raises(InputError, match="count=0 is not an integer of at least 1"):
        code_exercises(1, seed=0, count=0)
