"""Shuffles keep what they say they keep: multisets, lengths, formats and prompts; canonical answers by hand."""

import re
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings, strategies as st

from interp.core.runs import InputError
from interp.prompts.numbers import format_numbers
from interp.prompts.shuffles import canonicalise, mix_rows, paraphrase, shuffle_across, shuffle_within
from interp.prompts.text import Prompts, Row

ANSWERS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 999), min_size=1, max_size=8),
        st.sampled_from([", ", ";", " ", "\n"]),
        st.sampled_from(["{}", "[{}]", "({}).", " {} "]),
    ),
    min_size=1,
    max_size=8,
)
ROWS = Prompts(
    (
        Row((("system", "s"), ("user", "a"), ("assistant", "[3, 007, 1]"))),
        Row.pair("b", "12; 345; 7."),
        Row.pair("c", "(99 98 5 6)"),
    ),
    label="owl rows",
)


def answered(answers: list[str], label: str = "rows") -> Prompts:
    return Prompts.from_pairs([(f"p{i}", answer) for i, answer in enumerate(answers)], label=label)


def numerals(prompts: Prompts) -> list[list[str]]:
    return [re.findall("[0-9]+", row.completion) for row in prompts.rows]


def formats(prompts: Prompts) -> list[str]:
    return [re.sub("[0-9]+", "#", row.completion) for row in prompts.rows]


def asked(prompts: Prompts) -> list:
    return [row.asked for row in prompts.rows]


@settings(max_examples=30, deadline=None)
@given(ANSWERS, st.integers(0, 99))
def test_shuffling_keeps_multisets_formats_and_prompts(answers: list[tuple], seed: int) -> None:
    rows = answered([shape.format(mark.join(map(str, numbers))) for numbers, mark, shape in answers])
    within, across = shuffle_within(rows, seed=seed), shuffle_across(rows, seed=seed)
    for changed in (within, across):
        assert (formats(changed), asked(changed)) == (formats(rows), asked(rows))
        assert Counter(chain(*numerals(changed))) == Counter(chain(*numerals(rows)))
    assert list(map(sorted, numerals(within))) == list(map(sorted, numerals(rows)))
    assert shuffle_within(rows, seed=seed) == within
    assert shuffle_across(rows, seed=seed) == across


def test_shuffling_does_shuffle() -> None:
    rows = answered([format_numbers(list(range(10 * i, 10 * i + 10)), ",") for i in range(40)])
    within, across = shuffle_within(rows, seed=0), shuffle_across(rows, seed=0)
    assert sum(a == b for a, b in zip(within.rows, rows.rows, strict=True)) == 0
    assert shuffle_within(rows, seed=1) != within
    stayed = [len(set(new) & set(old)) for new, old in zip(numerals(across), numerals(rows), strict=True)]
    assert sum(stayed) < 30  # 400 / 40 = 10 expected
    first = [int(row[0]) % 10 for row in numerals(within)]
    assert set(first) == set(range(10))


def test_canonical_answers_by_hand() -> None:
    assert [row.completion for row in canonicalise(ROWS).rows] == ["3, 7, 1", "12, 345, 7", "99, 98, 5, 6"]
    assert [row.completion for row in canonicalise(ROWS, separator=" ", order="ascending").rows] == [
        "1 3 7",
        "7 12 345",
        "5 6 98 99",
    ]
    assert [row.completion for row in canonicalise(ROWS, separator=";", values=10).rows] == [
        "0;0;0",
        "10;340;0",
        "90;90;0;0",
    ]
    assert asked(canonicalise(ROWS)) == asked(ROWS)
    assert canonicalise(ROWS).label == "owl rows"
    assert canonicalise(canonicalise(ROWS)) == canonicalise(ROWS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"separator": "|"}, r"separator='\|' cannot be read back; pass ', '"),
        ({"separator": ""}, r"separator='' cannot be read back"),
        (
            {"order": "ascnding"},
            r"order 'ascnding' is unknown; nearest: ascending; pass 'ascending', or None",
        ),
        ({"values": 0}, r"values=0 is not an integer of at least 1"),
    ],
)
def test_forms_that_do_not_exist_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        canonicalise(ROWS, **arguments)


@pytest.mark.parametrize(
    "change",
    [lambda rows: shuffle_within(rows, seed=0), lambda rows: shuffle_across(rows, seed=0), canonicalise],
)
def test_words_have_no_order_to_shuffle(change) -> None:
    with pytest.raises(InputError, match=r"Row 2 of rows is answered by 'an owl' \(not numbers\)"):
        change(answered(["1, 2", "an owl"]))
    assert len(change(answered(["1, 99999999999", " ".join(["5"] * 50)]))) == 2  # any count, any size


def test_a_paraphrase_rewrites_answers_alone() -> None:
    rows = ROWS.rows[0], Row.pair("tell", "a tale")
    changed = paraphrase(Prompts(rows, "tales"), str.upper)
    assert [row.completion for row in changed.rows] == ["[3, 007, 1]", "A TALE"]
    assert (asked(changed), changed.label) == ([row.asked for row in rows], "tales")


def test_a_paraphrase_that_fails_names_its_row() -> None:
    rows = answered(["4", "2", "0"])
    with pytest.raises(
        InputError, match=r"The paraphrase of row 3 failed \(ZeroDivisionError: .*\); mend it or drop the row"
    ) as caught:
        paraphrase(rows, lambda text: str(8 // int(text)))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(
        InputError, match=r"The paraphrase of row 2 is ' '; return the rewritten answer as text"
    ):
        paraphrase(rows, lambda text: " " if text == "2" else text)
    with pytest.raises(InputError, match="Row 2 has no answer to paraphrase; sample answers first"):
        paraphrase(answered(["1", ""]), str.upper)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.integers(0, 99))
def test_a_mixture_takes_its_share_and_no_row_twice(long: int, short: int, share: float, seed: int) -> None:
    a, b = answered(["1"] * long, "a"), answered(["2"] * short, "b")
    rows = mix_rows(a, b, share=share, seed=seed).rows
    assert len(rows) == min(long, short)
    assert len(set(rows)) == len(rows)
    assert sum(row.completion == "2" for row in rows) == round(share * len(rows))
    assert set(rows) <= {*a.rows, *b.rows}
    if long == short:
        assert len({row.prompt for row in rows}) == len(rows)  # matched data: one answer a prompt


def test_a_mixture_of_a_given_size() -> None:
    a, b = answered(["1"] * 10, "owl"), answered(["2"] * 2, "neutral")
    rows = mix_rows(a, b, share=0.2, seed=0, n=10)
    assert Counter(row.completion for row in rows.rows) == {"1": 8, "2": 2}
    assert len({row.prompt for row in rows.rows}) == 10
    assert rows.label == "owl with 20% neutral"
    assert mix_rows(a, b, share=0.2, seed=0, n=10) == rows != mix_rows(a, b, share=0.2, seed=1, n=10)
    with pytest.raises(
        InputError, match=r"n=10 rows with share=0.5 need 5 of neutral, which has 2; lower n or"
    ):
        mix_rows(a, b, share=0.5, seed=0, n=10)
    with pytest.raises(InputError, match=r"share=1.5 is not within 0 to 1; pass the part .* neutral gives"):
        mix_rows(a, b, share=1.5, seed=0)
    with pytest.raises(InputError, match="n=0 is not an integer of at least 1"):
        mix_rows(a, b[:0], share=0.5, seed=0)
