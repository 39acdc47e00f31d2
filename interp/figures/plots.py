"""Bars, lines, points and scatters of a tidy frame: one column a number, one a category, roles in their own look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from interp.figures.grammar import (
    GREY,
    HATCHES,
    INK,
    NAMED,
    captioned,
    escape,
    groups,
    minus,
    need,
    role_colour,
    role_dash,
    role_symbol,
    signed_colours,
    styled,
    texts,
    tick_texts,
    with_unit,
    wrapped,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MANY = 30  # from as many values on a category is shown as its distribution
MEAN = "#222222"


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
    """Draw bars of the numbers in one column for the categories in the other: horizontal when `y` holds text.

    `error` names a column of half-widths in the unit of the numbers, of which 0 draws no whisker, `colour` a column of
    roles, and `top` keeps the rows of largest magnitude in their given order.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"what": ["a", "b"], "value": [1.0, -2.0]})
    >>> len(bars(frame, x="value", y="what", title="two", unit="nats").data[0].x)
    2
    """
    import plotly.graph_objects as go

    need(frame, x, y, error, colour)
    flat = not np.issubdtype(frame[y].dtype.type, np.number)
    number, category = (x, y) if flat else (y, x)
    if top is not None and len(frame) > top:
        largest = np.argsort(-np.abs(frame[number].to_numpy()), kind="stable")[:top]
        frame = frame.iloc[np.sort(largest)]
    legend = colour not in (None, category)
    said = list(dict.fromkeys(map(str, frame[category])))
    names = texts(said)
    figure = go.Figure()
    for position, (name, part) in enumerate(groups(frame, colour)):
        ends = {number: part[number].tolist(), category: texts(part[category])}
        halves = [] if error is None else part[error].tolist()
        reach = [half if np.isfinite(half) and half > 0 else None for half in halves]
        whiskers = {"type": "data", "array": reach, "color": INK} if any(reach) else None
        figure.add_bar(
            x=ends[x],
            y=ends[y],
            orientation="h" if flat else "v",
            name=escape(name),
            error_x=whiskers if flat else None,
            error_y=None if flat else whiskers,
            marker=_filled(name, position) if colour else {"color": signed_colours(part[number])},
            customdata=_told(part[number].tolist(), reach),
            hovertemplate=f"%{{{'y' if flat else 'x'}}}<br>%{{customdata}} {escape(unit)}{NAMED}",
        )
    if flat:
        figure.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1])
        height = max(140 + 22 * len(names), 260)
        return styled(figure, title=title, x=unit, y=y, legend=legend, height=height)
    look = {"type": "category", "categoryorder": "array", "categoryarray": names}
    figure.update_xaxes(look | {"tickvals": names, "ticktext": tick_texts(said)})
    return styled(figure, title=title, x=x, y=with_unit(y, unit), legend=legend)


def whiskers(figure: go.Figure, frame: pd.DataFrame, *, x: str) -> go.Figure:
    """Bars of the column `x` with whiskers from the frame's `low` to its `high`.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"layer": ["0"], "nats": [0.5], "low": [0.4], "high": [0.7]})
    >>> figure = bars(frame, x="nats", y="layer", title="a margin", unit="nats")
    >>> [round(reach, 3) for reach in whiskers(figure, frame, x="nats").data[0].error_x.array]
    [0.2]
    """
    above, below = (frame["high"] - frame[x]).tolist(), (frame[x] - frame["low"]).tolist()
    reach = {"type": "data", "symmetric": False, "color": "#333333", "array": above, "arrayminus": below}
    return figure.update_traces(error_x=reach)


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
    """Draw one line per group, each in its own colour, marker and dash; `band` is a column of half-widths, shaded.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0]})
    >>> list(lines(frame, x="step", y="loss", title="a training", unit="nats").data[0].y)
    [2.0, 1.0]
    """
    import plotly.graph_objects as go

    need(frame, x, y, group, band)
    figure = go.Figure()
    for position, (name, part) in enumerate(groups(frame, group)):
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
            name=escape(name),
            line={"color": colour, "dash": role_dash(name, position)},
            marker={"symbol": role_symbol(name, position), "size": 7},
            hovertemplate=f"{escape(x)} %{{x}}<br>%{{y:.4g}} {escape(unit)}{NAMED}",
        )
    figure.update_xaxes(zeroline=False)
    x_title, y_title = with_unit(x, x_unit), with_unit(y, unit)
    return styled(figure, title=title, x=x_title, y=y_title, legend=group is not None)


def points(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    colour: str | None = None,
    title: str,
    unit: str,
    interval: str | None = None,
    whisker: str = "95 % t-interval of the mean",
) -> go.Figure:
    """Draw every value `y` as a point at its category `x`, spread evenly, the mean as a bar; 30 or more as a violin.

    `interval` names a column holding the half-width around each category's mean, `whisker` says what it is; 0 draws
    none. A column "lineage" or "seed" is told at the pointer, and a thin line joins the points of each. The line under
    the title tells n.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"member": ["student"] * 3, "margin": [1.0, 2.0, 3.0], "seed": [0, 1, 2]})
    >>> figure = points(frame, x="member", y="margin", title="three trainings", unit="nats")
    >>> len(figure.data) > 0
    True
    """
    import plotly.graph_objects as go

    need(frame, x, y, colour, interval)
    names = list(dict.fromkeys(frame[x]))
    parts = [frame.loc[frame[x] == name] for name in names]
    figure = go.Figure()
    for position, (name, part) in enumerate(zip(names, parts, strict=True)):
        roles = part[colour] if colour else [name] * len(part)
        whose = "%{text}" if len(part) < MANY else ""
        hover = f"{escape(name)}<br>%{{y:.4g}} {escape(unit)}{whose}<extra></extra>"
        drawn = _values(part[y].tolist(), list(map(str, roles)), position, hover)
        figure.add_trace(drawn.update(text=_whose(part) if whose else None))
        half = None if interval is None else float(part[interval].to_numpy()[0])
        shown = half is not None and np.isfinite(half) and half > 0
        figure.add_scatter(
            x=[position],
            y=[float(part[y].to_numpy().mean())],
            mode="markers",
            marker={"symbol": "line-ew", "size": 34, "line": {"width": 3, "color": MEAN}},
            error_y={"type": "data", "array": [half], "color": MEAN} if shown else None,
            hovertemplate=f"mean %{{y:.4g}} {escape(unit)}, n = {len(part)}<extra></extra>",
        )
    ticks = {
        "tickvals": list(range(len(names))),
        "ticktext": tick_texts(names),
        "autotickangles": [0, -30, -90],
    }
    figure.update_xaxes(**ticks, range=[-0.6, len(names) - 0.4], zeroline=False)
    placed = enumerate(parts)
    joined = _join(figure, [each for at, part in placed for each in _placed(at, part, y)])
    figure = styled(figure, title=title, x=x, y=with_unit(y, unit))
    drawn = interval is not None and bool((frame[interval] > 0).any())
    return captioned(figure, *_key([len(part) for part in parts], whisker if drawn else ""), joined)


def grouped_points(
    frame: pd.DataFrame, *, group: str, y: str, colour: str, role: str, title: str, unit: str, half: str
) -> go.Figure:
    """Draw every value `y` as a point, side by side within its `group`, one `colour` a series, named in the legend.

    A series looks like the first `role` of its lines. The column `half` is the half-width of the interval about the
    mean of its group and series; 0 draws none. A column "lineage" or "seed" is told at the pointer, and a thin line
    joins the points of each within a group.

    >>> import pandas as pd
    >>> lines = [["owl", 0.9, "student", 0.1], ["owl", 0.1, "base", 0.0], ["cat", 0.7, "student", 0.2]]
    >>> frame = pd.DataFrame(lines, columns=["trait", "nats", "member", "half"])
    >>> given = {"colour": "member", "role": "member", "half": "half", "title": "margins", "unit": "nats"}
    >>> [each.name for each in grouped_points(frame, group="trait", y="nats", **given).data][::2]
    ['student', 'base']
    """
    import plotly.graph_objects as go

    need(frame, group, y, colour, role, half)
    names, series = list(dict.fromkeys(frame[group])), list(dict.fromkeys(frame[colour]))
    step, figure, whole = 0.8 / len(series), go.Figure(), cast("Any", frame)
    placed: list[Any] = []
    for index, one in enumerate(series):
        mine = whole[whole[colour] == one]
        aside = (index - (len(series) - 1) / 2) * step
        parts = [(at + aside, mine[mine[group] == name]) for at, name in enumerate(names)]
        parts = [(at, part) for at, part in parts if len(part)]
        placed += [each for at, part in parts for each in _placed(at, part, y, step, of=group)]
        like = str(mine[role].iloc[0])
        look = {"color": role_colour(like, index), "symbol": role_symbol(like, index), "size": 9}
        told = f"%{{y:.3g}} {escape(unit)}".strip()
        figure.add_scatter(
            x=[at + step * offset for at, part in parts for offset in _spread(len(part))],
            y=[value for _, part in parts for value in part[y]],
            mode="markers",
            name=escape(one),
            marker=look,
            text=[whose for _, part in parts for whose in _whose(part)],
            hovertemplate=f"{escape(one)}: {told}%{{text}}<extra></extra>",
        )
        halves = [float(part[half].iloc[0]) or None for _, part in parts]
        figure.add_scatter(
            x=[at for at, _ in parts],
            y=[float(part[y].mean()) for _, part in parts],
            mode="markers",
            showlegend=False,
            marker={"symbol": "line-ew", "size": 22, "line": {"width": 3, "color": MEAN}},
            error_y={"type": "data", "array": halves, "color": MEAN},
            hovertemplate=f"{escape(one)}, mean: {told}<extra></extra>",
        )
    ticks = [wrapped(name, 20) for name in names]
    look = {"tickvals": list(range(len(names))), "ticktext": ticks, "tickangle": 0, "zeroline": False}
    figure.update_xaxes(**look, range=[-0.55, len(names) - 0.45], showgrid=False)
    figure = styled(figure, title=title, x="", y=with_unit(y, unit), legend=True, height=520)
    below = {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0.01, "x": 0}
    figure.update_layout(legend=below, margin={"b": 120})
    counts = [len(part) for _, part in frame.groupby([group, colour], sort=False)]
    joined = _join(figure, placed)
    return captioned(figure, *_key(counts, "95 % t-interval of the mean" if max(counts) > 1 else ""), joined)


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
    """Draw points in the plane, a colour and marker per role; `units` are those of x and y, `text` the hover column.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"teacher": [0.0, 1.0], "student": [0.1, 0.4]})
    >>> figure = scatter(frame, x="teacher", y="student", title="both", units=("nats", "nats"))
    >>> list(figure.data[0].x)
    [0.0, 1.0]
    """
    import plotly.graph_objects as go

    need(frame, x, y, colour, text)
    figure = go.Figure()
    for position, (name, part) in enumerate(groups(frame, colour)):
        look = {"color": role_colour(name, position), "symbol": role_symbol(name, position)}
        figure.add_scatter(
            x=part[x].tolist(),
            y=part[y].tolist(),
            mode="markers",
            name=escape(name),
            text=texts(part[text]) if text else None,
            marker={**look, "size": 7},
            hovertemplate=("%{text}<br>" if text else "")
            + f"{escape(x)}: %{{x:.4g}} {escape(units[0])}<br>{escape(y)}: %{{y:.4g}} {escape(units[1])}{NAMED}",
        )
    x_title, y_title = with_unit(x, units[0]), with_unit(y, units[1])
    return styled(figure, title=title, x=x_title, y=y_title, legend=colour is not None)


def _told(values: list[float], reach: list[float | None]) -> list[str]:
    """Every number with its half-width, where it has one, as the pointer tells it."""
    halves = [f" ± {half:.2g}" if half else "" for half in reach] or [""] * len(values)
    return [minus(f"{value:.4g}") + half for value, half in zip(values, halves, strict=True)]


def _whose(part: Any) -> list[str]:
    """Which lineage or seed each line of a frame is of, where it says so."""
    if "lineage" in part:
        return [f", {escape(name)}" for name in part["lineage"]]
    return [f", seed {seed}" for seed in part["seed"]] if "seed" in part else [""] * len(part)


def _placed(
    at: float, part: Any, y: str, step: float = 1.0, of: str | None = None
) -> list[tuple[Any, float, float]]:
    """Of every line its lineage (within its `of`) and where its point stands; nothing where a lineage has several."""
    if len(set(_whose(part))) < len(part):
        return []
    within = [""] * len(part) if of is None else part[of]
    whose = zip(within, _whose(part), strict=True)
    return list(zip(whose, (at + step * _spread(len(part))).tolist(), part[y].tolist(), strict=True))


def _join(figure: go.Figure, placed: list[tuple[Any, float, float]]) -> str:
    """Thin lines below the points through those of one lineage, and what they are; none where lineages are unknown."""
    paths: dict[Any, list[tuple[float, float]]] = {}
    for (within, whose), x, y in placed:
        if whose:
            paths.setdefault((within, whose), []).append((x, y))
    ends: list[Any] = [each for path in paths.values() if len(path) > 1 for each in (*path, (None, None))]
    if not ends or len({whose for _, whose in paths}) >= MANY:
        return ""
    look = {"mode": "lines", "line": {"color": GREY, "width": 0.7}, "hoverinfo": "skip", "showlegend": False}
    figure.add_scatter(x=[x for x, _ in ends], y=[y for _, y in ends], zorder=-1, **look)
    return "a thin line joins what is of one lineage"


def _filled(name: str, position: int) -> dict[str, Any]:
    """A bar's colour and, for a role, its hatching."""
    hatch = {"shape": HATCHES.get(name, ""), "fgcolor": "white", "size": 6, "solidity": 0.25}
    return {"color": role_colour(name, position), "pattern": {**hatch, "fillmode": "overlay"}}


def _values(values: list[float], roles: list[str], position: int, hover: str) -> go.Scatter | go.Violin:
    """The values of one category, each a marker of its role; many as the outline of their density."""
    import plotly.graph_objects as go

    looks = [(role_colour(role, position), role_symbol(role) if role else "circle") for role in roles]
    if len(values) >= MANY:
        shape = {"points": False, "width": 0.7, "spanmode": "hard", "hoveron": "violins"}
        return go.Violin(
            x=[position] * len(values),
            y=values,
            line={"color": looks[0][0]},
            hovertemplate=hover,
            **shape,
        )
    return go.Scatter(
        x=(position + _spread(len(values))).tolist(),
        y=values,
        mode="markers",
        marker={
            "color": [colour for colour, _ in looks],
            "symbol": [symbol for _, symbol in looks],
            "size": 9,
            "line": {"width": 1.5},
        },
        hovertemplate=hover,
    )


def _key(counts: list[int], whisker: str) -> list[str]:
    """What the marks are, and n."""
    low, high = min(counts, default=0), max(counts, default=0)
    n = f"n = {low} each" if low == high else f"n = {low} to {high}"
    values = "outline: density" if low >= MANY else "a mark each value"
    if low < MANY <= high:
        values = f"a mark each value, from {MANY} on their density"
    return [f"{values}, bar: mean" + (f", whiskers: {whisker}" if whisker else ""), n]


def _spread(n: int) -> np.ndarray:
    return np.linspace(-0.18, 0.18, n) if n > 1 else np.zeros(n)
