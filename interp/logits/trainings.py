"""Attribution and lens over trainings: through which part of the network the change comes, averaged over lineages.

S = student − neutral_student, T = teacher − base, at the place where a question is answered. Two initialisations have
no head in common, so what is averaged is a layer's attention, a layer's MLP, embedding, norm and unembedding. The
replicate is the lineage: mean, t-interval and sign-flip p over n of them; a share is a ratio of two such means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from interp import figures
from interp.activations.shifts import shift
from interp.core.doors import door
from interp.core.runs import InputError
from interp.logits.attribution import UNIT, attribute
from interp.logits.direction import logit_direction
from interp.logits.lenses import lens
from interp.models.lineage import Lineage
from interp.prompts.notes import noting
from interp.prompts.text import Prompts
from interp.stats.tests import sign_flip_test, smallest_sign_flip_p, t_interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.activations.shifts import Shift

MEMBERS = {"S": ("student", "neutral_student"), "T": ("teacher",)}
"""Who is measured: a member against its start, or less the second one, a neutral member."""


@dataclass(frozen=True, eq=False, repr=False)
class OverTrainings(figures.Shown):
    """One row per part and who, over lineages; `values` holds what each lineage gave."""

    label: str
    frame: pd.DataFrame
    values: pd.DataFrame
    notes: tuple[str, ...]
    unit: str = UNIT

    def figure(self) -> go.Figure:
        """Share of the change by part, S and T side by side; whiskers are the interval over lineages."""
        half = (self.frame["high"] - self.frame["low"]) / 2
        reach = (half / self.frame["change"].abs()).where(
            half < float("inf"), 0.0
        )  # one lineage has no interval
        drawn = self.frame.assign(half=reach)
        return figures.bars(
            drawn, x="share", y="part", error="half", colour="who", title=self.label, unit="of the change"
        )

    def __repr__(self) -> str:
        return f"{self.label}: {len(self.frame)} rows over {self.values['lineage'].nunique()} lineages, {self.unit}"


@door
@noting
def attribute_over(
    lineages: Sequence[Lineage],
    *,
    prompts: Prompts | None = None,
    positions: str | None = None,
    members: Mapping[str, Sequence[str]] = MEMBERS,
    confidence: float = 0.95,
) -> OverTrainings:
    """Attribute the change toward the trait to the network's parts in every lineage, and average over the trainings.

    Args:
        lineages: independent trainings, each with its trait and these members.
        prompts: rows without system message; the questions of each lineage's trait by default.
        positions: where to read, a name of `Encoded.at`, by default as in `shift`: the question's slot, "last".
        members: who is measured under which name: (member,) against its start, or (member, minus).
        confidence: level of the t-intervals.

    Returns:
        `OverTrainings`: one row per part (such as "MLP 0", "attention 1") and who, in logits: mean over lineages, its
        interval low to high, two-sided sign-flip p, the mean `change` of all parts and the `share` of it, `agree` (how
        many lineages have the mean's sign, "8 of 8") and n. `values` has a row per lineage, part and who, with its
        measured change and residual.

    Raises:
        InputError: for no lineages, for one given twice, one without a trait or such a member, and as `attribute` does.

    Example:
        >>> import interp
        >>> lineages = [interp.load_lineage("toy/owl", seed=seed) for seed in range(2)]  # doctest: +SKIP
        >>> interp.attribute_over(lineages).frame["part"].iloc[0]  # doctest: +SKIP
        'MLP 0'
    """
    values = _values(lineages, members, partial(_attributed, prompts=prompts, positions=positions))
    worst = max(abs(float(residual)) for residual in values["residual"])
    return over_trainings(
        "attribution", values, confidence, f"the rows leave at most {worst:.1e} of a lineage's change"
    )


@door
@noting
def lens_over(
    lineages: Sequence[Lineage],
    *,
    prompts: Prompts | None = None,
    positions: str | None = None,
    members: Mapping[str, Sequence[str]] = MEMBERS,
    confidence: float = 0.95,
) -> OverTrainings:
    """Read after which layer the score of the trait changed in every lineage, and average over the trainings.

    Args:
        lineages: independent trainings, each with its trait and these members.
        prompts: rows without system message; the questions of each lineage's trait by default.
        positions: where to read, a name of `Encoded.at`, by default as in `shift`: the question's slot, "last".
        members: who is measured under which name: (member,) against its start, or (member, minus).
        confidence: level of the t-intervals.

    Returns:
        `OverTrainings` as of `attribute_over`, a part being "after layer 0": the change of the score there, and its
        share of the change after the last layer, which is the measured one.

    Raises:
        InputError: as `attribute_over` does.

    Example:
        >>> import interp
        >>> lineages = [interp.load_lineage("toy/owl", seed=seed) for seed in range(2)]  # doctest: +SKIP
        >>> interp.lens_over(lineages).frame["part"].tolist()[:2]  # doctest: +SKIP
        ['after layer 0', 'after layer 1']
    """
    values = _values(lineages, members, partial(_lensed, prompts=prompts, positions=positions))
    return over_trainings("lens", values, confidence, "the last layer is the measured change")


def _values(
    lineages: Sequence[Lineage],
    members: Mapping[str, Sequence[str]],
    measure: Callable[[Lineage, Sequence[str]], pd.DataFrame],
) -> pd.DataFrame:
    """Part, layer, value, measured and residual for every lineage and who."""
    _check_lineages(lineages, members)
    parts = [
        measure(lineage, roles).assign(lineage=lineage.name, who=who)
        for lineage in lineages
        for who, roles in members.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _check_lineages(lineages: Sequence[Lineage], members: Mapping[str, Sequence[str]]) -> None:
    if not lineages:
        raise InputError("no lineages to average over; pass several, one a seed, from interp.load_lineage")
    for who, roles in members.items():
        if len(roles) not in (1, 2):
            raise InputError(f"members[{who!r}] is {tuple(roles)}; pass (member,) or (member, minus)")
        seen: dict[str, str] = {}
        for lineage in lineages:
            mark = lineage[roles[0]].fingerprint
            if mark in seen:
                raise InputError(
                    f"{seen[mark]} and {lineage.name} hold the same {roles[0]}, which is one training; pass each once"
                )
            seen[mark] = lineage.name


def _shift(
    lineage: Lineage, roles: Sequence[str], *, prompts: Prompts | None, positions: str | None
) -> tuple[Shift, Any]:
    """The shift of these members, and the direction of the lineage's trait at its start."""
    if lineage.trait is None:
        raise InputError(
            f"lineage {lineage.name!r} has no trait to attribute toward; pass one made with trait="
        )
    models = [lineage[role] for role in roles]
    rows = lineage.trait.prompts() if prompts is None else prompts
    found = shift(models[0], rows, minus=models[1] if len(models) > 1 else None, positions=positions)
    start: Any = found.start
    return found, logit_direction(start, lineage.trait)


def _attributed(lineage: Lineage, roles: Sequence[str], **where: Any) -> pd.DataFrame:
    """The rows of `attribute` added up: a layer's heads and attention bias, and by kind what is in no layer."""
    found, direction = _shift(lineage, roles, **where)
    frame = attribute(found, direction).frame.sort_values("layer", kind="stable")
    parts = [_part(kind, layer) for kind, layer in zip(frame["kind"], frame["layer"], strict=True)]
    named = frame.assign(part=parts, value=frame["contribution"], label=found.label)
    once = {"layer": "first", "value": "sum", "measured": "first", "residual": "first", "label": "first"}
    return named.groupby("part", sort=False).agg(once).reset_index()


def _part(kind: str, layer: Any) -> str:
    if pd.isna(layer):
        return kind
    return f"MLP {layer}" if kind == "mlp" else f"attention {layer}"


def _lensed(lineage: Lineage, roles: Sequence[str], **where: Any) -> pd.DataFrame:
    found, direction = _shift(lineage, roles, **where)
    frame: Any = lens(found, direction).frame
    parts = [f"after layer {layer}" for layer in frame["layer"]]
    named = frame.assign(
        part=parts, value=frame["change"], measured=frame["change"].iloc[-1], label=found.label
    )
    return named[["part", "layer", "value", "measured", "label"]]


def over_trainings(what: str, values: pd.DataFrame, confidence: float, left: str) -> OverTrainings:
    """The table over lineages: those measured first largest parts first, or the layers in order, then the others."""
    rows = [_row(part, confidence) for _, part in values.groupby(["who", "part"], sort=False)]
    if what == "attribution":
        sizes: dict[str, float] = {}
        for row in rows:
            sizes.setdefault(row["part"], abs(row["mean"]))
        ranked = sorted(sizes, key=sizes.__getitem__, reverse=True)
        rows.sort(key=lambda row: ranked.index(row["part"]))
    frame, n = pd.DataFrame(rows), max(row["n"] for row in rows)
    smallest = smallest_sign_flip_p(n, alternative="two-sided")
    ends = frame.drop_duplicates("who")[["who", "change"]].itertuples(index=False)
    labels = values.drop_duplicates("who").set_index("who")["label"]
    changes = "; ".join(f"{who}: {labels[who]}, mean change {change:+.3g} {UNIT}" for who, change in ends)
    notes = (
        changes,
        left,
        f"n = {n} lineages; {confidence:.0%} t-intervals; p by two-sided sign flips, at least {smallest:.2g}",
    )
    return OverTrainings(f"{what} over {n} lineages", frame, values, notes)


def _row(part: Any, confidence: float) -> dict[str, Any]:
    value, total = part["value"].to_numpy(), float(part["measured"].mean())
    mean = float(value.mean())
    low, high = t_interval(value, confidence=confidence)
    return {
        "part": part["part"].iloc[0],
        "layer": part["layer"].iloc[0],
        "who": part["who"].iloc[0],
        "mean": mean,
        "low": low,
        "high": high,
        "p": sign_flip_test(value, alternative="two-sided").p,
        "change": total,
        "share": mean / total if total else float("nan"),
        "agree": f"{int((value * mean > 0).sum())} of {len(value)}",
        "n": len(value),
    }
