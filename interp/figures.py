"""Plain frames and arrays in, plotly figures and token HTML out; and `Result`, the table every verb returns.

One look for the whole package: role colours from the Okabe-Ito palette (Okabe and Ito 2008,
jfly.uni-koeln.de/color), diverging RdBu_r symmetric about a white zero: limit = max |value|, a unit on every axis.
Figures are returned, nothing is global, and all text that comes from data is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from numpy.typing import ArrayLike

GREY, ORANGE, BLUE, SKY, GREEN = "#7f7f7f", "#E69F00", "#0072B2", "#56B4E9", "#009E73"
ROLES = {
    "base": GREY,
    "null": GREY,
    "teacher": ORANGE,
    "student": BLUE,
    "cross_base": "#bdbdbd",
    "cross_student": SKY,
    "cross_init": SKY,
    "neutral": GREEN,
    "neutral_student": GREEN,
    "cross_neutral_student": "#7fceb9",
    "other_student": "#CC79A7",
    "in_context": "#D55E00",
}
DECISIONS = {"supported": BLUE, "refuted": ORANGE, "inconclusive": GREY}
OTHERS = ("#CC79A7", "#D55E00", "#F0E442", "#000000", BLUE, ORANGE, GREEN, SKY)
DIVERGING = "RdBu_r"
NAMED = "<extra>%{fullData.name}</extra>"  # the trace's name beside the hover text
AXIS = {"gridcolor": "#e6e6e6", "zerolinecolor": "#999999", "linecolor": "#333333", "automargin": True}
TEMPLATE = {
    "layout": {
        "font": {"family": "Helvetica, Arial, sans-serif", "size": 13, "color": "#222222"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": AXIS,
        "yaxis": AXIS,
        "margin": {"l": 70, "r": 30, "t": 60, "b": 60},
        "colorway": OTHERS,
    }
}


@dataclass(frozen=True)
class Result:
    """What a verb returns: a tidy frame, its unit, and how to draw it."""

    label: str
    frame: pd.DataFrame
    unit: str
    notes: tuple[str, ...] = ()
    draw: Callable[[Any], go.Figure] | None = field(default=None, repr=False, compare=False)

    def figure(self) -> go.Figure:
        """The figure of this result; raises ValueError for a result that is a table only."""
        if self.draw is None:
            raise ValueError(f"{self.label} has no figure; read .frame instead")
        return self.draw(self)

    def __repr__(self) -> str:
        rows, columns = self.frame.shape
        return f"{self.label}: {rows} rows x {columns} columns, {self.unit}"

    def _repr_html_(self) -> str:
        return Table(self.frame, title=repr(self), notes=self.notes).to_html()


@dataclass(frozen=True)
class Table:
    """The first rows of a frame as a small escaped HTML table, without script or style sheet."""

    frame: pd.DataFrame
    title: str = ""
    notes: tuple[str, ...] = ()
    rows: int = 12

    def to_html(self) -> str:
        """One `<table>`, its title above and its notes below."""
        body = self.frame.head(self.rows).to_html(
            index=False, border=0, escape=True, float_format="{:.4g}".format
        )
        left = len(self.frame) - self.rows
        notes = [*([f"{left} more rows"] if left > 0 else []), *self.notes]
        below = "".join(f"<div><small>{html.escape(note)}</small></div>" for note in notes)
        return f"<div><b>{html.escape(self.title)}</b></div>{body}{below}"

    _repr_html_ = to_html


def role_colour(name: str, position: int = 0) -> str:
    """The fixed colour of a lineage role or decision; any other name gets one by its position."""
    return ROLES.get(name) or DECISIONS.get(name) or OTHERS[position % len(OTHERS)]


def bars(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    error: str | None = None,
    title: str,
    unit: str,
    colour: str | None = None,
    top: int | None = None,
) -> go.Figure:
    """Bars of the numbers in one column for the categories in the other: horizontal when `y` holds text.

    `error` names a column of half-widths in the unit of the numbers, `colour` a column of roles, and `top` keeps
    the rows of largest magnitude in their given order.
    """
    import plotly.graph_objects as go

    _need(frame, x, y, error, colour)
    flat = not np.issubdtype(frame[y].dtype.type, np.number)
    number, category = (x, y) if flat else (y, x)
    if top is not None and len(frame) > top:
        largest = np.argsort(-np.abs(frame[number].to_numpy()), kind="stable")[:top]
        frame = frame.iloc[np.sort(largest)]
    names = list(dict.fromkeys(_text(frame[category])))
    figure = go.Figure()
    for position, (name, part) in enumerate(_groups(frame, colour)):
        ends = {number: part[number].tolist(), category: _text(part[category])}
        whiskers = (
            None if error is None else {"type": "data", "array": part[error].tolist(), "color": "#333333"}
        )
        figure.add_bar(
            x=ends[x],
            y=ends[y],
            orientation="h" if flat else "v",
            name=_escape(name),
            error_x=whiskers if flat else None,
            error_y=None if flat else whiskers,
            marker_color=role_colour(name, position) if colour else _signed_colours(part[number]),
            hovertemplate=f"%{{x:.4g}}<br>%{{y:.4g}} {_escape(unit)}{NAMED}",
        )
    if flat:
        figure.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1])
        height = max(140 + 22 * len(names), 260)
        return _styled(figure, title=title, x=unit, y=y, legend=colour is not None, height=height)
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=names)
    return _styled(figure, title=title, x=x, y=_with_unit(y, unit), legend=colour is not None)


def heatmap(
    values: ArrayLike,
    *,
    rows: Sequence[Any],
    columns: Sequence[Any],
    title: str,
    unit: str,
    axes: tuple[str, str] = ("", ""),
) -> go.Figure:
    """A matrix in diverging colours, symmetric about a white zero; `axes` are the names of columns and rows.

    Labels may repeat, as tokens do: cells are placed by position.
    """
    import plotly.graph_objects as go

    z = np.asarray(values, dtype=float)
    if z.shape != (len(rows), len(columns)):
        raise ValueError(
            f"values have shape {z.shape}, but there are {len(rows)} row and {len(columns)} column labels"
        )
    finite = np.abs(z[np.isfinite(z)])
    limit = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    labels = [[f"{_escape(row)} / {_escape(column)}" for column in columns] for row in rows]
    figure = go.Figure(
        go.Heatmap(
            z=z.tolist(),
            text=labels,
            colorscale=DIVERGING,
            zmin=-limit,
            zmax=limit,
            colorbar={"title": {"text": _escape(unit)}},
            hovertemplate=f"%{{text}}<br>%{{z:.4g}} {_escape(unit)}<extra></extra>",
        )
    )
    figure.update_xaxes(tickvals=list(range(len(columns))), ticktext=_text(columns))
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=_text(rows), autorange="reversed")
    return _styled(figure, title=title, x=axes[0], y=axes[1], height=max(180 + 22 * len(rows), 300))


def lines(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    group: str | None = None,
    title: str,
    unit: str,
    band: str | None = None,
    x_unit: str = "",
) -> go.Figure:
    """One line per group; `band` names a column of half-widths drawn as a shaded band."""
    import plotly.graph_objects as go

    _need(frame, x, y, group, band)
    figure = go.Figure()
    for position, (name, part) in enumerate(_groups(frame, group)):
        part, colour = part.sort_values(x, kind="stable"), role_colour(name, position)
        if band is not None:
            edge = [*(part[y] + part[band]), *(part[y] - part[band])[::-1]]
            around = [*part[x], *part[x][::-1]]
            shade = {"fill": "toself", "fillcolor": colour, "opacity": 0.18, "line": {"width": 0}}
            figure.add_scatter(x=around, y=edge, mode="lines", hoverinfo="skip", showlegend=False, **shade)
        figure.add_scatter(
            x=part[x].tolist(),
            y=part[y].tolist(),
            mode="lines+markers",
            name=_escape(name),
            line={"color": colour},
            hovertemplate=f"{_escape(x)} %{{x}}<br>%{{y:.4g}} {_escape(unit)}{NAMED}",
        )
    return _styled(
        figure, title=title, x=_with_unit(x, x_unit), y=_with_unit(y, unit), legend=group is not None
    )


def points(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    colour: str | None = None,
    title: str,
    unit: str,
    interval: str | None = None,
) -> go.Figure:
    """Every value `y` as a point above its category `x` (for n < 30), spread evenly, with the mean as a bar.

    `interval` names a column holding the half-width around each category's mean.
    """
    import plotly.graph_objects as go

    _need(frame, x, y, colour, interval)
    names = list(dict.fromkeys(frame[x]))
    figure = go.Figure()
    for position, name in enumerate(names):
        part = frame.loc[frame[x] == name]
        roles = part[colour] if colour else [name] * len(part)
        figure.add_scatter(
            x=(position + _spread(len(part))).tolist(),
            y=part[y].tolist(),
            mode="markers",
            marker={"color": [role_colour(str(role), position) for role in roles], "size": 9, "opacity": 0.8},
            hovertemplate=f"{_escape(name)}<br>%{{y:.4g}} {_escape(unit)}<extra></extra>",
        )
        half = None if interval is None else [float(part[interval].to_numpy()[0])]
        figure.add_scatter(
            x=[position],
            y=[float(part[y].to_numpy().mean())],
            mode="markers",
            marker={"symbol": "line-ew", "size": 34, "line": {"width": 3, "color": "#222222"}},
            error_y=None if half is None else {"type": "data", "array": half, "color": "#222222"},
            hovertemplate=f"mean %{{y:.4g}} {_escape(unit)}, n = {len(part)}<extra></extra>",
        )
    ticks = {"tickvals": list(range(len(names))), "ticktext": _text(names)}
    figure.update_xaxes(**ticks, range=[-0.6, len(names) - 0.4], zeroline=False)
    return _styled(figure, title=title, x=x, y=_with_unit(y, unit))


def scatter(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    colour: str | None = None,
    text: str | None = None,
    title: str,
    units: tuple[str, str],
) -> go.Figure:
    """Points in the plane, a colour per role; `units` are those of x and y, `text` names the hover column."""
    import plotly.graph_objects as go

    _need(frame, x, y, colour, text)
    figure = go.Figure()
    for position, (name, part) in enumerate(_groups(frame, colour)):
        figure.add_scatter(
            x=part[x].tolist(),
            y=part[y].tolist(),
            mode="markers",
            name=_escape(name),
            text=_text(part[text]) if text else None,
            marker={"color": role_colour(name, position), "size": 7, "opacity": 0.75},
            hovertemplate=("%{text}<br>" if text else "")
            + f"%{{x:.4g}} {_escape(units[0])}<br>%{{y:.4g}} {_escape(units[1])}{NAMED}",
        )
    x_title, y_title = _with_unit(x, units[0]), _with_unit(y, units[1])
    return _styled(figure, title=title, x=x_title, y=y_title, legend=colour is not None)


def forest(verdicts: Sequence[Any], *, title: str = "Verdicts") -> go.Figure:
    """Effect and interval of each verdict (objects or their JSON), first on top, coloured by decision."""
    import plotly.graph_objects as go

    rows = [verdict if isinstance(verdict, dict) else vars(verdict) for verdict in verdicts]
    units = list(dict.fromkeys(str(row["unit"]) for row in rows))
    figure = go.Figure()
    for row in rows:
        low, high = (row["effect"] if edge is None else edge for edge in row["interval"])
        reach = {"array": [high - row["effect"]], "arrayminus": [row["effect"] - low]}
        figure.add_scatter(
            x=[row["effect"]],
            y=[_escape(row["name"])],
            mode="markers",
            marker={"size": 11, "color": role_colour(row["decision"])},
            error_x={"type": "data", "symmetric": False, "color": role_colour(row["decision"]), **reach},
            hovertemplate=f"{_escape(row['decision'])}: %{{x:.4g}} [{low:.4g}, {high:.4g}] "
            f"{_escape(row['unit'])}, n = {row['n']}<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": "#999999", "dash": "dot"})
    figure.update_yaxes(categoryorder="array", categoryarray=[_escape(row["name"]) for row in rows][::-1])
    return _styled(
        figure, title=title, x="effect, " + " / ".join(units), y="", height=160 + 40 * max(len(rows), 2)
    )


def token_html(tokens: Sequence[str], values: ArrayLike, *, unit: str, limit: float | None = None) -> str:
    """Tokens as escaped spans: blue below and red above zero, the signed value printed beneath, no script.

    The deepest colour is `limit`, by default the largest magnitude; a value that is not finite stays uncoloured.
    """
    numbers = np.asarray(values, dtype=float)
    if numbers.shape != (len(tokens),):
        raise ValueError(f"values have shape {numbers.shape}, but there are {len(tokens)} tokens")
    limit = limit or float(np.abs(numbers[np.isfinite(numbers)]).max(initial=0.0)) or 1.0
    spans = "".join(
        _token_span(token, value, limit, unit) for token, value in zip(tokens, numbers, strict=True)
    )
    return f'<div style="font-family:monospace;line-height:2.6">{spans}</div>'


def _token_span(token: str, value: float, limit: float, unit: str) -> str:
    share = float(np.clip(value / limit, -1, 1)) if np.isfinite(value) else 0.0
    red, green, blue = (178, 24, 43) if share > 0 else (33, 102, 172)
    shown = html.escape(token.replace("\n", "\\n").replace(" ", "\u2423"))
    style = (
        f"display:inline-block;text-align:center;margin:1px;padding:0 3px;line-height:1.3;color:"
        f"{'white' if abs(share) > 0.6 else 'black'};background:rgba({red},{green},{blue},{abs(share):.3f})"
    )
    return (
        f'<span style="{style}" title="{html.escape(f"{value:+.4g} {unit}")}">{shown}<br>'
        f"<small>{value:+.2g}</small></span>"
    )


def _styled(
    figure: go.Figure, *, title: str, x: str, y: str, legend: bool = False, height: int = 420
) -> go.Figure:
    """The package's look, applied to this figure only."""
    figure.update_layout(template=TEMPLATE, title={"text": _escape(title)}, showlegend=legend, height=height)
    figure.update_xaxes(title={"text": _escape(x)})
    figure.update_yaxes(title={"text": _escape(y)})
    return figure


def _groups(frame: pd.DataFrame, column: str | None) -> list[tuple[str, pd.DataFrame]]:
    if column is None:
        return [("", frame)]
    return [(str(name), part) for name, part in frame.groupby(column, sort=False)]


def _need(frame: pd.DataFrame, *columns: str | None) -> None:
    missing = [column for column in columns if column is not None and column not in frame.columns]
    if missing:
        raise ValueError(
            f"the frame has no column {missing[0]!r}; it has {', '.join(map(str, frame.columns))}"
        )


def _spread(n: int) -> np.ndarray:
    return np.linspace(-0.18, 0.18, n) if n > 1 else np.zeros(n)


def _signed_colours(values: Any) -> list[str]:
    return ["#b2182b" if value > 0 else "#2166ac" for value in values]


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit and unit != name else name


def _escape(value: Any) -> str:
    """Text as plotly must get it to show it literally: its labels understand a little HTML."""
    return html.escape(str(value), quote=False)


def _text(values: Any) -> list[str]:
    return [_escape(value) for value in values]
