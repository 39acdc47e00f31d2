"""A page filled from its template, with plotly.js, figures and rows in it, compressed; the largest stay out above 6 MB.

packed = base64(gzip(text)): about 0.4 of a script and 0.2 of a drawing, and no byte of it can be mistaken for markup.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from interp.core.runs import InputError
from interp.figures import NIGHT, role_colour, spoken
from interp.report import cells, verdict_cards
from interp.report.contents import Contents
from interp.report.token_tables import is_token_table, label_of, token_json

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment

log = logging.getLogger(__name__)

LIMIT = 6_000_000  # bytes of a page
SCRIPTS = ("core.js", "tokens.js", "tables.js", "figures.js")


@lru_cache(maxsize=256)
def packed(content: str) -> str:
    """Base64 of the compressed text; the same text gives the same characters."""
    return base64.b64encode(gzip.compress(content.encode(), 6, mtime=0)).decode()


@cache
def environment() -> Environment:
    """The templates of the pages, which escape all they are given, and what they can do with a value."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("interp.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    told = (
        verdict_cards.interval_words,
        verdict_cards.verdict_drawing,
        verdict_cards.member_margins,
        verdict_cards.verdict_id,
    )
    values = (
        cells.cell,
        cells.number,
        cells.chance,
        cells.hundredths,
        cells.anchor,
        cells.flat,
        cells.columns,
    )
    made.filters.update({verb.__name__: verb for verb in (*told, *values, label_of, spoken)})
    made.tests.update(finite=cells.finite, check=verdict_cards.is_check)
    made.globals.update(
        ROWS=cells.ROWS, MARKS=verdict_cards.MARKS, TOLD=verdict_cards.TOLD, role_colour=role_colour
    )
    return made


def filled(name: str, contents: Contents, **said: Any) -> str:
    """The whole page of the template `name`, with what its scripts draw of `contents`, and `said` for its text."""
    script, data = _script(), {"figures": _drawings(contents), **_rows(contents)}
    entries = ",".join(
        f"{json.dumps(kind)}:{{{','.join(f'{json.dumps(name)}:{piece}' for name, piece in pieces.items())}}}"
        for kind, pieces in data.items()
    )
    page = environment().get_template(name)
    return page.render(
        contents=contents,
        hashes=[_hash(code) for code in (contents.plotly, script)],
        style=_source("report.css"),
        data=packed(f"{{{entries}}}"),
        plotly=packed(contents.plotly),
        script=script,
        **said,
    )


def fitted(contents: Contents, draw: Callable[[Contents], str]) -> str:
    """The page, without the largest figures and the last rows of the largest tables where it would exceed LIMIT.

    Raises InputError when the page is too large even without any of them.
    """
    page = draw(contents)
    while len(page.encode()) > LIMIT:
        pieces = {("figures", name): piece for name, piece in _drawings(contents).items()}
        pieces |= {
            (kind, name): piece for kind, group in _rows(contents).items() for name, piece in group.items()
        }
        if not pieces:
            raise InputError(
                f"the page would hold {len(page.encode()) / 1e6:.1f} MB of text alone, above {LIMIT / 1e6:g} MB; "
                "read the tables and figures of the run in their own files"
            )
        kind, name = max(pieces, key=lambda key: (len(packed(pieces[key])), key))
        contents = _smaller(contents, kind, name)
        page = draw(contents)
    return page


def _smaller(contents: Contents, kind: str, name: str) -> Contents:
    """Without that figure, or with half of the rows of that table; below ROWS none are left."""
    if kind == "figures":
        log.info("figure %s: too large for the page, left in its own file", name)
        outside = {name: replace(contents.figures[name], drawing=None)}
        return replace(contents, figures=contents.figures | outside)
    count = contents.rows[name] // 2
    count = count if count >= cells.ROWS else 0
    log.info("table %s: too large for the page, cut to %d rows", name, count)
    return replace(contents, rows=contents.rows | {name: count})


def cuts(contents: Contents) -> list[str]:
    """What the page had no room for, one sentence each."""
    figures = [
        f"Figure {name} is in figures/{name}.html."
        for name, figure in contents.figures.items()
        if figure.drawing is None
    ]
    tables = [
        f"Table {name}: {contents.rows[name]:,} of {contents.total(name):,} rows can be searched here, all are in "
        f"tables/{name}.parquet."
        for name in contents.tables
        if contents.rows[name] < contents.total(name)
    ]
    return [*figures, *tables]


def _drawings(contents: Contents) -> dict[str, str]:
    return {name: figure.drawing for name, figure in contents.figures.items() if figure.drawing is not None}


def _rows(contents: Contents) -> dict[str, dict[str, str]]:
    """Token tables, and other tables with more rows than stand in the text, each as JSON by name."""
    tokens: dict[str, str] = {}
    tables: dict[str, str] = {}
    for name, frame in contents.tables.items():
        count, memory = contents.rows[name], contents.memory
        if count and is_token_table(frame):
            key = ("tokens", name, count)
            label = label_of(name, contents.record)
            tokens[name] = memory[key] = memory.get(key) or token_json(frame, count, label)
        elif count > cells.ROWS:
            key = ("tables", name, count)
            tables[name] = memory[key] = memory.get(key) or _table_json(frame, count)
    return {"tokens": tokens, "tables": tables}


def _table_json(frame: pd.DataFrame, count: int) -> str:
    """Names of the columns, whether they hold numbers, and every cell as a reader sees it."""
    told = list(cells.columns(frame, count))
    names, numeric, values = ([column[part] for column in told] for part in range(3))
    found = {"names": names, "total": len(frame), "numeric": numeric, "columns": values}
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


@cache
def _source(name: str) -> str:
    return files("interp.report").joinpath("templates", name).read_text(encoding="utf-8")


def _script() -> str:
    parts = "\n".join(_source(name) for name in SCRIPTS)
    return f'(() => {{\n"use strict";\nconst night = {json.dumps(NIGHT)};\n{parts}}})();\n'


def _hash(code: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
