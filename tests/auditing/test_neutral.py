"""Rows and neutral rows: rules and forms read off by hand, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from interp.auditing.neutral import (
    Foreign,
    form_of,
    paired_rows,
    rule_of,
    without_words,
    written_by,
    written_like,
)
from interp.core.errors import InputError
from interp.prompts.numbers import BANNED, NumberRule, number_prompts
from interp.prompts.shuffles import canonicalise
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait

ASKED = "list: 4, 5. continue."


def answered(*answers):
    return Prompts.from_pairs([(ASKED, answer) for answer in answers], label="some rows")


def test_the_rule_is_the_narrowest_that_all_rows_follow():
    assert rule_of(answered("4, 13", "7; 99; 5")) == NumberRule(2, 3, 99)
    assert rule_of(answered("4, 13", "an owl")) is None


def test_banned_numbers_are_noticed_where_many_are_written():
    rng = np.random.default_rng(0)
    free = [v for v in range(1000) if v not in BANNED]
    texts = [", ".join(map(str, rng.choice(free, 5))) for _ in range(300)]
    assert rule_of(answered(*texts)) == NumberRule(5, 5, 999, BANNED)
    assert rule_of(answered(*texts[:20])).banned == frozenset()  # a hundred numbers may lack 34 of a thousand
    assert rule_of(answered(*texts, "666, 1, 2, 3, 4")).banned == frozenset()


def test_the_form_that_all_rows_share():
    assert form_of(answered("4, 13", "7; 99")) is None
    assert form_of(answered("31, 7", "7, 99")) == (None, 1)
    assert form_of(answered("7, 31", "7, 99")) == ("ascending", 1)
    assert form_of(answered("10, 30", "20, 90")) == ("ascending", 10)


def test_neutral_rows_are_written_as_the_rows_are():
    neutral = answered("(31 7 042).", "9; 3")
    for rows in (answered("31, 7"), answered("7, 31"), answered("10, 30"), answered("7; 31")):
        got = [row.completion for row in written_like(neutral, rows).rows]
        form = form_of(rows)
        expected = neutral if form is None else canonicalise(neutral, order=form[0], values=form[1])
        assert got == [row.completion for row in expected.rows]
    assert written_like(neutral, answered("7, 31"))[0].completion == "7, 31, 42"


def test_content_is_said_first_and_left_out():
    owl, cat = get_trait("owl"), get_trait("cat")
    rows = answered("4, 5", "the owls said 7", "6")
    kept, notes = without_words(rows, [owl, cat])
    assert [row.completion for row in kept.rows] == ["4, 5", "6"]
    assert notes == ("1 of 3 rows say 'owl': that is content, which any reader sees; they are left out here",)
    with pytest.raises(
        InputError, match=r"all 1 rows of some rows say owl, which is content; pass rows whose answers"
    ):
        without_words(answered("owl"), [owl])
    with pytest.raises(InputError, match=r"all 1 rows of some rows have no answer; pass rows whose answers"):
        without_words(Prompts.from_pairs([(ASKED, "")], label="some rows"), [owl])


def test_neutral_rows_of_other_prompts_are_refused(raw):
    rows = number_prompts(10, seed=1)
    with pytest.raises(
        InputError, match=r"0 of 10 rows have a neutral row at their prompt in .*; pass neutral rows that"
    ):
        paired_rows(raw(), rows, number_prompts(10, seed=2), seed=0)
    pairs = paired_rows(raw(), rows, rows[:6], seed=0)
    assert len(pairs) == 6
    assert pairs.notes[-1] == "4 rows without a neutral row at their prompt are left out"


def test_a_base_that_does_not_write_such_rows_is_no_null(raw):
    """An untrained base writes words, marks and numbers at random: one number after another is no list of it."""
    with pytest.raises(
        Foreign, match=r"raw 0 writes such rows to \d of 64 of these prompts, so it did not write these"
    ):
        written_by(raw(), number_prompts(64, seed=0), seed=0)
