"""A figure as an HTML page, back again, and as a picture.

page = frame around the call Plotly.newPlot(id, data, layout, config): a function of the figure alone, so that the same
figure gives the same bytes. plotly.min.js lies once beside the pages of a folder.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

SCRIPT = "plotly.min.js"
PAGE = (
    '<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>{name}</title></head>\n<body>\n'
    f'<script src="{SCRIPT}"></script>\n'
    "{fragment}\n</body></html>\n"
)
CALL = "Plotly.newPlot("
WIDTH, HEIGHT, SCALE = 900, 420, 2  # of a picture: CSS pixels, and image pixels per CSS pixel


def figure_page(name: str, figure: go.Figure) -> str:
    """The page that draws `figure` with plotly.min.js in the same folder; text from data is escaped by plotly."""
    fragment = figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"figure-{name}")
    return PAGE.format(name=name, fragment=fragment)


def page_fragment(name: str, page: str) -> str:
    """The part of a page that draws its figure where plotly.js is loaded already."""
    head, tail = PAGE.split("{fragment}")
    return page[len(head.format(name=name)) : -len(tail)]


def page_drawing(page: str) -> dict[str, Any]:
    """Data and layout of the figure that a page or fragment draws; raises ValueError when it draws none."""
    place = page.index(CALL) + len(CALL)
    arguments: list[Any] = []
    for _ in range(3):
        place = len(page) - len(page[place:].lstrip(" \n\t,"))
        argument, place = json.JSONDecoder().raw_decode(page, place)
        arguments.append(argument)
    return {"data": arguments[1], "layout": arguments[2]}


def pictures(drawings: Mapping[str, dict[str, Any]]) -> dict[str, bytes]:
    """Every drawing as PNG, all in one start of the browser; raises RuntimeError when the browser fails."""
    import plotly.io

    with tempfile.TemporaryDirectory() as scratch:
        paths: list[str | Path] = [Path(scratch) / f"{index}.png" for index in range(len(drawings))]
        heights = [drawing["layout"].get("height", HEIGHT) for drawing in drawings.values()]
        plotly.io.write_images(
            list(drawings.values()), paths, width=WIDTH, height=heights, scale=SCALE, validate=False
        )
        return {name: path.read_bytes() for name, path in zip(drawings, map(Path, paths), strict=True)}
