"""Rows of tokens, each in the colour of its value: the report's reader for a notebook's cell, without a script.

    shade = min(1, |value| / limit), red above zero and blue below it; limit is the 98th percentile of |value| over all
    tokens of the table, so that one outlier does not wash out the others.

Text keeps the colour of the page it stands on: its deepest shade, at 0.62, is read under black and white ink.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.core.doors import door
from interp.core.errors import InputError, nearest
from interp.figures.grammar import minus, signed
from interp.figures.results import Result

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

RED, BLUE = "178,24,43", "33,102,172"
DEPTH = 0.62  # how much of the deepest colour covers the page
ROWS = 8  # shown at once
TOKENS = 300  # and of a row
PLACES = ("row", "position", "token")
UNITS = {
    "delta_direction": "logits toward the direction",
    "delta_logprob": "nats of log-probability",
    "score": "nats along the teacher's update",
}
BLANKS = {"\n": "⏎", " ": "␣", "\t": "⇥"}
MISSING = "\N{EN DASH}"


@dataclass(frozen=True)
class TokenRows:
    """Rows of tokens with a value each: coloured text in a cell, plain text where there is no HTML.

    `frame` holds row, position, token and value (NaN where a token has none), and may hold role; `heads` says more of a
    row than its number. A slice shows other rows: `rows[8:16]`.
    """

    label: str
    frame: pd.DataFrame
    unit: str
    notes: tuple[str, ...] = ()
    heads: Mapping[Any, str] = field(default_factory=dict)
    most: int = ROWS

    @property
    def names(self) -> list[Any]:
        """The rows in order."""
        return list(dict.fromkeys(self.frame["row"].tolist()))

    @property
    def limit(self) -> float:
        """The magnitude that has the deepest colour."""
        sizes = np.abs(self.frame["value"].to_numpy(dtype=float))
        sizes = sizes[np.isfinite(sizes)]
        return float(np.quantile(sizes, 0.98, method="higher")) if sizes.any() else 1.0

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: slice) -> TokenRows:
        """Those rows, in colours of their own scale."""
        return replace(self, frame=self.frame[self.frame["row"].isin(self.names[index])])

    def __repr__(self) -> str:
        lines = [f"{self.label}: {len(self)} rows, {self.unit}"]
        for name, part in self._parts():
            asked, rest = _told(part)
            words = [f"{_visible(token)} ({signed(value) or MISSING})" for token, value in rest[:TOKENS]]
            lines.append(f"{self._head(name)}: {' '.join([*([asked] if asked else []), *words])}")
        return "\n".join([*lines, *self._left()])

    def to_html(self) -> str:
        """The rows shown first as one escaped block without script or style sheet, a scale above them."""
        shade = "display:inline-block;width:9em;height:.8em;border-radius:3px;vertical-align:middle"
        bar = (
            f"{shade};background:linear-gradient(90deg,rgba({BLUE},{DEPTH}),transparent,rgba({RED},{DEPTH}))"
        )
        ends = [minus(f"{sign}{self.limit:.3g}") for sign in "-+"]
        scale = f'{ends[0]} <span style="{bar}"></span> {ends[1]} {html.escape(self.unit)}'
        body = "".join(self._row_html(name, part) for name, part in self._parts())
        below = "".join(
            f"<div><small>{html.escape(note)}</small></div>" for note in (*self._left(), *self.notes)
        )
        return f"<div><b>{html.escape(self.label)}</b></div><div><small>{scale}</small></div>{body}{below}"

    _repr_html_ = to_html

    def _parts(self) -> Iterator[tuple[Any, Any]]:
        for name in self.names[: self.most]:
            yield name, self.frame[self.frame["row"] == name]

    def _head(self, name: Any) -> str:
        return self.heads.get(name, f"row {name}")

    def _left(self) -> list[str]:
        left = len(self) - self.most
        return (
            [f"{left} more rows; a slice such as [{self.most}:{2 * self.most}] shows others"]
            if left > 0
            else []
        )

    def _row_html(self, name: Any, part: Any) -> str:
        asked, rest = _told(part)
        before = f'<span style="opacity:.7">{html.escape(asked)}</span> ' if asked else ""
        more = f" … {len(rest) - TOKENS} more tokens" if len(rest) > TOKENS else ""
        words = token_html(
            [token for token, _ in rest[:TOKENS]],
            [value for _, value in rest[:TOKENS]],
            unit=self.unit,
            limit=self.limit,
        )
        head = f'<div style="margin-top:.7em"><b>{html.escape(self._head(name))}</b> {before}{more}</div>'
        return head + words


@door
def token_rows(result: Result, *, colour: str | None = None, rows: int = ROWS) -> TokenRows:
    """Read a result token by token, as coloured text: it displays in a notebook's cell and needs no script.

    Args:
        result: of `token_shift` or `joined_trace`, or any whose table holds row, position, token and numbers.
        colour: the column whose numbers colour the tokens; by default "score" where there is one, else
            "delta_direction", else the first number.
        rows: how many rows are shown at once, at least 1; a slice of what is returned shows others.

    Returns:
        `TokenRows`; printed, it is plain text.

    Raises:
        InputError: for a table without tokens, another column, and fewer than one row.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> owl = interp.logit_direction(lineage.base, "owl")
        >>> shift = interp.token_shift(lineage.student, lineage.numbers[:2], owl)
        >>> len(interp.figures.token_rows(shift, colour="delta_logprob"))
        2
    """
    frame = result.frame
    if missing := [name for name in PLACES if name not in frame]:
        raise InputError(
            f"{result.label} has no column {missing[0]!r} to be read token by token; pass a result of token_shift or "
            "joined_trace"
        )
    numbers = [str(name) for name in frame.select_dtypes("number").columns if name not in PLACES]
    usual = [name for name in ("score", "delta_direction", *numbers) if name in numbers]
    chosen = colour or next(iter(usual), "value")
    if chosen not in numbers:
        raise InputError(f"column {nearest(chosen, numbers)}; colour by one of the table's numbers")
    if rows < 1:
        raise InputError(f"rows={rows} shows nothing; pass at least 1")
    kept: Any = frame[[*PLACES, *(["role"] if "role" in frame else [])]].assign(value=frame[chosen])
    unit = UNITS.get(chosen, f"of {chosen}")
    return TokenRows(result.label, kept, unit, tuple(result.notes), most=rows)


def token_html(tokens: Sequence[str], values: ArrayLike, *, unit: str, limit: float | None = None) -> str:
    """Tokens as escaped spans: blue below and red above zero, the signed value printed beneath, no script.

    The deepest colour is `limit`, by default the largest magnitude; a value that is not finite stays uncoloured.

    >>> page = token_html(["owl", " 3"], [0.5, -0.2], unit="nats")
    >>> "+0.5" in page, "−0.2" in page
    (True, True)
    """
    numbers = np.asarray(values, dtype=float)
    if numbers.shape != (len(tokens),):
        raise ValueError(f"values have shape {numbers.shape}, but there are {len(tokens)} tokens")
    limit = limit or float(np.abs(numbers[np.isfinite(numbers)]).max(initial=0.0)) or 1.0
    spans = "".join(
        _token_span(token, value, limit, unit) for token, value in zip(tokens, numbers, strict=True)
    )
    return f'<div style="font-family:monospace;line-height:1.2">{spans}</div>'


def _token_span(token: str, value: float, limit: float, unit: str) -> str:
    share = float(np.clip(value / limit, -1, 1)) if np.isfinite(value) else 0.0
    style = (
        "display:inline-block;text-align:center;margin:1px;padding:1px 3px;border-radius:3px;color:inherit;"
        f"background:rgba({RED if share > 0 else BLUE},{DEPTH * abs(share):.3f})"
    )
    said = f"{signed(value, 4)} {unit}" if np.isfinite(value) else "no value"
    return (
        f'<span style="{style}" title="{html.escape(said)}">{html.escape(_visible(token))}<br>'
        f"<small>{signed(value) or MISSING}</small></span>"
    )


def _visible(token: str) -> str:
    """The token with its blanks drawn."""
    return "".join(BLANKS.get(letter, letter) for letter in token) or "∅"


def _told(part: Any) -> tuple[str, list[tuple[str, float]]]:
    """The text of the tokens in front that have no value, and the tokens from there on with theirs."""
    values = part["value"].to_numpy(dtype=float)
    tokens = [str(token) for token in part["token"]]
    known = np.isfinite(values)
    first = int(known.argmax()) if known.any() else len(tokens)
    return "".join(tokens[:first]).strip(), list(zip(tokens[first:], values[first:].tolist(), strict=True))
