"""Rows of text whose tokens carry two numbers: the trait direction's change as colour, the log-probability's on hover.

shade = min(1, |value| / limit), red above zero and blue below it; limit is the 98th percentile of |value| over all
the rows shown, so that one outlier does not wash out the others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from interp.report.markup import finite, hundredths, number, text

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("row", "position", "token", "role", "delta_logprob", "delta_direction")
ROWS = 40  # of one table
TOKENS = 4000  # of all tables together


def is_token_table(frame: pd.DataFrame) -> bool:
    """Whether a table has everything that token-coloured text needs."""
    return set(COLUMNS) <= set(frame.columns)


def token_rows(frames: Mapping[str, pd.DataFrame]) -> str:
    """The first rows of every table as coloured text, with one box that filters them all and one line for details."""
    shown = {name: _first(frame, TOKENS // len(frames)) for name, frame in frames.items()}
    values = [abs(v) for frame in shown.values() for v in frame["delta_direction"].tolist() if finite(v)]
    limit = (sorted(values)[math.ceil(0.98 * (len(values) - 1))] if values else 0.0) or 1.0
    blocks = "\n".join(_block(name, frame, frames[name], limit) for name, frame in shown.items())
    count = sum(frame["row"].nunique() for frame in shown.values())
    scale = (
        f"<span>{number(-limit, digits=2)}</span><i></i><span>{number(limit, signed=True, digits=2)}</span>"
    )
    return (
        '<div class="tokens"><div class="filter"><label for="filter">Show only rows that contain</label>'
        '<input id="filter" type="search" autocomplete="off" placeholder="text, for instance 7, 12">'
        f'<span class="count soft" role="status">{count} of {count} rows</span></div>'
        f'<p class="legend">{scale}<span>logits toward the trait; deepest colour: this much or more</span></p>'
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


def _block(name: str, frame: pd.DataFrame, whole: pd.DataFrame, limit: float) -> str:
    label = name.removeprefix("tokens").strip("_").replace("_", " ") or "All rows"
    total, count = whole["row"].nunique(), frame["row"].nunique()
    note = f"{count} of {total:,} rows" + (
        f", all in tables/{text(name)}.parquet" if len(frame) < len(whole) else ""
    )
    rows = "\n".join(_row(row, part, limit) for row, part in frame.groupby("row", sort=False))
    return f'<div class="card"><h3>{text(label)} <small>{note}</small></h3><ol class="rows">{rows}</ol></div>'


def _row(row: object, frame: pd.DataFrame, limit: float) -> str:
    written = text("".join(str(token) for token in frame["token"]))
    columns = (frame[column].tolist() for column in COLUMNS[1:])
    spans = "".join(_span(token, limit) for token in zip(*columns, strict=True))
    return (
        f'<li tabindex="0" data-text="{written}"><small class="soft">{text(row)}</small><p>{spans}</p></li>'
    )


def _span(token: tuple[Any, ...], limit: float) -> str:
    position, piece, role, logprob, direction = token
    shown = text(piece).replace("\n", "⏎").replace(" ", "␣") or "∅"
    title = (
        f"position {position}, {role}: {number(direction, signed=True, digits=3)} logits toward the trait, "
        f"{number(logprob, signed=True, digits=3)} nats log-probability"
    )
    shade = min(1.0, abs(direction) / limit) if finite(direction) else 0.0
    below, deep, prompt = "m " * (shade > 0 and direction < 0), "d " * (shade > 0.8), "p" * (role == "prompt")
    return (
        f'<span class="{(below + deep + prompt).strip()}" style="--a:{shade:.2f}" title="{text(title)}">{shown}'
        f"<b>{hundredths(direction)}</b></span>"
    )
