"""Figures of scores: distributions, module × layer maps, heads, positions, and the most extreme rows as coloured text.

Every view shows means over rows: map[kind, layer] = 1/n Σ_i score_i(module), band = ± s / √n of the rows at a position.
With `against` (the same directions on other rows, such as a neutral teacher's) a distribution or a curve is drawn
beside its counterpart and a map shows the difference of means.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.core.doors import door
from interp.core.errors import InputError, nearest
from interp.figures import BLUE, GREEN, GREY, ORANGE, SKY, TokenRows, captioned, heatmap, lines, signed
from interp.gradients.scores.plan import KEYS
from interp.prompts.tokens import Encoded, token_pieces

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.gradients.scores.scoring import Scores

COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#D55E00", SKY, "#000000", GREY)
MOST_BINS = 60
LEAST_ROWS = 5  # for a mean and its standard error to be drawn
TICKS = 24  # labels that fit under a map
OUTSIDE = "none"  # the column of what lies in no layer
BLANK = "#e8e8e8"  # where there is no module, unlike the white of zero
LAYER = re.compile(r"(?:.*?\.)?(\d+)(?:\.(.+))?")


def draw_scores(
    scores: Scores,
    *,
    by: str | None = None,
    direction: str | None = None,
    against: Scores | None = None,
    standardise: bool = False,
) -> go.Figure:
    """Draw the scores by one of their keys: by default head, else module, position or token, else example.

    example: share of rows by score, every direction overlaid (the first thick, means dotted). module: kind × layer.
    head: layer × head of q, k, v and o. position, token: mean with a band of one standard error over rows, counted
    from the first answer token, where five rows have it. Maps show one direction, the first unless `direction` names
    another; the other views show all, or the one named. `against` are scores of other rows along the same directions.
    `standardise` puts directions of different norms on one scale: each in standard deviations of its own score over
    rows, by example only. Raises InputError for what was not scored.
    """
    key = _key(scores, by)
    if direction is not None and direction not in scores.directions:
        raise InputError(f"direction {nearest(direction, scores.directions)}; pass one that was scored")
    if standardise and key != "example":
        raise InputError(f"standardise=True belongs to scores by example, not by {key}; leave it out")
    if against is not None:
        _check_alike(scores, against, key)
    shown = scores.directions if direction is None else (direction,)
    if key == "example":
        return _distribution(scores, shown, against, standardise=standardise)
    if key in ("position", "token"):
        return _curve(scores, shown, against, key)
    table = _by_head if key == "head" else _by_module
    return _map(scores, against, table, shown[0])


@door
def extreme_rows(scores: Scores, n: int = 5, *, direction: str | None = None) -> TokenRows:
    """Show the n rows of highest and of lowest score, each token in colour with its signed score beneath, in a cell.

    Needs scores by example and token (the prompt, which has no loss, stands uncoloured in front) or by example and
    position. One colour scale for all rows; red and + lean along the direction. Raises InputError for a direction that
    was not scored, scores that do not tell tokens apart, and n below 1.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> scores = interp.score(lineage.base, lineage.numbers[:8], lineage.update("teacher"), by=["example", "token"])
    >>> shown = extreme_rows(scores, 1)  # displays in a cell
    """
    label = scores.directions[0] if direction is None else direction
    if label not in scores.directions:
        raise InputError(f"direction {nearest(label, scores.directions)}; pass one that was scored")
    key = next((key for key in ("token", "position") if key in scores.by), None)
    if key is None or "example" not in scores.by:
        raise InputError(
            f"scores by {', '.join(scores.by)} do not tell the tokens of a row apart; "
            "score with by=['example', 'token']"
        )
    if n < 1:
        raise InputError(f"n = {n} rows show nothing; pass at least 1")
    totals = scores.totals[:, scores.directions.index(label)].numpy()
    order = np.argsort(-totals, kind="stable")
    top, bottom = order[:n], order[n:][-n:]
    along: Any = scores.frame[scores.frame["direction"] == label]
    chosen = along[along["row"].isin([*top, *bottom])]
    values: Any = chosen.groupby(["row", key])["score"].sum()
    titles = dict.fromkeys(top.tolist(), "highest") | dict.fromkeys(bottom.tolist(), "lowest")
    heads = {
        row: f"{title}: row {row}, {signed(float(totals[row]), 4)} {scores.unit}"
        for row, title in titles.items()
    }
    frame = pd.concat([_row(scores, row, values) for row in titles], ignore_index=True)
    return TokenRows(f"{scores.label} along {label}", frame, scores.unit, heads=heads, most=len(titles))


def _key(scores: Scores, by: str | None) -> str:
    """What the view tells apart; by example is always known."""
    if by is None:
        return next((key for key in ("head", "module", "position", "token") if key in scores.by), "example")
    if by not in KEYS:
        raise InputError(f"by {nearest(by, KEYS)}; pass one of {', '.join(scores.by)}")
    if by != "example" and by not in scores.by:
        raise InputError(
            f"{scores.label} was scored by {', '.join(scores.by)}, not by {by}; score it with by=[{by!r}]"
        )
    return by


def _check_alike(scores: Scores, against: Scores, key: str) -> None:
    if against.directions != scores.directions:
        raise InputError(
            f"against was scored along {', '.join(against.directions)}, not along {', '.join(scores.directions)}; "
            "score both along the same directions"
        )
    if key != "example" and key not in against.by:
        raise InputError(
            f"against was scored by {', '.join(against.by)}, not by {key}; score it with by=[{key!r}]"
        )


# --- by example ------------------------------------------------------------------------------------------------------


def _distribution(
    scores: Scores, shown: Sequence[str], against: Scores | None, *, standardise: bool
) -> go.Figure:
    """Outlines over shared bins; the rows beyond 99.9 % on either side are counted in the outermost bins."""
    columns = [scores.directions.index(label) for label in shown]
    rows = [each.totals.numpy()[:, columns] for each in (scores, against) if each is not None]
    if standardise:
        rows = [values / _spreads(rows[0], shown) for values in rows]
    edges = _edges(np.concatenate([values.ravel() for values in rows]))
    drawn = [values[:, k] for values in rows for k in range(len(shown))]
    names = [*shown, *(f"{label}, against" for label in shown)]
    means = [float(values.mean()) for values in drawn]
    parts = [
        _outline(values, edges).assign(of=f"{name}: mean {mean:+.3g}")
        for name, values, mean in zip(names, drawn, means, strict=False)
    ]
    unit = "standard deviations over rows" if standardise else scores.unit
    beside = "" if len(shown) == 1 else f" and {len(shown) - 1} other{'s' if len(shown) > 2 else ''}"
    title, share = f"{scores.label} along {shown[0]}{beside}", "% of rows in a bin"
    frame = pd.concat(parts)
    figure = lines(frame, x="score", y="share", group="of", title=title, unit=share, x_unit=unit)
    captioned(figure, "means dotted", _versus(against, "dashed"))
    figure.update_xaxes(range=[float(edges[0]), float(edges[-1])])
    _paint(figure, len(shown))
    for k, mean in enumerate(means):
        line = {"color": COLOURS[k % len(shown) % len(COLOURS)], "dash": "dot", "width": 1.5}
        figure.add_vline(x=mean, line=line)
    return figure


def _spreads(values: np.ndarray, shown: Sequence[str]) -> np.ndarray:
    spreads = values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    if not spreads.all():
        label = shown[int(np.argmin(spreads))]
        raise InputError(f"the scores along {label} do not vary over rows; leave out standardise=True")
    return spreads


def _edges(pooled: np.ndarray) -> np.ndarray:
    low, high = np.quantile(pooled, [0.001, 0.999])
    inner = pooled[(pooled >= low) & (pooled <= high)]
    edges = np.histogram_bin_edges(inner, bins="fd") if high > low else np.array([low - 0.5, low + 0.5])
    return edges if len(edges) <= MOST_BINS + 1 else np.linspace(edges[0], edges[-1], MOST_BINS + 1)


def _outline(values: np.ndarray, edges: np.ndarray) -> pd.DataFrame:
    """The upper edge of a histogram in per cent of rows, down to zero at both ends."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)
    heights = np.concatenate([[0.0], np.repeat(100 * counts / len(values), 2), [0.0]])
    return pd.DataFrame({"score": np.repeat(edges, 2), "share": heights})


def _paint(figure: go.Figure, directions: int) -> None:
    """A colour for each direction, the first thick; what is drawn against it dashed in the same colour."""
    traces: Any = figure.data
    named = [trace for trace in traces if trace.showlegend is not False]
    shaded = [trace for trace in traces if trace.showlegend is False]
    for k, trace in enumerate(named):
        colour = COLOURS[k % directions % len(COLOURS)]
        dash = "solid" if k < directions else "dash"
        line = {"color": colour, "dash": dash, "width": 2.5 if k % directions == 0 else 1.5}
        trace.update(mode="lines", line=line)
    for k, trace in enumerate(shaded):
        trace.update(fillcolor=COLOURS[k % directions % len(COLOURS)])
    figure.update_layout(legend={"orientation": "h", "y": -0.2, "yanchor": "top"}, margin={"b": 110})


# --- by position or loss token ---------------------------------------------------------------------------------------


def _curve(scores: Scores, shown: Sequence[str], against: Scores | None, key: str) -> go.Figure:
    """Means over the rows that have the position; rows are aligned at their first answer token."""
    each = [(scores, "")] if against is None else [(scores, ""), (against, ", against")]
    rows = all("example" in one.by for one, _ in each)
    tables = [_along(one, key, aligned=rows) for one, _ in each]
    frame = pd.concat(
        [
            table[table["direction"] == label].assign(of=label + mark)
            for table, (_, mark) in zip(tables, each, strict=True)
            for label in shown
        ]
    )
    counted = "input positions" if key == "position" else "loss tokens"
    figure = lines(
        frame,
        x="place",
        y="score",
        group="of",
        band="half_width" if rows else None,
        title=f"{scores.label}: mean score of {counted}",
        unit=scores.unit,
    )
    _paint(figure, len(shown))
    band = "band: ± one standard error over rows" if rows else "mean over rows"
    captioned(figure, band, _versus(against, "dashed"))
    start = "the first answer token" if rows else "the row's start"
    figure.update_xaxes(title={"text": f"{counted}, counted from {start}"})
    figure.update_yaxes(title={"text": f"mean score ({scores.unit})"})
    return figure


def _along(scores: Scores, key: str, *, aligned: bool) -> pd.DataFrame:
    """Columns direction, place, score and, where rows are told apart, half_width: the standard error."""
    if not aligned:
        sums: Any = scores.frame.groupby(["direction", key], sort=False)["score"].sum()
        table = sums.rename_axis(["direction", "place"]).reset_index()
        rows = _kept(scores.inputs, key).sum(0)
        return table.assign(score=table["score"] / rows[table["place"].to_numpy()])
    whole: Any = scores.frame.groupby(["direction", "row", key], sort=False)["score"].sum()
    table = whole.reset_index()
    table["place"] = table[key] - answer_starts(scores.inputs)[table["row"].to_numpy()]
    cells: Any = table.groupby(["direction", "place"], sort=False)["score"]
    found = cells.agg(["mean", "std", "count"]).reset_index()
    found = found[found["count"] >= min(LEAST_ROWS, len(scores))]
    half = (found["std"] / np.sqrt(found["count"])).fillna(0.0)
    return found.assign(half_width=half).rename(columns={"mean": "score"})


def _kept(inputs: Encoded, key: str) -> np.ndarray:
    """[row column] which columns a table by that key holds."""
    return inputs.at("answer+end" if key == "token" else "all").cpu().numpy()


def answer_starts(inputs: Encoded) -> np.ndarray:
    """The column of every row's first answer token."""
    return _kept(inputs, "token").argmax(1)


# --- by module or head -----------------------------------------------------------------------------------------------


def _map(scores: Scores, against: Scores | None, table: Any, label: str) -> go.Figure:
    """A map of means over rows along one direction, or of their differences from the means of `against`."""
    values, axes = table(scores, label)
    if against is not None:
        other = table(against, label)[0]
        values = values - other.reindex(index=values.index, columns=values.columns)
    figure = heatmap(
        values.to_numpy(),
        rows=list(values.index),
        columns=list(values.columns),
        title=f"{scores.label}: mean score along {label}",
        unit=scores.unit,
        axes=axes,
    )
    captioned(figure, "mean over rows", _versus(against, "minus"))
    figure.update_layout(plot_bgcolor=BLANK)
    figure.update_traces(hoverongaps=False)
    _thin_ticks(figure, list(values.columns))
    return figure


def _by_module(scores: Scores, label: str) -> tuple[pd.DataFrame, tuple[str, str]]:
    """Module kind × layer, in the network's order; what lies in no layer has a column of its own."""
    means = _means(scores, label, ["module"]).reset_index()
    means[["kind", "layer"]] = [module_place(name) for name in means["module"].astype(str)]
    values = means.pivot_table(
        index="kind", columns="layer", values="score", aggfunc="sum", sort=False, observed=True
    )
    layers = sorted((layer for layer in values.columns if layer != OUTSIDE), key=int)
    outside = [OUTSIDE] if OUTSIDE in values.columns else []
    return values.reindex(columns=[*outside, *layers]), ("layer", "module")


def _by_head(scores: Scores, label: str) -> tuple[pd.DataFrame, tuple[str, str]]:
    """Layer × part and head; heads are those of the queries, or the groups' for k and v of grouped attention."""
    means = _means(scores, label, ["module", "part", "head"]).reset_index()
    means = means[means["head"] >= 0]
    if means.empty:
        raise InputError(f"{label} moves no attention matrix, so no head has a score; draw it by module")
    means["layer"] = [int(module_place(name)[1]) for name in means["module"].astype(str)]
    means["column"] = means["part"].astype(str) + " " + means["head"].astype(str)
    parts = list(dict.fromkeys(means["part"].astype(str)))
    named = {(parts.index(str(part)), head): f"{part} {head}" for part, head in _pairs(means)}
    columns = [named[key] for key in sorted(named)]
    values = means.pivot_table(index="layer", columns="column", values="score", aggfunc="sum", observed=True)
    return values.sort_index().reindex(columns=columns), ("part and head", "layer")


def _pairs(means: Any) -> set[tuple[str, int]]:
    return set(zip(means["part"].astype(str), means["head"].astype(int), strict=True))


def _means(scores: Scores, label: str, keys: list[str]) -> pd.Series:
    frame = scores.frame[scores.frame["direction"] == label]
    sums: Any = frame.groupby(keys, sort=False, observed=True)["score"].sum()
    return sums / len(scores)


def module_place(module: str) -> tuple[str, str]:
    """ "model.layers.3.mlp.up_proj" -> ("mlp.up_proj", "3"); the first whole number in a name is its layer."""
    found = LAYER.fullmatch(module)
    if found is None:
        return module.removeprefix("model.").removeprefix("transformer."), OUTSIDE
    return found[2] or "layer", found[1]


def _thin_ticks(figure: go.Figure, columns: Sequence[Any]) -> None:
    """Fewer labels where they would overlap."""
    step = -(-len(columns) // TICKS)
    if step > 1:
        figure.update_xaxes(tickvals=list(range(0, len(columns), step)), ticktext=columns[::step])


# --- rows as text ----------------------------------------------------------------------------------------------------


def _row(scores: Scores, row: int, values: pd.Series) -> pd.DataFrame:
    """The tokens of a row with their scores, none in front of the first that has one."""
    pieces = token_pieces(scores.tokenizer, scores.inputs, row)
    found: Any = values.loc[row]
    first = int(found.index.min())
    shown = [float(found.get(place, 0.0)) if place >= first else np.nan for place in range(len(pieces))]
    return pd.DataFrame({"row": row, "position": range(len(pieces)), "token": pieces, "value": shown})


def _versus(against: Scores | None, word: str) -> str:
    return "" if against is None else f"{word}: {against.label}"
