"""Values as a reader of the page sees them, not yet escaped: the templates escape whatever they are given.

Numbers: four significant digits, a true minus sign, an en dash for what is missing; a sign on every number of a
column that holds negative ones.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeGuard

from interp.figures import spoken

if TYPE_CHECKING:
    import pandas as pd

ROWS = 15  # of a table
CELL = 160  # characters of a cell
MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
MEMBERS, CHANCES = (
    ("member", "against", "who"),
    ("p", "q"),
)  # columns of names of models, and of probabilities


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


def chance(value: Any, *, digits: int = 4) -> str:
    """A probability to read: "0.0039", and "< 0.0001" below that, for less is beyond what a test can vouch for."""
    return "< 0.0001" if finite(value) and 0 <= value < 1e-4 else number(value, digits=digits)


def cell(value: Any, *, signed: bool = False, whole: bool = False) -> str:
    """Any value as text, cut to CELL characters unless `whole`."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Real):
        return number(value, signed=signed)
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return MISSING
    words = _words(value)
    return words if whole or len(words) <= CELL else words[: CELL - 1] + "…"


def _words(value: Any) -> str:
    nested = (list, tuple, Mapping)
    if isinstance(value, (list, tuple)) and not any(isinstance(item, nested) for item in value):
        return ", ".join(number(item) if isinstance(item, float) else str(item) for item in value)
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, nested) else str(value)


def anchor(title: str) -> str:
    """The id of a section."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as ("outer inner", value) in their own order."""
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value


def columns(frame: pd.DataFrame, count: int) -> Iterator[tuple[str, bool, list[str]]]:
    """The name of every column, whether it holds numbers, and its first `count` cells as a reader sees them."""
    for name in frame.columns:
        values = frame[name].head(count).tolist()
        numbers = [value for value in values if isinstance(value, Real) and not isinstance(value, bool)]
        signed = any(value < 0 for value in numbers if not isinstance(value, Integral))
        if name in MEMBERS:
            values = [spoken(str(value)) for value in values]
        shown = [
            chance(value) if numbers and name in CHANCES else cell(value, signed=signed) for value in values
        ]
        yield str(name), bool(numbers), shown
