"""Rows of text whose tokens carry numbers: one as colour, all of them on hover.

The colour is the trait direction's change, or the gradient score where a table (a joined trace) has one.

shade = min(1, |value| / limit), red above zero and blue below it; limit is the 98th percentile of |value| over all
the rows shown, so that one outlier does not wash out the others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from interp.report.markup import anchor, finite, hundredths, number, text

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("row", "position", "token", "role", "delta_logprob", "delta_direction")
UNITS = {
    "delta_direction": "logits toward the trait",
    "score": "nats along the teacher's update",
}
MODULE = "score:"  # in front of a module's name
TOP = 3  # modules told of a token
ROWS = 40  # of one table
TOKENS = 4000  # of all tables together


def is_token_table(frame: pd.DataFrame) -> bool:
    """Whether a table has everything that token-coloured text needs."""
    return set(COLUMNS) <= set(frame.columns)


def token_rows(frames: Mapping[str, pd.DataFrame]) -> str:
    """The first rows of every table as coloured text, with one box that filters them all and one line for details."""
    shown = {name: _first(frame, TOKENS // len(frames)) for name, frame in frames.items()}
    column = "score" if all("score" in frame for frame in frames.values()) else "delta_direction"
    values = [abs(v) for frame in shown.values() for v in frame[column].tolist() if finite(v)]
    limit = (sorted(values)[math.ceil(0.98 * (len(values) - 1))] if values else 0.0) or 1.0
    blocks = "\n".join(_block(name, frame, frames[name], column, limit) for name, frame in shown.items())
    count = sum(frame["row"].nunique() for frame in shown.values())
    scale = (
        f"<span>{number(-limit, digits=2)}</span><i></i><span>{number(limit, signed=True, digits=2)}</span>"
    )
    box = f"filter-{anchor(next(iter(frames)))}"
    return (
        f'<div class="tokens"><div class="filter"><label for="{box}">Show only rows that contain</label>'
        f'<input id="{box}" type="search" autocomplete="off" placeholder="text, for instance 7, 12">'
        f'<span class="count soft" role="status">{count} of {count} rows</span></div>'
        f'<p class="legend">{scale}<span>{UNITS[column]}; deepest colour: this much or more</span></p>'
        f'{blocks}\n<output class="readout">Point at a token, or focus a row and press ← or →.</output></div>'
    )


def _first(frame: pd.DataFrame, tokens: int) -> pd.DataFrame:
    """As many whole rows as `tokens` allows, at least one, at most ROWS; a row longer than that is cut."""
    rows = frame["row"].tolist()
    counts = Counter(rows)
    order = list(dict.fromkeys(rows))[:ROWS]
    ends = accumulate(counts[row] for row in order)
    fitting = {row for row, end in zip(order, ends, strict=True) if end <= tokens} or set(order[:1])
    return frame.loc[[row in fitting for row in rows]].head(tokens)


def _block(name: str, frame: pd.DataFrame, whole: pd.DataFrame, column: str, limit: float) -> str:
    label = name.removeprefix("tokens").removeprefix("joined").strip("_").replace("_", " ") or "All rows"
    total, count = whole["row"].nunique(), frame["row"].nunique()
    note = f"{count} of {total:,} rows" + (
        f", all in tables/{text(name)}.parquet" if len(frame) < len(whole) else ""
    )
    rows = "\n".join(_row(row, part, column, limit) for row, part in frame.groupby("row", sort=False))
    return f'<div class="card"><h3>{text(label)} <small>{note}</small></h3><ol class="rows">{rows}</ol></div>'


def _row(row: object, frame: pd.DataFrame, column: str, limit: float) -> str:
    lines = frame.to_dict("records")
    written = text("".join(str(line["token"]) for line in lines))
    spans = "".join(_span(line, line[column], limit) for line in lines)
    share = f"<b>{hundredths(lines[0]['row_share'])}</b>" if finite(lines[0].get("row_share")) else ""
    label = f'<small class="soft">{text(row)}{share}</small>'
    return f'<li tabindex="0" data-text="{written}">{label}<p>{spans}</p></li>'


def _span(line: Mapping[Any, Any], value: Any, limit: float) -> str:
    shown = text(line["token"]).replace("\n", "⏎").replace(" ", "␣") or "∅"
    shade = min(1.0, abs(value) / limit) if finite(value) else 0.0
    below, deep = "m " * (shade > 0 and value < 0), "d " * (shade > 0.8)
    kind = (below + deep + "p" * (line["role"] == "prompt")).strip()
    return (
        f'<span class="{kind}" style="--a:{shade:.2f}" title="{text(_title(line))}">{shown}'
        f"<b>{hundredths(value)}</b></span>"
    )


def _title(line: Mapping[Any, Any]) -> str:
    """Everything the table says of a token, in words."""
    words = (
        f"position {line['position']}, {line['role']}: {_digits(line['delta_direction'])} logits toward the trait, "
        f"{_digits(line['delta_logprob'])} nats log-probability"
    )
    if isinstance(line.get("features"), str):
        words += f"; features {line['features'] or 'unmoved'}"
    if finite(line.get("score")):
        words += f"; {_digits(line['score'])} {UNITS['score']}{_modules(line)}"
    if finite(line.get("row_share")):
        words += f"; its row adds {_digits(line['row_share'])} nats to the student's margin"
    return words


def _modules(line: Mapping[Any, Any]) -> str:
    """The modules with most of the score, in brackets; nothing when the table tells none apart."""
    parts = {name.removeprefix(MODULE): value for name, value in line.items() if name.startswith(MODULE)}
    top = sorted((name for name in parts if finite(parts[name])), key=lambda name: -abs(parts[name]))[:TOP]
    return f" ({', '.join(f'{name} {_digits(parts[name])}' for name in top)})" if top else ""


def _digits(value: Any) -> str:
    return number(value, signed=True, digits=3)
