"""Figures as plain data: what is drawn, in which colour, with which unit, and that text stays text."""

from __future__ import annotations

import html.parser
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
import pytest

from interp import figures, report
from interp.core.errors import InputError
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
    assert colours == {"teacher": "#BD7B00", "student": "#0072B2"}


def test_role_colours_are_fixed_and_others_follow_position() -> None:
    assert [figures.role_colour(name) for name in ("base", "cross_init", "neutral")] == [
        "#7f7f7f",
        "#369EBE",
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


def test_long_names_of_few_categories_stand_in_lines_and_those_of_many_as_they_are() -> None:
    name = "where numbers are predicted: neutral_student with teacher"
    few = pd.DataFrame({"of": [name, "b", "c", "d", "e", "f"], "r": range(6)})
    for draw in (figures.points, figures.bars):
        ticks = drawn(draw(few, x="of", y="r", title="t", unit="u"))["layout"]["xaxis"]["ticktext"]
        assert ticks[:2] == ["where numbers are<br>predicted:<br>neutral_student<br>with teacher", "b"]
    many = pd.DataFrame({"of": [name, *"bcdefghi"], "r": range(9)})
    figure = figures.points(many, x="of", y="r", title="t", unit="u")
    assert drawn(figure)["layout"]["xaxis"]["ticktext"][0] == name


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
    assert page.words == ["<script>", "+2", "␣7⏎", "−1", "x", "–"]
    assert page.titles == ["+2 nats", "−1 nats", "no value"]
    assert "rgba(178,24,43,0.620)" in page.styles[1]
    assert "rgba(33,102,172,0.310)" in page.styles[2]
    assert "0.000)" in page.styles[3]
    assert all("color:inherit" in style for style in page.styles[1:])


@pytest.mark.parametrize(("ink", "paper"), [((0, 0, 0), (255, 255, 255)), ((221, 221, 221), (17, 17, 17))])
def test_the_deepest_colours_are_read_in_light_and_in_dark(
    ink: tuple[int, ...], paper: tuple[int, ...]
) -> None:
    """Contrast as WCAG 2.2 defines it, 4.5 for text: the colour lies over the paper, the ink over both."""
    page = figures.token_html(["a", "b"], [1.0, -1.0], unit="u")
    for shade in re.findall(r"rgba\((\d+),(\d+),(\d+),([\d.]+)\)", page):
        *colour, depth = map(float, shade)
        under = [depth * c + (1 - depth) * p for c, p in zip(colour, paper, strict=True)]
        light, dark = sorted((luminance(ink), luminance(under)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def luminance(rgb: Any) -> float:
    """Relative luminance of WCAG 2.2, of sRGB from 0 to 255."""
    parts = np.array(rgb) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


TOKENS = pd.DataFrame(
    {
        "row": [4, 4, 4, 9, 9],
        "position": [1, 2, 3, 1, 2],
        "token": ["ask", " <i>", " 7", " 8", "\n"],
        "delta_direction": [np.nan, 1.0, -0.5, 0.25, np.nan],
        "delta_logprob": [0.0, 0.0, 0.0, 0.0, -3.0],
    }
)


def test_token_rows_are_plain_text_and_a_cell() -> None:
    read = figures.token_rows(Result("teacher − base", TOKENS, "logits", ("direction owl",)), rows=1)
    assert repr(read).splitlines() == [
        "teacher − base: 2 rows, logits toward the direction",
        "row 4: ask ␣<i> (+1) ␣7 (−0.5)",
        "1 more rows; a slice such as [1:2] shows others",
    ]
    assert repr(read[1:]).splitlines()[1] == "row 9: ␣8 (+0.25) ⏎ (–)"
    page = Spans(read._repr_html_())
    assert set(page.tags) == {"div", "b", "small", "span", "br"}
    assert page.titles == ["+1 logits toward the direction", "−0.5 logits toward the direction"]
    assert "ask" in page.words
    assert page.words[-1] == "direction owl"


def test_token_rows_colour_all_rows_by_one_scale_that_an_outlier_does_not_set() -> None:
    frame = pd.DataFrame({"row": 0, "position": range(100), "token": "x", "score": [*[1.0] * 99, 50.0]})
    assert (
        figures.token_rows(Result("r", frame, "nats")).limit == 1.0
    )  # 98th percentile of 99 ones and an outlier
    assert figures.token_rows(Result("r", TOKENS, "nats"), colour="delta_logprob").limit == 3.0


def test_a_result_with_a_look_shows_that_in_a_cell() -> None:
    read = Result("r", TOKENS, "logits", look=figures.token_rows)
    assert read._repr_html_() == figures.token_rows(read).to_html()


def test_token_rows_refuse_what_has_no_tokens_or_column() -> None:
    with pytest.raises(
        InputError, match="t has no column 'token' to be read token by token; pass a result of"
    ):
        figures.token_rows(Result("t", TOKENS.drop(columns="token"), "nats"))
    with pytest.raises(
        InputError, match=r"column 'delta_directon' is unknown; nearest: delta_direction, .*; colour by"
    ):
        figures.token_rows(Result("t", TOKENS, "nats"), colour="delta_directon")
    with pytest.raises(InputError, match="rows=0 shows nothing; pass at least 1"):
        figures.token_rows(Result("t", TOKENS, "nats"), rows=0)


def test_facts_are_escaped_cut_and_left_out_where_there_are_none() -> None:
    page = Spans(figures.facts_html("<t>", {"a": "<b>", "none": None, "many": ("x", "y")}, notes=["n & m"]))
    assert page.words == ["<t>", "a", "<b>", "many", "x, y", "n & m"]
    assert "script" not in page.tags
    lines = Spans(figures.facts_html("t", columns=("one", "two"), lines=[(1, "z" * 500)]))
    assert lines.words[:4] == ["t", "one", "two", "1"]
    assert len(lines.words[4]) == 160


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


def test_results_are_equal_when_they_say_the_same_however_they_are_drawn() -> None:
    result = Result("counts", FRAME, "rows", ("a note",), draw=figures.forest)
    assert result == Result("counts", FRAME.copy(), "rows", ("a note",))
    assert result != Result("counts", FRAME.assign(change=0.0), "rows", ("a note",))
    assert result != Result("counts", FRAME, "rows")
    assert result != "counts"


def test_a_result_without_a_figure_says_so() -> None:
    with pytest.raises(ValueError, match="counts has no figure"):
        Result("counts", FRAME, "rows").figure()


def test_table_says_what_it_leaves_out() -> None:
    long = pd.DataFrame({"value": range(20)})
    assert "8 more rows" in Table(long).to_html()
    assert "more rows" not in Table(long.head(12)).to_html()


# --- one grammar: who looks like what --------------------------------------------------------------------------------

# Machado, Oliveira and Fernandes (2009), full severity, on linear RGB
SIGHT = {
    "trichromat": np.eye(3),
    "protanope": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranope": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
APART = sorted(
    set(figures.ROLES) - {"null", "cross_init", "neutral"}
)  # those are other names of the same look
PAIRS = list(itertools.combinations(APART, 2))


def lab(colour: str, sight: str) -> np.ndarray:
    """CIE L*a*b* of a hex colour as that eye sees it."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(SIGHT[sight] @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ seen / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_lightness_of_the_test_itself() -> None:
    assert lab("#ffffff", "trichromat") == pytest.approx([100, 0, 0], abs=0.05)
    assert lab("#7f7f7f", "deuteranope") == pytest.approx([53.2, 0, 0], abs=0.3)


@pytest.mark.parametrize("look", [figures.SYMBOLS, figures.DASHES, figures.HATCHES])
def test_roles_of_one_grey_differ_in_marker_dash_and_hatching(look: dict[str, str]) -> None:
    assert set(look) == set(figures.ROLES)
    grey = {role: lab(figures.ROLES[role], "trichromat")[0] for role in APART}
    close = [pair for pair in PAIRS if abs(grey[pair[0]] - grey[pair[1]]) < 10]
    assert len(close) > 5
    assert [pair for pair in close if look[pair[0]] == look[pair[1]]] == []


def test_every_role_has_a_marker_of_its_own() -> None:
    assert len({figures.SYMBOLS[role] for role in APART}) == len(APART)
    assert len({figures.DASHES[role] for role in APART}) == len(APART)
    open_ones = {role for role in APART if figures.SYMBOLS[role].endswith("-open")}
    assert open_ones == {role for role in APART if role.startswith("cross")}


@pytest.mark.parametrize("sight", SIGHT)
def test_roles_that_are_compared_keep_their_distance_for_every_eye(sight: str) -> None:
    compared = [("teacher", "student"), ("student", "neutral_student"), ("student", "cross_student")]
    compared += [("student", "base"), ("teacher", "base"), ("teacher", "neutral_student")]
    for one, other in compared:
        apart = np.linalg.norm(lab(figures.ROLES[one], sight) - lab(figures.ROLES[other], sight))
        assert apart > 20, (one, other)


@pytest.mark.parametrize("sight", SIGHT)
def test_raised_and_lowered_differ_for_every_eye(sight: str) -> None:
    colours = drawn(figures.bars(FRAME, x="change", y="token", title="t", unit="u"))["data"][0]["marker"][
        "color"
    ]
    red, blue = (lab(colour, sight) for colour in colours[:2])
    assert np.linalg.norm(red - blue) > 40


def test_decisions_differ_without_colour() -> None:
    assert len({figures.role_symbol(decision) for decision in figures.DECISIONS}) == 5


def test_lines_of_roles_have_their_dash_and_marker() -> None:
    figure = figures.lines(FRAME, x="layer", y="change", group="role", title="t", unit="nats")
    looks = {
        trace["name"]: (trace["line"]["dash"], trace["marker"]["symbol"]) for trace in drawn(figure)["data"]
    }
    assert looks == {"teacher": ("dash", "diamond"), "student": ("solid", "circle")}


# --- captions and printed numbers ------------------------------------------------------------------------------------


def caption(figure: go.Figure) -> str:
    return drawn(figure)["layout"]["title"]["subtitle"]["text"]


def test_captions_are_escaped_once_and_joined() -> None:
    figure = figures.bars(FRAME, x="layer", y="change", title="t", unit="nats")
    figures.captioned(figure, "", "n < 3")
    figures.captioned(figure, "a & b")
    assert caption(figure) == "n &lt; 3; a &amp; b"
    assert caption(figures.panels([figure], title="all")) == "n &lt; 3; a &amp; b"


def test_a_long_caption_takes_lines_that_a_picture_holds_and_the_height_for_them() -> None:
    figure = figures.bars(FRAME, x="layer", y="change", title="t", unit="nats")
    figures.captioned(figure, "one part of it", "a second part")
    one = drawn(figure)["layout"]
    figures.captioned(figure, *["words that go on"] * 12)
    many = drawn(figure)["layout"]
    lines = caption(figure).split("<br>")
    assert len(lines) == 2
    assert max(map(len, lines)) <= 130
    assert " ".join(lines) == "; ".join(["one part of it", "a second part", *["words that go on"] * 12])
    assert many["height"] - one["height"] == many["margin"]["t"] - one["margin"]["t"] == 16
    assert caption(figures.panels([figure], title="all")) == caption(figure)


def test_points_say_what_the_whiskers_are_and_n() -> None:
    frame = pd.DataFrame({"arm": ["a", "a", "b"], "margin": [1.0, 3.0, 0.0], "half": [0.5, 0.5, np.nan]})
    figure = figures.points(frame, x="arm", y="margin", title="t", unit="nats", interval="half")
    assert caption(figure).split("; ") == [
        "a mark each value, bar: mean, whiskers: 95 % t-interval of the mean",
        "n = 1 to 2",
    ]
    assert "error_y" not in drawn(figure)["data"][3]
    assert "whiskers" not in caption(figures.points(frame, x="arm", y="margin", title="t", unit="nats"))


@pytest.mark.parametrize(("count", "kind"), [(29, "scatter"), (30, "violin")])
def test_fewer_than_thirty_values_are_points(count: int, kind: str) -> None:
    frame = pd.DataFrame({"arm": "a", "margin": np.arange(float(count))})
    values = drawn(figures.points(frame, x="arm", y="margin", title="t", unit="nats"))["data"][0]
    assert values["type"] == kind
    assert list(values["y"]) == frame["margin"].tolist()


def test_small_maps_print_signed_values_and_large_ones_their_minus() -> None:
    small = figures.heatmap([[0.5, -2.0, np.nan]], rows=["r"], columns=list("abc"), title="t", unit="u")
    assert drawn(small)["data"][0]["text"] == [["+0.5", "−2", ""]]
    assert drawn(small)["data"][0]["customdata"] == [["r / a", "r / b", "r / c"]]
    z = np.ones((20, 20))
    z[3, 4], z[5, 6] = -1.0, -0.01
    large = figures.heatmap(z, rows=range(20), columns=range(20), title="t", unit="u")
    cells = drawn(large)["data"][0]["text"]
    assert [(i, j) for i in range(20) for j in range(20) if cells[i][j]] == [(3, 4)]
    assert "marks values below zero" in caption(large)


def test_interval_maps_print_mean_and_interval_on_a_scale_each() -> None:
    frame = pd.DataFrame(
        {
            "cell": ["same", "<foreign>"] * 2,
            "measure": ["transfer"] * 2 + ["coverage"] * 2,
            "mean": [0.8, -0.1, 0.3, 0.0],
            "low": [0.5, -0.3, 0.2, np.nan],
            "high": [1.1, 0.1, 0.4, np.nan],
        }
    )
    units = {"transfer": "nats", "coverage": "cosine"}
    figure = figures.interval_maps(frame, x="cell", units=units, title="t", interval="95 % over n = 8 runs")
    first, second = drawn(figure)["data"]
    assert first["text"] == [["+0.8<br>[+0.5, +1.1]", "−0.1<br>[−0.3, +0.1]"]]
    assert second["text"] == [["+0.3<br>[+0.2, +0.4]", "+0"]]
    assert (first["zmin"], first["zmax"], second["zmax"]) == (-0.8, 0.8, 0.3)
    assert list(drawn(figure)["layout"]["xaxis2"]["ticktext"]) == ["same", "&lt;foreign&gt;"]
    assert list(drawn(figure)["layout"]["yaxis"]["ticktext"]) == ["transfer<br>(nats)"]
    assert "95 % over n = 8 runs" in caption(figure)


# --- waterfall, volcano, forest --------------------------------------------------------------------------------------


LEDGER = pd.DataFrame({"part": ["<q>", "k", "v", "residual"], "nats": [0.5, -0.2, 0.1, 0.05]})


def test_a_waterfall_falls_from_part_to_part_down_to_the_total() -> None:
    figure = figures.waterfall(LEDGER, x="nats", y="part", total="measured", title="t", unit="nats of margin")
    parts, total, _ = drawn(figure)["data"]
    assert parts["base"] == pytest.approx([0, 0.5, 0.3, 0.4])
    assert parts["x"] == [0.5, -0.2, 0.1, 0.05]
    assert parts["text"] == ["+0.5", "−0.2", "+0.1", "+0.05"]
    assert parts["marker"]["pattern"]["shape"] == ["", "", "", "/"]
    assert (total["y"], total["x"]) == (["measured"], [pytest.approx(0.45)])
    order = ["measured", "residual", "v", "k", "&lt;q&gt;"]
    assert drawn(figure)["layout"]["yaxis"]["categoryarray"] == order
    assert axis_titles(figure) == ("nats of margin", "part")


def test_a_bar_that_falls_leaves_room_for_its_value() -> None:
    frame = pd.DataFrame({"part": ["a", "b"], "nats": [1.0, -3.0]})
    figure = figures.waterfall(frame, x="nats", y="part", total="all", title="t", unit="nats")
    assert figure.layout.xaxis.range == pytest.approx((-2 - 0.15 * 3, 1 + 0.15 * 3))


def test_a_waterfall_of_many_parts_keeps_its_sum() -> None:
    figure = figures.waterfall(LEDGER, x="nats", y="part", total="measured", title="t", unit="nats", top=1)
    parts, total, _ = drawn(figure)["data"]
    assert parts["y"] == ["&lt;q&gt;", "2 smaller ones", "residual"]
    assert parts["x"] == pytest.approx([0.5, -0.1, 0.05])
    assert total["x"] == [pytest.approx(0.45)]


def volcano(q: list[float], p: list[float] | None = None) -> go.Figure:
    frame = pd.DataFrame({"delta": [2.0, -1.0, 0.5, 9.0], "q": q, "p": p or [0.001, 0.01, 0.1, np.nan]})
    frame = frame.assign(name=["<a>", "b", "c", "d"], reported=[True, True, False, False])
    return figures.volcano(
        frame, x="delta", marked="reported", text="name", alpha=0.05, title="t", unit="activation"
    )


def test_the_line_of_a_volcano_stands_at_the_largest_p_that_passes() -> None:
    figure = volcano([0.003, 0.015, 0.1, np.nan])
    plain, above, below = drawn(figure)["data"]
    assert (plain["x"], above["x"], below["x"]) == ([0.5], [2.0], [-1.0])
    assert (plain["y"], above["y"], below["y"]) == ([1.0], [3.0], [2.0])
    assert above["text"] == ["&lt;a&gt;"]
    assert drawn(figure)["layout"]["shapes"][0]["y0"] == pytest.approx(2.0)
    assert "FDR 0.05: p ≤ 0.01" in drawn(figure)["layout"]["annotations"][0]["text"]
    assert axis_titles(figure) == ("activation", "−log10 p")
    assert len({trace["marker"]["symbol"] for trace in (plain, above, below)}) == 3


def test_a_volcano_where_nothing_passes_says_so() -> None:
    figure = volcano([0.9, 0.9, 0.9, np.nan])
    assert drawn(figure)["layout"]["shapes"][0]["y0"] == pytest.approx(-np.log10(0.05 / 3))
    assert "none passes" in drawn(figure)["layout"]["annotations"][0]["text"]


def test_a_p_that_underflowed_stays_on_the_page() -> None:
    assert drawn(volcano([0.0, 0.015, 0.1, np.nan], [0.0, 0.01, 0.1, np.nan]))["data"][1]["y"] == [2.0]


def test_a_forest_gives_every_unit_an_axis_and_prints_what_it_draws() -> None:
    verdicts = [
        {"name": "a", "decision": "supported", "effect": 1.0, "interval": [0.5, 2.0], "n": 8, "unit": "nats"}
        | {"level": 0.98},
        {"name": "<b>", "decision": "refuted", "effect": -0.1, "interval": [-0.2, None], "n": 7, "unit": "ρ"},
    ]
    figure = figures.forest(verdicts)
    shown = drawn(figure)["layout"]
    assert (shown["xaxis"]["title"]["text"], shown["xaxis2"]["title"]["text"]) == (
        "effect, nats",
        "effect, ρ",
    )
    assert [trace["yaxis"] for trace in drawn(figure)["data"]] == ["y", "y2"]
    printed = [note["text"] for note in shown["annotations"]]
    assert printed == ["1 [98 %: 0.5, 2], n = 8", "−0.1 [−0.2, ∞], n = 7"]
    assert (
        caption(figure)
        == "● supported, ✕ refuted; whiskers: t-interval over runs of the level that is printed with it"
    )
    assert len(shown["shapes"]) == 2
    assert caption(figures.forest(verdicts, caption="other <whiskers>")) == "other &lt;whiskers&gt;"


def test_panels_keep_axes_lines_and_scales_beside_their_own() -> None:
    upper = figures.heatmap([[1.0]], rows=["r"], columns=["c"], title="<map>", unit="nats")
    lower = figures.bars(FRAME, x="layer", y="change", title="bars", unit="nats").add_hline(y=1)
    for across in (False, True):
        figure = figures.panels([upper, lower], title="both", across=across)
        shown = drawn(figure)["layout"]
        assert [note["text"] for note in shown["annotations"]] == ["&lt;map&gt;", "bars"]
        assert shown["yaxis2"]["title"]["text"] == "change (nats)"
        assert (shown["shapes"][0]["xref"], shown["shapes"][0]["yref"]) == ("x2 domain", "y2")
        low, high = shown["yaxis"]["domain"]
        assert drawn(figure)["data"][0]["colorbar"]["y"] == pytest.approx((low + high) / 2)


def test_grouped_points_stand_side_by_side_under_one_group_and_say_who_they_are():
    frame = pd.DataFrame(
        {"place": place, "who": who, "r": value, "half": 0.1}
        for place, who, value in (
            ("here", "own", 0.9), ("here", "own", 0.7), ("here", "other", 0.1), ("there", "own", 0.5)
        )
    )  # fmt: skip
    drawn = figures.grouped_points(
        frame, group="place", y="r", colour="who", role="who", half="half", title="<b>", unit="correlation"
    )
    own, mean, other, _ = drawn.data
    assert [own.name, other.name] == ["own", "other"]
    assert list(own.y) == [0.9, 0.7, 0.5]
    assert list(mean.y) == pytest.approx([0.8, 0.5])
    assert list(mean.error_y.array) == [0.1, 0.1]
    assert max(own.x[:2]) < other.x[0] < 0.5 < own.x[2] < 1
    assert list(drawn.layout.xaxis.ticktext) == ["here", "there"]
    assert "own: %{y" in own.hovertemplate
    assert "other: %{y" in other.hovertemplate
    assert drawn.layout.title.text == "&lt;b&gt;"


def test_a_point_tells_its_lineage_and_a_whisker_of_nothing_is_not_drawn() -> None:
    frame = pd.DataFrame({"arm": ["a", "a"], "margin": [1.0, 3.0], "half": [0.0, 0.0], "seed": [4, 7]})
    figure = figures.points(frame, x="arm", y="margin", title="t", unit="nats", interval="half")
    assert list(figure.data[0].text) == [", seed 4", ", seed 7"]
    assert "%{text}" in figure.data[0].hovertemplate
    assert figure.data[1].error_y.array is None
    look = {"group": "arm", "y": "margin", "colour": "arm", "role": "arm", "half": "half"}
    series = figures.grouped_points(frame.assign(lineage=["x<y", "z"]), title="t", unit="nats", **look)
    assert list(series.data[0].text) == [", x&lt;y", ", z"]
    assert list(series.data[1].error_y.array) == [None]
    bars = figures.bars(frame, x="margin", y="arm", error="half", title="t", unit="nats")
    assert bars.data[0].error_x.array is None


def test_a_bar_tells_its_number_and_half_width_whichever_way_it_lies() -> None:
    frame = pd.DataFrame({"part": ["MLP", "norm"], "mean": [-0.5, 2.0], "half": [0.25, np.inf]})
    flat = figures.bars(frame, x="mean", y="part", error="half", title="t", unit="logits").data[0]
    assert list(flat.customdata) == ["−0.5 ± 0.25", "2"]
    assert list(flat.error_x.array) == [0.25, None]
    assert flat.hovertemplate.startswith("%{y}<br>%{customdata} logits")
    upright = figures.bars(frame, x="part", y="mean", title="t", unit="logits").data[0]
    assert upright.hovertemplate.startswith("%{x}<br>%{customdata} logits")


def test_a_teacher_of_another_trait_looks_the_same_wherever_it_stands() -> None:
    looks = {
        (figures.role_colour(name, at), figures.role_symbol(name, at))
        for at in (0, 5)
        for name in ("teacher_eagle",)
    }
    assert looks == {(figures.ROLES["other_student"], figures.SYMBOLS["other_student"])}


CARDS = {"light": "#ffffff", "dark": "#1d2024"}  # behind the figures of a page: --card of report.css


def contrast(colour: str, card: str) -> float:
    """Contrast as WCAG 2.2 defines it, of two colours written #rrggbb."""
    rgb = ([int(each[place : place + 2], 16) for place in (1, 3, 5)] for each in (colour, card))
    low, high = sorted(luminance(each) for each in rgb)
    return (high + 0.05) / (low + 0.05)


def marks() -> list[tuple[str, float]]:
    """Colour and opacity of every mark that the charts draw of each role, decision, position and sign."""
    names = [*figures.ROLES, *(f"mine {at}" for at in range(len(figures.OTHERS)))]
    frame = pd.DataFrame({"who": names * 2, "y": [1.0, -1.0] * len(names), "half": 0.5, "seed": 0})
    frame = frame.assign(
        x=range(len(frame)), p=0.01, q=[0.01, 0.5] * len(names), group="g", marked=[True, False] * len(names)
    )
    look = {"title": "t", "unit": "u"}
    drawings = [
        figures.points(frame, x="who", y="y", interval="half", **look),
        figures.grouped_points(frame, group="group", y="y", colour="who", role="who", half="half", **look),
        figures.scatter(frame, x="x", y="y", colour="who", title="t", units=("u", "u")),
        figures.bars(frame, x="y", y="who", colour="who", **look),
        figures.bars(frame, x="y", y="who", **look),
        figures.lines(frame, x="x", y="y", group="who", **look),
        figures.lines(frame, x="x", y="y", **look),
        figures.volcano(frame, x="y", marked="marked", text="who", alpha=0.05, **look),
        figures.waterfall(frame[:2], x="y", y="who", total="all", **look),
    ]
    found = [(colour, 1.0) for colour in figures.DECISIONS.values()]
    for trace in itertools.chain.from_iterable(drawing.data for drawing in drawings):
        opacity = getattr(trace.marker, "opacity", None)
        colours = [trace.marker.color, getattr(trace, "line", None) and trace.line.color]
        for colour in colours:
            each = [colour] if isinstance(colour, str) else list(colour if colour is not None else [])
            found += [(one, 1.0 if opacity is None else float(opacity)) for one in each]
    return found


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_mark_stands_out_from_its_page(mode: str) -> None:
    """At least 3 : 1, what WCAG 2.2 (1.4.11) asks of graphics, on the page's card in light and, exchanged, in dark."""
    found, thin = marks(), {"#999999"}  # the rungs of a waterfall, which only lead the eye
    assert {"#BD7B00", "#0072B2", "#b2182b", "#333333"} <= {colour for colour, _ in found}
    for colour, opacity in found:
        seen = figures.NIGHT.get(colour, colour) if mode == "dark" else colour
        assert opacity == 1.0, colour
        assert colour in thin or contrast(seen, CARDS[mode]) >= 3, (colour, contrast(seen, CARDS[mode]))


def test_the_card_of_the_page_is_the_one_that_marks_are_held_against() -> None:
    style = Path(report.__file__).with_name("templates").joinpath("report.css").read_text()
    assert re.findall(r"--card: (#\w+)", style)[:2] == list(CARDS.values())


def test_a_thin_line_joins_what_is_of_one_lineage_and_says_so() -> None:
    frame = pd.DataFrame(
        {"arm": ["base", "base", "student", "student"], "margin": [1.0, 2.0, 3.0, 4.0], "seed": [0, 1, 0, 1]}
    )
    figure = figures.points(frame, x="arm", y="margin", title="t", unit="nats")
    thin = figure.data[-1]
    assert list(thin.y) == [1.0, 3.0, None, 2.0, 4.0, None]
    assert list(thin.x) == pytest.approx([-0.18, 0.82, None, 0.18, 1.18, None])
    assert "a thin line joins what is of one lineage" in caption(figure)
    assert (thin.hoverinfo, thin.showlegend, thin.zorder) == ("skip", False, -1)
    look = {"group": "arm", "y": "margin", "colour": "role", "role": "role", "half": "half"}
    within = frame.assign(role=["x", "x", "y", "y"], arm="here", half=0.0)
    assert list(figures.grouped_points(within, title="t", unit="nats", **look).data[-1].y) == [
        1,
        3,
        None,
        2,
        4,
        None,
    ]
    apart = figures.grouped_points(frame.assign(role="x", half=0.0), title="t", unit="nats", **look)
    assert "thin" not in caption(apart)  # two measures of a lineage are not one path
    twice = figures.points(frame.assign(seed=0), x="arm", y="margin", title="t", unit="nats")
    assert "thin" not in caption(twice)  # several values of one lineage
    assert "thin" not in caption(
        figures.points(frame.drop(columns="seed"), x="arm", y="margin", title="t", unit="nats")
    )


def test_models_are_named_in_words() -> None:
    said = figures.spoken(
        "student − neutral_student, cross_neutral_student; teacher_eagle − base, moved_teacher_x a_b"
    )
    assert (
        said == "student − neutral student, cross neutral student; eagle teacher − base, moved_teacher_x a_b"
    )
