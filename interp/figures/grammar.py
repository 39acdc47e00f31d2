"""Who looks like what: role → colour, marker, dash, hatching; the axes and the white page they stand on.

Colours are those of Okabe and Ito (2008, jfly.uni-koeln.de/color), darkened where theirs had less than the contrast of
3 on white that WCAG 2.2 (1.4.11) asks of graphics; NIGHT exchanges those that have less on a dark page. An open marker
is a model of another initialisation than the teacher's. Two roles whose greys are close differ in marker, dash and
hatching.
"""

from __future__ import annotations

import html
import math
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

GREY = "#7f7f7f"
ORANGE = "#BD7B00"
BLUE = "#0072B2"
SKY = "#369EBE"
GREEN = "#009E73"
_LOOKS = {  # role: colour, marker, dash, hatching
    "base": (GREY, "square", "dot", "."),
    "null": (GREY, "x-thin-open", "1px,5px", "x"),
    "teacher": (ORANGE, "diamond", "dash", "/"),
    "student": (BLUE, "circle", "solid", ""),
    "cross_base": ("#949494", "square-open", "2px,8px", "x"),
    "cross_student": (SKY, "circle-open", "dashdot", "-"),
    "cross_init": (SKY, "circle-open", "dashdot", "-"),
    "neutral": (GREEN, "triangle-up", "longdash", "\\"),
    "neutral_student": (GREEN, "triangle-up", "longdash", "\\"),
    "cross_neutral_student": ("#1FA184", "triangle-up-open", "longdashdot", "|"),
    "other_student": ("#CC79A7", "cross", "8px,3px,2px,3px,2px,3px", "+"),
    "in_context": ("#B84F00", "star", "14px,3px,2px,3px", "-"),
}
ROLES = {role: look[0] for role, look in _LOOKS.items()}
SYMBOLS = {role: look[1] for role, look in _LOOKS.items()}
DASHES = {role: look[2] for role, look in _LOOKS.items()}
HATCHES = {role: look[3] for role, look in _LOOKS.items()}
DECISIONS = {"supported": BLUE, "refuted": ORANGE, "inconclusive": GREY, "holds": GREY, "fails": ORANGE}
DECIDED = {
    "supported": "circle",
    "refuted": "x",
    "inconclusive": "circle-open",
    "holds": "square-open",
    "fails": "square-x-open",
}
OTHERS = ("#CC79A7", "#D55E00", "#000000", BLUE, ORANGE, GREEN, "#882255", SKY)
MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")
STROKES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
PLAIN = "#444444"  # for what has no name of its own
RAISED, LOWERED = "#b2182b", "#2166ac"  # the ends of the diverging scale that bars and tokens use
DIVERGING = "RdBu_r"
INK = "#333333"
NIGHT = {
    "white": "rgba(0,0,0,0)",
    "#222222": "#e8e8e6",
    INK: "#c4c8d0",
    "#000000": "#ffffff",
    "#e6e6e6": "#363a41",
    "#999999": "#8a8f98",
    PLAIN: "#c4c8d0",
    "#882255": "#d27fa8",
    BLUE: "#4aa8dd",
    RAISED: "#e06377",
    LOWERED: "#5b9bd8",
}
"""What a page in the dark draws in place of a colour of the template or of a mark."""
ACROSS, LEAST_WIDTH, MOST_WRAPPED = 108, 12, 8
"""Characters side by side under an axis, and at least in a line of a category's name; categories that are wrapped."""
NAMED = "<extra>%{fullData.name}</extra>"  # the trace's name beside the hover text
AXIS = {
    "gridcolor": "#e6e6e6",
    "zerolinecolor": "#999999",
    "linecolor": INK,
    "automargin": True,
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": "#cccccc",
}
TEMPLATE = {
    "layout": {
        "font": {"family": "Helvetica, Arial, sans-serif", "size": 13, "color": "#222222"},
        "title": {"x": 0.02, "xanchor": "left", "font": {"size": 16}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": AXIS,
        "yaxis": AXIS,
        "margin": {"l": 70, "r": 30, "t": 60, "b": 60},
        "colorway": OTHERS,
    }
}

CAPTION, LINE = 130, 16  # characters of a caption's line, and pixels of each after the first


def role_colour(name: str, position: int = 0) -> str:
    """The fixed colour of a lineage role or decision; any other name gets one by its position.

    >>> role_colour("student"), role_colour("my model")
    ('#0072B2', '#CC79A7')
    """
    known = ROLES.get(_role(name)) or DECISIONS.get(name)
    return known or (OTHERS[position % len(OTHERS)] if name else PLAIN)


def role_symbol(name: str, position: int = 0) -> str:
    """The fixed marker of a role or decision, open for another initialisation; others get one by their position.

    >>> role_symbol("student"), role_symbol("cross_student")
    ('circle', 'circle-open')
    """
    known = SYMBOLS.get(_role(name)) or DECIDED.get(name)
    return known or (MARKERS[position % len(MARKERS)] if name else "circle")


def role_dash(name: str, position: int = 0) -> str:
    """The fixed dash of a role's line; any other name gets one by its position.

    >>> role_dash("student"), role_dash("neutral_student")
    ('solid', 'longdash')
    """
    return DASHES.get(_role(name)) or (STROKES[position % len(STROKES)] if name else "solid")


def _role(name: str) -> str:
    """The role whose look a name has: another trait's teacher, "teacher_eagle", has that of the other trait."""
    return "other_student" if name.startswith("teacher_") else name


def spoken(text: str) -> str:
    """Text with the names of members in words: cross neutral student, eagle teacher (for teacher_eagle).

    >>> spoken("teacher_eagle and cross_neutral_student")
    'eagle teacher and cross neutral student'
    """
    named = re.sub(r"\bteacher_(\w+)", r"\1 teacher", text)
    return re.sub(r"\b(?:cross|neutral)_\w+", lambda found: found.group().replace("_", " "), named)


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign and a minus that is as wide as a plus: "+0.5", "−2"; nothing where it is not finite.

    >>> signed(0.5), signed(-2), signed(float("nan"))
    ('+0.5', '−2', '')
    """
    return minus(f"{value:+.{digits}g}") if np.isfinite(value) else ""


def minus(number: str) -> str:
    """A printed number with the typographic minus."""
    return number.replace("-", "\N{MINUS SIGN}")


def bracket(interval: Sequence[float | None], *, level: float | None, form: str = "+.3g") -> str:
    """An interval as printed everywhere, its level first: [98 %: +0.24, +1.21]. An end that is None is unbounded.

    A level of 1 is the range of all runs: [all runs: -0.02, +0.01].

    >>> bracket((0.24, 1.21), level=0.98)
    '[98 %: +0.24, +1.21]'
    """
    ends = (
        math.copysign(math.inf, side) if end is None else end
        for end, side in zip(interval, (-1, 1), strict=True)
    )
    said = "" if level is None else "all runs: " if level == 1 else f"{100 * level:.3g} %: "
    return minus(f"[{said}{', '.join(format(end, form) for end in ends)}]")


def captioned(figure: go.Figure, *parts: str) -> go.Figure:
    """The figure with what its bands, whiskers and marks mean in lines under its title, escaped; empty parts go.

    >>> import plotly.graph_objects as go
    >>> captioned(go.Figure(), "band: 95 % interval", "n = 8").layout.title.subtitle.text
    'band: 95 % interval; n = 8'
    """
    layout: Any = figure.layout
    said = caption_of(figure)
    added = [escape(part) for part in parts if part]
    if added:
        lines = _caption_lines("; ".join([*([said] if said else []), *added]))
        more = LINE * (len(lines) - max(len(_caption_lines(said)), 1))
        figure.update_layout(
            title={"subtitle": {"text": "<br>".join(lines), "font": {"size": 12, "color": "#555555"}}},
            margin={"t": max(layout.margin.t or 0, 84 + LINE * (len(lines) - 1))},
            height=(layout.height or 420) + (0 if said else 20) + more,
        )
    return figure


def caption_of(figure: go.Figure) -> str:
    """What stands under a figure's title, escaped and in one line; empty without any."""
    layout: Any = figure.layout
    return (layout.title.subtitle.text or "").replace("<br>", " ")


def _caption_lines(text: str) -> list[str]:
    """Lines that a picture of usual width holds."""
    return textwrap.wrap(text, CAPTION, break_long_words=False, break_on_hyphens=False)


def styled(
    figure: go.Figure, *, title: str, x: str, y: str, legend: bool = False, height: int = 420
) -> go.Figure:
    """The package's look, applied to this figure only; axis titles are escaped."""
    figure.update_layout(template=TEMPLATE, title={"text": escape(title)}, showlegend=legend, height=height)
    figure.update_xaxes(title={"text": escape(x)})
    figure.update_yaxes(title={"text": escape(y)})
    return figure


def groups(frame: pd.DataFrame, column: str | None) -> list[tuple[str, pd.DataFrame]]:
    """The parts of a frame by a column, in the order first seen; one part without a name for no column."""
    if column is None:
        return [("", frame)]
    return [(str(name), part) for name, part in frame.groupby(column, sort=False)]


def need(frame: pd.DataFrame, *columns: str | None) -> None:
    """ValueError for the first column that the frame lacks."""
    missing = [column for column in columns if column is not None and column not in frame.columns]
    if missing:
        raise ValueError(
            f"the frame has no column {missing[0]!r}; it has {', '.join(map(str, frame.columns))}"
        )


def signed_colours(values: Any) -> list[str]:
    """Red above zero, blue below."""
    return [RAISED if value > 0 else LOWERED for value in values]


def with_unit(name: str, unit: str) -> str:
    """ "margin (nats)"; the name alone where the unit says nothing more."""
    return f"{name} ({unit})" if unit and unit != name else name


def escape(value: Any) -> str:
    """Text as plotly must get it to show it literally: its labels understand a little HTML."""
    return html.escape(str(value), quote=False)


def wrapped(value: Any, width: int = 24, *, within_words: bool = True) -> str:
    """Escaped text in lines of at most `width` characters, for a tick that has little room.

    A longer word is broken, or without `within_words` stands whole.
    """
    return "<br>".join(map(escape, textwrap.wrap(str(value), width, break_long_words=within_words)))


def tick_texts(names: Sequence[str]) -> list[str]:
    """What stands under each category of an axis: lines that fit side by side, whole names where they are many."""
    if len(names) > MOST_WRAPPED:
        return texts(names)
    width = max(LEAST_WIDTH, ACROSS // max(len(names), 1))
    return [wrapped(name, width, within_words=False) for name in names]


def texts(values: Any) -> list[str]:
    """Every value as escaped text."""
    return [escape(value) for value in values]
