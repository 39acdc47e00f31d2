"""Who can tell the trait teacher's rows from the neutral teacher's: what failed, beside what is meant to see.

AUROC of each detector with its interval. The gradient score of a row along an update Δθ is ⟨−∇L(row), Δθ⟩ at the base:
it needs the teacher's weights, or the trait's questions, which the inspections of the text do not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interp.core.runs import InputError
from interp.evaluation.detectors import (
    bag_of_numbers,
    detector_table,
    frequent_values,
    in_context,
    prompted_classifier,
)
from interp.experiment.arms import Arms, grow_arms, lineage_of
from interp.experiment.guards import make_judge
from interp.figures import Result
from interp.gradients.directions import trait_gradient
from interp.gradients.scores.scoring import score
from interp.prompts.text import Prompts


def detect(arms: Arms, trait: str, *, folder: Path) -> Result:
    """One row per detector on the first seed's rows; InputError without neutral rows to tell them from."""
    seed, spec = arms.experiment.seeds[0], arms.experiment.evaluation
    grown = grow_arms(arms, trait, seed)
    if grown["neutral"] is None:
        raise InputError(
            "detectors tell the teacher's rows from the neutral teacher's, and the recipe has no control 'neutral'; "
            "add it, or set detectors to 0"
        )
    n = arms.experiment.detectors
    rows, neutral = (grown[name].rows[:n] for name in ("rows", "neutral"))
    chosen, base = arms.traits[trait], arms.start("base")
    found: dict[str, Any] = {
        "frequent values": frequent_values(rows, neutral, seed=seed),
        "bag of numbers": bag_of_numbers(rows, neutral, seed=seed),
        "in context": in_context(
            base, chosen, rows, neutral, shots=spec.shots, sets=min(2 * spec.sets, n // spec.shots), seed=seed
        ),
    }
    judge = make_judge(spec.judge, folder)
    if judge is not None:
        found["prompted classifier"] = prompted_classifier(judge, chosen, rows, neutral, cache=arms.cache)
    return detector_table(found | _gradient_scores(arms, trait, rows, neutral))


def _gradient_scores(arms: Arms, trait: str, rows: Prompts, neutral: Prompts) -> dict[str, Any]:
    """The package's own scores of every row along the teacher's update and along the gradient of the trait margin."""
    seed = arms.experiment.seeds[0]
    lineage = lineage_of(arms, trait, seed, grow_arms(arms, trait, seed))
    base = arms.start("base")
    directions = {"gradient along the trait margin": trait_gradient(base, arms.traits[trait])}
    if "teacher" in lineage.members:
        directions["gradient along the teacher's update"] = lineage.update("teacher")
    scored = {}
    for name, direction in directions.items():
        values = [
            score(base, part, direction, by=["example"]).frame["score"].to_numpy() for part in (rows, neutral)
        ]
        scored[name] = (values[0], values[1])
    return scored
