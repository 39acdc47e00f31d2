"""Steps that lean toward ∇m all along make the trait: m(θ_T) − m(θ_0) = Σ_t ½<s_t, ∇m(θ_t) + ∇m(θ_{t+1})> + residual.

A sum that adds up is an identity, so what judges the claim is training without that part, s_t ← s_t − max(0, <s_t, ĝ>)
ĝ with ĝ ∝ ∇m(θ_t) on half the trait's questions and m read on the other half; placebos take the same lengths out of the
same steps along other directions. Kitkana and Arora (arXiv 2604.25779) project the gradient so and find, on digits, the
trait suppressed at no cost in distillation; here the optimiser's step is projected.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.content import json_text
from interp.core.runs import InputError, digest
from interp.figures import points
from interp.gradients.directions import margin_objective, trait_gradient
from interp.gradients.ledger.ledgers import Ledger, trait_ledger
from interp.gradients.ledger.projection import Objective, Placebo, Removal
from interp.gradients.ledger.recording import TrainingRecord, record_training
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement, Subject
from interp.measures.losses import answer_loss
from interp.measures.margins import margin
from interp.models.language import LanguageModel
from interp.models.lineage import Lineage
from interp.prompts.text import Prompts
from interp.prompts.traits import Trait
from interp.stats.tests import half_width
from interp.studies.frozen import frozen_claims
from interp.training.students import OnStep, Recipe, train_student, trained_parameters

if TYPE_CHECKING:
    import plotly.graph_objects as go

FORMAT = 1  # raise when a training or a length is computed otherwise from the same arguments
FRESH = 8  # one row in so many is kept from every training, and the loss on these is the fresh loss
QUICK = 5  # batches of rows, the fresh ones included, that a quick measurement takes
OTHER, RANDOM = "other-trait placebo", "random placebo"
SHOWN = ("untouched", RANDOM, OTHER, "removed")
LEFT = "the trait margin on the held-out half of the questions"

H2 = frozen_claims("sustained_alignment")


@dataclass(frozen=True)
class Halves:
    """The trait asked every second question (`asked`: where ∇m is taken) and the others (`held`: where m is read).

    `other` is another target asked the first half's questions. This trait's target is no foil of it, which makes the
    two margins orthogonal as functions of the logits of one-token answers: with it, every other margin has −1/9 of
    this one in it among ten names, and a placebo would raise the margin it is to leave alone.
    """

    asked: Trait
    held: Trait
    other: Trait

    @classmethod
    def of(cls, trait: Trait) -> Halves:
        """InputError for a trait with fewer than two questions or two foils."""
        for what, given in (("question", trait.questions), ("foil", trait.foils)):
            if len(given) < 2:
                raise InputError(
                    f"trait {trait.name!r} has {len(given)} {what}, and this family needs two: one to act on and "
                    f"another to compare with; add a {what} to it"
                )
        control = trait.control if trait.control in trait.foils else trait.foils[0]
        foils = tuple(foil for foil in trait.foils if foil != control)
        asked = trait.with_questions(trait.questions[0::2])
        other = dataclasses.replace(asked, name=control, target=control, foils=foils, control="")
        return cls(asked, trait.with_questions(trait.questions[1::2]), other)


@dataclass(frozen=True, eq=False)
class _Arms:
    """What every arm of one subject shares: the rows it trains on, those kept fresh, and the questions."""

    subject: Subject
    halves: Halves
    rows: Prompts
    neutral: Prompts
    fresh: Prompts

    @classmethod
    def of(cls, subject: Subject) -> _Arms:
        halves = Halves.of(subject.trait)
        numbers, count = subject.numbers, None
        if subject.quick:
            count = QUICK * subject.students_recipe.batch_size
        numbers = dataclasses.replace(numbers, rows=numbers.rows[:count])
        kept = len(numbers) // FRESH
        if not kept:
            raise InputError(
                f"{subject.lineage.name} has {len(numbers)} rows of its teacher, of which one in {FRESH} is kept to "
                "measure fresh loss; sample more"
            )
        rows = dataclasses.replace(numbers, rows=numbers.rows[:-kept])
        fresh = dataclasses.replace(numbers, rows=numbers.rows[-kept:])
        neutral = dataclasses.replace(subject.neutral_numbers, rows=subject.neutral_numbers.rows[: len(rows)])
        return cls(subject, halves, rows, neutral, fresh)

    @property
    def recipe(self) -> Recipe:
        return self.subject.students_recipe

    def objective(self, trait: Trait) -> Objective:
        return margin_objective(self.subject.base, trait)

    def student(self, name: str, on_step: OnStep, *key: Any) -> LanguageModel:
        """The arm of that name; `key` is what its listener depends on."""
        made = digest(FORMAT, "sustained", name, *key)
        return self.subject.student(self.subject.base, self.rows, name=name, on_step=on_step, key=made)

    def record(self) -> TrainingRecord:
        """The untouched arm, recorded step by step; from the cache where it is done."""
        base, rows = self.subject.base, self.rows
        self.subject.note("untouched", self.recipe, rows)
        key = digest(FORMAT, "sustained", base.fingerprint, rows, self.recipe)

        def build(folder: Path) -> None:
            record_training(base, rows, folder=folder / "record", recipe=self.recipe, name="untouched")

        return TrainingRecord.load(self.subject.cache.get("claim-record", key, build) / "record")

    def removed(self) -> tuple[LanguageModel, list[float]]:
        """The arm without its steps' part along ∇m of the asked questions, and the length taken out of every step.

        The lengths are kept beside the student: where a run died between the two, the training is repeated for them.
        """
        subject, asked = self.subject, self.halves.asked
        key = digest(FORMAT, "sustained", subject.base.fingerprint, self.rows, self.recipe, asked)

        def build(folder: Path) -> None:
            removal = Removal(self.objective(asked))
            self.student("removed", removal, asked)
            if not removal.removed:
                train_student(subject.base, self.rows, recipe=self.recipe, on_step=removal)
            (folder / "lengths.json").write_text(json_text(removal.removed))

        lengths = json.loads((subject.cache.get("claim-lengths", key, build) / "lengths.json").read_text())
        return self.student("removed", Removal(self.objective(asked)), asked), lengths

    def placebos(self, lengths: list[float]) -> dict[str, LanguageModel]:
        """The arms that lose the same lengths along another trait's gradient, and along random directions."""
        other, seed = self.halves.other, self.subject.seed
        shaped = Placebo(lengths, like=self.objective(self.halves.asked), seed=seed)
        return {
            OTHER: self.student(OTHER, Placebo(lengths, objective=self.objective(other)), lengths, other),
            RANDOM: self.student(RANDOM, shaped, lengths, self.halves.asked, seed),
        }


def measure_alignment(subject: Subject) -> Measurement:
    """Train the five arms of one subject, take the untouched one's ledger, and read margins and fresh loss.

    Tables: "arms" (arm, margin on the held-out and on the asked questions, that of the other trait on the held-out
    questions, in nats; fresh loss in nats per answer token, end token counted), "ledger" and "gradients" (one row each,
    see `ledger_row` and `gradient_row`), "steps" (step, length removed; the margin and what is attributed of the
    untouched arm). Every training comes from the cache where it is done; without it about 45 s of one core at full
    size. Raises InputError for a lineage without a trait, or without the rows of its teacher and a teacher to sample
    them from, and for a trait with fewer than two questions or two foils.
    """
    arms = _Arms.of(subject)
    base, record = subject.base, arms.record()
    untouched = record.student(base, name="untouched")
    removed, lengths = arms.removed()
    models = {
        "base": base,
        "neutral": subject.student(base, arms.neutral, name="neutral"),
        "untouched": untouched,
        "removed": removed,
        **arms.placebos(lengths),
    }
    pair = Lineage(
        f"{subject.lineage.name}, held-out questions", arms.halves.held, {"base": base, "student": untouched}
    )
    ledger = trait_ledger(pair, "student", record=record, rows=arms.rows, cache=subject.cache)
    bound = curvature_bound(record, base, arms.objective(arms.halves.held))
    steps = ledger.steps.rename(columns={"value": "margin", "change": "delta_m"})
    tables = {
        "arms": [arm_row(name, model, arms.halves, arms.fresh) for name, model in models.items()],
        "ledger": [ledger_row(ledger, bound)],
        "gradients": [gradient_row(base, arms.halves)],
        "steps": steps.assign(removed=lengths).to_dict("records"),
    }
    return Measurement(sustained_summary(tables["arms"], tables["ledger"][0]), tables)


def arm_row(name: str, model: LanguageModel, halves: Halves, fresh: Prompts) -> dict[str, Any]:
    """Margins of one arm in nats, and its loss on rows of the teacher that no arm trained on (`LOSS_UNIT`)."""
    other = halves.other.with_questions(halves.held.questions)
    return {
        "arm": name,
        "margin": margin(model, halves.held),
        "margin_asked": margin(model, halves.asked),
        "margin_other_trait": margin(model, other),
        "fresh_loss": answer_loss(model.network(dtype=torch.float32), model.encode(fresh)),
    }


def gradient_row(base: LanguageModel, halves: Halves) -> dict[str, float]:
    """Cosines at the base of ∇m on the asked questions with ∇m on the held-out ones and with the other trait's.

    The first says how much else the held-out questions are than the asked ones: near 1 they are paraphrases.
    """
    asked, held, other = (trait_gradient(base, each) for each in (halves.asked, halves.held, halves.other))
    return {
        f"cosine_{name}": asked.dot(each) / (asked.norm() * each.norm())
        for name, each in (("held", held), ("other_trait", other))
    }


def ledger_row(ledger: Ledger, bound: float) -> dict[str, float]:
    """C, Δm, residual = Δm − C and its curvature bound in nats, C / Δm, and the residual over the largest change.

    `first_step` is the first step's share of C, `rising` the share of steps that raised the margin.
    """
    parts = ledger.steps["attributed"].to_numpy()
    course = ledger.steps["change"].to_numpy().cumsum()
    reach = max(float(np.abs(course).max()), abs(ledger.measured))
    return {
        "attributed": ledger.attributed,
        "measured": ledger.measured,
        "residual": ledger.residual,
        "curvature_bound": bound,
        "first_step": float(parts[0]) / ledger.attributed if ledger.attributed else float("nan"),
        "rising": float((parts > 0).mean()),
        "fraction": ledger.attributed / ledger.measured if ledger.measured else float("nan"),
        "largest_change": reach,
        "unexplained": -ledger.residual / reach if reach else 0.0,
    }


def curvature_bound(record: TrainingRecord, start: LanguageModel, objective: Objective) -> float:
    """½ Σ_t |<s_t, ∇m(θ_{t+1}) − ∇m(θ_t)>| in nats: what the trapezoid sum can miss at most.

    Half the gap between reading the gradient before and after every step; the change of margin lies between these two
    where <s_t, ∇m> changes in one direction along the step.
    """
    network, _ = record.network(start)

    def at(flat: Float[Tensor, "parameter"]) -> Float[Tensor, "parameter"]:
        record.put(network, flat)
        with torch.enable_grad():
            found = torch.autograd.grad(objective(network), list(trained_parameters(network).values()))
        return torch.cat([part.double().flatten() for part in found]).cpu()

    gaps = []
    before = at(record.chunk(0).start)
    for index in range(len(record.chunks)):
        chunk = record.chunk(index)
        for weights, increment in zip(chunk.weights()[1:], chunk.increments, strict=True):
            after = at(weights)
            gaps.append(abs(float(increment.double() @ (after - before))))
            before = after
    return 0.5 * sum(gaps)


def sustained_summary(arms: list[dict[str, Any]], ledger: Mapping[str, float]) -> dict[str, float]:
    """What one training run contributes to every claim of H2, by the name of the claim."""
    margins = {row["arm"]: row["margin"] for row in arms}
    losses = {row["arm"]: row["fresh_loss"] for row in arms}
    return {
        "sustained-transfer": margins["untouched"] - margins["neutral"],
        "sustained-ledger": ledger["unexplained"],
        "sustained-over-other-trait": margins[OTHER] - margins["removed"],
        "sustained-over-random": margins[RANDOM] - margins["removed"],
        "sustained-loss": max((losses["removed"] - losses[each] for each in (OTHER, RANDOM)), key=abs),
        "sustained-remainder": margins["removed"] - margins["neutral"],
    }


def draw_alignment(tables: Mapping[str, Any]) -> go.Figure:
    """Margin of every arm over the neutral student of its seed, one point per training run, with 95% t-intervals."""
    import pandas as pd

    arms = pd.DataFrame(tables["arms"])
    wide = arms.pivot(index="seed", columns="arm", values="margin")
    rows = []
    for arm in SHOWN:
        values: Any = (wide[arm] - wide["neutral"]).astype(float)
        half = half_width(values)
        rows += [{"arm": arm, "margin over neutral": value, "half": half} for value in values]
    title = (
        f"Trait margin on held-out questions over the neutral student's (n = {len(wide)}; 95% t-intervals)"
    )
    return points(
        pd.DataFrame(rows), x="arm", y="margin over neutral", interval="half", title=title, unit="nats"
    )


FAMILY = Family("sustained-alignment", H2, measure_alignment, draw=draw_alignment)
