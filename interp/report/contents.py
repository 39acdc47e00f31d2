"""What a run folder holds, read and checked for its page.

A figure is taken apart into title, axes and drawing: fragment = Plotly.newPlot(id, data, layout, config), of which
only data and layout, both JSON, enter the page; nothing else a figure file holds is executed there.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.core.pages import page_drawing
from interp.core.runs import InputError, Run
from interp.figures import spoken
from interp.report.token_tables import is_token_table

if TYPE_CHECKING:
    import pandas as pd

AGAIN = "delete it and run the command again"
MOST = 10_000  # rows of a table that travel with its page


@dataclass(frozen=True)
class Figure:
    """A saved figure; `drawing` is its data and layout as JSON, None when the page had no room for it.

    `caption` says what its marks and whiskers are: the line that stood under its title.
    """

    title: str
    axes: str
    height: int
    drawing: str | None
    caption: str = ""


@dataclass(frozen=True)
class Contents:
    """Everything of a run that its page shows; `plotly` is the library's code, empty without figures."""

    record: dict[str, Any]
    summary: dict[str, Any]
    verdicts: list[dict[str, Any]]
    tables: dict[str, pd.DataFrame]
    figures: dict[str, Figure]
    plotly: str
    rows: dict[str, int] = field(default_factory=dict)  # of each table, how many travel with the page
    memory: dict[Any, str] = field(default_factory=dict, repr=False, compare=False)

    def total(self, name: str) -> int:
        """How many rows a table has; those of a token table are rows of text."""
        return _count(self.tables[name])


def _count(frame: pd.DataFrame) -> int:
    return len(frame["row"].unique()) if is_token_table(frame) else len(frame)


def read_contents(run: Run) -> Contents:
    """Everything the page shows; raises InputError naming the file that cannot be read."""
    summary, verdicts = _json(run, "summary", dict), _json(run, "verdicts", list)
    if not all(isinstance(verdict, dict) for verdict in verdicts):
        raise InputError(f"{run.folder / 'verdicts.json'} holds something that is no verdict; {AGAIN}")
    members = [isinstance(one, dict) and one.get("members") for one in summary.get("lineages") or []]
    if not all(isinstance(one, dict) for one in members):
        raise InputError(f"{run.folder / 'summary.json'} has a lineage without members; {AGAIN}")
    figures = {name: _figure(name, fragment) for name, fragment in run.figures.items()}
    tables = _tables(run)
    return Contents(
        record=run.record,
        summary=summary,
        verdicts=verdicts,
        tables=tables,
        figures=figures,
        plotly=_plotly(run.folder) if figures else "",
        rows={name: min(_count(table), MOST) for name, table in tables.items()},
    )


def _tables(run: Run) -> dict[str, pd.DataFrame]:
    for path in sorted(run.folder.glob("tables/*.parquet")):
        content = path.read_bytes()
        if len(content) < 12 or content[:4] != b"PAR1" or content[-4:] != b"PAR1":
            raise InputError(f"{path} is not a complete parquet table; {AGAIN}")
    try:
        return run.tables
    except (OSError, ValueError) as error:
        raise InputError(f"{run.folder / 'tables'} holds a damaged table ({error}); {AGAIN}") from None


def _json(run: Run, name: str, kind: type) -> Any:
    path = run.folder / f"{name}.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else kind()
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); {AGAIN}") from None
    if not isinstance(value, kind):
        raise InputError(f"{path} holds a {type(value).__name__}, not a {kind.__name__}; {AGAIN}")
    return value


def _figure(name: str, fragment: str) -> Figure:
    try:
        drawn = page_drawing(fragment)
        data, layout = drawn["data"], drawn["layout"]
        heading = layout.pop("title", {})
        title, caption = (
            _shown(heading.get("text") or name),
            _shown((heading.get("subtitle") or {}).get("text") or ""),
        )
        axes = ", ".join(f"{axis}: {_axis(layout, axis)}" for axis in "xy")
        height = int(layout.get("height", 450))
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"figures/{name}.html does not hold a figure ({error}); {AGAIN}") from None
    layout["margin"] = {**layout.get("margin", {}), "t": 30}  # the title moved into the page's heading
    drawing = json.dumps({"data": data, "layout": layout}, ensure_ascii=False, separators=(",", ":"))
    return Figure(title, axes, height, drawing, caption)


def _axis(layout: dict[str, Any], axis: str) -> str:
    return _shown(layout.get(f"{axis}axis", {}).get("title", {}).get("text") or "unnamed")


def _shown(label: str) -> str:
    """A plotly label as a reader sees it: without its markup, entities resolved, models named in words."""
    return spoken(html.unescape(re.sub(r"<[^>]*>", " ", label)))


def _plotly(folder: Path) -> str:
    path = folder / "figures" / "plotly.min.js"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()
