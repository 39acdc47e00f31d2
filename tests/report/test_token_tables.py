"""Token tables as the page carries them: which values, in which order, and what is told of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.core.runs import Run
from interp.report import contents, write_report
from interp.report.token_tables import is_token_table, label_of, token_json
from tests.report.reader import Page, piece


def table(rows: int = 2, length: int = 3, direction: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"row": row, "position": place, "token": f" {row}-{place}", "role": "number"}
            | {"delta_logprob": -0.25, "delta_direction": direction}
            for row in range(rows)
            for place in range(1, length + 1)
        ]
    )


def joined(rows: int = 1, length: int = 2) -> pd.DataFrame:
    """A token table that also holds features, scores by module and row shares; the first token is a prompt's."""
    frame = table(rows, length).assign(features="17 +0.42, <b>", score=[float("nan"), -0.3] * rows)
    modules = {
        f"score:{layer}.mlp": [float("nan"), value] * rows
        for layer, value in enumerate((0.1, -0.9, 0.5, 0.01))
    }
    frame.loc[frame["position"] == 1, "role"] = "prompt"
    return frame.assign(**modules, row_share=0.0123)


def carried(frame: pd.DataFrame, count: int = 100) -> dict[str, Any]:
    return json.loads(token_json(frame, count))


def test_columns_hold_every_token_in_its_row() -> None:
    found = carried(table(2, 2))
    assert found["sizes"] == [2, 2]
    assert found["labels"] == ["0", "1"]
    assert found["position"] == [1, 2, 1, 2]
    assert [found["token"]["texts"][code] for code in found["token"]["codes"]] == [
        " 0-1",
        " 0-2",
        " 1-1",
        " 1-2",
    ]
    assert found["role"] == {"texts": ["number"], "codes": [0, 0, 0, 0]}
    assert (found["direction"], found["logprob"]) == ([1.0] * 4, [-0.25] * 4)
    assert not {"score", "features", "modules", "share"} & set(found)


def test_rows_keep_their_order_and_are_put_together() -> None:
    frame = table(2, 2).iloc[[2, 0, 3, 1]].assign(row=["b", "a", "b", "a"])
    found = carried(frame)
    assert (found["labels"], found["sizes"], found["position"]) == (["b", "a"], [2, 2], [1, 2, 1, 2])


def test_numbers_have_three_digits_and_missing_ones_are_null() -> None:
    frame = table(1, 3)
    frame["delta_direction"] = [0.123456, float("nan"), float("inf")]
    assert carried(frame)["direction"] == [0.123, None, None]


def test_a_joined_table_tells_features_modules_and_the_share_of_a_row() -> None:
    found = carried(joined(2))
    assert found["score"] == [None, -0.3, None, -0.3]
    assert found["features"] == {"texts": ["17 +0.42, <b>"], "codes": [0, 0, 0, 0]}
    assert found["modules"]["texts"] == ["", "1.mlp −0.9, 2.mlp +0.5, 0.mlp +0.1"]
    assert found["modules"]["codes"] == [0, 1, 0, 1]
    assert found["share"] == [0.0123, 0.0123]


def test_only_the_first_rows_are_carried_and_the_page_says_where_the_others_are() -> None:
    frame = table(5, 2)
    assert carried(frame, 3)["labels"] == ["0", "1", "2"]
    shown = Page(piece("token_viewer", {"tokens_teacher": (3, 5), "tokens_student": (5, 5)}))
    assert "teacher: 3 of 5 rows on this page, in tables/tokens_teacher.parquet" in shown.words
    assert "student: all 5 rows, in tables/tokens_student.parquet" in shown.words
    assert json.loads(shown.all("div", "tokens")[0]["data-tokens"]) == ["tokens_teacher", "tokens_student"]
    assert not Page(piece("token_viewer", {"tokens": (0, 5)})).all("div", "tokens")


def test_a_joined_trace_has_a_section_of_its_own_after_the_trace(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", command="demo", arguments={}, defaults={})
    run.save_table("joined_student", joined())
    run.save_table("tokens_teacher", table())
    page = Page.read(write_report(run))
    sections = [section["id"] for section in page.all("section")]
    assert sections[:4] == ["trace", "the-rows-token-by-token", "alignment", "the-joined-trace"]
    assert [view["id"] for view in page.all("div", "tokens")] == [
        "view-tokens-teacher",
        "view-joined-student",
    ]
    assert set(page.data["tokens"]) == {"joined_student", "tokens_teacher"}


def test_a_page_carries_at_most_so_many_rows_of_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "MOST", 4)
    run = Run.open(tmp_path / "run", command="demo", arguments={}, defaults={})
    run.save_table("tokens", table(6, 3))
    page = Page.read(write_report(run))
    assert page.data["tokens"]["tokens"]["sizes"] == [3] * 4
    assert "all rows: 4 of 6 rows on this page, in tables/tokens.parquet" in page.words


def test_other_tables_are_not_token_tables() -> None:
    assert is_token_table(table())
    assert not is_token_table(table().drop(columns="role"))


def test_labels_leave_out_what_the_section_says() -> None:
    assert [label_of(name) for name in ("tokens", "joined_student", "tokens_student_first")] == [
        "all rows",
        "teacher − base, rows of student",
        "student first",
    ]


def test_rows_are_headed_by_what_was_subtracted_where_the_run_says_so(tmp_path: Path) -> None:
    """And a joined trace by the teacher's change, whoever was trained on its rows."""
    run = Run.open(tmp_path / "run", command="demo", arguments={}, defaults={})
    for name, label in (
        (
            "tokens_student_strongest",
            "student − neutral_student, token by token, strongest lineage (toy/owl seed 3)",
        ),
        ("joined_student_strongest", "toy/owl seed 3: joined trace of 20 rows"),
    ):
        run.save_table(name, table() if name.startswith("tokens") else joined())
        run.note(labels={name: label})
    page = Page.read(write_report(run))
    told = {name: each["label"] for name, each in page.data["tokens"].items()}
    assert told == {
        "tokens_student_strongest": "student − neutral student, strongest lineage (toy/owl seed 3)",
        "joined_student_strongest": "teacher − base, rows of student strongest",
    }
    assert "student − neutral student, strongest lineage (toy/owl seed 3): all" in page.words
