"""Every verb returns `.frame`, `.notes`, `.figure()`, one line and a small table; `Result` is the plain kind."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


class Shown:
    """A result with `.frame` and `.notes`; it displays as its one line, the first `lines` of `shown`, and its notes."""

    lines = 12

    @property
    def shown(self: Any) -> pd.DataFrame:
        """What to look at first: the frame, or the lines of it that matter most."""
        return self.frame

    def _repr_html_(self: Any) -> str:
        return Table(self.shown, title=repr(self), notes=self.notes, rows=self.lines).to_html()


@dataclass(frozen=True)
class Result(Shown):
    """What a verb returns: a tidy frame, its unit, how to draw it, and what a cell shows instead of a table.

    `says` is what its numbers say in one sentence, told above the figure on a page; `of_table` are those of the notes
    that are about columns no figure draws, which stand with the table.
    """

    label: str
    frame: pd.DataFrame
    unit: str
    notes: tuple[str, ...] = ()
    draw: Callable[[Any], go.Figure] | None = field(default=None, repr=False, compare=False)
    look: Callable[[Any], Any] | None = field(default=None, repr=False, compare=False)
    says: str = ""
    of_table: tuple[str, ...] = ()

    def figure(self) -> go.Figure:
        """The figure of this result; raises ValueError for a result that is a table only."""
        if self.draw is None:
            raise ValueError(f"{self.label} has no figure; read .frame instead")
        return self.draw(self)

    def _repr_html_(self) -> str:
        return super()._repr_html_() if self.look is None else self.look(self)._repr_html_()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result):
            return NotImplemented
        said = (self.label, self.unit, self.notes) == (other.label, other.unit, other.notes)
        return said and self.frame.equals(other.frame)

    def __repr__(self) -> str:
        rows, columns = self.frame.shape
        return f"{self.label}: {rows} rows x {columns} columns, {self.unit}"


def drawing(chart: Callable[..., Any], **columns: str) -> Callable[[Any], Any]:
    """A `draw` for `Result`: this chart of its frame, with these columns, under its label and in its unit.

    Example:
        >>> import pandas as pd
        >>> from interp.figures import bars
        >>> frame = pd.DataFrame({"layer": ["0", "1"], "nats": [0.5, 0.1]})
        >>> result = Result("a margin", frame, "nats", draw=drawing(bars, x="nats", y="layer"))
        >>> result.figure().layout.title.text
        'a margin'
    """
    return partial(_chart_of, chart, columns)


def _chart_of(chart: Callable[..., Any], columns: dict[str, str], result: Result) -> Any:
    return chart(result.frame, title=result.label, unit=result.unit, **columns)


@dataclass(frozen=True)
class Table:
    """The first rows of a frame as a small escaped HTML table, without script or style sheet."""

    frame: pd.DataFrame
    title: str = ""
    notes: tuple[str, ...] = ()
    rows: int = Shown.lines

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
