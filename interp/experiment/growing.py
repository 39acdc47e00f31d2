"""An experiment in processes: one single-threaded process per core, each step in the cache, one bar over all units.

A unit is a base, or a (trait, seed) with what else tells it apart. Bases come first since everything starts from them,
then rows, then students, then measurements, which read the students of several units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from interp.core.processes import sweep
from interp.core.progress import progress_bar
from interp.experiment.arms import Arms, grow_student, measure_arms, other_trait, roles

Stages = Mapping[Any, Sequence[tuple[Any, ...]]]
"""What is done one stage after the other, work(arms, *unit) for each of its units; within one no two share any work."""


def grow_stages(
    arms: Arms,
    stages: Stages,
    *,
    workers: int | None = None,
    backend: str = "joblib",
    label: str = "cells",
) -> None:
    """Do every unit of every stage for what it leaves in the cache, `workers` at a time: see `sweep`.

    None means one per core, and one on a machine with a GPU, which units would share. Raises the first unit's error.
    """
    with progress_bar(label, total=sum(map(len, stages.values())), unit="cell") as progress:
        for work, units in stages.items():
            each(work, arms, units, workers=workers, progress=progress, backend=backend)


def stages_of(arms: Arms) -> Stages:
    """The stages of an experiment: bases, rows, students and what they are worth."""
    seeds, match = arms.experiment.seeds, arms.experiment.data.match
    pairs = [(trait, seed) for seed in seeds for trait in arms.traits]
    writers: list[tuple[str | None, int]] = [*pairs]
    if "neutral" in arms.experiment.controls:
        writers += [(None, seed) for seed in seeds]
    if "other-trait" in arms.experiment.controls and len(arms.traits) == 1:
        writers += [(other_trait(arms, next(iter(arms.traits))).name, seed) for seed in seeds]
    first = next(iter(arms.traits))
    students = [
        (trait, seed, role)
        for trait, seed in pairs
        for role in roles(arms)
        if not (role.endswith("neutral_student") and trait != first and not match)
        and not (role == "other_student" and len(arms.traits) > 1)
    ]
    return {
        Arms.start: [(name,) for name in arms.starts],
        _grow_rows: writers,
        grow_student: students,
        measure_arms: pairs,
    }


def each(
    work: Any,
    arms: Arms,
    units: Sequence[tuple[Any, ...]],
    *,
    workers: int | None,
    progress: Any,
    backend: str = "joblib",
) -> None:
    """`work(arms, *unit)` for every unit."""
    sweep(partial(_unit, work, arms), units, workers=workers, backend=backend, progress=progress)


def _unit(work: Any, arms: Arms, unit: tuple[Any, ...]) -> None:
    work(arms, *unit)


def _grow_rows(arms: Arms, trait: str | None, seed: int) -> None:
    known = None if trait is None else arms.traits.get(trait) or other_trait(arms, next(iter(arms.traits)))
    arms.checked(known, seed=seed)
    arms.answers(known, seed=seed)
