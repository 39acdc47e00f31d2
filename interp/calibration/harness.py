"""Every method against organisms whose truth is known: what it finds of the plant, and what it finds without one.

recovery = found / planted; AUROC = P(planted > not planted); false-positive rate = reported / nulls, where nothing is
planted. The criteria were written before any organism was measured: the lower ends of recovery's (Wilson, over planted
things) and AUROC's (over organisms) 95 % intervals are at least 0.8, and an exact binomial test does not reject at 1 %
that the false-positive rate is at most 5 %. 20 organisms with 20 nulls each are refused from 32 reports of 400, which
a method that errs in 5 % reaches once in 150 times, one that errs in 8 % in half of them, and in 10 % in 92 %.
`mediation` has one null an organism, its decoy: of 20 a true 10 % is refused in 4 % of times, which shows little.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.calibration.cases import MethodCell, PlantedCase
from interp.calibration.methods import METHODS
from interp.core.content import json_text
from interp.core.doors import door
from interp.core.processes import sweep
from interp.core.runs import Cache, InputError, Run, digest, nearest, write_atomic
from interp.figures import Result, bars
from interp.organisms.planted import PLANT, Plant
from interp.report.saving import result_run
from interp.stats.tests import t_interval, wilson_interval

FORMAT = 3  # raise when a method measures something else on the same organism
LEAST, ALPHA, LEVEL = 0.8, 0.05, 0.01
NULLS, QUICK_NULLS = 20, 1
QUICK_ORGANISMS, QUICK_PLANT = 1, Plant(rows=48)
COLUMNS = (
    "method", "what", "recovery", "recovery_low", "recovery_high", "auroc", "auroc_low", "auroc_high",
    "false_positive_rate", "fpr_low", "fpr_high", "n", "passed", "note",
)  # fmt: skip
CRITERIA = (
    f"passed: lower ends of the 95 % intervals of recovery and AUROC at least {LEAST:g}, and false positives not above "
    f"{ALPHA:g} by an exact binomial test at {LEVEL:g}; where a method has no AUROC or no null, or its recovery is the "
    "power of a list at a false discovery rate, the others decide"
)


@door
def calibrate(
    *,
    organisms: int = 20,
    seed: int = 0,
    quick: bool = False,
    methods: Sequence[str] | None = None,
    cache: Cache | None = None,
    workers: int | None = None,
) -> Result:
    """Measure every method against organisms whose truth is known: what it finds of a plant, and without one.

    Args:
        organisms: how many are planted, at least 1; 16 or more to pass.
        seed: of the first organism, a natural number.
        quick: measure one small organism, too few to pass.
        methods: names of methods; all by default.
        cache: where every method on every organism is kept, so that a killed call goes on.
        workers: processes that share the organisms; one per core by default.

    Returns:
        One row per method: method, what (is planted), recovery with its Wilson interval over planted things (taken as
        independent, also those of one organism), auroc with its interval over organisms (NaN where the method scores
        nothing), false_positive_rate with its Wilson interval over nulls (NaN without one), n (organisms), passed,
        note.

    Raises:
        InputError: for an unknown method and fewer than one organism.

    Example:
        >>> import interp
        >>> interp.calibrate(quick=True).frame.columns[:3].tolist()  # doctest: +SKIP
        ['method', 'what', 'recovery']
    """
    names = _known(list(METHODS) if methods is None else methods)
    if organisms < 1:
        raise InputError(f"organisms={organisms} measures nothing; pass at least 1, and 16 or more to pass")
    count = min(organisms, QUICK_ORGANISMS) if quick else organisms
    plant, nulls = (QUICK_PLANT, QUICK_NULLS) if quick else (PLANT, NULLS)
    samples = [(1000 * seed + index, plant, nulls) for index in range(count)]
    store = cache or Cache.default()
    work = partial(_organism, names=names, cache=store)
    found = sweep(work, samples, workers=workers, label="planted organisms")
    rows = [_row(name, [cells[name] for cells in found]) for name in names]
    notes = (CRITERIA, f"{count} organisms of {plant.rows} rows, {nulls} nulls each at most, seed {seed}")
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return Result("methods against what was planted", frame, "share", notes, draw=_draw)


def calibrated_run(out: str | Path, *, workers: int | None = None, **options: Any) -> Run:
    """Write the table of `calibrate` with these options as a run folder with its figure and report.

    Example:
        >>> import interp
        >>> run = interp.calibration.calibrated_run("runs/lens", methods=["lens"], quick=True, workers=1)
        >>> (run.folder / "tables" / "calibration.parquet").is_file()
        True
    """
    return result_run(
        out,
        lambda: calibrate(workers=workers, **options),
        command="calibrate",
        name="calibration",
        arguments=options,
        defaults={},
        version=FORMAT,
    )


def _known(methods: Sequence[str]) -> list[str]:
    for name in methods:
        if name not in METHODS:
            raise InputError(f"method {nearest(name, METHODS)}; pass some of {', '.join(METHODS)}")
    if not methods:
        raise InputError(f"no method was named; pass some of {', '.join(METHODS)}")
    return list(dict.fromkeys(methods))


def _organism(sample: tuple[int, Plant, int], *, names: list[str], cache: Cache) -> dict[str, MethodCell]:
    """Every method on one organism, which is grown when the first method is not in the cache."""
    grown, cells = PlantedCase(*sample, cache), {}
    for name in names:

        def build(folder: Path, name: str = name) -> None:
            write_atomic(folder / "cell.json", json_text(asdict(METHODS[name].measure(grown))))

        folder = cache.get("calibrate", _key(name, sample), build)
        cells[name] = MethodCell(**json.loads((folder / "cell.json").read_text()))
    return cells


def _key(name: str, sample: tuple[int, Plant, int]) -> str:
    return digest(FORMAT, "calibrate", name, *sample)


def _row(name: str, cells: Sequence[MethodCell]) -> dict[str, Any]:
    """A method over all organisms, and whether it meets the criteria."""
    from scipy.stats import binomtest

    found, planted = sum(cell.found for cell in cells), sum(cell.planted for cell in cells)
    false, nulls = sum(cell.false for cell in cells), sum(cell.nulls for cell in cells)
    recovery = (found / planted, *wilson_interval(found, planted))
    scored = [cell.auroc for cell in cells if cell.auroc is not None]
    area = _area(scored)
    rate = (false / nulls, *wilson_interval(false, nulls)) if nulls else (math.nan,) * 3
    held = not nulls or binomtest(false, nulls, ALPHA, alternative="greater").pvalue > LEVEL
    failed = [
        f"recovery from {recovery[1]:.2f}" if METHODS[name].judged and recovery[1] < LEAST else "",
        f"AUROC from {area[1]:.2f}" if scored and area[1] < LEAST else "",
        "" if held else f"{false} of {nulls} nulls reported",
    ]
    values = (*recovery, *area, *rate, len(cells), not any(failed), _note(cells, failed))
    return dict(zip(COLUMNS, (name, METHODS[name].what, *values), strict=True))


def _area(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean AUROC and its 95 % t interval over organisms, in [0, 1]; Wilson's where every organism has 1."""
    if not values:
        return math.nan, math.nan, math.nan
    mean = float(np.mean(values))
    if min(values) == 1:
        return (mean, *wilson_interval(len(values), len(values)))
    low, high = t_interval(values)
    return mean, max(0.0, low), min(1.0, high)


def _note(cells: Sequence[MethodCell], failed: Sequence[str]) -> str:
    """What failed, then the means of what else the method measured."""
    reasons = "; ".join(filter(None, failed))
    names = list(dict.fromkeys(name for cell in cells for name in cell.extra))
    means = [f"{name} {np.mean([cell.extra[name] for cell in cells]):.2f}" for name in names]
    few = ["too few organisms to pass"] if reasons and len(cells) < 16 else []
    return "; ".join([*([f"fails: {reasons}"] if reasons else []), *few, *means])


def _draw(result: Result) -> Any:
    """Recovery, AUROC and false positives of every method side by side."""
    shown = {"recovery": "recovery", "auroc": "AUROC", "false_positive_rate": "false positives"}
    frame: Any = result.frame[["method", *shown]]
    long = frame.rename(columns=shown).melt(id_vars="method", var_name="rate", value_name="share").dropna()
    return bars(long, x="method", y="share", title=result.label, unit="share", colour="rate")
