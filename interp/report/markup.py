"""Escaped pieces of HTML every part of the page is made of: text, numbers, definition lists, tables.

Numbers: four significant digits, a true minus sign, an en dash for what is missing; a sign on every number of a
column that holds negative ones.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    import pandas as pd

ROWS = 15  # of a table
CELL = 160  # characters of a cell
MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def text(value: Any) -> str:
    """Data as text that HTML cannot mistake for markup."""
    return html.escape(str(value))


def finite(value: Any) -> TypeGuard[float]:
    """Whether `value` is a number that can be placed on an axis."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, *, signed: bool = False, digits: int = 4) -> str:
    """A number to read: "+0.5312", "−∞", or a dash when there is none."""
    if not isinstance(value, Real) or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return MINUS + "∞" if value < 0 else "∞"
    if isinstance(value, Integral):
        return f"{int(value):{'+' if signed else ''}d}".replace("-", MINUS)
    return f"{float(value):{'+' if signed else ''}.{digits}g}".replace("-", MINUS)


def hundredths(value: Any) -> str:
    """A number with its sign and two decimals, to be compared with its neighbours."""
    return f"{value:+.2f}".replace("-", MINUS) if finite(value) else MISSING


def cell(value: Any, *, signed: bool = False) -> str:
    """Any value as short escaped text."""
    return text(plain(value, signed=signed))


def plain(value: Any, *, signed: bool = False) -> str:
    """Any value as short text, not yet escaped."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Real):
        return number(value, signed=signed)
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return MISSING
    words = _words(value)
    return words if len(words) <= CELL else words[: CELL - 1] + "…"


def _words(value: Any) -> str:
    nested = (list, tuple, Mapping)
    if isinstance(value, (list, tuple)) and not any(isinstance(item, nested) for item in value):
        return ", ".join(number(item) if isinstance(item, float) else str(item) for item in value)
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, nested) else str(value)


def anchor(title: str) -> str:
    """The id of a section."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def pairs(cells: Mapping[str, str]) -> str:
    """Names beside values that are already escaped; nothing when there are none."""
    items = "".join(f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in cells.items())
    return f"<dl>{items}</dl>" if items else ""


def flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as ("outer inner", value) in their own order."""
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value


def scroll(table: str, label: str) -> str:
    """A wide table in a box that the keyboard can reach and scroll."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label)}">{table}</div>'


def frame_table(name: str, frame: pd.DataFrame, *, folded: bool = False) -> str:
    """The first rows of a saved table, and where the others are; `folded` hides it behind its caption."""
    total, count = len(frame), min(len(frame), ROWS)
    whole = "1 row" if total == 1 else f"all {total} rows"
    shown = whole if total == count else f"the first {count} of {total:,} rows"
    caption = f"Table {text(name)}: {shown}, in tables/{text(name)}.parquet"
    columns = [column(frame[one].head(ROWS).tolist()) for one in frame.columns]
    styles = [' class="n"' if numeric else "" for numeric, _ in columns]
    head = "".join(
        f'<th scope="col"{style}>{text(one)}</th>' for one, style in zip(frame.columns, styles, strict=True)
    )
    lines = zip(*(values for _, values in columns), strict=True)
    body = "".join(
        "<tr>"
        + "".join(f"<td{style}>{text(value)}</td>" for style, value in zip(styles, line, strict=True))
        + "</tr>"
        for line in lines
    )
    inner = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    data = f' data-table="{text(name)}"'
    if folded:
        table = scroll(f"<table>{inner}</table>", f"Table {name}")
        return f"<details{data}><summary>{caption}</summary>{table}</details>"
    table = scroll(f"<table><caption>{caption}</caption>{inner}</table>", f"Table {name}")
    return f'<div class="card"{data}>{table}</div>'


def column(values: Sequence[Any]) -> tuple[bool, list[str]]:
    """Whether a column holds numbers, and what a reader sees in its cells, not yet escaped."""
    numbers = [value for value in values if isinstance(value, Real) and not isinstance(value, bool)]
    signed = any(value < 0 for value in numbers if not isinstance(value, Integral))
    return bool(numbers), [plain(value, signed=signed) for value in values]
