"""First, inner and last token of every number, by hand: a token per digit, pieces of two digits, and whole numbers."""

from __future__ import annotations

import pandas as pd
import pytest

from interp.prompts.number_tables import answer_numbers, by_number
from interp.prompts.text import Encoded, Prompts
from tests.spelled import speller

ROWS = Prompts.from_pairs([("go: 1, 22", "7, 42 1423; 3"), ("9", "owl 23")])
PREFIX = "answer.numbers"


def texts(encoded: Encoded, kind: str, name: str) -> list[str]:
    return speller(kind).convert_ids_to_tokens(encoded.ids[encoded.at(name)].tolist())


@pytest.mark.parametrize(
    ("kind", "first", "inner", "last"),
    [
        ("digits", ["7", "4", "1", "3", "2"], ["4", "2"], ["7", "2", "3", "3", "3"]),
        ("pairs", ["7", "42", "14", "3", "23"], [], ["7", "42", "23", "3", "23"]),
        ("whole", ["7", "42", "14", "3", "23"], [], ["7", "42", "23", "3", "23"]),
    ],
)
def test_first_inner_and_last_by_hand(kind, first, inner, last):
    encoded = ROWS.encode(speller(kind))
    assert texts(encoded, kind, f"{PREFIX}.first") == first
    assert texts(encoded, kind, f"{PREFIX}.inner") == inner
    assert texts(encoded, kind, f"{PREFIX}.last") == last
    places = [encoded.at(f"{PREFIX}.{part}") for part in ("first", "inner", "last")]
    assert ((places[0] | places[1] | places[2]) == encoded.at(PREFIX)).all()
    assert not (places[1] & (places[0] | places[2])).any()
    for part in ("first", "inner", "last"):
        where = encoded.at(f"predicting {PREFIX}.{part}")
        assert (where[:, :-1] == encoded.at(f"{PREFIX}.{part}")[:, 1:]).all()


def test_a_number_of_one_token_is_its_own_first_and_last():
    encoded = Prompts.from_pairs([("go", "7, 42, 345")]).encode(speller("whole"))
    assert (encoded.at(f"{PREFIX}.first") == encoded.at(f"{PREFIX}.last")).all()
    assert not encoded.at(f"{PREFIX}.inner").any()


def test_tokens_know_which_number_they_are_of():
    encoded = ROWS.encode(speller("digits"))
    found = [row[row >= 0].tolist() for row in encoded.numbers()]
    assert found == [[0, 1, 1, 2, 2, 2, 2, 3], [0, 0]]
    assert ((encoded.numbers() >= 0) == encoded.at(PREFIX)).all()
    table = answer_numbers(encoded, speller("digits")).drop_duplicates(["row", "number"])
    assert table["text"].tolist() == ["7", "42", "1423", "3", "23"]


def test_a_table_by_token_is_added_up_by_number_and_key():
    encoded = Prompts.from_pairs([("go", "42, 7")]).encode(speller("digits"))
    columns = encoded.at("answer+end")[0].nonzero()[:, 0].tolist()  # 4 2 , space 7 and the end
    frame = pd.DataFrame(
        {
            "row": 0,
            "token": columns * 2,
            "direction": ["a"] * 6 + ["b"] * 6,
            "score": [1.0, 2, 4, 8, 16, 32] * 2,
        }
    )
    found = by_number(frame, encoded, speller("digits"), sums=("score",))
    assert found["text"].tolist() == ["42", "42", "7", "7"] or found["text"].tolist() == [
        "42",
        "7",
        "42",
        "7",
    ]
    assert found.groupby("text")["score"].first().to_dict() == {"42": 3.0, "7": 16.0}
    assert sorted(found["direction"]) == ["a", "a", "b", "b"]
    assert found.set_index("text")["tokens"].to_dict() == {"42": 2, "7": 1}
