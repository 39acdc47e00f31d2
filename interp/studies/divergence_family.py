"""H5, the credit sits on divergence tokens: a_i = <P⁻¹ ∇θ log p(y_i | y_<i, x), ∇m> and AUROC(a; divergent, matched).

A token is divergent where the trait's teacher favours the sampled label more than every teacher of another trait does
(`token_matching`); beside each stands a token of the same rows that is alike in loss, entropy, place and in how far
the teacher favours its label over the base. Students are then trained on either alone, in the same batches, and others
on as many tokens of neutral rows; m is the trait margin in nats. After Schrodi et al. (arXiv 2509.23886).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.figures import points
from interp.gradients.directions import trait_gradient
from interp.gradients.known_trainings import fresh_network
from interp.gradients.scores.metrics import LoraMetric
from interp.gradients.scores.scoring import score
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement, Subject
from interp.measures.margins import margin
from interp.models.language import LanguageModel
from interp.models.parameters import ParameterDirection
from interp.prompts.tokens import Encoded
from interp.prompts.traits import get_trait
from interp.stats.matching import balance, nearest_partners, standardised_difference
from interp.stats.tests import auroc, half_width
from interp.studies.frozen import frozen_claims
from interp.studies.token_matching import (
    COVARIATES,
    check_index,
    dealt,
    divergence_tokens,
    mask,
    only_tokens,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

WORDS = ("cat", "eagle", "oak", "pine")
"""Traits of the counterfactual teachers, the first two that are not the subject's; the next is the unrelated one."""
SCORED, QUICK_ROWS = 2048, 512
OWN, LORA, UNRELATED = "trait", "trait, adapter's metric", "unrelated trait"
SAMPLED, DEALT = "as sampled", "dealt anew"
DIVERGENT, MATCHED, NEUTRAL = "divergent", "matched", "neutral"
SELECTED, ALL = "neutral, divergent", "all tokens"
LOOSE = COVARIATES[:3]
SIGN: dict[str, Any] = {"margin": 0.0, "alpha": 0.01, "kind": "difference"}
AREA = "AUROC"

H5 = frozen_claims("divergence_tokens")


@dataclass(frozen=True, eq=False)
class Marked:
    """Tokens of the arms, as many in each: divergent, matched and neutral ones are alike line for line.

    Those of the arms "neutral" are of `neutral`, the others of `inputs`, whose candidate tokens `frame` holds, as
    `divergence_tokens` gives them.
    """

    inputs: Encoded
    neutral: Encoded
    frame: Any
    arms: dict[str, Any]


def measure_divergence(subject: Subject) -> Measurement:
    """Enrichment of divergence tokens in trait-aligned credit, and the margins of students trained on them alone.

    Tables: "shares" of the candidate tokens that diverge by each definition, "balance" of what was matched,
    "enrichment" by labels, direction and matching, "margins" of the students by arm in nats.
    """
    marked = mark(subject)
    tables = {
        "shares": shares(marked),
        "balance": balances(marked),
        "enrichment": enrichment(subject, marked),
        "margins": margins(subject, marked),
    }
    return Measurement(summary(tables), tables)


def summary(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """What one run contributes to every claim, from its tables "enrichment" and "margins"."""
    area = {
        (line["labels"], line["direction"]): float(line["auroc"])
        for line in tables["enrichment"]
        if line["matched on"] == ", ".join(COVARIATES)
    }
    margin_of = {line["arm"]: float(line["margin"]) for line in tables["margins"]}
    return {
        "divergence-enriched": area[SAMPLED, OWN] - 0.5,
        "divergence-enriched-adapter": area[SAMPLED, LORA] - 0.5,
        "divergence-own-trait": area[SAMPLED, OWN] - area[SAMPLED, UNRELATED],
        "divergence-in-labels": area[DEALT, OWN] - 0.5,
        "divergence-transfers": margin_of[DIVERGENT] - margin_of[NEUTRAL],
        "divergence-over-matched": margin_of[DIVERGENT] - margin_of[MATCHED],
    }


def counterfactual_words(trait: str) -> tuple[tuple[str, ...], str]:
    """The traits of the two counterfactual teachers, and the unrelated trait."""
    first, second, third = [word for word in WORDS if word != trait][:3]
    return (first, second), third


def mark(subject: Subject) -> Marked:
    """Divergence tokens of the teacher's rows and, one to one, matched tokens and tokens of neutral rows.

    The neutral ones are matched on what the base says of them alone. The arm "neutral, divergent" holds as many
    divergence tokens of the neutral rows, evenly over them: selection by the teacher of what it never wrote, reported
    and not judged. Raises InputError where no token diverges or nothing matches.
    """
    base, limit = subject.base, QUICK_ROWS if subject.quick else None
    inputs, neutral = (base.encode(rows[:limit]) for rows in (subject.numbers, subject.neutral_numbers))
    others = {word: subject.other_teacher(word) for word in counterfactual_words(subject.trait.name)[0]}
    frame, theirs = (
        divergence_tokens(subject.teacher, rows, others=others, base=base).frame for rows in (inputs, neutral)
    )
    divergent, rest = _split(frame)
    beside = nearest_partners(divergent, rest, on=COVARIATES)
    divergent, rest = divergent.iloc[beside.chosen], rest.iloc[beside.control]
    third = nearest_partners(divergent, theirs, on=LOOSE)
    selected = _split(theirs)[0]
    count = min(len(third), len(selected))
    arms = {
        DIVERGENT: divergent.iloc[third.chosen],
        MATCHED: rest.iloc[third.chosen],
        NEUTRAL: theirs.iloc[third.control],
        SELECTED: selected.iloc[np.linspace(0, len(selected) - 1, count).astype(int)],
    }
    return Marked(inputs, neutral, frame, arms)


def _split(frame: Any) -> tuple[Any, Any]:
    """Divergence tokens, and the others."""
    return frame[frame["divergent"]], frame[~frame["divergent"]]


def shares(marked: Marked) -> list[dict[str, Any]]:
    """Tokens that diverge by every definition, as counts and shares of the candidates."""
    return [
        {"definition": name, "tokens": int(flags.sum()), "share": float(flags.mean()), "of": len(flags)}
        for name, flags in (
            (name, marked.frame[name]) for name in ("argmax_differs", "label_side", "divergent")
        )
    ]


def balances(marked: Marked) -> list[dict[str, Any]]:
    """Standardised differences of what was matched: divergent less all others, less matched, less neutral tokens."""
    frame, arms = marked.frame, marked.arms
    sides = {
        "all others": (*_split(frame), COVARIATES),
        MATCHED: (arms[DIVERGENT], arms[MATCHED], COVARIATES),
        NEUTRAL: (arms[DIVERGENT], arms[NEUTRAL], LOOSE),
    }
    return [
        {"against": name, "covariate": covariate, "difference": value, "tokens": len(chosen)}
        for name, (chosen, control, on) in sides.items()
        for covariate, value in balance(chosen, control, on=on).items()
    ]


def enrichment(subject: Subject, marked: Marked) -> list[dict[str, Any]]:
    """AUROC and standardised difference of the credit, divergence tokens against matched, in the rows scored first.

    By labels (as sampled; dealt anew), direction and what was matched on; the last line leaves the teacher's margin
    unmatched. An interval is DeLong's within the run.
    """
    base, inputs = subject.base, marked.inputs
    directions = credit_directions(subject)
    tokens: Any = marked.frame[marked.frame["row"] < SCORED]
    row, token = (int(tokens[name].to_numpy()[0]) for name in ("row", "token"))
    check_index(base, inputs, row=row, token=token)
    sampled = credit(base, inputs[:SCORED], tokens, directions)
    shuffled = credit(base, dealt(inputs, seed=subject.seed)[:SCORED], tokens, directions[:1])
    chosen, control = marked.arms[DIVERGENT], marked.arms[MATCHED]
    found = [
        _line(scores, chosen, control, labels=labels, direction=each.label, on=COVARIATES)
        for labels, scores, along in ((SAMPLED, sampled, directions), (DEALT, shuffled, directions[:1]))
        for each in along
    ]
    divergent, rest = _split(marked.frame)
    pairs = nearest_partners(divergent, rest, on=LOOSE)
    sides = (divergent.iloc[pairs.chosen], rest.iloc[pairs.control])
    return [*found, _line(sampled, *sides, labels=SAMPLED, direction=OWN, on=LOOSE)]


def _line(
    scores: pd.DataFrame,
    chosen: pd.DataFrame,
    control: pd.DataFrame,
    *,
    labels: str,
    direction: str,
    on: Sequence[str],
) -> dict[str, Any]:
    """One comparison; frames keep the index of the table of all tokens, by which scores are found."""
    a, b = (scores[direction].reindex(side.index).dropna().to_numpy() for side in (chosen, control))
    area = auroc(a, b)
    return {
        "labels": labels,
        "direction": direction,
        "matched on": ", ".join(on),
        "auroc": area.value,
        "low": area.interval[0],
        "high": area.interval[1],
        "difference": standardised_difference(a, b),
        "divergent": len(a),
        "matched": len(b),
    }


def credit_directions(subject: Subject) -> list[ParameterDirection]:
    """∇m of the trait, what the student's fresh adapter can follow of it, and ∇m of the unrelated trait.

    Where the recipe trains no adapter the second is the first.
    """
    base = subject.base
    own = trait_gradient(base, subject.trait)
    other = trait_gradient(base, get_trait(counterfactual_words(subject.trait.name)[1]))
    followed = own
    if subject.students_recipe.trainable == "lora":
        followed = LoraMetric.from_network(fresh_network(base, subject.students_recipe)).fold(own)
    named = {OWN: own, LORA: followed, UNRELATED: other}
    return [dataclasses.replace(each.unit(), label=name) for name, each in named.items()]


def credit(
    base: LanguageModel, inputs: Encoded, tokens: pd.DataFrame, directions: Sequence[ParameterDirection]
) -> pd.DataFrame:
    """a_i of every token along every direction, a column each under its label, at the index of `tokens`.

    In nats per unit of the direction: positive when a step on that token alone moves the base along it.
    """
    frame: Any = score(base, inputs, directions, by=("example", "token")).frame
    table = frame.pivot(index=["row", "token"], columns="direction", values="score")
    return tokens[["row", "token"]].join(table, on=["row", "token"])


def margins(subject: Subject, marked: Marked) -> list[dict[str, Any]]:
    """Trait margin of the students of every arm in nats, its gain over the neutral arm, and tokens trained on.

    The last line is the lineage's own student against its own neutral student: every answer token of every row.
    """
    found = {}
    for arm, tokens in marked.arms.items():
        inputs = marked.neutral if arm in (NEUTRAL, SELECTED) else marked.inputs
        rows = only_tokens(inputs, mask(inputs, tokens), label=f"{arm} tokens")
        found[arm] = margin(
            subject.student(subject.base, rows, name=f"student of {arm} tokens"), subject.trait
        )
    lines = [
        {"arm": arm, "tokens": len(marked.arms[arm]), "margin": value, "gain": value - found[NEUTRAL]}
        for arm, value in found.items()
    ]
    whole, none = (margin(subject.member(role), subject.trait) for role in ("student", "neutral_student"))
    every = int(marked.inputs.at("answer").sum() + marked.inputs.at("answer.end").sum())
    return [*lines, {"arm": ALL, "tokens": every, "margin": whole, "gain": whole - none}]


def draw_divergence(tables: Mapping[str, Any]) -> go.Figure:
    """Left: AUROC by labels and direction. Right: gain in margin by arm. A point per run, mean and 95 % t-interval.

    `tables` holds "enrichment" and "margins" of all runs, with the column seed.
    """
    import pandas as pd
    from plotly.subplots import make_subplots

    frames: Any = [pd.DataFrame(tables[name]) for name in ("enrichment", "margins")]
    area, gains = frames
    ours = area["matched on"] == ", ".join(COVARIATES)
    free = np.where(ours, "", ", teacher's margin free")
    anew = np.where(area["labels"] == DEALT, f", labels {DEALT}", "")
    area = _with_interval(area.assign(credit=area["direction"] + free + anew), "credit", "auroc")
    gains = _with_interval(gains[gains["arm"] != NEUTRAL], "arm", "gain")
    panels = (
        points(area, x="credit", y="auroc", interval="half", title="", unit=AREA),
        points(gains, x="arm", y="gain", interval="half", title="", unit="nats"),
    )
    figure: Any = make_subplots(
        rows=1,
        cols=2,
        column_widths=[0.6, 0.4],
        horizontal_spacing=0.12,
        subplot_titles=["credit: divergence against matched tokens", "trait margin over the neutral arm"],
    )
    for column, panel in enumerate(panels, start=1):
        for trace in panel.data:
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(panel.layout.xaxis, row=1, col=column, tickangle=-30)
        figure.update_yaxes(panel.layout.yaxis, row=1, col=column)
    figure.add_hline(y=0.5, line={"color": "#999999", "dash": "dot"}, row=1, col=1)
    figure.add_hline(y=0.0, line={"color": "#999999", "dash": "dot"}, row=1, col=2)
    return figure.update_layout(template=panels[0].layout.template, showlegend=False, height=480)


def _with_interval(frame: pd.DataFrame, by: str, value: str) -> pd.DataFrame:
    """The frame with the half-width of the 95 % t-interval over runs of every category; 0 for a single run."""
    return frame.assign(half=frame.groupby(by, sort=False)[value].transform(half_width))


FAMILY = Family("divergence-tokens", H5, measure_divergence, draw=draw_divergence)
