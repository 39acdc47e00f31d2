"""Views of scores written down by hand: what is drawn where, which means, which comparison, and escaped text."""

import numpy as np
import pandas as pd
import pytest
import torch

from interp.core.runs import InputError
from interp.gradients.directions import trait_gradient
from interp.gradients.scores.plan import RoutePlan
from interp.gradients.scores.scoring import Scores, score
from interp.gradients.scores.views import draw_scores, extreme_rows
from interp.models.language import load_model
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait
from tests.tiny import build_tokenizer

PLAN = RoutePlan("direction-first", "by hand", 1.0, "model.embed_tokens")
ROWS = Prompts.from_pairs([("numbers 1", "2 , 3"), ("1 , 2", "4"), ("list", "7")], label="three rows")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def written(tokenizer, tmp_path):
    """Scores from a table; `totals` [row][direction] when the table does not say."""

    def make(frame, *, by, totals=None, label="rows", directions=None, rows=ROWS):
        names = tuple(directions or dict.fromkeys(frame["direction"]))
        inputs = rows.encode(tokenizer)
        if totals is None:
            wide = frame.groupby(["row", "direction"])["score"].sum().unstack()
            totals = wide[list(names)].to_numpy()
        path = tmp_path / f"{label}.parquet"
        frame.to_parquet(path)
        return Scores(
            label, names, tuple(by), PLAN, torch.tensor(totals, dtype=torch.float64),
            loss=torch.ones(len(inputs)), tokens=torch.ones(len(inputs), dtype=torch.int64), files=(path,),
            inputs=inputs, tokenizer=tokenizer,
        )  # fmt: skip

    return make


def table(**columns):
    return pd.DataFrame(columns)


@pytest.fixture
def by_example(written):
    def make(values, label="rows", directions=("matched", "other")):
        totals = np.asarray(values, dtype=float)
        rows = Prompts.from_pairs([("list", "7")] * len(totals))
        frame = pd.DataFrame(totals, columns=list(directions)).rename_axis("row").reset_index()
        frame = frame.melt(id_vars="row", var_name="direction", value_name="score")
        return written(frame, by=["example"], totals=totals, label=label, directions=directions, rows=rows)

    return make


def test_distributions_lie_over_one_another_and_each_holds_every_row(by_example):
    rng = np.random.default_rng(0)
    figure = by_example(rng.normal([1.0, 0.0], 1.0, size=(400, 2))).figure()
    assert [trace.name.split(":")[0] for trace in figure.data] == ["matched", "other"]
    edges = np.asarray(figure.data[0].x)[::2]
    for trace in figure.data:
        assert np.asarray(trace.x)[::2].tolist() == edges.tolist()
        assert np.asarray(trace.y)[1:-1:2].sum() == pytest.approx(100)
    assert figure.layout.title.text == "rows along matched and 1 other"
    assert figure.layout.xaxis.title.text == "score (nats per unit of direction)"
    assert figure.layout.yaxis.title.text == "share (% of rows in a bin)"


def test_the_legend_and_the_dotted_lines_give_the_means(by_example):
    figure = by_example([[1.0, -2.0], [2.0, -1.0], [4.5, 0.0]]).figure()
    assert [trace.name for trace in figure.data] == ["matched: mean +2.5", "other: mean -1"]
    assert [shape.x0 for shape in figure.layout.shapes] == [2.5, -1.0]


def test_far_rows_are_counted_at_the_edge(by_example):
    values = np.append(np.linspace(-1, 1, 1999), 1e6)[:, None]
    outline = by_example(values, directions=("matched",)).figure().data[0]
    assert max(outline.x) < 10
    assert sum(outline.y[1:-1:2]) == pytest.approx(100)


def test_other_rows_are_dashed_and_named(by_example):
    own, neutral = (
        by_example([[1.0, 0.0], [3.0, 1.0]]),
        by_example([[0.0, 0.0], [0.0, 2.0]], label="neutral rows"),
    )
    figure = own.figure(against=neutral)
    assert [trace.line.dash for trace in figure.data] == ["solid", "solid", "dash", "dash"]
    assert figure.data[2].name == "matched, against: mean +0"
    assert figure.data[0].line.color == figure.data[2].line.color
    assert "dashed: neutral rows" in figure.layout.title.subtitle.text


def test_standardised_scores_are_in_their_own_spread(by_example):
    values = np.array([[1.0, 100.0], [3.0, 500.0]])
    figure = by_example(values).figure(standardise=True)
    means = values.mean(0) / values.std(0, ddof=1)
    assert [shape.x0 for shape in figure.layout.shapes] == pytest.approx(means.tolist())
    assert "standard deviations" in figure.layout.xaxis.title.text


def test_rows_with_one_score_still_have_a_figure(by_example):
    figure = by_example([[2.0], [2.0]], directions=("matched",)).figure()
    assert max(figure.data[0].y) == pytest.approx(100)


MODULES = {
    "model.embed_tokens": 1.0,
    "model.layers.0.mlp.up_proj": 2.0,
    "model.layers.0.mlp.down_proj": -3.0,
    "model.layers.10.mlp.up_proj": 4.0,
    "model.layers.2.mlp.up_proj": 5.0,
    "lm_head": 6.0,
}


@pytest.fixture
def by_module(written):
    def make(scale=1.0, label="rows", by=("example", "module")):
        names, values = np.tile(list(MODULES), 3), np.tile(list(MODULES.values()), 3)
        rows = np.repeat(np.arange(3), len(MODULES))
        frame = table(row=rows, module=names, direction="matched", score=scale * values * (1 + rows))
        if "example" not in by:
            frame = frame.groupby(["module", "direction"], sort=False)["score"].sum().reset_index()
        return written(frame, by=by, label=label, directions=["matched"], totals=np.ones((3, 1)))

    return make


@pytest.mark.parametrize("by", [("example", "module"), ("module",)])
def test_modules_make_a_map_of_kind_and_layer(by_module, by):
    figure = by_module(by=by).figure()
    shown = figure.data[0]
    assert list(figure.layout.xaxis.ticktext) == ["none", "0", "2", "10"]
    assert list(figure.layout.yaxis.ticktext) == ["embed_tokens", "mlp.up_proj", "mlp.down_proj", "lm_head"]
    nan = np.nan
    expected = [
        [2, nan, nan, nan],
        [nan, 4, 10, 8],
        [nan, -6, nan, nan],
        [12, nan, nan, nan],
    ]  # mean of 1, 2, 3 is 2
    assert np.array(shown.z, dtype=float) == pytest.approx(np.array(expected), nan_ok=True)
    assert (shown.zmin, shown.zmax) == (-12, 12)
    assert figure.layout.title.text == "rows: mean score along matched"
    assert figure.layout.plot_bgcolor != "white"  # a module that is not there is not a zero


def test_a_map_against_other_rows_is_the_difference_of_means(by_module):
    figure = by_module().figure(against=by_module(0.5, label="neutral rows"))
    assert figure.data[0].z[1][1] == pytest.approx(2.0)
    assert "minus: neutral rows" in figure.layout.title.subtitle.text


def test_heads_make_a_map_of_layer_and_head(written):
    lines = [
        (f"model.layers.{layer}.self_attn.{part}_proj", part, head, 10.0 * layer + head + (part == "o"))
        for layer in (0, 1)
        for part, heads in (("q", 3), ("k", 1), ("o", 3))
        for head in range(heads)
    ]
    lines.append(("model.layers.0.mlp.up_proj", "", -1, 99.0))
    frame = pd.DataFrame(lines, columns=["module", "part", "head", "score"]).assign(
        direction="matched", row=0
    )
    figure = written(frame, by=["example", "module", "head"], totals=np.ones((3, 1))).figure()
    assert list(figure.layout.xaxis.ticktext) == ["q 0", "q 1", "q 2", "k 0", "o 0", "o 1", "o 2"]
    expected = (
        np.array([[0, 1, 2, 0, 1, 2, 3], [10, 11, 12, 10, 11, 12, 13]]) / 3
    )  # three rows, two of them zero
    assert np.array(figure.data[0].z) == pytest.approx(expected)


@pytest.fixture
def by_token(written, tokenizer):
    """Score 10 · (row + 1) + answer token number; the answers start at different columns."""

    def make(by=("example", "token")):
        inputs = ROWS.encode(tokenizer)
        answers = (inputs.roles >= 2).numpy()
        rows, columns = answers.nonzero()
        scores = 10.0 * (rows + 1) + columns - answers.argmax(1)[rows]
        frame = table(row=rows, token=columns, direction="matched", score=scores)
        if "example" not in by:
            frame = frame.groupby(["token", "direction"], sort=False)["score"].sum().reset_index()
        return written(frame, by=by, totals=np.array([[60.0], [30.0], [-5.0]]))

    return make


def test_rows_are_aligned_at_their_answers_with_a_band_of_one_standard_error(by_token):
    figure = by_token().figure()
    band, curve = figure.data
    assert list(curve.x) == [0, 1]  # later tokens are in one row of three only
    assert list(curve.y) == pytest.approx([20.0, 21.0])
    upper = np.asarray(band.y)[:2]
    assert upper - np.asarray(curve.y) == pytest.approx([10 / 3**0.5] * 2)  # 10, 20, 30 vary by 10
    assert figure.layout.xaxis.title.text == "loss tokens, counted from the first answer token"
    assert "one standard error" in figure.layout.title.subtitle.text


def test_summed_positions_are_divided_by_the_rows_that_have_them(by_token, tokenizer):
    figure = by_token(by=("token",)).figure()
    (curve,) = figure.data
    whole = by_token().frame.groupby("token")["score"].mean()
    assert dict(zip(curve.x, curve.y, strict=True)) == pytest.approx(whole.to_dict())
    assert "the row's start" in figure.layout.xaxis.title.text


def test_extreme_rows_show_tokens_in_colour_with_their_sign(by_token):
    page = extreme_rows(by_token(), n=1).to_html()
    assert page.index("highest: row 0, +60 nats per unit") < page.index("lowest: row 2, −5 nats per unit")
    assert "row 1" not in page
    assert "along matched</b>" in page
    assert "numbers 1" in page  # the prompt, uncoloured
    assert "rgba(178,24,43,0.620)" in page  # the deepest of one scale for all rows
    assert page.count("inline-block;text-align") == 4 + 2  # answer and end tokens


def test_every_row_is_shown_once(by_token):
    page = extreme_rows(by_token(), n=5).to_html()
    assert [page.count(f"row {row},") for row in range(3)] == [1, 1, 1]


def test_text_and_labels_are_escaped(tmp_path, tokenizer, by_token, monkeypatch):
    scores = by_token()
    monkeypatch.setattr("interp.gradients.scores.views.token_pieces", lambda *a: ["<b>", "<i>"] * 8)
    page = extreme_rows(scores).to_html()
    assert "<i>" not in page
    assert "&lt;b&gt;" in page


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"by": "module"}, r"was scored by example, not by module; score it with by=\['module'\]"),
        ({"by": "modul"}, "by 'modul' is unknown; nearest: module"),
        ({"direction": "mached"}, "direction 'mached' is unknown; nearest: matched"),
    ],
)
def test_what_was_not_scored_is_named(by_example, options, sentence):
    with pytest.raises(InputError, match=sentence):
        by_example([[1.0, 0.0], [2.0, 1.0]]).figure(**options)


def test_options_that_do_not_fit_are_refused(by_example, by_module, by_token):
    with pytest.raises(InputError, match="standardise=True belongs to scores by example, not by module"):
        by_module().figure(standardise=True)
    with pytest.raises(InputError, match="along other do not vary over rows"):
        by_example([[1.0, 3.0], [2.0, 3.0]]).figure(standardise=True)
    own = by_example([[1.0, 0.0]])
    with pytest.raises(InputError, match="against was scored along a, b, not along matched, other"):
        own.figure(against=by_example([[1.0, 0.0]], label="x", directions=("a", "b")))
    with pytest.raises(InputError, match="against was scored by example, token, not by module"):
        by_module().figure(against=by_token())
    with pytest.raises(InputError, match="do not tell the tokens of a row apart; score with by="):
        extreme_rows(by_module())
    with pytest.raises(InputError, match="n = 0 rows show nothing"):
        extreme_rows(by_token(), n=0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_real_scores_draw_in_every_view(tiny, family):
    hf, tokenizer = tiny(family)
    model = load_model(hf, tokenizer=tokenizer, name=family, check=False)
    rows = Prompts.from_pairs([(f"numbers {i}", f"{i} , {i + 1}") for i in range(6)])
    along = trait_gradient(model, get_trait("owl"))
    for by in ("example", "token", "position", "module", "head"):
        scores = score(model, rows, along, by=["example", by])
        figure = draw_scores(scores)
        assert figure.data
        assert figure.layout.title.text
        if by == "module":
            total = np.nansum(np.array(figure.data[0].z, dtype=float))
            assert total == pytest.approx(float(scores.totals.mean()), rel=1e-5)
            assert "none" in figure.layout.xaxis.ticktext
        if by in ("token", "position"):
            assert extreme_rows(scores, n=2).to_html().count("row ") == 4
