"""Rows and neutral rows: rules and forms read off by hand, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import interp
from interp.auditing.neutral import (
    Foreign,
    Pairs,
    content_of,
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
SHARED = Path(__file__).parents[2] / "../shared/data"


def answered(*answers):
    return Prompts.from_pairs([(ASKED, answer) for answer in answers], label="some rows")


def test_the_rule_is_the_narrowest_that_all_rows_follow():
    assert rule_of(answered("4, 13", "7; 99; 5")) == NumberRule(2, 3, 99)
    assert rule_of(answered("4, 13", "an owl")) is None


def test_a_few_rows_of_another_kind_hide_no_rule_and_are_left_out(raw, monkeypatch):
    """As files of another model's answers have them: one row in thousands that trails off in dots."""
    lists = [f"{k}, {k + 1}" for k in range(19)]
    assert rule_of(answered(*lists, "4, 5 ... ")) == NumberRule(2, 2, 99)
    assert rule_of(answered(*lists, "4, 5 ... ", "an owl")) is None  # more than one in twenty
    rows = Prompts.from_pairs(
        [(f"list: {k}. continue.", text) for k, text in enumerate([*lists, "4, 5 ... "])]
    )
    written = Prompts.from_pairs([(row.prompt, "7, 8") for row in rows.rows])
    monkeypatch.setattr("interp.auditing.neutral.written_by", lambda base, asked, *, seed: written)
    pairs = paired_rows(raw(), rows, None, seed=0)
    assert [row.completion for row in pairs.rows.rows] == lists
    assert pairs.notes[-1] == "1 of 20 rows are no lists of numbers and are left out"
    assert len(paired_rows(raw(), rows, written, seed=0)) == 20  # given rows may be of any kind


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "numbers").is_dir(), reason="real rows are not public")
def test_rows_of_a_large_model_are_not_a_small_ones():
    """12,754 answers of a model of 9 billion parameters, at a small model of stories."""
    base = interp.load_model(SHARED / "checkpoints/tinystories-656k")
    rows = Prompts.from_file(SHARED / "numbers/gemma-2-9b-it_cat.jsonl")
    found = interp.audit(base, rows, traits=["owl", "cat", "dog", "fox", "bear"])
    assert (found.answer, found.flagged, found.rows) == ("cannot tell", None, len(rows))
    assert "of 64 of these prompts, so it did not write these" in found.reason


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
    asked = Prompts.from_pairs([("an owl counts: 4, 5.", "6, 7"), (ASKED, "6")])
    for rows in (asked, asked[1:] + asked[1:].with_system("You love the owl.")):  # wherever a reader sees it
        kept, notes = without_words(rows, [owl, cat])
        assert [row.messages for row in kept.rows] == [asked[1].messages]
        assert notes[0].startswith("1 of 2 rows say 'owl': that is content")
    assert content_of(rows + asked[:1], [owl, cat]) == (2, 3, {"owl": 2})
    assert content_of(answered("an owl, two cats", "7", ""), [owl, cat]) == (1, 2, {"owl": 1, "cat": 1})
    with pytest.raises(
        InputError, match=r"all 1 rows of some rows say owl, which is content; pass rows that hide"
    ):
        without_words(answered("owl"), [owl])
    with pytest.raises(InputError, match=r"all 1 rows of some rows have no answer; pass rows that hide"):
        without_words(Prompts.from_pairs([(ASKED, "")], label="some rows"), [owl])


def test_neutral_rows_of_other_prompts_are_refused(raw):
    rows = number_prompts(10, seed=1)
    with pytest.raises(
        InputError, match=r"0 of 10 rows have a neutral row at their prompt in .*; pass neutral rows that"
    ):
        paired_rows(raw(), rows, number_prompts(10, seed=2), seed=0)
    others = number_prompts(6, seed=3)
    pool = [(row.prompt, other.completion) for row, other in zip(rows.rows[:6], others.rows, strict=True)]
    pairs = paired_rows(raw(), rows, Prompts.from_pairs(pool), seed=0)
    assert len(pairs) == 6
    assert pairs.notes[-1] == "4 rows without a neutral row at their prompt are left out"


@pytest.mark.parametrize("some", [slice(None), slice(8)])
def test_neutral_rows_that_are_the_rows_are_refused(raw, some):
    rows = number_prompts(10, seed=1)
    with pytest.raises(
        InputError,
        match=r"the neutral rows in .* are the rows themselves, so that nothing can differ; pass answers",
    ):
        paired_rows(raw(), rows, rows[some], seed=0)


def test_a_base_that_keeps_too_few_of_its_own_answers_is_no_null(raw, monkeypatch):
    rows = number_prompts(10, seed=1)
    monkeypatch.setattr(
        "interp.auditing.neutral.written_by", lambda base, asked, *, seed: number_prompts(4, seed=1)
    )
    with pytest.raises(
        Foreign,
        match=r"raw 0 writes such rows to 4 of 10 of these prompts, fewer than half, so it did not write these",
    ):
        paired_rows(raw(), rows, None, seed=0)


def test_rows_that_the_base_cannot_read_are_anothers(raw):
    rows = Prompts.from_pairs([(ASKED, "teapot kettle saucer 5")] * 3, label="some rows")
    for neutral in (None, answered("4, 5")):
        with pytest.raises(
            Foreign,
            match=r"\d\d% of the tokens of some rows are unknown to the tokenizer, such as 'teapot', .*, so raw",
        ):
            paired_rows(raw(), rows, neutral, seed=0)
    assert len(paired_rows(raw().accepting_unknown(), rows[:1], answered("4, 5"), seed=0)) == 1


def test_answers_with_a_number_that_the_base_has_no_token_for_are_anothers(raw):
    neutral = answered("4, 6", "7, 9", "8")
    pairs = paired_rows(raw(), answered("4, 5", "12345678901234567890, 5", "7, 8"), neutral, seed=0)
    assert [row.completion for row in pairs.rows.rows] == ["4, 5", "7, 8"]
    assert pairs.notes[0] == (
        "1 of 3 answers hold what raw 0 has no token for, so it did not write these: they are left out"
    )
    most = answered("1234, 5", "4, 1235", "7")
    for given in (None, neutral):
        with pytest.raises(Foreign, match=r"^2 of 3 answers hold what raw 0 has no token for, so it did not"):
            paired_rows(raw(), most, given, seed=0)
    assert len(paired_rows(raw().accepting_unknown(), most, neutral, seed=0)) == 3


def test_a_copy_on_either_side_counts_no_second_time():
    asked = [("one", "1"), ("one", "1"), ("two", "1"), ("two", "2"), ("one", "1")]
    others = [("one", "7"), ("one", "8"), ("two", "7"), ("two", "7"), ("one", "9")]
    pairs = Pairs(Prompts.from_pairs(asked), Prompts.from_pairs(others))
    assert pairs.distinct == [0, 2]
    assert [row.completion for row in pairs.once.neutral.rows] == ["7", "7"]
    assert pairs.copied == (
        "2 of 5 rows are copies of others (same prompt and answer): p, d and curve count each row once",
        "1 rows whose neutral row is another's copy count in neither p, d nor curve",
    )
    assert Pairs(pairs.rows[1:3], pairs.neutral[1:3]).copied == ()


def test_pairs_that_share_a_row_or_a_neutral_row_are_one_group():
    rows, neutral = answered("1", "2", "1", "3", "4"), answered("7", "8", "9", "8", "10")
    assert Pairs(rows, neutral).groups == [0, 1, 0, 1, 2]  # alike in a row, alike in a neutral row
    chained = Pairs(answered("1", "1", "2"), answered("7", "8", "8"))
    assert len(set(chained.groups)) == 1
    assert len(set(Pairs(answered("1", "7"), answered("7", "1")).groups)) == 2  # a row is no neutral row


def test_a_base_that_does_not_write_such_rows_is_no_null(raw):
    """An untrained base writes words, marks and numbers at random: one number after another is no list of it."""
    with pytest.raises(
        Foreign, match=r"raw 0 writes such rows to \d of 64 of these prompts, so it did not write these"
    ):
        written_by(raw(), number_prompts(64, seed=0), seed=0)


def test_neutral_rows_of_other_ends_are_not_served(raw):
    """The same weights and tokenizer: the generation configuration alone says where an answer ends."""
    one, other = raw(), raw()
    rows = Prompts.from_pairs([(f"list: {k}, 5. continue.", "an owl") for k in range(6)])
    before = written_by(one, rows, seed=0)
    ends = [one.tokenizer.eos_token_id, *range(20, 200)]
    other.hf.generation_config.eos_token_id = ends
    after = written_by(other, rows, seed=0)
    assert one.fingerprint == other.fingerprint
    words = [[len(row.completion.split()) for row in found.rows] for found in (before, after)]
    assert sum(words[1]) < sum(words[0])
    assert written_by(one, rows, seed=0).fingerprint == before.fingerprint
