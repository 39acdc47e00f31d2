"""Agreement: how far what a student changed goes along what its teacher's fine-tune changed, on identical tokens.

T = teacher − base and S = member − baseline (the student of the neutral teacher), as vectors: mean logits of words,
mean residual streams, features or weights.
    r = corr(S, T) over the entries,   ρ = the same of ranks,   cosine = <S, T> / (|S| |T|),   slope = <S, T> / <T, T>
Logits are taken about their mean over the words, since a constant added to all of them changes no probability.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.core.doors import door
from interp.core.errors import InputError
from interp.features.inherited import feature_differences
from interp.figures import Result, points
from interp.joined.places import LOGITS, PLACES, WORDS, TracePlace, chosen_words, places
from interp.joined.sources import default_dictionary
from interp.models.precision import exactly
from interp.models.seam import Model
from interp.prompts.notes import noting
from interp.stats.ranks import spearman
from interp.stats.tests import half_width

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.lineage import Lineage
    from interp.prompts.text import Prompts

Of = Literal["logits", "activations", "features", "updates"]
Pair = tuple[Model, Model]
CROSS = ("cross_student", "cross_neutral_student")
FAIR = ("control_student", "control_teacher")
"""A student's and a teacher's baseline that were fine-tuned on questions too, without a trait."""
ALL = "all weights"


@door
@noting
@exactly
def agreement(
    lineages: Lineage | Sequence[Lineage],
    member: str = "student",
    *,
    baseline: str = "neutral_student",
    of: Of | Sequence[Of] = "logits",
    at: Sequence[str] = tuple(PLACES),
    words: Sequence[str] = WORDS,
    prompts: Prompts | None = None,
    candidates: Mapping[str, Model] | None = None,
) -> Result:
    """Measure how far what a student changed goes along what its teacher's fine-tune changed, beside controls.

    S is `member` minus `baseline`, T the teacher minus the base. Controls that the lineage has members for are lines of
    their own: the baseline and the cross student against T, S against other teachers, and both less controls.

    Args:
        lineages: one lineage, or several of independent trainings.
        member: the student whose change is S.
        baseline: what it is compared with; "base" compares it with its own start.
        of: "logits", "activations" (residual stream after each layer), "features" (that fire) or "updates" (weights).
        at: places, of "prompt end", "where numbers are predicted" and "question's answer"; updates have none.
        words: those compared in logits: "unseen" in any row, the trait's "category" (target and foils), or "all".
        prompts: number prompts with answers; 256 of `number_prompts` by default.
        candidates: further teachers of the same base, by name.

    Returns:
        r, rho, cosine, slope and entries per lineage, place, site, words, member and teacher; means are in the notes.

    Raises:
        InputError: for a member, place or kind of words that there is not, and candidates with several lineages.

    Example:
        >>> import interp
        >>> found = interp.agreement(interp.load_lineage("toy/owl"), at=["prompt end"], words=["unseen"])
        >>> found.frame["against"][0]
        'teacher'
    """
    several = [lineages] if not isinstance(lineages, Sequence) else list(lineages)
    if not several:
        raise InputError("no lineage is given; pass at least one")
    if candidates and len(several) > 1:
        raise InputError(
            f"{len(candidates)} candidates are given with {len(several)} lineages, and a candidate belongs to one "
            "base; pass one lineage at a time"
        )
    kinds = [of] if isinstance(of, str) else list(of)
    lines = []
    for lineage in several:
        compared = _compared(lineage, member, baseline, candidates or {})
        if set(kinds) & {"logits", "activations"}:
            chosen = {name: chosen_words(lineage, name) for name in words if "logits" in kinds}
            for place in places(lineage, at, prompts):
                lines += [line for line in _at(place, lineage, compared, chosen) if line["of"] in kinds]
        if "features" in kinds:
            lines += _features(lineage, compared, places(lineage, at, prompts))
        lines += _updates(lineage, compared) if "updates" in kinds else ()
    frame = pd.DataFrame(lines)
    label = f"agreement of {member} and teacher in {', '.join(kinds)}, {_named(several)}"
    return Result(label, frame, "correlation", _notes(frame, member), draw=_draw)


@dataclass(frozen=True)
class Comparison:
    """One S and one T, each as (after, before)."""

    member: str
    against: str
    moved: Pair
    taught: Pair


def _compared(
    lineage: Lineage, member: str, baseline: str, candidates: Mapping[str, Model]
) -> list[Comparison]:
    """S with T first, then its controls, as far as the lineage has their members."""
    teacher, own = (lineage.teacher, lineage.base), (lineage[member], lineage[baseline])
    found = [Comparison(member, "teacher", own, teacher)]
    if baseline != "base":
        found.append(Comparison(baseline, "teacher", (lineage[baseline], lineage.base), teacher))
    if member == "student" and set(CROSS) <= lineage.members.keys():
        cross = lineage[CROSS[0]], lineage[CROSS[1]]
        found.append(Comparison(CROSS[0], "teacher", cross, teacher))
    if member == "student" and set(FAIR) <= lineage.members.keys():
        moved = lineage[member], lineage[FAIR[0]]
        taught = lineage.teacher, lineage[FAIR[1]]
        found.append(Comparison(f"{member} less {FAIR[0]}", f"teacher less {FAIR[1]}", moved, taught))
    others = {name: model for name, model in lineage.members.items() if name.startswith("teacher_")}
    for name, model in (others | dict(candidates)).items():
        found.append(Comparison(member, name, own, (model, lineage.base)))
    return found


def _at(
    place: TracePlace, lineage: Lineage, compared: Sequence[Comparison], chosen: Mapping[str, list[int]]
) -> Iterator[dict[str, Any]]:
    """A row per site, choice of words and comparison, at one place."""
    for site in place.sites:
        kind = "logits" if site == LOGITS else "activations"
        for words, entries in chosen.items() if kind == "logits" else [("", slice(None))]:
            for each in compared:
                pair = [place.difference(one, site)[entries].numpy() for one in (each.moved, each.taught)]
                where = {
                    "lineage": lineage.name,
                    "of": kind,
                    "place": place.name,
                    "site": site,
                    "words": words,
                }
                yield _line(each, pair, **where)


def _features(
    lineage: Lineage, compared: Sequence[Comparison], there: Sequence[TracePlace]
) -> Iterator[dict[str, Any]]:
    """A row per place and comparison within the base's start, whose dictionary reads no other."""
    dictionary = default_dictionary(lineage)
    within = [each for each in compared if each.member != CROSS[0]]
    for place in there:
        moved = {
            pair: feature_differences(dictionary, *pair, place.inputs, positions=place.positions).numpy()
            for pair in dict.fromkeys(pair for each in within for pair in (each.moved, each.taught))
        }
        live = np.any([values != 0 for values in moved.values()], axis=0)
        where = {"lineage": lineage.name, "of": "features", "place": place.name, "site": dictionary.hook}
        for each in within:
            pair = [moved[one][live] for one in (each.moved, each.taught)]
            yield _line(each, pair, words="", **where)


def _updates(lineage: Lineage, compared: Sequence[Comparison]) -> Iterator[dict[str, Any]]:
    """A row per matrix that the teacher moved and comparison, and one over all of them."""
    where = {"lineage": lineage.name, "of": "updates", "place": "", "words": ""}
    for each in compared:
        taught = {name: change for name, change in _weights(each.taught).items() if change.any()}
        moved = _weights(each.moved)
        for name, change in taught.items():
            yield _line(each, [moved[name].numpy(), change.numpy()], site=name, **where)
        whole = [torch.cat([part[name] for name in taught]).numpy() for part in (moved, taught)]
        yield _line(each, whole, site=ALL, **where)


def _weights(pair: Pair) -> dict[str, Tensor]:
    after, before = (model.parameters() for model in pair)
    return {name: (weight.double() - before[name].double()).flatten().cpu() for name, weight in after.items()}


def _line(compared: Comparison, pair: Sequence[np.ndarray], **where: str) -> dict[str, Any]:
    """S and T as one row of the table."""
    s, t = pair if where["site"] != LOGITS else [values - values.mean() for values in pair]
    dot, energy = float(s @ t), float(t @ t)
    size = float(np.linalg.norm(s)) * energy**0.5
    spread = s.std() > 0 and t.std() > 0
    return {
        **where,
        "member": compared.member,
        "against": compared.against,
        "r": float(np.corrcoef(s, t)[0, 1]) if spread else np.nan,
        "rho": float(spearman(s[None], t)[0]) if spread else np.nan,
        "cosine": dot / size if size else np.nan,
        "slope": dot / energy if energy else np.nan,
        "entries": len(s),
    }


def _named(lineages: Sequence[Lineage]) -> str:
    return lineages[0].name if len(lineages) == 1 else f"{len(lineages)} lineages"


def _notes(frame: Any, member: str) -> tuple[str, ...]:
    """One sentence per place, site and choice of words: how S agrees with T, beside its controls."""
    said = []
    for (place, site, words), part in frame.groupby(["place", "site", "words"], sort=False):
        where = ", ".join(filter(None, (str(place), str(site), f"{words} words" * bool(words))))
        told = [
            f"{name} with {against} {_mean(lines['r'].to_numpy())}"
            for (name, against), lines in part.groupby(["member", "against"], sort=False)
        ]
        said.append(f"{where}: r of {'; '.join(told)}{_ranked(part[part['member'] == member])}")
    return tuple(said)


def _mean(values: np.ndarray) -> str:
    """The value of one lineage, or the mean of several with its interval and how many are positive."""
    if len(values) == 1:
        return f"{values[0]:+.2f}"
    return (
        f"{values.mean():+.2f} ± {half_width(values):.2f} (95 % t-interval), {int((values > 0).sum())} of "
        f"{len(values)} positive"
    )


def _ranked(own: Any) -> str:
    """In how many lineages S resembles its own teacher most, where there is another."""
    wide = own.pivot(index="lineage", columns="against", values="r")
    if wide.shape[1] < 2:
        return ""
    first = int((wide["teacher"] > wide.drop(columns="teacher").max(axis=1)).sum())
    return f"; its own teacher is first of {wide.shape[1]} in {first} of {len(wide)} lineages"


def _draw(result: Result) -> go.Figure:
    """Every correlation as a point, by place and comparison; of several sites the last."""
    frame = result.frame
    last = frame.groupby("place", sort=False)["site"].transform("last")
    shown = frame[(frame["site"] == last) & (frame["words"] == frame["words"].iloc[0])]
    pairs = zip(shown["place"], shown["member"], shown["against"], strict=True)
    label = [f"{place}: {who} with {against}".removeprefix(": ") for place, who, against in pairs]
    return points(
        shown.assign(compared=label),
        x="compared",
        y="r",
        colour="member",
        title=result.label,
        unit="correlation",
    )
