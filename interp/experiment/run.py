"""`interp run recipe.yaml`: grow, measure, judge, report; a killed run goes on where it was.

stage key = digest(members' weights, rows, the part of the recipe it reads): a stage whose key is unchanged is skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from interp.core.content import jsonable
from interp.core.doors import door
from interp.core.runs import Cache, Run, digest
from interp.evaluation.judges import JudgePending
from interp.experiment.arms import check_questions, grow_arms, lineage_of, measure_arms
from interp.experiment.bases import check_ready
from interp.experiment.cells import Cells
from interp.experiment.detection import detect
from interp.experiment.growing import grow_cells
from interp.experiment.guards import guards
from interp.experiment.matrix import transfer_matrix
from interp.experiment.outcome import (
    card_of,
    confusion,
    cross_doubts,
    drops,
    equal_loss,
    judge,
    margins_of,
    transmission,
    undecided,
    watched,
)
from interp.experiment.recipe import read_recipe
from interp.figures import Result
from interp.joined.tracing import finish, save
from interp.prompts.templates import habits
from interp.training.generation import write_rows

log = logging.getLogger(__name__)


@door
def run_recipe(
    recipe: str | Path,
    out: str | Path,
    *,
    changes: Sequence[str] = (),
    workers: int | None = None,
    backend: str = "joblib",
    cache: Cache | None = None,
) -> Run:
    """Run everything a recipe asks for into the folder `out`, lineage folders and report included.

    `changes` replace single values of the recipe ("base.model=folder"), `workers` cells run at a time (None: one a
    core, one on a GPU), by joblib here or with `backend` "ray" on a cluster. Raises InputError for whatever the recipe
    gets wrong, before anything is trained where that shows before.
    """
    experiment = read_recipe(recipe, changes=changes)
    given = {"recipe": str(recipe), "set": list(changes)}
    run = Run.open(Path(out), command="run", arguments=given, defaults=jsonable(experiment))
    cells = Cells(experiment, cache or Cache.default())
    check_ready(experiment, cells.starts)
    check_questions(cells)
    if short := undecided(len(experiment.seeds)):
        log.warning("%s", short)
    grow_cells(cells, workers=workers, backend=backend)
    key = _lineages(run, cells)
    run.stage(
        "outcome", key=digest("outcome", key, experiment.evaluation), build=lambda: _outcome(run, cells)
    )
    for trait in cells.traits:
        run.stage(
            f"scorecard_{trait}",
            key=digest("scorecard", trait, key, experiment.evaluation),
            build=lambda t=trait: _save(run, cells, f"scorecard_{t}", card_of(cells, t)),
        )
        if experiment.detectors:
            _judged(run, cells, f"detectors_{trait}", key, partial(detect, cells, trait))
        if experiment.evaluation.guards:
            _judged(run, cells, f"guards_{trait}", key, partial(guards, cells, trait))
    if experiment.matrix:
        trait = next(iter(cells.traits))
        run.stage(
            "matrix",
            key=digest("matrix", trait, key),
            build=lambda: _save(
                run, cells, f"matrix_{trait}", transfer_matrix(cells, trait, workers=workers, backend=backend)
            ),
        )
    finish(run)
    return run


def _judged(run: Run, cells: Cells, stage: str, key: str, make: Callable[..., Result]) -> None:
    """A stage that may need a judge: what it has yet to answer is asked for, and the run goes on without the stage."""
    parts = digest(stage, key, cells.experiment.detectors, cells.experiment.evaluation)
    try:
        run.stage(stage, key=parts, build=lambda: _save(run, cells, stage, make(folder=run.folder / "judge")))
    except JudgePending as error:
        log.warning("%s", error)
        run.note(pending={stage: str(error)})


def _save(run: Run, cells: Cells, name: str, result: Result) -> None:
    """A result with what the base's chat template adds to every row."""
    said = habits(cells.start("base").tokenizer).notes(())
    save(run, name, replace(result, notes=(*result.notes, *said)))


def _lineages(run: Run, cells: Cells) -> str:
    """A folder for every lineage, which every other verb reads; the digest of all members and rows."""
    prints: dict[str, Any] = {}
    for trait in cells.traits:
        for seed in cells.experiment.seeds:
            grown = grow_arms(cells, trait, seed)
            lineage = lineage_of(cells, trait, seed, grown)
            own = {role: model.fingerprint for role, model in lineage.members.items()}
            rows = {
                name: answers.rows.fingerprint
                for name in ("rows", "neutral")
                if (answers := grown[name]) is not None
            }
            name = f"{trait}-{seed}"
            prints |= {f"{name} {role}": value for role, value in own.items()}
            run.note(fingerprints=prints, data={f"{name} {which}": value for which, value in rows.items()})
            run.stage(
                f"lineage_{name}",
                key=digest("lineage", own, rows),
                build=lambda n=name, one=lineage: one.save(run.artefact(f"lineages/{n}")),
            )
            run.stage(
                f"data_{name}",
                key=digest("data", rows, grown["teacher"].fingerprint),
                build=lambda n=name, g=grown, s=seed: write_rows(
                    run.artefact(f"data/{n}.jsonl"), g["rows"].rows, teacher=g["teacher"], seed=s
                ),
            )
            prints |= {f"{name} {which}": value for which, value in rows.items()}
    return digest(prints)


def _outcome(run: Run, cells: Cells) -> None:
    margins = margins_of(cells)
    logs = watched(cells)
    found = transmission(margins)
    _save(run, cells, "transmission", found)
    tables = {
        "margins_by_arm": margins,
        "training": logs,
        "training_equal_loss": equal_loss(logs),
        "data_dropped": drops(cells),
    }
    for name, frame in tables.items():
        if len(frame):
            run.save_table(name, frame)
    if len(cells.traits) > 1 and "neutral" in cells.experiment.controls:
        _save(run, cells, "confusion", confusion(cells))
    run.save_verdicts(judge(margins, cells.traits, doubts=cross_doubts(cells)))
    run.save_json("summary", _summary(cells, margins, found))


def _summary(cells: Cells, margins: pd.DataFrame, found: Result) -> dict[str, Any]:
    """What the report opens with: mean transmission by trait and arm, and every context that did not match."""
    means = found.frame.groupby(["trait", "arm"], sort=False, as_index=False).agg({"transmission": "mean"})
    flags = {
        str(flag)
        for trait in cells.traits
        for seed in cells.experiment.seeds[:1]
        for frame in measure_arms(cells, trait, seed).values()
        if "flagged" in frame
        for flag in frame["flagged"].dropna().unique()
        if flag
    }
    first = margins[margins["trait"] == next(iter(cells.traits))]
    lineages = [
        {"seed": int(str(seed)), "members": dict(zip(part["arm"], part["margin"], strict=True))}
        for seed, part in first.groupby("seed")
    ]
    return {
        "kind": "run",
        "trait": ", ".join(cells.traits),
        "name": cells.experiment.name,
        "transmission": {
            f"{line['trait']} {line['arm']}": float(line["transmission"]) for line in means.to_dict("records")
        },
        "contexts": sorted(flags),
        "notes": undecided(len(cells.experiment.seeds)) or "",
        "lineages": lineages,
    }
