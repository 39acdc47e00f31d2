"""Token-coloured rows: what is shown, how deep the colour is, and how much of a table fits."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from interp.report import tokens, write_report
from interp.report.tokens import is_token_table, token_rows
from interp.runs import Run
from tests.report.reader import Page


def table(rows: int = 2, length: int = 3, direction: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"row": row, "position": place, "token": f" {row}-{place}", "role": "number"}
            | {"delta_logprob": -0.25, "delta_direction": direction}
            for row in range(rows)
            for place in range(1, length + 1)
        ]
    )


def test_a_token_shows_one_value_and_tells_both() -> None:
    frame = table(1, 2)
    frame["delta_direction"] = [2.0, -1.0]
    first, second = Page(token_rows({"tokens": frame})).all("span")[-2:]
    assert first["title"] == "position 1, number: +2 logits toward the trait, −0.25 nats log-probability"
    assert second["class"] == "m"
    assert "␣0-1 +2.00 ␣0-2 −1.00" in Page(token_rows({"tokens": frame})).words


def test_shade_is_the_share_of_the_98th_percentile_and_clipped() -> None:
    frame = table(1, 100)
    frame["delta_direction"] = [0.5] * 50 + [-1.0] * 49 + [50.0]
    spans = [span for span in Page(token_rows({"tokens": frame})).all("span") if "title" in span]
    assert [spans[place]["style"] for place in (0, 50, 99)] == ["--a:0.50", "--a:1.00", "--a:1.00"]
    assert [spans[place]["class"] for place in (0, 50, 99)] == ["", "m d", "d"]


def test_missing_values_stay_uncoloured() -> None:
    page = Page(token_rows({"tokens": table(1, 1, float("nan"))}))
    (span,) = [span for span in page.all("span") if "title" in span]
    assert span["style"] == "--a:0.00"
    assert span["title"].startswith("position 1, number: – logits")
    assert "␣0-1 –" in page.words


def test_prompt_tokens_are_marked_and_odd_tokens_visible() -> None:
    frame = table(1, 3).assign(token=["\n", "", "<b>"], role=["prompt", "number", "end"])
    page = Page(token_rows({"tokens": frame}))
    assert [span["class"] for span in page.all("span") if "title" in span] == ["d p", "d", "d"]
    assert "⏎ +1.00 ∅ +1.00 <b> +1.00" in page.words


def test_rows_can_be_filtered_and_reached_by_keyboard() -> None:
    page = Page(token_rows({"tokens_teacher": table(), "tokens_student": table()}))
    rows = page.all("li")
    assert [row["data-text"] for row in rows[:2]] == [" 0-1 0-2 0-3", " 1-1 1-2 1-3"]
    assert {row["tabindex"] for row in rows} == {"0"}
    (box,) = page.all("input")
    assert [label["for"] for label in page.all("label")] == [box["id"]]
    assert "4 of 4 rows" in page.words
    assert "teacher 2 of 2 rows" in page.words


def test_at_most_forty_rows_are_shown_and_the_file_is_named() -> None:
    page = Page(token_rows({"tokens": table(50, 2)}))
    assert len(page.all("li")) == 40
    assert "40 of 50 rows, all in tables/tokens.parquet" in page.words


def test_long_rows_share_a_budget_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "TOKENS", 20)
    assert len(Page(token_rows({"a": table(5, 6), "b": table(1, 2)})).all("li")) == 1 + 1
    cut = Page(token_rows({"a": table(3, 30)}))
    assert len([span for span in cut.all("span") if "title" in span]) == 20
    assert "1 of 3 rows, all in tables/a.parquet" in cut.words


def joined(rows: int = 1, length: int = 2) -> pd.DataFrame:
    """A token table that also holds features, scores by module and row shares; the first token is a prompt's."""
    frame = table(rows, length).assign(features="17 +0.42, <b>", score=[float("nan"), -0.3] * rows)
    modules = {
        f"score:{layer}.mlp": [float("nan"), value] * rows
        for layer, value in enumerate((0.1, -0.9, 0.5, 0.01))
    }
    frame.loc[frame["position"] == 1, "role"] = "prompt"
    return frame.assign(**modules, row_share=0.0123)


def test_a_joined_table_is_coloured_by_its_score_and_tells_all_four() -> None:
    page = Page(token_rows({"joined_student": joined()}))
    asked, answered = [span for span in page.all("span") if "title" in span]
    assert (asked["style"], answered["style"], answered["class"]) == ("--a:0.00", "--a:1.00", "m d")
    assert answered["title"] == (
        "position 2, number: +1 logits toward the trait, −0.25 nats log-probability; features 17 +0.42, <b>; "
        "−0.3 nats along the teacher's update (1.mlp −0.9, 2.mlp +0.5, 0.mlp +0.1); "
        "its row adds +0.0123 nats to the student's margin"
    )
    assert "nats along" not in asked["title"]
    assert "0 +0.01 ␣0-1 – ␣0-2 −0.30" in page.words
    assert "−0.3 +0.3 nats along the teacher's update; deepest colour" in page.words


def test_rows_without_a_share_and_tokens_without_a_moved_feature_say_so() -> None:
    frame = joined().assign(features="", row_share=float("nan"))
    page = Page(token_rows({"joined_student": frame}))
    answered = [span for span in page.all("span") if "title" in span][1]
    assert "features unmoved" in answered["title"]
    assert "its row" not in answered["title"]
    assert "0 ␣0-1 –" in page.words


def test_a_joined_trace_has_a_section_and_a_filter_of_its_own(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", command="demo", arguments={}, defaults={})
    run.save_table("joined_student", joined())
    run.save_table("tokens_teacher", table())
    page = Page.read(write_report(run))
    sections = [section["id"] for section in page.all("section")]
    assert sections.index("the-joined-trace") + 1 == sections.index("the-rows-token-by-token")
    boxes = [box["id"] for box in page.all("input")]
    assert boxes == ["filter-joined-student", "filter-tokens-teacher"]
    assert [label["for"] for label in page.all("label")] == boxes
    assert "student 1 of 1 rows" in page.words


def test_other_tables_are_not_token_tables() -> None:
    assert is_token_table(table())
    assert not is_token_table(table().drop(columns="role"))
