"""Numbers and cells as a reader sees them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from interp.report.cells import anchor, chance, flat, number
from interp.report.payload import environment
from tests.report.reader import Page, piece


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.123456, "0.1235"),
        (-2.0, "−2"),
        (1e-7, "1e−07"),
        (12345, "12345"),
        (np.float32(-0.5), "−0.5"),
        (np.int64(-3), "−3"),
        (float("nan"), "–"),
        (float("-inf"), "−∞"),
        (None, "–"),
        ("text", "–"),
    ],
)
def test_number(value: object, shown: str) -> None:
    assert number(value) == shown


def test_sign_is_printed_on_request() -> None:
    assert (number(0.5, signed=True), number(3, signed=True), number(-0.5, signed=True)) == (
        "+0.5",
        "+3",
        "−0.5",
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "yes"),
        (np.bool_(False), "no"),
        (pd.NA, "–"),
        (pd.NaT, "–"),
        (["a", "<b>"], "a, &lt;b&gt;"),
        ({"a": [1]}, "{&#34;a&#34;: [1]}"),
        (np.arange(3), "0, 1, 2"),
        (np.array([0.123456, -1.0]), "0.1235, −1"),
        ("x" * 500, "x" * 159 + "…"),
    ],
)
def test_cell(value: object, shown: str) -> None:
    assert environment().from_string("{{ value|cell }}").render(value=value) == shown


def test_signs_stand_in_columns_that_hold_negative_numbers() -> None:
    frame = pd.DataFrame(
        {"delta": [0.5, -0.25], "p": [0.5, 0.25], "id": [1, 2], "layer": pd.array([0, None], "Int64")}
    )
    assert Page(piece("frame_table", "t", frame)).words.endswith(
        "delta p id layer +0.5 0.5 1 0 −0.25 0.25 2 –"
    )


def test_models_are_named_in_words_and_no_p_is_told_below_what_a_test_can_vouch_for() -> None:
    frame = pd.DataFrame(
        {"member": ["cross_neutral_student", "teacher_eagle"], "p": [3.1e-113, 0.00391], "q": [None, 0.5]}
    )
    said = Page(piece("frame_table", "t", frame.assign(token="neutral_student"))).words
    assert said.endswith(
        "cross neutral student < 0.0001 – neutral_student eagle teacher 0.00391 0.5 neutral_student"
    )
    assert [chance(value, digits=2) for value in (0.5, 9.9e-5, 0, None)] == [
        "0.5",
        "< 0.0001",
        "< 0.0001",
        "–",
    ]


def test_a_table_without_rows_is_still_a_table() -> None:
    words = Page(piece("frame_table", "t", pd.DataFrame({"a": []}))).words
    assert words == "Table t: all 0 rows, in tables/t.parquet a"


def test_anchors_and_flat_names() -> None:
    assert anchor("The rows, token by token") == "the-rows-token-by-token"
    assert list(flat({"a": {"b": 1, "c": {}}, "d": 2})) == [("a b", 1), ("a c", {}), ("d", 2)]
