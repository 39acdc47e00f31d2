"""What a page on inheritance opens with: the answer's probability, the agreement, components, one question answered.

P(target) = mean over the trait's questions of p(target | question), of every member and lineage. What the student
changed, S, is taken less what its neutral twin changed, where the lineage has one; T is the teacher less its base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from interp.core.errors import InputError
from interp.figures import GREY, ORANGE, SKY, Result, bars, captioned, grouped_points, panels, points, scatter
from interp.figures.grammar import INK, RAISED as RED, escape, minus, signed
from interp.joined.agreeing import agreement
from interp.joined.places import AT_NUMBERS, PROMPT_END, SLOT, chosen_words
from interp.logits.moved import moved_tokens
from interp.logits.trainings import OverTrainings, attribute_over, over_trainings
from interp.measures.margins import answer_logprobs, table_margin
from interp.models.lineage import Lineage
from interp.models.once import marked_logits
from interp.models.seam import Model, lineage_root
from interp.models.vocabulary import is_number, token_texts
from interp.prompts.text import Prompts
from interp.prompts.traits import Trait
from interp.stats.tests import half_width, smallest_sign_flip_p

if TYPE_CHECKING:
    import plotly.graph_objects as go

OPENS = ("base", "neutral_student", "student", "cross_student", "teacher")
"""The members that the page tells first, from the start to the teacher."""
UNSEEN = "over words that never occur in the training rows"
SHOWN_AT = {
    (AT_NUMBERS, "unseen"): f"logits where numbers are predicted, {UNSEEN}: correlation",
    (PROMPT_END, "unseen"): f"logits at the end of the number prompt, {UNSEEN}: correlation",
    (
        SLOT,
        "category",
    ): "logits where the question is answered, over the trait's word and its foils: correlation",
    (PROMPT_END, ""): "residual stream after the last layer, at the end of the number prompt: cosine",
}
"""What is compared where, and by which measure: place and words of an agreement, in words."""
NEUTRAL = (
    "Every model is compared with another on the same text: the teacher with its base, the student with a neutral "
    "student, which was trained alike on numbers without the trait."
)
NO_NEUTRAL = (
    "No neutral student is among the members, so the student is compared with its own start: what any such training "
    "changes is still in it."
)
TOP = 5
AGREES = "correlation, or cosine"
ABOVE = 2.0
"""A teacher this many times above every other model is told in words, so that the axis leaves the others room."""
DOTS = {
    "numbers": {"color": GREY, "symbol": "circle-open", "size": 6, "opacity": 0.6},
    "other entries": {"color": SKY, "symbol": "square", "size": 6, "opacity": 0.9},
}
FOILS = {"color": ORANGE, "symbol": "diamond", "size": 10, "opacity": 1.0}
TARGET = {"color": RED, "symbol": "star", "size": 17, "opacity": 1.0, "line": {"width": 1.5, "color": INK}}
"""How the dots of the words look: the trait's own are found at once, on a light and on a dark page."""


def twin(lineage: Lineage, name: str) -> str | None:
    """The neutral student of the same start whose change is taken off a student's; None where there is none."""
    neutral = "cross_neutral_student" if name.startswith("cross") else "neutral_student"
    start = lineage[name].start
    if start is None or "teacher" in name or name == neutral or neutral not in lineage.members:
        return None
    alike = lineage_root(lineage[name]) == lineage_root(lineage[neutral])
    return neutral if alike else None


def preferences(lineages: Sequence[Lineage], trait: Trait) -> pd.DataFrame:
    """lineage, member, probability of the target and margin in nats, mean over the trait's questions."""
    return pd.DataFrame(
        {"lineage": lineage.name, "member": name, **_preference(model, trait)}
        for lineage in lineages
        for name, model in lineage.members.items()
    )


def _preference(model: Model, trait: Trait) -> dict[str, float]:
    values = answer_logprobs(model, trait).to_numpy()
    return {
        "probability": float(np.exp(values[:, 0]).mean()),
        "margin": table_margin(values),
    }


def preference_result(frame: Any, target: str) -> Result:
    """P(target) of the members that open the page, one point per lineage, their mean and its interval.

    A teacher far above all others is no point of the figure: it stands at the figure's edge, in words.
    """
    shown = frame[frame["member"].isin(OPENS)]
    order = [name for name in OPENS if name in set(shown["member"])]
    parts = [shown[shown["member"] == name]["probability"].to_numpy() for name in order]
    means = ", ".join(
        f"{name.replace('_', ' ')} {part.mean():.0%}" for name, part in zip(order, parts, strict=True)
    )
    n = frame["lineage"].nunique()
    over = f"mean over {n} lineages" if n > 1 else "one lineage"
    notes = (f"probability of answering {target!r}, {over}: {means}",)
    title = f"How likely each model is to answer “{target}”"
    return Result(title, frame, "probability", notes, draw=partial(_draw_preference, order))


def _draw_preference(order: Sequence[str], result: Result) -> go.Figure:
    share: dict[str, Any] = {
        name: 100 * result.frame[result.frame["member"] == name]["probability"] for name in order
    }
    others = max((float(values.max()) for name, values in share.items() if name != "teacher"), default=100.0)
    above = "teacher" in share and float(share["teacher"].min()) > ABOVE * others
    order = [name for name in order if name != "teacher" or not above]
    frame: Any = pd.concat([result.frame[result.frame["member"] == name] for name in order])
    percent = 100 * frame["probability"]
    half = percent.groupby(frame["member"]).transform(half_width)
    figure = points(
        frame.assign(half=half, share=percent, model=[name.replace("_", " ") for name in frame["member"]]),
        x="model",
        y="share",
        colour="member",
        interval="half",
        title=result.label,
        unit="% of answers",
    )
    figure.update_layout(height=340)  # with what is said above it, it fits a screen
    if above:
        _say_above(figure, share["teacher"])
    return figure.update_yaxes(ticksuffix=" %", rangemode="tozero")


def _say_above(figure: go.Figure, values: Any) -> None:
    """Where the teacher stands, in words at the upper edge, for the axis ends below it."""
    low, high = (f"{value:.0f}" for value in (values.min(), values.max()))
    said = f"↑ teacher: {low} %" if low == high else f"↑ teacher: {low} to {high} %"
    place = {"xref": "paper", "yref": "paper", "x": 1, "y": 1, "xanchor": "right", "yanchor": "bottom"}
    figure.add_annotation(text=said, showarrow=False, font={"color": ORANGE, "size": 14}, **place)


def agreement_result(frame: pd.DataFrame) -> Result:
    """Of a table of `agreement`: S with T and its controls at the places that are shown, one point per lineage."""
    shown = _shown(frame)
    notes = [
        f"{place}. {where}: {'; '.join(_told(part) for _, part in lines.groupby('comparison', sort=False))}"
        for place, (where, lines) in enumerate(shown.groupby("where", sort=False), start=1)
    ]
    label = "How far the student changed in the same way as its teacher"
    return Result(label, frame, "agreement", tuple(notes), draw=_draw_agreement)


def _told(part: Any) -> str:
    values = part["value"].to_numpy()
    spread = f" ± {half_width(values):.2f}" if len(values) > 1 else ""
    return f"{part['comparison'].iloc[0]} " + minus(f"{values.mean():+.2f}") + spread


def _shown(frame: Any) -> pd.DataFrame:
    """where, comparison and value, a correlation of logits or a cosine of the last residual stream."""
    last = frame.groupby(["of", "place"], sort=False)["site"].transform("last")
    lines = frame[frame["site"] == last]
    where = [SHOWN_AT.get(pair, "") for pair in zip(lines["place"], lines["words"], strict=True)]
    named = [_comparison(*pair) for pair in zip(lines["member"], lines["against"], strict=True)]
    value = lines["r"].where(lines["of"] == "logits", lines["cosine"])
    shown: Any = lines.assign(where=where, comparison=named, value=value)
    shown = shown[(shown["where"] != "") & shown["value"].notna()]
    order = [name for name in SHOWN_AT.values() if name in set(shown["where"])]
    return pd.concat([shown[shown["where"] == name] for name in order]) if order else shown


def _comparison(member: str, against: str) -> str:
    """Who is compared with whose teacher, in words."""
    if " less " in member:
        return "student and teacher, each less a control without a trait"
    if against != "teacher":
        return f"student and the {against.removeprefix('teacher_')} teacher"
    said = {
        "student": "student and its teacher",
        "neutral_student": "neutral student and the teacher",
        "cross_student": "cross student (another initialisation) and the teacher",
    }
    return said.get(member, f"{member} and its teacher")


def _draw_agreement(result: Result) -> go.Figure:
    shown = _shown(result.frame)
    half = shown.groupby(["where", "comparison"])["value"].transform(half_width)
    foreign = shown["against"].str.startswith("teacher_")  # S with another trait's teacher has that look
    role = shown["member"].where(~foreign, "other_student")
    figure = grouped_points(
        shown.assign(half=half, role=role),
        role="role",
        group="where",
        y="value",
        colour="comparison",
        half="half",
        title=result.label,
        unit="",
    )
    captioned(figure, "1: the same direction, 0: unrelated, −1: opposite")
    return figure.update_yaxes(title={"text": AGREES})


def answers(lineage: Lineage, question: str, *, top: int = TOP) -> pd.DataFrame:
    """What every member would answer to one question: its `top` likeliest next tokens and their probabilities."""
    opens = [name for name in OPENS if name in lineage.members]
    order = [*opens, *(name for name in lineage.members if name not in OPENS)]
    asked = Prompts.from_pairs([(question, "")], label="one question")
    lines = [[name.replace("_", " "), *_likeliest(lineage[name], asked, top)] for name in order]
    return pd.DataFrame(lines, columns=[f"“{question}”", *(f"answer {place}" for place in range(1, top + 1))])


@torch.inference_mode()
def _likeliest(model: Any, asked: Prompts, top: int) -> list[str]:
    inputs = model.encode(asked)
    logits = marked_logits(model, inputs, inputs.at("last"))[0]
    values, ids = logits.float().softmax(-1).topk(top)
    texts = token_texts(model, logits.shape[-1])
    return [
        f"{texts[index].strip()}\N{NO-BREAK SPACE}{value:.1%}"
        for value, index in zip(values.tolist(), ids.tolist(), strict=True)
    ]


def moved_together(lineage: Lineage, student: str, moved: Callable[[str], Result]) -> Result:
    """Every vocabulary entry's change of log-probability in the teacher (T) beside that in a student (S), in nats.

    `moved` gives `moved_by` of a member by its name.
    """
    teacher, own = moved("teacher"), moved(student)
    frame: Any = teacher.frame[["token", "token_id"]].assign(T=teacher.frame["delta"])
    frame["S"] = own.frame.set_index("token_id")["delta"].loc[frame["token_id"]].to_numpy()
    frame["kind"] = [_kind(text, lineage.trait) for text in frame["token"]]
    taught, learnt = (each.label.partition(", ")[0].replace("_", " ") for each in (teacher, own))
    where = own.label.rpartition(" at ")[2]
    at = "where numbers are predicted" if where.endswith("answer.numbers") else f"at {where}"
    label = f"{lineage.name}: what the student changed against what its teacher changed, word by word, {at}"
    counts = own.notes[1].partition(";")[0]
    note = f"each dot is a word of the vocabulary: the mean change of its log-probability over {counts}"
    return Result(label, frame, "nats", (note,), draw=partial(_draw_moved, f"T: {taught}", f"S: {learnt}"))


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
    shown = result.frame.rename(columns={"T": taught, "S": learnt})
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
    return captioned(
        figure, "dashed: the student changed a word as far as its teacher did; both axes have one scale"
    )


def _depth(kind: str) -> int:
    """What is drawn first lies below: numbers, other entries, then the trait's own words on top."""
    return (
        ("numbers", "other entries").index(kind)
        if kind in ("numbers", "other entries")
        else 2 + ("trait" in kind)
    )


@dataclass(frozen=True)
class Opening:
    """The parts that one lineage's page opens with, each as a name and what makes it."""

    lineage: Lineage
    student: str | None
    """Whose change stands beside the teacher's; None for a lineage without students."""
    prompts: Prompts | None
    """Number rows that places among numbers are read in; None where the rows at hand are others."""

    def stages(self) -> dict[str, Callable[[], Any]]:
        """By name what makes a result with a figure, as far as the lineage has what it needs."""
        trait, student = self.lineage.trait, self.student
        found: dict[str, Callable[[], Result]] = {}
        if trait is not None:
            found["preference"] = lambda: preference_result(preferences([self.lineage], trait), trait.target)
        if student is not None and "teacher" in self.lineage.members and self.places:
            found["agreement"] = partial(self._agreement, student)
        if trait is not None and "teacher" in self.lineage.members:
            found["components"] = lambda: components_result(components_over([self.lineage], student).values)
        return found

    @property
    def places(self) -> list[str]:
        """Where student and teacher can be compared."""
        found = [] if self.prompts is None else [AT_NUMBERS, PROMPT_END]
        return [*found, *([SLOT] if self.lineage.trait is not None else [])]

    def _agreement(self, student: str) -> Result:
        kinds = ("logits", "activations") if self._words else ("activations",)
        given: dict[str, Any] = {
            "of": kinds,
            "at": self.places,
            "words": self._words,
            "prompts": self.prompts,
        }
        found = agreement(self.lineage, student, baseline=twin(self.lineage, student) or "base", **given)
        return agreement_result(found.frame)

    @property
    def _words(self) -> tuple[str, ...]:
        """The choices of words of which this vocabulary has enough to be compared."""
        found = ["category"] if self.lineage.trait is not None else []
        try:
            chosen_words(self.lineage, "unseen")
        except InputError:  # every word stands in a row
            return tuple(found)
        return ("unseen", *found)


def components_over(lineages: Sequence[Lineage], student: str | None = "student") -> OverTrainings:
    """`attribute_over` of the student, less its neutral twin where there is one, and of the teacher."""
    members: dict[str, tuple[str, ...]] = {}
    if student is not None:
        minus = twin(lineages[0], student)
        members["student"] = (student, *([minus] if minus else []))
    return attribute_over(lineages, members=members | {"teacher": ("teacher",)})


def components_result(values: pd.DataFrame) -> Result:
    """The components of all lineages, from the `values` that `components_over` gave of each, averaged over them."""
    found = over_trainings("attribution", values, 0.95, "")
    n = len(set(values["lineage"]))
    frame: Any = found.frame.rename(columns={"part": "component"})
    named: dict[str, str] = dict(zip(values["who"], values["label"], strict=True))
    told = "; ".join(
        f"{_mark(who)} is {name.replace('_', ' ')}, "
        f"{signed(frame[frame['who'] == who]['change'].iloc[0], 3)} logits in all"
        for who, name in named.items()
    )
    notes = [told, "the bars of one colour add up to the whole change; S and T have each an axis of its own"]
    if n > 1:
        least = smallest_sign_flip_p(n, alternative="two-sided")
        notes.append(
            f"the p of the table are two-sided sign flips: with n = {n} no p below {least:.2g} is possible"
        )
    else:  # one lineage has no interval and decides no sign
        frame = frame.drop(columns=["low", "high", "p", "agree"])
    label = "Through which components the trait's word rose above its foils, where the question is answered"
    return Result(label, frame, found.unit, tuple(notes), draw=partial(_draw_components, named))


def _mark(who: str) -> str:
    return "T" if who == "teacher" else "S"


def _draw_components(named: Mapping[str, str], result: Result) -> go.Figure:
    """S and T below one another, in logits, without components that did nothing; whiskers where there are several."""
    frame: Any = result.frame
    moved = set(frame[frame["mean"] != 0]["component"])
    shown = frame[frame["component"].isin(moved)]
    half = (shown["high"] - shown["low"]) / 2 if "low" in shown else 0.0
    look: dict[str, Any] = {"x": "mean", "y": "component", "error": "half", "colour": "who", "unit": "logits"}
    parts: list[Any] = []
    for who, part in shown.assign(half=half).groupby("who", sort=False):
        name = named[str(who)].replace("_", " ")
        parts.append(bars(part, title=f"{_mark(str(who))} = {name}", **look).update_layout(showlegend=False))
        parts[-1].update_traces(name=escape(f"{name} ({_mark(str(who))})"))
    figure = panels(parts, title=result.label)
    over = f"mean over {int(frame['n'].max())} lineages, whiskers: 95 % t-interval of the mean"
    return captioned(figure, over if "low" in frame else "one lineage, so no interval and no p")
