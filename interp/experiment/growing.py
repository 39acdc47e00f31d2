"""Many cells at once: one single-threaded process per core, each cell's steps in the cache, one bar over the cells.

A cell is a base, or a (trait, seed). Bases come first since every cell starts from them, then the trainings, then the
measurements, which read the students of several cells.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm

from interp.experiment.arms import (
    grow_base,
    grow_rows,
    grow_student,
    measure_arms,
    other_trait,
    roles,
)
from interp.experiment.cells import Cells
from interp.runs import InputError


def grow_cells(cells: Cells, *, workers: int | None = None) -> None:
    """Do every step of the experiment that the cache does not hold, `workers` cells at a time.

    None means one a core, and one on a machine with a GPU, which cells would share. Raises the first cell's error.
    """
    work = plan(cells)
    with tqdm(total=sum(map(len, work.values())), desc="cells", unit="cell", disable=None) as progress:
        for step, units in work.items():
            each(step, cells, units, workers=workers, progress=progress)


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
    work: Any, cells: Cells, units: Sequence[tuple[Any, ...]], *, workers: int | None, progress: Any
) -> None:
    """`work(cells, *unit)` for every unit, for what it leaves in the cache."""
    import torch
    from joblib import Parallel, delayed

    if workers is not None and workers < 1:
        raise InputError(f"workers={workers} do no work; pass at least 1")
    default = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    count = min(len(units), workers or default)
    if count <= 1:
        for unit in units:
            work(cells, *unit)
            progress.update()
        return
    fresh = Cells(cells.experiment, cells.cache, cells.extra)  # models stay in this process
    jobs = (delayed(_alone)(work, fresh, unit) for unit in units)
    for _ in Parallel(n_jobs=count, return_as="generator_unordered")(jobs):
        progress.update()


def _alone(work: Any, cells: Cells, unit: tuple[Any, ...]) -> None:
    """One unit in a process of its own: one thread, no bars."""
    import torch

    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"
    warnings.simplefilter("ignore", FutureWarning)
    work(Cells(cells.experiment, cells.cache, cells.extra), *unit)
