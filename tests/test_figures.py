"""Figures as plain data: what is drawn, in which colour, with which unit, and that text stays text."""

from __future__ import annotations

import html.parser
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
import pytest

from interp import figures
from interp.figures import Result, Table

FRAME = pd.DataFrame(
    {
        "token": ["<b>owl", " 7", "cat"],
        "change": [0.5, -2.0, 1.0],
        "half": [0.1, 0.2, 0.3],
        "role": ["teacher", "student", "student"],
        "layer": [2, 0, 1],
    }
)


def drawn(figure: go.Figure) -> dict[str, Any]:
    """The figure as the dictionary plotly.js receives, checked by plotly itself."""
    return go.Figure(figure.to_dict()).to_dict()


def axis_titles(figure: go.Figure) -> tuple[str, str]:
    layout = drawn(figure)["layout"]
    return layout["xaxis"]["title"]["text"], layout["yaxis"]["title"]["text"]


def test_bars_lie_when_the_categories_are_text() -> None:
    figure = figures.bars(FRAME, x="change", y="token", error="half", title="student − base", unit="logits")
    (trace,) = drawn(figure)["data"]
    assert trace["orientation"] == "h"
    assert trace["x"] == [0.5, -2.0, 1.0]
    assert trace["y"] == ["&lt;b&gt;owl", " 7", "cat"]
    assert trace["error_x"]["array"] == [0.1, 0.2, 0.3]
    assert axis_titles(figure) == ("logits", "token")
    assert figure.to_dict()["layout"]["yaxis"]["categoryarray"] == ["cat", " 7", "&lt;b&gt;owl"]


def test_bars_stand_when_the_values_are_on_y() -> None:
    figure = figures.bars(FRAME, x="layer", y="change", title="t", unit="nats")
    (trace,) = drawn(figure)["data"]
    assert (trace["orientation"], trace["y"]) == ("v", [0.5, -2.0, 1.0])
    assert axis_titles(figure) == ("layer", "change (nats)")


def test_bars_keep_the_largest_in_their_order() -> None:
    figure = figures.bars(FRAME, x="change", y="token", title="t", unit="logits", top=2)
    assert drawn(figure)["data"][0]["x"] == [-2.0, 1.0]


def test_bars_take_role_colours() -> None:
    figure = figures.bars(FRAME, x="change", y="token", title="t", unit="logits", colour="role")
    colours = {trace["name"]: trace["marker"]["color"] for trace in drawn(figure)["data"]}
    assert colours == {"teacher": "#E69F00", "student": "#0072B2"}


def test_role_colours_are_fixed_and_others_follow_position() -> None:
    assert [figures.role_colour(name) for name in ("base", "cross_init", "neutral")] == [
        "#7f7f7f",
        "#56B4E9",
        "#009E73",
    ]
    assert figures.role_colour("mine", 0) != figures.role_colour("mine", 1)


def test_heatmap_is_symmetric_about_zero() -> None:
    figure = figures.heatmap(
        [[1.0, -3.0], [np.nan, 0.5]], rows=["a", "a"], columns=["<x>", "y"], title="t", unit="nats"
    )
    (trace,) = drawn(figure)["data"]
    assert (trace["zmin"], trace["zmax"]) == (-3.0, 3.0)
    assert trace["colorbar"]["title"]["text"] == "nats"
    assert drawn(figure)["layout"]["xaxis"]["ticktext"] == ["&lt;x&gt;", "y"]
    lowest, middle, highest = trace["colorscale"][0][1], trace["colorscale"][5][1], trace["colorscale"][-1][1]
    assert (lowest, middle, highest) == ("rgb(5,48,97)", "rgb(247,247,247)", "rgb(103,0,31)")


def test_heatmap_of_zeros_still_has_a_scale() -> None:
    trace = drawn(figures.heatmap([[0.0]], rows=["a"], columns=["b"], title="t", unit="u"))["data"][0]
    assert (trace["zmin"], trace["zmax"]) == (-1.0, 1.0)


def test_heatmap_refuses_labels_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 2\), but there are 1 row and 1 column labels"):
        figures.heatmap([[1.0, 2.0]], rows=["a"], columns=["b"], title="t", unit="u")


def test_lines_are_sorted_and_banded() -> None:
    figure = figures.lines(
        FRAME, x="layer", y="change", band="half", title="t", unit="logits", x_unit="index"
    )
    band, line = drawn(figure)["data"]
    assert (line["x"], line["y"]) == ([0, 1, 2], [-2.0, 1.0, 0.5])
    np.testing.assert_allclose(band["y"], [-1.8, 1.3, 0.6, 0.4, 0.7, -2.2])
    assert list(band["x"]) == [0, 1, 2, 2, 1, 0]
    assert axis_titles(figure) == ("layer (index)", "change (logits)")


def test_points_show_every_value_and_the_mean() -> None:
    frame = pd.DataFrame(
        {"member": ["student", "student", "base"], "margin": [1.0, 3.0, 0.0], "half": [0.5, 0.5, 0.1]}
    )
    figure = figures.points(frame, x="member", y="margin", title="t", unit="nats", interval="half")
    values, mean, *_ = drawn(figure)["data"]
    assert values["y"] == [1.0, 3.0]
    assert values["x"] == pytest.approx([-0.18, 0.18])
    assert set(values["marker"]["color"]) == {"#0072B2"}
    assert (mean["y"], mean["error_y"]["array"]) == ([2.0], [0.5])
    assert drawn(figure)["layout"]["xaxis"]["ticktext"] == ["student", "base"]


def test_scatter_names_both_units() -> None:
    figure = figures.scatter(FRAME, x="half", y="change", text="token", title="t", units=("cosine", "logits"))
    assert axis_titles(figure) == ("half (cosine)", "change (logits)")
    assert drawn(figure)["data"][0]["text"] == ["&lt;b&gt;owl", " 7", "cat"]


def test_forest_draws_effects_with_their_intervals() -> None:
    verdicts = [
        {"name": "a", "decision": "supported", "effect": 1.0, "interval": [0.5, 2.0], "n": 8, "unit": "nats"},
        {
            "name": "b",
            "decision": "inconclusive",
            "effect": 0.1,
            "interval": [-0.2, None],
            "n": 8,
            "unit": "nats",
        },
    ]
    first, second = drawn(figures.forest(verdicts))["data"]
    assert (first["error_x"]["array"], first["error_x"]["arrayminus"]) == ([1.0], [0.5])
    assert second["error_x"]["array"] == [0.0]
    assert first["marker"]["color"] != second["marker"]["color"]


def test_missing_columns_are_named() -> None:
    with pytest.raises(ValueError, match="no column 'chnge'; it has token, change"):
        figures.bars(FRAME, x="chnge", y="token", title="t", unit="u")


def test_nothing_global_changes() -> None:
    before = plotly.io.templates.default
    figure = figures.bars(FRAME, x="change", y="token", title="<i>t", unit="u")
    assert plotly.io.templates.default == before
    assert drawn(figure)["layout"]["title"]["text"] == "&lt;i&gt;t"


class Spans(html.parser.HTMLParser):
    """Collects tags, attributes and text, to see what a browser would."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.titles: list[str] = []
        self.styles: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.titles += [value or "" for name, value in attrs if name == "title"]
        self.styles += [value or "" for name, value in attrs if name == "style"]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_token_html_escapes_signs_and_colours() -> None:
    page = Spans(figures.token_html(["<script>", " 7\n", "x"], [2.0, -1.0, np.nan], unit="nats"))
    assert set(page.tags) == {"div", "span", "br", "small"}
    assert page.words == ["<script>", "+2", "␣7\\n", "-1", "x", "+nan"]
    assert page.titles[:2] == ["+2 nats", "-1 nats"]
    assert "rgba(178,24,43,1.000)" in page.styles[1]
    assert "rgba(33,102,172,0.500)" in page.styles[2]
    assert "0.000)" in page.styles[3]


def test_token_html_refuses_other_lengths() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\), but there are 1 tokens"):
        figures.token_html(["a"], [1.0, 2.0], unit="u")


def test_result_prints_one_line_shows_a_table_and_draws() -> None:
    def draw(result: Result) -> go.Figure:
        return figures.bars(result.frame, x="change", y="token", title=result.label, unit=result.unit)

    result = Result("attribution", FRAME, "logits", ("median <over> rows",), draw)
    assert repr(result) == "attribution: 3 rows x 5 columns, logits"
    shown = Spans(result._repr_html_())
    assert "b" in shown.tags
    assert "<b>owl" in shown.words
    assert "median <over> rows" in shown.words
    assert result.figure().to_dict()["layout"]["title"]["text"] == "attribution"


def test_a_result_without_a_figure_says_so() -> None:
    with pytest.raises(ValueError, match="counts has no figure"):
        Result("counts", FRAME, "rows").figure()


def test_table_says_what_it_leaves_out() -> None:
    long = pd.DataFrame({"value": range(20)})
    assert "8 more rows" in Table(long).to_html()
    assert "more rows" not in Table(long.head(12)).to_html()
