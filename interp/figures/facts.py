"""What an object says of itself in a notebook's cell: a title, its facts and a table, escaped, without script.

Text and lines take the colour of the page they stand on, so that light and dark notebooks are alike readable.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

CELL = "text-align:left;vertical-align:top;padding:.15em .8em .15em 0;white-space:pre-wrap;overflow-wrap:anywhere"
TABLE = "border-collapse:collapse;margin:.3em 0;max-width:70em"
LONGEST = 160  # characters of a cell


def facts_html(
    title: str,
    facts: Mapping[str, Any] | None = None,
    *,
    columns: Sequence[str] = (),
    lines: Iterable[Sequence[Any]] = (),
    notes: Iterable[str] = (),
) -> str:
    """The title, a line per fact, a table of `lines` under `columns`, and notes; facts that are empty are left out.

    Example:
        >>> page = facts_html("a run", {"rows": 8, "seed": None}, notes=["n < 9"])
        >>> "rows" in page, "seed" in page, "n &lt; 9" in page
        (True, False, True)
    """
    told = "".join(
        _line("td", (name, value)) for name, value in (facts or {}).items() if value not in (None, "", ())
    )
    head, body = _line("th", columns), "".join(_line("td", line) for line in lines)
    below = "".join(f"<div><small>{html.escape(note)}</small></div>" for note in notes)
    parts = [
        f"<div><b>{html.escape(title)}</b></div>",
        f'<table style="{TABLE}">{told}</table>' if told else "",
        f'<table style="{TABLE}">{head}{body}</table>' if body else "",
        below,
    ]
    return "".join(parts)


def _line(cell: str, values: Sequence[Any]) -> str:
    cells = (f'<{cell} style="{CELL}">{_text(value)}</{cell}>' for value in values)
    return f"<tr>{''.join(cells)}</tr>"


def _text(value: Any) -> str:
    """One value, cut and escaped; several, a line each where they are long."""
    if isinstance(value, (tuple, list)):
        short = sum(len(str(each)) for each in value) <= LONGEST
        return (", " if short else "\n").join(map(_text, value))
    text = "" if value is None else str(value)
    return html.escape(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")
