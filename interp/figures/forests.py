"""A forest of verdicts: effect, interval and n of each claim, one axis per unit, one marker per decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from interp.figures.grammar import bracket, captioned, escape, minus, role_colour, role_symbol, styled

if TYPE_CHECKING:
    import plotly.graph_objects as go

MARKS = {"supported": "●", "refuted": "✕", "inconclusive": "○", "holds": "□", "fails": "⊠"}
WHISKERS = "whiskers: t-interval over runs of the level that is printed with it"
RANGE = "; of a check, the range of all runs"
LINE, GAP = 34, 90  # pixels: a verdict, and what lies between two units


def forest(verdicts: Sequence[Any], *, title: str = "Verdicts", caption: str | None = None) -> go.Figure:
    """Draw effect and interval of each verdict (objects or their JSON), first on top, marked by decision.

    Verdicts in different units never share an axis. What is drawn is printed at the right with the interval's level and
    n. `caption` replaces the line under the title, which names the marks of the decisions and the whiskers.

    >>> from interp.stats.verdict import paired_verdict
    >>> verdict = paired_verdict("gains", "the margin grows", [0.2, 0.1, 0.4, 0.3])
    >>> len(forest([verdict]).data) > 0
    True
    """
    from plotly.subplots import make_subplots

    rows = [verdict if isinstance(verdict, dict) else vars(verdict) for verdict in verdicts]
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        parts.setdefault(str(row["unit"]), []).append(row)
    sizes = [LINE * max(len(part), 1) for part in parts.values()] or [LINE]
    height = sum(sizes) + GAP * (len(sizes) - 1)
    figure: Any = make_subplots(
        rows=len(sizes), cols=1, row_heights=sizes, vertical_spacing=GAP / height if len(sizes) > 1 else 0
    )
    where = {unit: index for index, unit in enumerate(parts, start=1)}
    for row in rows:
        figure.add_trace(_line(row), row=where[str(row["unit"])], col=1)
    styled(figure, title=title, x="", y="", height=height + 140)
    for unit, part in parts.items():
        place: Any = {"row": where[unit], "col": 1}
        names = [escape(row["name"]) for row in part][::-1]
        figure.update_xaxes(title={"text": escape(f"effect, {unit}")}, **place)
        figure.update_yaxes(
            categoryorder="array", categoryarray=names, range=[-0.6, len(names) - 0.4], **place
        )
        figure.add_vline(x=0, line={"color": "#999999", "dash": "dot"}, **place)
        for row in part:
            _print(figure, row, axis="" if where[unit] == 1 else str(where[unit]))
    figure.update_layout(margin={"r": 250})
    said = [f"{mark} {name}" for name, mark in MARKS.items() if any(row["decision"] == name for row in rows)]
    checked = any(row["decision"] in ("holds", "fails") for row in rows)
    whiskers = WHISKERS + RANGE * checked
    return captioned(figure, *((", ".join(said), whiskers) if caption is None else (caption,)))


def _line(row: dict[str, Any]) -> go.Scatter:
    """One verdict; an end of its interval that is unbounded has no whisker."""
    import plotly.graph_objects as go

    low, high = (row["effect"] if edge is None else edge for edge in row["interval"])
    interval = bracket(row["interval"], level=row.get("level"), form=".4g")
    reach = {"array": [high - row["effect"]], "arrayminus": [row["effect"] - low]}
    colour = role_colour(row["decision"])
    return go.Scatter(
        x=[row["effect"]],
        y=[escape(row["name"])],
        mode="markers",
        marker={
            "size": 11,
            "color": colour,
            "symbol": role_symbol(row["decision"]),
            "line": {"width": 2, "color": colour},
        },
        error_x={"type": "data", "symmetric": False, "color": colour, **reach},
        hovertemplate=f"{escape(row['decision'])}: %{{x:.4g}} {interval} {escape(row['unit'])}, "
        f"n = {escape(row['n'])}<extra></extra>",
    )


def _print(figure: go.Figure, row: dict[str, Any], *, axis: str) -> None:
    """Effect, interval and n, at the right of the plot."""
    interval = bracket(row["interval"], level=row.get("level"), form=".3g").replace("inf", "∞")
    figure.add_annotation(
        x=1.01,
        xref="paper",
        y=escape(row["name"]),
        yref=f"y{axis}",
        text=minus(f"{row['effect']:.3g} {interval}") + f", n = {escape(row['n'])}",
        showarrow=False,
        xanchor="left",
        font={"size": 11},
    )
