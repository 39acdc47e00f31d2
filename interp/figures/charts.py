"""A waterfall (parts + residual = total), a volcano with its line of false discoveries, and panels on one page."""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.figures.grammar import (
    GREY,
    INK,
    LOWERED,
    RAISED,
    caption_of,
    captioned,
    escape,
    need,
    signed,
    signed_colours,
    styled,
    texts,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SPACE = 100  # pixels between panels
ROOM = 0.15  # of the width of a waterfall on either side, for the values of falling bars


def waterfall(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    total: str,
    residual: str = "residual",
    title: str,
    unit: str,
    top: int = 30,
) -> go.Figure:
    """Draw signed parts `x` named by `y`, each beginning where the one above ends, down to their sum, `total`.

    The line called `residual` is hatched. Of more than `top` parts the smallest become one bar, in front of the
    residual. Values are printed, so that the sum can be checked by eye.

    >>> import pandas as pd
    >>> parts = pd.DataFrame({"part": ["MLP 0", "residual"], "nats": [0.5, 0.1]})
    >>> figure = waterfall(parts, x="nats", y="part", total="measured", title="a margin", unit="nats")
    >>> len(figure.data) > 0
    True
    """
    import plotly.graph_objects as go

    need(frame, x, y)
    names, parts = _merged(frame[y].astype(str).tolist(), frame[x].to_numpy(dtype=float), residual, top)
    ends = np.cumsum(parts)
    starts = ends - parts
    rest = [name == residual for name in names]
    colours = [GREY if is_rest else c for is_rest, c in zip(rest, signed_colours(parts), strict=True)]
    hover = f"%{{y}}: %{{text}} {escape(unit)}<extra></extra>"
    look = {"orientation": "h", "textposition": "outside", "cliponaxis": False, "hovertemplate": hover}
    figure = go.Figure()
    figure.add_bar(
        x=parts.tolist(),
        y=texts(names),
        base=starts.tolist(),
        marker={"color": colours, "pattern": {"shape": ["/" if is_rest else "" for is_rest in rest]}},
        text=[signed(value, 3) for value in parts],
        **look,
    )
    whole = float(ends[-1]) if len(ends) else 0.0
    figure.add_bar(x=[whole], y=[escape(total)], marker={"color": INK}, text=[signed(whole, 3)], **look)
    steps = [edge for end in ends for edge in (end, end, None)]
    below = [*texts(names), escape(total)]
    rungs = [edge for one, other in itertools.pairwise(below) for edge in (one, other, None)]
    thin = {"color": "#999999", "width": 1, "dash": "dot"}
    figure.add_scatter(x=steps, y=rungs, mode="lines", line=thin, hoverinfo="skip")
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=below[::-1])
    figure.update_layout(barmode="overlay", margin={"r": 60})
    if (parts < 0).any():  # whose values are printed to the left of their bars
        low, high = float(np.min([0, *ends])), float(np.max([0, *ends]))
        figure.update_xaxes(range=[low - ROOM * (high - low), high + ROOM * (high - low)])
    height = max(140 + 22 * len(below), 260)
    return styled(figure, title=title, x=unit, y=y, height=height)


def volcano(
    frame: pd.DataFrame,
    *,
    x: str,
    marked: str,
    text: str,
    alpha: float,
    title: str,
    unit: str,
) -> go.Figure:
    """Draw effect `x` against −log10 p, with the line of the false discovery rate `alpha`; from columns p and q (BH).

    The line stands at the largest p whose q is at most alpha; where there is none, at alpha / m, which a single p among
    m would have to reach. Lines where the column `marked` is true are filled, red above zero and blue below. Lines
    without a p are left out. A p of 0 (it has underflowed) stands at the smallest p that is not.

    >>> import pandas as pd
    >>> tested = {"nats": [0.9, 0.1], "p": [1e-5, 0.6], "q": [2e-5, 0.6], "found": [True, False], "token": ["a", "b"]}
    >>> given = {"marked": "found", "text": "token", "alpha": 0.05, "title": "tokens", "unit": "nats"}
    >>> [series.name for series in volcano(pd.DataFrame(tested), x="nats", **given).data]
    ['not marked (1)', 'above zero (1)', 'below zero (0)']
    """
    import plotly.graph_objects as go

    need(frame, x, "p", "q", marked, text)
    shown: Any = frame.loc[frame["p"].notna()]
    p, q = shown["p"].to_numpy(dtype=float), shown["q"].to_numpy(dtype=float)
    smallest = p[p > 0].min(initial=1.0)
    height = -np.log10(np.maximum(p, smallest))
    chosen = shown[marked].to_numpy(dtype=bool)
    values = shown[x].to_numpy(dtype=float)
    figure = go.Figure()
    sides = {
        "not marked": (~chosen, {"symbol": "circle-open", "color": GREY, "size": 6}),
        "above zero": (chosen & (values > 0), {"symbol": "triangle-up", "color": RAISED, "size": 8}),
        "below zero": (chosen & (values <= 0), {"symbol": "triangle-down", "color": LOWERED, "size": 8}),
    }
    for name, (which, look) in sides.items():
        figure.add_scatter(
            x=values[which].tolist(),
            y=height[which].tolist(),
            mode="markers",
            name=f"{name} ({int(which.sum())})",
            text=texts(shown[text].to_numpy()[which]),
            marker=look,
            hovertemplate=f"%{{text}}<br>%{{x:.4g}} {escape(unit)}<br>p = 10^\N{MINUS SIGN}%{{y:.3g}}<extra></extra>",
        )
    passing = q <= alpha
    line = p[passing].max() if passing.any() else alpha / max(len(p), 1)
    said = f"FDR {alpha:g}: p ≤ {line:.2g}" + ("" if passing.any() else ", none passes")
    figure.add_hline(
        y=float(-np.log10(max(line, smallest if passing.any() else line))),
        line={"color": INK, "dash": "dash", "width": 1.5},
        annotation={"text": escape(said), "xanchor": "left", "x": 0.01},
    )
    figure.update_xaxes(zeroline=True)
    figure.update_layout(legend={"orientation": "h", "y": -0.22, "yanchor": "top"}, margin={"b": 100})
    return styled(figure, title=title, x=unit, y="\N{MINUS SIGN}log10 p", legend=True, height=480)


def panels(parts: Sequence[go.Figure], *, title: str, across: bool = False) -> go.Figure:
    """Put figures on one page, below one another in their own heights, or `across` in equal widths.

    Traces, axes and lines come along, the title of each part stands above it, and the scale of a map stays beside its
    own panel. Captions of the parts are joined in one line.

    >>> import pandas as pd
    >>> from interp.figures import bars
    >>> frame = pd.DataFrame({"layer": ["0", "1"], "nats": [0.5, 0.1]})
    >>> part = bars(frame, x="layer", y="nats", title="one model", unit="nats")
    >>> len(panels([part, part], title="two models").data)
    2
    """
    from plotly.subplots import make_subplots

    layouts: Any = [part.layout for part in parts]
    heights = [float(each.height or 420) for each in layouts]
    count, total = len(parts), sum(heights)
    titles = [each.title.text or "" for each in layouts]
    if across:
        figure = make_subplots(rows=1, cols=count, horizontal_spacing=0.44 / count, subplot_titles=titles)
    else:
        space = (SPACE if any(titles) else 0.5 * SPACE) / total
        figure = make_subplots(
            rows=count, cols=1, row_heights=heights, vertical_spacing=space, subplot_titles=titles
        )
    for index, part in enumerate(parts):
        row, column = (1, index + 1) if across else (index + 1, 1)
        figure.add_traces(list(part.data), rows=row, cols=column)
        figure.update_xaxes(layouts[index].xaxis.to_plotly_json(), row=row, col=column)
        figure.update_yaxes(layouts[index].yaxis.to_plotly_json(), row=row, col=column)
        _place_scale(figure, len(list(part.data)), index)
        _bring_lines(figure, part, index)
    height = int(max(heights)) if across else int(total)
    figure.update_layout(
        template=layouts[0].template,
        title={"text": escape(title)},
        height=height + (40 if any(titles) else 0),
        margin={"t": 110} if any(titles) else None,
        barmode=next((each.barmode for each in layouts if each.barmode), None),
        showlegend=any(each.showlegend for each in layouts),
    )
    figure.update_annotations(font={"size": 13})
    said = dict.fromkeys(map(caption_of, parts))
    return captioned(figure, *(html.unescape(text) for text in said if text))


def _place_scale(figure: go.Figure, traces: int, index: int) -> None:
    """The colour bar of the maps among the last traces, beside their panel."""
    mark = "" if index == 0 else str(index + 1)
    axes: Any = figure.layout
    (_, right), (low, high) = axes[f"xaxis{mark}"].domain, axes[f"yaxis{mark}"].domain
    data: Any = figure.data
    for trace in data[len(data) - traces :]:
        if trace.type == "heatmap":
            trace.colorbar.update(
                x=right + 0.01, xanchor="left", y=(low + high) / 2, len=max(high - low, 0.05)
            )
            trace.colorbar.update(lenmode="fraction", yanchor="middle", nticks=max(3, int(12 * (high - low))))


def _bring_lines(figure: go.Figure, part: go.Figure, index: int) -> None:
    """Reference lines of a part, on the axes they now belong to."""
    mark = "" if index == 0 else str(index + 1)
    layout: Any = part.layout
    for shape in layout.shapes:
        line = shape.to_plotly_json()
        for axis in ("x", "y"):
            line[f"{axis}ref"] = str(line.get(f"{axis}ref", axis)).replace(axis, f"{axis}{mark}", 1)
        figure.add_shape(line)


def _merged(names: list[str], parts: np.ndarray, residual: str, top: int) -> tuple[list[str], np.ndarray]:
    """The largest parts in their order, then the others as one, then the residual."""
    inside = [index for index, name in enumerate(names) if name != residual]
    if len(inside) <= top:
        return names, parts
    kept = sorted(sorted(inside, key=lambda index: -abs(parts[index]))[:top])
    others = [index for index in inside if index not in set(kept)]
    last = [index for index, name in enumerate(names) if name == residual]
    shown = [
        *(names[index] for index in kept),
        f"{len(others)} smaller ones",
        *(names[index] for index in last),
    ]
    return shown, np.array([*parts[kept], parts[others].sum(), *parts[last]])
