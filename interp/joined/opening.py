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
from interp.figures import Result, bars, captioned, grouped_points, panels, points, signed, spoken
from interp.figures.grammar import INK, escape
from interp.joined.agreeing import agreement
from interp.joined.findings import said_agreement, said_components, said_preference
from interp.joined.places import AT_NUMBERS, PROMPT_END, SLOT, chosen_words
from interp.logits.trainings import OverTrainings, attribute_over, over_trainings
from interp.measures.margins import answer_logprobs, table_margin
from interp.models.lineage import Lineage
from interp.models.once import marked_logits
from interp.models.seam import Model, lineage_root
from interp.models.vocabulary import token_texts
from interp.prompts.text import Prompts
from interp.prompts.traits import Trait
from interp.stats.tests import half_width, smallest_sign_flip_p

if TYPE_CHECKING:
    import plotly.graph_objects as go

OPENS = ("base", "neutral_student", "student", "cross_student", "teacher")
"""The members that the page tells first, from the start to the teacher."""
SHOWN_AT = {
    (AT_NUMBERS, "unseen"): "words in no row, where numbers are predicted",
    (PROMPT_END, "unseen"): "words in no row, at the end of the number prompt",
    (SLOT, "category"): "the trait's word and its foils, where the question is answered",
    (PROMPT_END, ""): "last residual stream, at the end of the number prompt",
}
"""What is compared where: place and words of an agreement, in words."""
MEASURED = "correlation of the changes of logits, cosine for the residual stream; 1: the same direction, 0: unrelated"
OWN = "student and its teacher"
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
MOST_PARTS = 12
"""Of more components those are drawn that moved most in S or T."""


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
    order = [name for name in OPENS if name in set(frame["member"])]
    title, says = f"How likely each model is to answer “{target}”", said_preference(frame, target)
    return Result(title, frame, "probability", draw=partial(_draw_preference, order), says=says)


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
        frame.assign(half=half, share=percent, model=list(map(spoken, frame["member"]))),
        x="model",
        y="share",
        colour="member",
        interval="half",
        title=result.label,
        unit="% of answers",
    )
    figure.update_xaxes(title=None)
    figure.update_layout(height=340)  # with what is said above it, it fits a screen
    if above:
        _say_above(figure, share["teacher"])
    return figure.update_yaxes(ticksuffix=" %", rangemode="tozero")


def _say_above(figure: go.Figure, values: Any) -> None:
    """Where the teacher stands, in words at the upper edge, for the axis ends below it."""
    low, high = (f"{value:.0f}" for value in (values.min(), values.max()))
    said = f"↑ teacher: {low} %" if low == high else f"↑ teacher: {low} to {high} %"
    place = {"xref": "paper", "yref": "paper", "x": 1, "y": 1, "xanchor": "right", "yanchor": "bottom"}
    figure.add_annotation(text=said, showarrow=False, font={"color": INK, "size": 14}, **place)


def agreement_result(frame: pd.DataFrame) -> Result:
    """Of a table of `agreement`: S with T and its controls at the places that are shown, one point per lineage."""
    shown = _shown(frame)
    label, says = "How far the student changed in the same way as its teacher", said_agreement(shown, OWN)
    return Result(label, frame, "agreement", draw=_draw_agreement, says=says)


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
        return f"student and the {spoken(against)}"
    said = {
        "student": OWN,
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
    captioned(figure, MEASURED)
    return figure.update_yaxes(title={"text": AGREES})


def answers(lineage: Lineage, question: str, *, top: int = TOP) -> pd.DataFrame:
    """What every member would answer to one question: its `top` likeliest next tokens and their probabilities."""
    opens = [name for name in OPENS if name in lineage.members]
    order = [*opens, *(name for name in lineage.members if name not in OPENS)]
    asked = Prompts.from_pairs([(question, "")], label="one question")
    lines = [[spoken(name), *_likeliest(lineage[name], asked, top)] for name in order]
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
        f"{_mark(who)} is {spoken(name)}, "
        f"{signed(frame[frame['who'] == who]['change'].iloc[0], 3)} logits in all"
        for who, name in named.items()
    )
    notes = [f"{told}: the sum of the bars. S and T have each an axis of its own"]
    if n > 1:
        least = smallest_sign_flip_p(n, alternative="two-sided")
        notes.append(
            f"the p of the table are two-sided sign flips: with n = {n} no p below {least:.2g} is possible"
        )
    else:  # one lineage has no interval and decides no sign
        frame = frame.drop(columns=["low", "high", "p", "agree"])
    label = "Through which components the trait's word rose above its foils, where the question is answered"
    draw, says = partial(_draw_components, named, values), said_components(frame)
    return Result(label, frame, found.unit, tuple(notes), draw=draw, says=says)


def _mark(who: str) -> str:
    return "T" if who == "teacher" else "S"


def _draw_components(named: Mapping[str, str], values: Any, result: Result) -> go.Figure:
    """S and T below one another, in logits, a ring per lineage on each bar; whiskers where there are several."""
    shown = _largest(result.frame)
    half = (shown["high"] - shown["low"]) / 2 if "low" in shown else 0.0
    look: dict[str, Any] = {"x": "mean", "y": "component", "error": "half", "colour": "who", "unit": "logits"}
    parts: list[Any] = []
    for who, part in shown.assign(half=half).groupby("who", sort=False):
        name = spoken(named[str(who)])
        parts.append(bars(part, title=f"{_mark(str(who))} = {name}", **look).update_layout(showlegend=False))
        parts[-1].update_traces(name=escape(f"{name} ({_mark(str(who))})"))
        if "low" in shown:
            _ring(parts[-1], values[(values["who"] == who) & values["part"].isin(part["component"])])
        parts[-1].update_yaxes(title=None)
    figure = panels(parts, title=result.label)
    over = f"mean over {result.frame['n'].max():.0f} lineages, a ring each; whiskers: 95 % t-interval of the mean"
    return captioned(figure, over if "low" in result.frame else "one lineage, so no interval and no p")


def _largest(frame: Any) -> Any:
    """The components that moved most in S or T, and as one line of each the sum of all others that moved."""
    size = frame["mean"].abs() / frame.groupby("who")["mean"].transform(lambda means: means.abs().max())
    size = size.groupby(frame["component"], sort=False).max().sort_values(ascending=False, kind="stable")
    moved = size[size > 0]
    rest = moved.index[MOST_PARTS:]
    kept = frame[frame["component"].isin(moved.index[:MOST_PARTS])]
    if rest.empty:
        return kept
    others = frame[frame["component"].isin(rest)].groupby("who", sort=False, as_index=False)["mean"].sum()
    return pd.concat([kept, others.assign(component=f"the other {len(rest)} together")], ignore_index=True)


def _ring(figure: Any, values: Any) -> None:
    """What each lineage gave, on the bars of the means."""
    look = {
        "mode": "markers",
        "marker": {"symbol": "circle-open", "size": 6, "color": INK},
        "showlegend": False,
    }
    said = "%{y}, %{text}<br>%{x:.3g} logits<extra></extra>"
    named = [escape(name) for name in values["lineage"]]
    figure.add_scatter(
        x=values["value"].tolist(), y=values["part"].tolist(), text=named, hovertemplate=said, **look
    )
