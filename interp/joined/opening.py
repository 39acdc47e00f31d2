"""What a page on inheritance opens with: the answer's probability, the agreement, the parts, one question answered.

P(target) = mean over the trait's questions of p(target | question), of every member and lineage. What the student
changed, S, is taken less what its neutral twin changed, where the lineage has one; T is the teacher less its base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from interp.core.errors import InputError
from interp.figures import Result, grouped_points, points, scatter
from interp.figures.grammar import escape
from interp.joined.agreeing import agreement
from interp.joined.places import AT_NUMBERS, PROMPT_END, SLOT, chosen_words
from interp.logits.moved import moved_tokens
from interp.logits.trainings import OverTrainings, attribute_over, over_trainings
from interp.measures.margins import answer_logprobs, table_margin
from interp.models.lineage import Lineage
from interp.models.seam import Model, lineage_root
from interp.models.vocabulary import is_number, token_texts
from interp.prompts.text import Prompts
from interp.prompts.traits import Trait
from interp.stats.tests import half_width

if TYPE_CHECKING:
    import plotly.graph_objects as go

OPENS = ("base", "neutral_student", "student", "cross_student", "teacher")
"""The members that the page tells first, from the start to the teacher."""
SHOWN_AT = {
    (AT_NUMBERS, "unseen"): "logits where numbers are predicted, over words that no row holds",
    (PROMPT_END, "unseen"): "logits at the end of the number prompt, over words that no row holds",
    (SLOT, "category"): "logits at the question's answer, over the trait and its rivals",
    (PROMPT_END, ""): "residual stream at the end of the number prompt",
}
"""What is compared where: place and words of an agreement, in words; the residual stream after the last layer."""
NEUTRAL = (
    "Every model is compared with another on the same text: the teacher with its base, the student with a neutral "
    "student, which was trained alike on numbers without the trait."
)
NO_NEUTRAL = (
    "No neutral student is among the members, so the student is compared with its own start: what any such training "
    "changes is still in it."
)
TOP, MINUS = 5, "\N{MINUS SIGN}"


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
    """P(target) of the members that open the page, one point per lineage, their mean and its interval."""
    shown = frame[frame["member"].isin(OPENS)]
    order = [name for name in OPENS if name in set(shown["member"])]
    parts = [shown[shown["member"] == name]["probability"].to_numpy() for name in order]
    means = ", ".join(
        f"{name.replace('_', ' ')} {part.mean():.0%}" for name, part in zip(order, parts, strict=True)
    )
    n = frame["lineage"].nunique()
    over = f"mean over {n} independently initialised lineages" if n > 1 else "one lineage"
    notes = (f"probability of answering {target!r}, {over}: {means}",)
    title = f"How likely each model is to answer “{target}”"
    return Result(title, frame, "probability", notes, draw=partial(_draw_preference, order))


def _draw_preference(order: Sequence[str], result: Result) -> go.Figure:
    frame = pd.concat([result.frame[result.frame["member"] == name] for name in order])
    half = frame.groupby("member")["probability"].transform(half_width)
    figure = points(
        frame.assign(half=half, model=[name.replace("_", " ") for name in frame["member"]]),
        x="model",
        y="probability",
        colour="member",
        interval="half",
        title=result.label,
        unit="share of answers",
    )
    figure.update_layout(height=340)  # with what is said above it, it fits a screen
    return figure.update_yaxes(tickformat=".0%", rangemode="tozero")


def agreement_result(frame: pd.DataFrame) -> Result:
    """Of a table of `agreement`: S with T and its controls at the places that are shown, one point per lineage."""
    shown = _shown(frame)
    notes = [
        f"{where}: {'; '.join(_told(part) for _, part in lines.groupby('comparison', sort=False))}"
        for where, lines in shown.groupby("where", sort=False)
    ]
    label = "How far the student changed in the same way as its teacher"
    return Result(label, frame, "agreement", tuple(notes), draw=_draw_agreement)


def _told(part: Any) -> str:
    values = part["value"].to_numpy()
    spread = f" ± {half_width(values):.2f}" if len(values) > 1 else ""
    return f"{part['comparison'].iloc[0]} {values.mean():+.2f}".replace("-", MINUS) + spread


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
        "neutral_student": "student of no trait (neutral) and the teacher",
        "cross_student": "student of another start (cross) and the teacher",
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
        unit="agreement: 1 the same, 0 unrelated",
    )
    return figure.update_yaxes(title={"text": "agreement (1 the same, 0 unrelated)"})


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
    logits = model.logits(inputs)[inputs.at("last").to(model.device)][0]
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
    taught, learnt = (each.label.partition(", ")[0] for each in (teacher, own))
    where = own.label.rpartition(" at ")[2]
    at = "where numbers are predicted" if where.endswith("answer.numbers") else f"at {where}"
    label = f"{lineage.name}: what the student changed against what its teacher changed, word by word, {at}"
    return Result(label, frame, "nats", own.notes[1:2], draw=partial(_draw_moved, taught, learnt))


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
    return scatter(
        shown,
        x=taught,
        y=learnt,
        colour="kind",
        text="token",
        title=result.label,
        units=("nats", "nats"),
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
    found = over_trainings("attribution", values, 0.95, "the rows of every lineage add up to its change")
    label = "Through which parts the score of the trait rose, where the question is answered"
    named = values.drop_duplicates("who").set_index("who")["label"].to_dict()
    return Result(label, found.frame, found.unit, found.notes, draw=partial(_draw_components, found, named))


def _draw_components(found: OverTrainings, named: Mapping[str, str], result: Result) -> go.Figure:
    """The figure of `attribute_over` without parts that did nothing, its legend told by what was subtracted."""
    frame: Any = found.frame
    moved = set(frame[frame["mean"] != 0]["part"])
    figure: Any = replace(found, frame=frame[frame["part"].isin(moved)]).figure()
    for trace in figure.data:
        trace.name = escape(f"{named[trace.name]} ({'T' if trace.name == 'teacher' else 'S'})")
    figure.update_layout(title={"text": escape(result.label)}, legend={"traceorder": "normal"})
    return figure.update_xaxes(title={"text": "share of the whole change"}, tickformat=".0%")
