"""What a verb is given on each device: a small toy lineage, its rows, a dictionary, and an empty folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import interp

HOOK = "blocks.1.hook_resid_post"
RECIPE = interp.Recipe(batch_size=16)


@dataclass(frozen=True)
class Case:
    """A lineage on one device, the dictionary that both devices share, and an empty folder."""

    lineage: Any
    dictionary: Any
    folder: Path

    @property
    def base(self) -> Any:
        return self.lineage.base

    @property
    def teacher(self) -> Any:
        return self.lineage.teacher

    @property
    def student(self) -> Any:
        return self.lineage.student

    @property
    def rows(self) -> Any:
        return self.lineage.numbers[:16]

    @property
    def neutral(self) -> Any:
        return self.lineage.neutral_numbers[:16]

    @property
    def many(self) -> Any:
        return self.lineage.numbers[:64]

    @property
    def shift(self) -> Any:
        return interp.shift(self.student, self.rows)

    @property
    def toward(self) -> Any:
        return interp.logit_direction(self.base, "owl")

    @property
    def lean(self) -> Any:
        return interp.feature_lean(
            self.dictionary, self.base, self.rows, teacher=self.teacher, neutral=self.neutral
        )

    @cached_property
    def recorded(self) -> Any:
        """The lineage with a student whose training was recorded here, and the record."""
        recipe = replace(RECIPE, trainable="body", lr=1e-3)
        student, record = interp.gradients.record_training(
            self.base, self.many, folder=self.folder / "record", recipe=recipe
        )
        members = {"base": self.base, "teacher": self.teacher, "student": student}
        return replace(
            self.lineage,
            members=members,
            numbers=self.many,
            neutral_numbers=None,
            trained_on={"student": "teacher"},
            started_from={},
            growth=None,
        ), record


Measured = dict[str, Callable[[Case], Any]]


def logprobs(model: Any, rows: Any) -> torch.Tensor:
    inputs = model.encode(rows)
    return model.logits(inputs).log_softmax(-1).cpu()[inputs.mask.cpu()]


def prompted(it: Case) -> Any:
    return interp.training.prompted_teacher(it.base, "owl")
