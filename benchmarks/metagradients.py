"""What the exact metagradient costs: differentiating a student's margin through its training, over that training.

A toy student of the shipped base 0, of 2,048 of the base's kind of rows by the toy's own recipe. Less is better; by its
docstring the metagradient costs about four trainings.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.paired import Ratio, Skipped, paired
from interp.core.runs import InputError
from interp.gradients.metagradients import metagradient
from interp.models.lineage import Lineage
from interp.models.members import Growth
from interp.organisms.library import TOY
from interp.organisms.toy import shipped_base
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import get_trait
from interp.training.students import train_student

ROWS = 2048


def through_the_training() -> dict[str, Ratio | Skipped]:
    """Processor time of the metagradient over that of the training it goes through."""
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
    lineage = Lineage("small", get_trait("owl"), members, **known)
    return {
        "metagradient-over-training": paired(
            lambda: metagradient(lineage), lambda: train_student(base, rows, recipe=recipe)
        )
    }


BENCHES = {"metagradients": through_the_training}
