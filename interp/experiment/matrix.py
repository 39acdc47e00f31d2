"""Teacher × student over bases: from whose rows does which base learn the trait?

M[t, s] = margin(student of base s on the rows of base t's teacher) − margin(student of base s on the rows of base t
itself), in nats, mean over seeds. Shared initialisation predicts the diagonal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.core.content import jsonable
from interp.core.doors import door
from interp.core.runs import Cache, InputError, Run, nearest
from interp.experiment.arms import Arms
from interp.experiment.growing import grow_stages
from interp.experiment.recipe import BaseSpec, read_experiment
from interp.figures import Result, heatmap, interval_text
from interp.measures.margins import margin
from interp.report.saving import result_run
from interp.stats.tests import t_interval

FORMAT = 1  # raise when the same experiment makes another matrix
AXES = ("base of the student", "base of the teacher")


@door
def transfer_matrix(
    arms: Arms,
    trait: str,
    *,
    bases: Sequence[str] | None = None,
    workers: int | None = None,
    backend: str = "joblib",
) -> Result:
    """Measure transfer from every teacher's base to every student's: mean and 95 % interval over the recipe's seeds, n.

    `bases` names those of `arms.starts` (default: all). Every teacher, its rows and every student comes from the
    cache where it was made before. Raises InputError for fewer than two bases.

    Example:
        >>> import interp
        >>> arms = interp.experiment.Arms(interp.read_experiment("toy"), interp.core.Cache.default())
        >>> list(arms.starts)
        ['base', 'cross_base']
        >>> interp.experiment.transfer_matrix(arms, "owl").frame.columns.tolist()  # doctest: +SKIP
        ['teacher', 'student', 'transfer', 'low', 'high', 'n']
    """
    names = list(arms.starts) if bases is None else list(bases)
    if len(names) < 2:
        raise InputError(
            f"a matrix over {names} compares nothing; give a cross_base in the recipe, or --base NAME=MODEL"
        )
    seeds = arms.experiment.seeds
    rows = [(trait, base, seed, neutral) for base in names for seed in seeds for neutral in (False, True)]
    students = [(trait, t, s, seed) for t in names for s in names for seed in seeds]
    stages = {Arms.start: [(name,) for name in names], _rows: rows, difference: students}
    grow_stages(arms, stages, workers=workers, backend=backend, label="matrix")
    frame = pd.DataFrame([_line(arms, trait, t, s) for t in names for s in names])
    notes = (
        f"student of the teacher's rows minus student of the rows of the teacher's base, n = {len(seeds)} seeds, 95 % "
        "t-intervals over them",
    )
    return Result(
        f"{trait}: transfer from teacher to student",
        frame,
        "nats",
        notes,
        draw=partial(square, row="teacher", column="student", value="transfer", axes=AXES),
    )


def matrix_file(
    recipe: str,
    out: Path,
    *,
    trait: str,
    bases: Sequence[str] = (),
    changes: Sequence[str] = (),
    workers: int | None = None,
    backend: str = "joblib",
) -> Run:
    """Write the matrix of a recipe's bases, and of further ones as NAME=MODEL, as a run folder with its report.

    Raises InputError for a trait that the recipe does not hold.

    Example:
        >>> import interp
        >>> run = interp.experiment.matrix_file("toy", "runs/matrix", trait="owl")  # doctest: +SKIP
        >>> run.tables["matrix_owl"].columns.tolist()  # doctest: +SKIP
        ['teacher', 'student', 'transfer', 'low', 'high', 'n']
    """
    experiment = read_experiment(recipe, changes=changes)
    extra = dict(_named(text, experiment.base) for text in bases)
    arms = Arms(experiment, Cache.default(), extra)
    if trait not in arms.traits:
        raise InputError(f"trait {nearest(trait, arms.traits)}; name one of the recipe's")
    given = {"recipe": recipe, "trait": trait, "bases": list(bases), "set": list(changes)}
    return result_run(
        out,
        lambda: transfer_matrix(arms, trait, workers=workers, backend=backend),
        command="matrix",
        name=f"matrix_{trait}",
        arguments=given,
        defaults=jsonable(experiment),
        version=FORMAT,
    )


def _named(text: str, like: BaseSpec) -> tuple[str, BaseSpec]:
    """A further base, written and formatted as the recipe's first one."""
    name, sign, model = text.partition("=")
    if not sign or not name or not model:
        raise InputError(f"base {text!r} is not NAME=MODEL; write for instance other=folder")
    return name, dataclasses.replace(like, model=model)


def difference(arms: Arms, trait: str, teacher: str, student: str, seed: int) -> float:
    """One cell of the matrix for one seed, in nats."""
    values = []
    for neutral in (False, True):
        answers = _rows(arms, trait, teacher, seed, neutral)
        chosen = None if neutral else arms.traits[trait]
        start = arms.start(student)
        ready = arms.ready(start, answers, arms.traits[trait], seed=seed)
        model, _ = arms.student("student", start, answers, seed=seed, ready=ready, trait=chosen)
        values.append(margin(model, arms.traits[trait]))
    return values[0] - values[1]


def _rows(arms: Arms, trait: str, base: str, seed: int, neutral: bool) -> Any:
    return arms.answers(None if neutral else arms.traits[trait], seed=seed, base=base)


def _line(arms: Arms, trait: str, teacher: str, student: str) -> dict[str, Any]:
    values = [difference(arms, trait, teacher, student, seed) for seed in arms.experiment.seeds]
    low, high = t_interval(values)
    return {
        "teacher": teacher,
        "student": student,
        "transfer": float(np.mean(values)),
        "low": low,
        "high": high,
        "n": len(values),
    }


def square(result: Result, *, row: str, column: str, value: str, axes: tuple[str, str]) -> Any:
    """A heat map of `value` with the rows' order on both axes; each cell prints its interval where there is one."""
    order = list(dict.fromkeys(result.frame[row]))
    held = [name for name in (value, "low", "high") if name in result.frame]
    parts = [
        result.frame.pivot(index=row, columns=column, values=name).loc[order, order].to_numpy()
        for name in held
    ]
    shown = None if len(parts) < 3 else np.vectorize(interval_text)(*parts).tolist()
    labels = {"rows": order, "columns": order, "title": result.label, "unit": result.unit, "axes": axes}
    return heatmap(parts[0], printed=shown, **labels)
