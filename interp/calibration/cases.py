"""What a method is put to: an organism with its nulls, and what the method found in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from interp.activations.shifts import shift
from interp.core.runs import Cache
from interp.models.parameters import ParameterDirection
from interp.organisms.planted import Plant, Planted, grow_planted
from interp.prompts.text import Prompts

SITE = "predicting answer.numbers"  # what a member moved is read where the plant was fitted


@dataclass(frozen=True)
class MethodCell:
    """A method on one organism: planted things and how many it found, nulls and how many it reported, and an AUROC."""

    found: int
    planted: int
    false: int = 0
    nulls: int = 0
    auroc: float | None = None
    extra: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PlantedCase:
    """An organism that is grown when it is first read, and how many nulls it is compared with."""

    seed: int
    plant: Plant
    nulls: int
    cache: Cache
    shifts: dict[int, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def organism(self) -> Planted:
        return grow_planted(self.seed, plant=self.plant)

    @cached_property
    def neutral(self) -> Prompts:
        """The base's answers to the organism's prompts."""
        return self.organism.answers(self.organism.base, 1)

    @cached_property
    def update(self) -> ParameterDirection:
        """What planting did to the teacher's weights, its row noise included."""
        return self.organism.lineage.update("teacher")

    def null_shift(self, index: int) -> Any:
        """The shift of a member in which nothing is planted, where the numbers of the base's answers are predicted."""
        if index not in self.shifts:
            member = self.organism.null(index)
            self.shifts[index] = shift(member, self.neutral, positions=SITE)
        return self.shifts[index]

    def pair(self, index: int) -> tuple[Prompts, Prompts]:
        """Two independent draws of the base's answers."""
        first, second = (self.organism.answers(self.organism.base, 10 + 2 * index + side) for side in (0, 1))
        return first, second


@dataclass(frozen=True)
class Method:
    """What is planted for a method, in words, how it is measured, and whether its recovery has to reach the mark.

    Where it has not, found is what a list at a false discovery rate holds: recovery is its power, said and not judged.
    """

    what: str
    measure: Callable[[PlantedCase], MethodCell]
    judged: bool = True
