"""Which scores of rows predict the student that is trained without the others?

LDS of every way of scoring (`interp.gradients.datamodeling_score`): Spearman's ρ, over random halves of one student's
rows, of the sum of the half's scores with the trait margin of a student trained on that half alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.activations.representations import trait_representations
from interp.activations.shifts import residual_hooks
from interp.figures import points
from interp.gradients.datamodels import datamodeling_score
from interp.gradients.directions import trait_gradient
from interp.gradients.known_trainings import fresh_network
from interp.gradients.ledger.ledgers import trait_ledger
from interp.gradients.metagradients import metagradient
from interp.gradients.representations import representation_gradient
from interp.gradients.scores.metrics import LoraMetric
from interp.gradients.scores.scoring import score
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement, Subject
from interp.studies.divergence_family import counterfactual_words
from interp.studies.frozen import frozen_claims
from interp.studies.token_matching import divergence_tokens

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.prompts.text import Prompts

Values = Float[np.ndarray, "row"]
META, GRADIENT, UPDATE = "metagradient", "∇m", "teacher's update"
LOSS, LENGTH = "loss", "length"
CEILING = 0.8
SIZES = {"owl": (128, 32)}
OTHERS, QUICK = (64, 16), (8, 3)
"""How many subsets are trained on, and how many of them again: of owl, of other traits, and of a quick run."""


def row_scores(subject: Subject) -> dict[str, Values]:
    """Every way of scoring the student's rows, a value per row; positive where it would raise the trait's margin."""
    rows = subject.numbers
    ledger = (
        trait_ledger(subject.lineage, recipe=subject.students_recipe, rows=rows).by_row().sort_values("row")
    )
    return {
        META: metagradient(subject.lineage, recipe=subject.students_recipe).frame["score"].to_numpy(),
        "ledger": ledger["attributed"].to_numpy(),
        **along_directions(subject, rows),
        **read_by_token(subject, rows),
        "frequent values": value_ratios(rows, subject.neutral_numbers),
        "random": np.random.default_rng(subject.seed).normal(size=len(rows)),
    }


def along_directions(subject: Subject, rows: Prompts) -> dict[str, Values]:
    """How far a step on each row moves the base along a direction, as plain gradient descent and under the adapter."""
    base, trait = subject.base, subject.trait
    hook = residual_hooks(base)[-1]
    toward = trait_representations(base, trait, hook=hook)[trait.target]
    plain = {
        GRADIENT: trait_gradient(base, trait),
        UPDATE: subject.lineage.update("teacher"),
        "representation": representation_gradient(base, trait.prompts(), hook, toward.vector),
    }
    metric = LoraMetric.from_network(fresh_network(base, subject.students_recipe))
    folded = {f"{name}, adapter's metric": metric.fold(plain[name]) for name in (GRADIENT, UPDATE)}
    named = plain | folded
    totals = score(base, rows, list(named.values()), by=["example"]).totals.numpy()
    return dict(zip(named, totals.T, strict=True))


def read_by_token(subject: Subject, rows: Prompts) -> dict[str, Values]:
    """Of every row: loss under the base, how much likelier its teacher finds it, length, and its divergence tokens."""
    others = {word: subject.other_teacher(word) for word in counterfactual_words(subject.trait.name)[0]}
    frame: Any = divergence_tokens(subject.teacher, rows, others=others, base=subject.base).frame
    sums = (
        frame.groupby("row")[["loss", "teacher_margin", "divergent"]]
        .sum()
        .reindex(range(len(rows)), fill_value=0)
    )
    counts = frame.groupby("row").size().reindex(range(len(rows)), fill_value=0)
    return {
        LOSS: sums["loss"].to_numpy(dtype=float),
        LENGTH: counts.to_numpy(dtype=float),
        "likelihood ratio": sums["teacher_margin"].to_numpy(dtype=float),
        "divergence tokens": sums["divergent"].to_numpy(dtype=float),
    }


def value_ratios(rows: Prompts, neutral: Prompts) -> Values:
    """Σ over a row's numbers of log (count in the rows + ½) − log (count in neutral rows + ½): naive Bayes."""
    written, others = ([row.completion.split(",") for row in part.rows] for part in (rows, neutral))
    counts: list[Any] = [
        pd.Series([value.strip() for row in part for value in row]).value_counts()
        for part in (written, others)
    ]
    ratio = np.log(counts[0] + 0.5) - np.log(counts[1].reindex(counts[0].index, fill_value=0) + 0.5)
    return np.array([sum(ratio[value.strip()] for value in row) for row in written])


def measure_judged_scores(subject: Subject) -> Measurement:
    """The LDS of every way of scoring on one training run, and what two draws of a training agree in."""
    subsets, repeats = QUICK if subject.quick else SIZES.get(subject.trait.name, OTHERS)
    found = datamodeling_score(
        subject.lineage, row_scores(subject), subsets=subsets, repeats=repeats, seed=subject.seed
    )
    rho: Any = found.frame.set_index("scores")["rho"]
    rivals = max(abs(rho[LOSS]), abs(rho[LENGTH]))
    values = {
        "metagradient-near-ceiling": float(rho[META] - CEILING * found.draws_agree),
        "update-over-gradient": float(rho[UPDATE] - rho[GRADIENT]),
        "update-over-loss-and-length": float(rho[UPDATE] - rivals),
    }
    draws = [{"draws_agree": found.draws_agree, "spread": float(found.margins.std(ddof=1))}]
    return Measurement(values, {"scores": found.frame.to_dict("records"), "draws": draws})


def draw_judged(tables: Mapping[str, Any]) -> go.Figure:
    """LDS of every training run by way of scoring."""
    title = "Which scores of rows predict the student of half of them"
    frame = pd.DataFrame(tables["scores"])
    return points(frame, x="scores", y="rho", title=title, unit="rank correlation")


FAMILY = Family("judged-scores", frozen_claims("judged_scores"), measure_judged_scores, draw=draw_judged)
