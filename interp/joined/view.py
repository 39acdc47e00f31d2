"""A joined trace as token-coloured text: one cell per token, and everything the table says of it on hover."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.core.runs import InputError, nearest
from interp.figures import Result, heatmap, signed

if TYPE_CHECKING:
    import plotly.graph_objects as go

ROWS, TOKENS = 40, 60  # drawn at most


def joined_figure(result: Result, *, colour: str = "score") -> go.Figure:
    """Draw answers as text, a cell per token, coloured by `colour`; hovering shows all that the table says of a token.

    `colour` is a column of numbers: score, score:<module>, delta_logprob, delta_direction or row_share. The deepest
    colour is the 98th percentile of the magnitudes. InputError for another column.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> joined_figure(interp.joined_trace(lineage, rows=2), colour="score").layout.title.text is not None
    True
    """
    frame = result.frame
    numbers = [name for name in frame.columns if name.startswith(("score", "delta_", "row_share", "change_"))]
    if colour not in numbers:
        raise InputError(f"column {nearest(colour, numbers)}; colour by one of the table's numbers")
    shown: Any = frame[frame["role"] != "prompt"]
    rows = list(dict.fromkeys(shown["row"].tolist()))[:ROWS]
    parts: dict[Any, Any] = {row: shown[shown["row"] == row].head(TOKENS) for row in rows}
    width = max(len(part) for part in parts.values())
    cells = {row: part.to_dict("records") for row, part in parts.items()}
    unit = (
        "logits" if colour == "delta_direction" else "units of the feature" if "change" in colour else "nats"
    )
    figure = heatmap(
        [_padded([line[colour] for line in cells[row]], width, math.nan) for row in rows],
        rows=[f"{row} ({signed_or_dash(cells[row][0]['row_share'])})" for row in rows],
        columns=list(range(1, width + 1)),
        title=f"{result.label}, coloured by {colour}",
        unit=unit,
        axes=("token of the answer", "row (its share of the student's margin, nats)"),
    )
    limit = _limit(shown[colour].to_numpy(dtype=float))
    figure.update_traces(
        zmin=-limit,
        zmax=limit,
        text=[_padded([_visible(line["token"]) for line in cells[row]], width, "") for row in rows],
        customdata=[_padded([_hover(line) for line in cells[row]], width, "") for row in rows],
        texttemplate="%{text}",
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False, zeroline=False)
    return figure


def _padded(values: list[Any], width: int, fill: Any) -> list[Any]:
    return [*values, *[fill] * (width - len(values))]


def _limit(values: Float[np.ndarray, "line"]) -> float:
    sizes = np.abs(values[np.isfinite(values)])
    return float(np.quantile(sizes, 0.98)) if sizes.any() else 1.0


def _visible(token: str) -> str:
    return html.escape(token.strip(" ").replace("\n", "⏎") or "␣", quote=False)


def _hover(line: dict[str, Any]) -> str:
    """All four readings of a token, in words, and of whom they are."""
    modules = {
        name.removeprefix("score:"): value for name, value in line.items() if name.startswith("score:")
    }
    top = sorted(modules, key=lambda name: -abs(modules[name]))[:3]
    by_module = ", ".join(f"{html.escape(name)} {signed_or_dash(modules[name])}" for name in top)
    return "<br>".join(
        [
            f"<b>{_visible(line['token'])}</b>: row {line['row']}, position {line['position']}, {line['role']}",
            f"teacher \N{MINUS SIGN} base: log-probability {signed_or_dash(line['delta_logprob'])} nats, "
            f"trait {signed_or_dash(line['delta_direction'])} logits",
            f"features, teacher \N{MINUS SIGN} base: {line['features'] or 'unmoved'}",
            f"gradient score along the teacher's update {signed_or_dash(line['score'])} nats: {by_module}",
            f"the row's share of the student's margin {signed_or_dash(line['row_share'])} nats",
        ]
    )


def signed_or_dash(value: float) -> str:
    """A number with its sign and two digits, such as "+0.42" and "−0.11"; a dash when it is missing."""
    return signed(value) or "\N{EN DASH}"
