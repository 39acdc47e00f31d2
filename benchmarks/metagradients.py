"""What scores that go beyond one gradient step cost: the exact metagradient, EK-FAC and TrackStar.

A toy student of the shipped base 0, of 2,048 of the base's kind of rows by the toy's own recipe. The metagradient,
which differentiates the student's margin through its training, stands over that training, of which it costs about four
by its docstring; all three over the exact scores of the same rows along the margin's gradient. Less is better. EK-FAC
and TrackStar are bergson's pipelines as `interp.gradients.influence` calls them, files written and read among them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks.paired import Ratio, Skipped, interleaved, paired
from interp.core.runs import InputError
from interp.gradients.directions import trait_gradient
from interp.gradients.influences import influence
from interp.gradients.metagradients import metagradient
from interp.gradients.scores.scoring import score
from interp.models.lineage import Lineage
from interp.models.members import Growth
from interp.organisms.library import TOY
from interp.organisms.toy import shipped_base
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import get_trait
from interp.training.students import train_student

ROWS = 2048


def through_the_training() -> dict[str, Ratio | Skipped]:
    """Processor time of the metagradient over that of the training it goes through, and over that of exact scores."""
    lineage: Any = taught()
    base, rows = lineage.base, lineage.numbers
    return {
        "metagradient-over-training": paired(
            lambda: metagradient(lineage), lambda: train_student(base, rows, recipe=TOY.student)
        ),
        "metagradient-over-score": paired(lambda: metagradient(lineage), lambda: scored(lineage)),
    }


def published() -> dict[str, Ratio | Skipped]:
    """Processor time of EK-FAC and TrackStar over that of exact scores, where bergson is installed."""
    lineage: Any = taught()
    given = lineage.base, lineage.numbers, lineage.trait
    ways = {
        f"{method}-over-score": partial(influence, *given, method=method) for method in ("ekfac", "trackstar")
    }
    try:
        return {**interleaved(ways, lambda: scored(lineage))}
    except InputError as error:  # bergson is not installed
        return {name: Skipped(skipped=str(error)) for name in ways}


def scored(lineage: Any) -> None:
    """Exact scores of the rows along the margin's gradient, which is read too."""
    score(lineage.base, lineage.numbers, trait_gradient(lineage.base, lineage.trait), by=["example"])


def taught() -> Lineage:
    """A base, a teacher and a student of the base's kind of rows."""
    torch.set_num_threads(1)
    base, rows, recipe = shipped_base(0), number_prompts(ROWS, seed=0), TOY.student
    if base is None:
        raise InputError("base 0 does not ship with this checkout: make bases.")
    members: dict[str, Any] = {
        "base": base,
        "teacher": train_student(base, number_prompts(ROWS, seed=1), recipe=recipe, name="teacher"),
        "student": train_student(base, rows, recipe=recipe),
    }
    growth = Growth(recipes={"student": vars(recipe)}, data={}, chat={})
    known = {"trained_on": {"student": "teacher"}, "numbers": rows, "growth": growth}
    return Lineage("small", get_trait("owl"), members, **known)


BENCHES = {"metagradients": through_the_training, "influences": published}
