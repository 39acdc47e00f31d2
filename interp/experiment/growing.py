"""Many cells at once: one single-threaded process per core, each cell's steps in the cache, one bar over the cells.

A cell is a base, or a (trait, seed). Bases come first since every cell starts from them, then the trainings, then the
measurements, which read the students of several cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from interp.core.processes import sweep
from interp.experiment.arms import (
    grow_base,
    grow_rows,
    grow_student,
    measure_arms,
    other_trait,
    roles,
)
from interp.experiment.cells import Cells


def grow_cells(cells: Cells, *, workers: int | None = None, backend: str = "joblib") -> None:
    """Do every step of the experiment that the cache does not hold, `workers` cells at a time: see `sweep`.

    None means one a core, and one on a machine with a GPU, which cells would share. Raises the first cell's error.
    """
    work = plan(cells)
    with tqdm(total=sum(map(len, work.values())), desc="cells", unit="cell", disable=None) as progress:
        for step, units in work.items():
            each(step, cells, units, workers=workers, progress=progress, backend=backend)


def plan(cells: Cells) -> dict[Any, list[tuple[Any, ...]]]:
    """What is to be done, step by step; within a step no two units share any work."""
    seeds, match = cells.experiment.seeds, cells.experiment.data.match
    pairs = [(trait, seed) for seed in seeds for trait in cells.traits]
    writers: list[tuple[str | None, int]] = [*pairs]
    if "neutral" in cells.experiment.controls:
        writers += [(None, seed) for seed in seeds]
    if "other-trait" in cells.experiment.controls and len(cells.traits) == 1:
        writers += [(other_trait(cells, next(iter(cells.traits))).name, seed) for seed in seeds]
    first = next(iter(cells.traits))
    students = [
        (trait, seed, role)
        for trait, seed in pairs
        for role in roles(cells)
        if not (role.endswith("neutral_student") and trait != first and not match)
        and not (role == "other_student" and len(cells.traits) > 1)
    ]
    return {
        grow_base: [(name,) for name in cells.starts],
        grow_rows: writers,
        grow_student: students,
        measure_arms: pairs,
    }


def each(
    work: Any,
    cells: Cells,
    units: Sequence[tuple[Any, ...]],
    *,
    workers: int | None,
    progress: Any,
    backend: str = "joblib",
) -> None:
    """`work(cells, *unit)` for every unit, for what it leaves in the cache."""
    sweep(Step(work, cells), units, workers=workers, backend=backend, progress=progress)


@dataclass(frozen=True)
class Step:
    """One step of the experiment on any unit; the models that `cells` holds do not travel to other processes."""

    work: Any
    cells: Cells

    def __call__(self, unit: tuple[Any, ...]) -> None:
        self.work(self.cells, *unit)

    def __reduce__(self) -> tuple[Any, ...]:
        return Step, (self.work, Cells(self.cells.experiment, self.cells.cache, self.cells.extra))
