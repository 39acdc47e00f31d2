"""Heat maps about a white zero, limit = max |value|, with the value or its sign printed in the cells.

A diverging scale is as dark at both ends, so that in grey only what is printed tells them apart.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.figures.charts import panels
from interp.figures.grammar import DIVERGING, captioned, escape, minus, need, signed, styled, texts

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from numpy.typing import ArrayLike

VALUES = 360  # cells up to which each has its value printed
SIGNS = 4000  # cells up to which those below zero are marked
CROWDED = 5  # cells beside one another up to which an interval fits in one line
FAINT = 0.05  # of the limit: cells nearer to zero are not marked


def heatmap(
    values: ArrayLike,
    *,
    rows: Sequence[Any],
    columns: Sequence[Any],
    title: str,
    unit: str,
    axes: tuple[str, str] = ("", ""),
    printed: Sequence[Sequence[str]] | None = None,
) -> go.Figure:
    """Draw a matrix in diverging colours, symmetric about a white zero; `axes` are the names of columns and rows.

    Labels may repeat, as tokens do: cells are placed by position. `printed` is the text of each cell (it may break
    lines with <br>), by default its signed value, or in a large map a minus where it is below zero.

    >>> figure = heatmap([[1.0, -2.0]], rows=["layer 0"], columns=["a", "b"], title="one layer", unit="logits")
    >>> [float(value) for value in figure.data[0].z[0]]
    [1.0, -2.0]
    """
    import plotly.graph_objects as go

    z = np.asarray(values, dtype=float)
    if z.shape != (len(rows), len(columns)):
        raise ValueError(
            f"values have shape {z.shape}, but there are {len(rows)} row and {len(columns)} column labels"
        )
    finite = np.abs(z[np.isfinite(z)])
    limit = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    cells = _printed(z, limit) if printed is None else [list(row) for row in printed]
    figure = go.Figure(
        go.Heatmap(
            z=z.tolist(),
            text=cells,
            texttemplate="%{text}" if any(map(any, cells)) else None,
            customdata=[[f"{escape(row)} / {escape(column)}" for column in columns] for row in rows],
            colorscale=DIVERGING,
            zmin=-limit,
            zmax=limit,
            colorbar={
                "title": {"text": _broken(unit), "side": "right" if len(unit) > 8 else "top"},
                "thickness": 16,
            },
            hovertemplate=f"%{{customdata}}<br>%{{z:.4g}} {escape(unit)}<extra></extra>",
        )
    )
    plain = {"showgrid": False, "zeroline": False}
    figure.update_xaxes(tickvals=list(range(len(columns))), ticktext=texts(columns), **plain)
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=texts(rows), autorange="reversed", **plain)
    figure = styled(figure, title=title, x=axes[0], y=axes[1], height=max(180 + 22 * len(rows), 300))
    marked = printed is None and VALUES < z.size <= SIGNS and any(map(any, cells))
    return captioned(figure, "\N{MINUS SIGN} marks values below zero" if marked else "")


def interval_maps(
    frame: pd.DataFrame,
    *,
    x: str,
    units: Mapping[str, str],
    title: str,
    interval: str,
    above: go.Figure | None = None,
) -> go.Figure:
    """Draw for every measure a strip of cells over the categories `x`, each printing its mean and interval.

    `frame` has one line per category and measure: x, measure, mean, low, high; `units` gives the unit of each measure
    that is shown, and `interval` says what low and high are. Every strip has a scale of its own about zero. `above` is
    a figure of `points` over the same categories, which stands on top.

    >>> import pandas as pd
    >>> cells = [["all", "margin", 0.7, 0.4, 1.0], ["half", "margin", 0.2, -0.1, 0.5]]
    >>> frame = pd.DataFrame(cells, columns=["rows", "measure", "mean", "low", "high"])
    >>> given = {"units": {"margin": "nats"}, "title": "fewer rows", "interval": "95 % t-interval"}
    >>> list(interval_maps(frame, x="rows", **given).data[0].text[0])
    ['+0.7<br>[+0.4, +1]', '+0.2<br>[−0.1, +0.5]']
    """
    need(frame, x, "measure", "mean", "low", "high")
    names = list(dict.fromkeys(frame[x]))
    strips = []
    for measure, unit in units.items():
        part = frame.loc[frame["measure"] == measure].set_index(x).reindex(names)
        mean, low, high = (part[column].to_numpy(dtype=float) for column in ("mean", "low", "high"))
        cells = [
            interval_text(*line).replace(", ", ",<br>" if len(names) > CROWDED else ", ")
            for line in zip(mean, low, high, strict=True)
        ]
        strip = heatmap(
            mean[None], rows=[""], columns=names, title="", unit=unit, axes=(x, measure), printed=[cells]
        )
        strip.update_yaxes(title={"text": ""}, ticktext=[f"{escape(measure)}<br>({_broken(unit)})"])
        strip.update_xaxes(range=[-0.6, len(names) - 0.4])
        strip.update_traces(showscale=False)
        strip.update_layout(height=120)
        strips.append(strip)
    parts = strips if above is None else [above, *strips]
    for part in parts[:-1]:
        part.update_xaxes(showticklabels=False, title={"text": ""})
    return captioned(panels(parts, title=title), f"in the cells: mean and {interval}")


def interval_text(mean: float, low: float, high: float) -> str:
    """Mean and interval as a cell prints them: "+0.73<br>[+0.41, +1.1]"; the mean alone where there is no interval.

    >>> interval_text(-0.2, -0.5, 0.1), interval_text(-0.2, float("nan"), float("nan"))
    ('−0.2<br>[−0.5, +0.1]', '−0.2')
    """
    if not np.isfinite([low, high]).all():
        return signed(mean)
    return f"{signed(mean)}<br>[{minus(f'{low:+.2g}')}, {minus(f'{high:+.2g}')}]"


def _broken(unit: str) -> str:
    """The name of a scale in lines that fit beside a small map."""
    return "<br>".join(texts(textwrap.wrap(unit, 22)))


def _printed(z: np.ndarray, limit: float) -> list[list[str]]:
    """Signed values, signs only, or nothing, by how many cells there are."""
    if z.size <= VALUES:
        return [[signed(value) for value in row] for row in z.tolist()]
    low = (z < -FAINT * limit) & (z.size <= SIGNS)
    return [["\N{MINUS SIGN}" if below else "" for below in row] for row in low.tolist()]
