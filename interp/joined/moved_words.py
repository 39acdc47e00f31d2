"""Every word of the vocabulary, how far the student moved it against how far its teacher did, as one scatter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.figures import GREY, ORANGE, SKY, Result, captioned, scatter, spoken
from interp.figures.grammar import INK, RAISED as RED
from interp.joined.findings import said_moved
from interp.joined.opening import twin
from interp.logits.moved import moved_tokens
from interp.models.lineage import Lineage
from interp.models.vocabulary import is_number
from interp.prompts.text import Prompts
from interp.prompts.traits import Trait

if TYPE_CHECKING:
    import plotly.graph_objects as go

DOTS = {
    "numbers": {"color": GREY, "symbol": "circle-open", "size": 5},
    "other entries": {"color": SKY, "symbol": "square", "size": 5},
}
FOILS = {"color": ORANGE, "symbol": "diamond", "size": 10}
TARGET = {"color": RED, "symbol": "star", "size": 17, "line": {"width": 1.5, "color": INK}}
"""How the dots of the words look: the trait's own are found at once, on a light and on a dark page."""
MOST_DOTS = 2000
"""Of a vocabulary with more other entries every k-th of them is drawn."""


def moved_together(lineage: Lineage, student: str, moved: Callable[[str], Result]) -> Result:
    """Every vocabulary entry's change of log-probability in the teacher (T) beside that in a student (S), in nats.

    `moved` gives `moved_by` of a member by its name.
    """
    teacher, own = moved("teacher"), moved(student)
    frame: Any = teacher.frame[["token", "token_id"]].assign(T=teacher.frame["delta"])
    frame["S"] = own.frame.set_index("token_id")["delta"].loc[frame["token_id"]].to_numpy()
    frame["kind"] = [_kind(text, lineage.trait) for text in frame["token"]]
    taught, learnt = (spoken(each.label.partition(", ")[0]) for each in (teacher, own))
    where = own.label.rpartition(" at ")[2]
    at = "where numbers are predicted" if where.endswith("answer.numbers") else f"at the positions “{where}”"
    label = f"{lineage.name}: what the student changed against what its teacher changed, word by word, {at}"
    counts = own.notes[1].partition(";")[0]
    note = f"each dot is a word of the vocabulary: the mean change of its log-probability over {counts}"
    target = None if lineage.trait is None else lineage.trait.target
    draw = partial(_draw_moved, f"T: {taught}", f"S: {learnt}")
    return Result(label, frame, "nats", (note,), draw=draw, says=said_moved(frame, target, at))


def moved_by(lineage: Lineage, name: str, *, prompts: Prompts, positions: str | None = None) -> Result:
    """`moved_tokens` of a member, less its neutral twin where there is one."""
    minus = twin(lineage, name)
    other = None if minus is None else lineage[minus]
    return moved_tokens(lineage[name], prompts, minus=other, positions=positions)


def _kind(text: str, trait: Trait | None) -> str:
    word = text.strip()
    if trait is not None and word == trait.target:
        return f"the trait: {word}"
    if trait is not None and word in trait.foils:
        return f"other {trait.category}s"
    return "numbers" if is_number(text) else "other entries"


def _draw_moved(taught: str, learnt: str, result: Result) -> go.Figure:
    kept, step = _thinned(result.frame)
    shown = kept.rename(columns={"T": taught, "S": learnt})
    shown = shown.sort_values("kind", key=lambda kind: kind.map(_depth), kind="stable")
    words = {"x": taught, "y": learnt, "colour": "kind", "text": "token"}
    figure: Any = scatter(shown, title=result.label, units=("nats", "nats"), **words)
    for trace in figure.data:
        own = trace.name.startswith("the trait")
        trace.marker = TARGET if own else DOTS.get(trace.name, FOILS)
        if own:
            trace.update(mode="markers+text", textposition="top center", textfont={"size": 15})
    ends = np.array([result.frame[["T", "S"]].min().min(), result.frame[["T", "S"]].max().max()])
    ends += np.array([-0.06, 0.06]) * (ends[1] - ends[0])
    line = {"color": "#999999", "dash": "dash", "width": 1}
    figure.add_shape(type="line", x0=ends[0], y0=ends[0], x1=ends[1], y1=ends[1], line=line, layer="below")
    figure.update_xaxes(range=ends.tolist()).update_yaxes(range=ends.tolist())
    figure.update_layout(height=540)
    fewer = f"of the other entries every {step}th is drawn" if step > 1 else ""
    return captioned(figure, "dashed: the student changed a word as far as its teacher did", fewer)


def _thinned(frame: Any) -> tuple[Any, int]:
    """The words to draw, and of the other entries every how manieth is among them."""
    other = frame["kind"] == "other entries"
    step = -(-int(other.sum()) // MOST_DOTS) or 1
    return frame[~other | (other.cumsum() % step == 0)], step


def _depth(kind: str) -> int:
    """What is drawn first lies below: numbers, other entries, then the trait's own words on top."""
    return (
        ("numbers", "other entries").index(kind)
        if kind in ("numbers", "other entries")
        else 2 + ("trait" in kind)
    )
