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
from interp.experiment.arms import Arms, check_questions, grow_arms, lineage_of, measure_arms
from interp.experiment.bases import check_ready
from interp.experiment.detection import detect
from interp.experiment.growing import grow_stages, stages_of
from interp.experiment.guards import guards
from interp.experiment.matrix import transfer_matrix
from interp.experiment.outcome import (
    arm_margins,
    card_of,
    checks_table,
    confusion,
    cross_doubts,
    drops,
    equal_loss,
    judge_margins,
    transmission,
    undecided,
    watched,
)
from interp.experiment.recipe import read_experiment
from interp.figures import Result
from interp.prompts.templates import habits
from interp.prompts.tokenizer_keys import tokenizer_key
from interp.report.saving import finish, save, save_stage
from interp.training.generation import write_rows

log = logging.getLogger(__name__)


@door
def run_experiment(
    recipe: str | Path,
    out: str | Path,
    *,
    changes: Sequence[str] = (),
    quick: bool = False,
    workers: int | None = None,
    backend: str = "joblib",
    cache: Cache | None = None,
) -> Run:
    """Run everything a recipe asks for, and write lineage folders, verdicts and the report.

    Args:
        recipe: the path of a recipe, or the name of a shipped one.
        out: the folder to write into; the same call again goes on where it was killed.
        changes: replacements of single values of the recipe, such as "base.model=folder".
        quick: in small, as the recipe's list `quick` says.
        workers: cells that run at a time; by default one per core, and one on a GPU.
        backend: "joblib" runs them here, "ray" on a cluster.
        cache: where finished steps are kept; the user's by default.

    Returns:
        The `Run`: lineages, tables, verdicts (nats) and report.html.

    Raises:
        InputError: for whatever the recipe gets wrong, before anything is trained where that shows before.

    Example:
        >>> import interp
        >>> interp.read_experiment("toy").name  # what will run
        'toy'
        >>> interp.run_experiment("toy", "runs/toy", changes=["seeds=[0]"])  # doctest: +SKIP
    """
    experiment = read_experiment(recipe, changes=changes, quick=quick)
    given = {"recipe": str(recipe), "set": list(changes), **({"quick": True} if quick else {})}
    run = Run.open(Path(out), command="run", arguments=given, defaults=jsonable(experiment))
    arms = Arms(experiment, cache or Cache.default())
    check_ready(experiment, arms.starts)
    check_questions(arms)
    if short := undecided(len(experiment.seeds)):
        log.warning("%s", short)
    grow_stages(arms, stages_of(arms), workers=workers, backend=backend)
    _say_checks(arms)
    key = _lineages(run, arms)
    run.stage("outcome", key=digest("outcome", key, experiment.evaluation), build=lambda: _outcome(run, arms))
    for trait in arms.traits:
        made_of = digest("scorecard", trait, key, experiment.evaluation)
        _stage(run, arms, f"scorecard_{trait}", partial(card_of, arms, trait), key=made_of)
        if experiment.detectors:
            _judged(run, arms, f"detectors_{trait}", key, partial(detect, arms, trait))
        if experiment.evaluation.guards:
            _judged(run, arms, f"guards_{trait}", key, partial(guards, arms, trait))
    if experiment.matrix:
        trait = next(iter(arms.traits))
        square = partial(transfer_matrix, arms, trait, workers=workers, backend=backend)
        _stage(run, arms, f"matrix_{trait}", square, key=digest("matrix", trait, key))
    finish(run)
    return run


def _say_checks(arms: Arms) -> None:
    """How the teachers turned out, which were made in other processes."""
    for trait in arms.traits.values():
        for seed in arms.experiment.seeds:
            teacher = arms.teacher(trait, seed=seed)
            log.info("%s teacher, seed %d: %s", trait.name, seed, arms.checked(trait, seed=seed))
            if teacher.stopped is not None and not teacher.stopped.reached:
                log.warning("%s, seed %d: %s", trait.name, seed, teacher.stopped)


def _judged(run: Run, arms: Arms, stage: str, key: str, make: Callable[..., Result]) -> None:
    """A stage that may need a judge: what it has yet to answer is asked for, and the run goes on without the stage."""
    parts = digest(stage, key, arms.experiment.detectors, arms.experiment.evaluation)
    try:
        _stage(run, arms, stage, partial(make, folder=run.folder / "judge"), key=parts)
    except JudgePending as error:
        log.warning("%s", error)
        run.note(pending={stage: str(error)})


def _stage(run: Run, arms: Arms, name: str, make: Callable[[], Result], *, key: str) -> None:
    """A result as a stage of its own."""
    save_stage(run, name, lambda: _noted(arms, make()), key=key)


def _noted(arms: Arms, result: Result) -> Result:
    """The result with what the base's chat template adds to every row."""
    said = habits(arms.start("base").tokenizer).notes(())
    return replace(result, notes=(*result.notes, *said))


def _keep(lineage: Lineage, folder: Path) -> None:
    """The lineage's folder; a base that is a checkpoint and an adapter is kept without the checkpoint, if it can."""
    base: Any = lineage.base
    lineage.save(folder, base=base.merged_from is None or bool(lineage.apart_from_base()))


def _lineages(run: Run, arms: Arms) -> str:
    """A folder for every lineage, which every other verb reads; the digest of all members and rows."""
    prints: dict[str, Any] = {}
    for trait in arms.traits:
        for seed in arms.experiment.seeds:
            grown = grow_arms(arms, trait, seed)
            lineage = lineage_of(arms, trait, seed, grown)
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
                build=lambda n=name, one=lineage: _keep(one, run.artefact(f"lineages/{n}")),
            )
            run.stage(
                f"data_{name}",
                key=digest("data", rows, grown["teacher"].fingerprint),
                build=lambda n=name, g=grown, s=seed: write_rows(
                    run.artefact(f"data/{n}.jsonl"), g["rows"].rows, teacher=g["teacher"], seed=s
                ),
            )
            prints |= {f"{name} {which}": value for which, value in rows.items()}
    return digest(prints, tokenizer_key(arms.start("base").tokenizer))


def _outcome(run: Run, arms: Arms) -> None:
    margins = arm_margins(arms)
    logs = watched(arms)
    found = transmission(margins)
    save(run, "transmission", _noted(arms, found))
    tables = {
        "margins_by_arm": margins,
        "training": logs,
        "training_equal_loss": equal_loss(logs),
        "data_dropped": drops(arms),
        "checks": checks_table(arms),
    }
    for name, frame in tables.items():
        if len(frame):
            run.save_table(name, frame)
    if len(arms.traits) > 1 and "neutral" in arms.experiment.controls:
        save(run, "confusion", _noted(arms, confusion(arms)))
    run.save_verdicts(judge_margins(margins, arms.traits, doubts=cross_doubts(arms)))
    run.save_json("summary", _summary(arms, margins, found))


def _summary(arms: Arms, margins: pd.DataFrame, found: Result) -> dict[str, Any]:
    """What the report opens with: mean transmission by trait and arm, and every context that did not match."""
    means = found.frame.groupby(["trait", "arm"], sort=False, as_index=False).agg({"transmission": "mean"})
    flags = {
        str(flag)
        for trait in arms.traits
        for seed in arms.experiment.seeds[:1]
        for frame in measure_arms(arms, trait, seed).values()
        if "flagged" in frame
        for flag in frame["flagged"].dropna().unique()
        if flag
    }
    first = margins[margins["trait"] == next(iter(arms.traits))]
    lineages = [
        {"seed": int(str(seed)), "members": dict(zip(part["arm"], part["margin"], strict=True))}
        for seed, part in first.groupby("seed")
    ]
    return {
        "kind": "run",
        "trait": ", ".join(arms.traits),
        "name": arms.experiment.name,
        "transmission": {
            f"{line['trait']} {line['arm']}": float(line["transmission"]) for line in means.to_dict("records")
        },
        "contexts": sorted(flags),
        "notes": undecided(len(arms.experiment.seeds)) or "",
        "lineages": lineages,
    }
