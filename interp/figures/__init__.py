"""Plain frames and arrays in, plotly figures and token HTML out; and `Result`, the table every verb returns.

One grammar for the whole package: a role has one colour, one marker, one dash and one hatching, so that roles stay
apart for colour-blind readers and on grey paper; values about zero have diverging RdBu_r colours, limit = max |value|,
and their sign is printed; every axis has its unit and every whisker its name; fewer than 30 values are points.
Figures are returned, nothing is global, and all text that comes from data is escaped.
"""

from interp.figures.charts import panels, volcano, waterfall
from interp.figures.forests import forest
from interp.figures.grammar import (
    BLUE,
    DASHES,
    DECISIONS,
    DIVERGING,
    GREEN,
    GREY,
    HATCHES,
    ORANGE,
    OTHERS,
    ROLES,
    SKY,
    SYMBOLS,
    TEMPLATE,
    bracket,
    captioned,
    role_colour,
    role_dash,
    role_symbol,
    signed,
)
from interp.figures.maps import heatmap, interval_maps, interval_text
from interp.figures.plots import bars, lines, points, scatter, whiskers
from interp.figures.results import Result, Shown, Table, drawing
from interp.figures.token_views import token_html

__all__ = [
    "BLUE",
    "DASHES",
    "DECISIONS",
    "DIVERGING",
    "GREEN",
    "GREY",
    "HATCHES",
    "ORANGE",
    "OTHERS",
    "ROLES",
    "SKY",
    "SYMBOLS",
    "TEMPLATE",
    "Result",
    "Shown",
    "Table",
    "bars",
    "bracket",
    "captioned",
    "drawing",
    "forest",
    "heatmap",
    "interval_maps",
    "interval_text",
    "lines",
    "panels",
    "points",
    "role_colour",
    "role_dash",
    "role_symbol",
    "scatter",
    "signed",
    "token_html",
    "volcano",
    "waterfall",
    "whiskers",
]
