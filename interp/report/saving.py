"""Results into a run folder, each as a stage of its own, and the page and pictures at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from interp.core.runs import Run, digest
from interp.figures import Result
from interp.report.page import write_report


def save(run: Run, name: str, result: Result, *, drawn: bool = True) -> None:
    """Write a result into the run folder: its table, its figure if it is `drawn`, and for the page what it says."""
    told = {"notes": list(result.notes), "labels": result.label, "says": result.says}
    run.note(**{kind: {name: value} for kind, value in told.items()}, of_table={name: list(result.of_table)})
    run.save_table(name, result.frame)
    if drawn:
        run.save_figure(name, result.figure())
    else:  # what an older version drew
        for kind in ("html", "png"):
            (run.folder / "figures" / f"{name}.{kind}").unlink(missing_ok=True)


def save_stage(run: Run, name: str, make: Callable[[], Result], *, key: str, drawn: bool = True) -> None:
    """Make and save a result as the stage of that name, unless it is there under the same key."""
    chosen = key if drawn else digest(key, "table")
    run.stage(name, key=chosen, build=lambda: save(run, name, make(), drawn=drawn))


def finish(run: Run) -> None:
    """Write the report and, where there is a browser, the figures as PNG, unless nothing changed since."""
    made = {name: stage["key"] for name, stage in run.record["stages"].items()}
    keys = [key for name, key in sorted(made.items()) if name not in ("report", "pictures")]
    run.stage("report", key=digest(keys), build=lambda: write_report(run))
    run.save_pictures()


def result_run(
    out: str | Path,
    make: Callable[[], Result],
    *,
    command: str,
    name: str,
    arguments: Mapping[str, Any],
    defaults: Mapping[str, Any],
    version: int,
) -> Run:
    """A run folder of one result, with its report; `version` rises when the same arguments make another result."""
    run = Run.open(out, command=command, arguments=arguments, defaults=defaults)
    save_stage(run, name, make, key=digest(version, command, run.record["digest"]))
    finish(run)
    return run
