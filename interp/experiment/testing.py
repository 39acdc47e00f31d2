"""`interp test NAME`: a family of claims over independent training runs, every run measured once, then judged.

verdict(claim) = judge(value of run 1, ..., value of run n). A run's values lie in the cache with the keys of the claims
they were measured under; a claim that was edited afterwards is refused instead of judged.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.content import json_text
from interp.experiment.sweeps import sweep
from interp.figures import forest
from interp.hypotheses.claims import check_claim
from interp.hypotheses.families import Family, family
from interp.hypotheses.subject import Measured, Subject
from interp.models.lineage import read_lineage
from interp.organisms.library import PLAN, Plan, grow, is_grown
from interp.prompts.traits import Trait, get_trait
from interp.provenance import versions
from interp.runs import Cache, InputError, Run, digest, write_atomic
from interp.statistics import runs_needed
from interp.verdict import Verdict

if TYPE_CHECKING:
    import plotly.graph_objects as go

FORMAT = 2  # raise when a measurement computes something else from the same run
QUICK = dataclasses.replace(
    PLAN, rows=256, teacher_steps=10, student=dataclasses.replace(PLAN.student, batch_size=64)
)
RESULTS = Path("analyses/results")  # of the checkout an analysis is run in
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """One run to be measured: the family, the organism or lineage folder, the seed, and whether in small."""

    name: str
    organism: str
    seed: int
    quick: bool = False

    def __repr__(self) -> str:
        return f"{self.name} on {self.organism} seed {self.seed}"


@dataclass(frozen=True, eq=False)
class Findings:
    """What a family of claims found: the verdicts, one row of values per run, and the tables of all runs by name."""

    family: Family
    organism: str
    verdicts: tuple[Verdict, ...]
    values: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]

    def __repr__(self) -> str:
        said = "; ".join(f"{each.name} {each.decision}" for each in self.verdicts)
        return f"{self.family.name} on {self.organism}, n = {len(self.values)}: {said}"

    def _repr_html_(self) -> str:
        return "".join(verdict._repr_html_() for verdict in self.verdicts)

    def figure(self) -> go.Figure:
        """The figure of the family; the verdicts as a forest for one that has none."""
        if self.family.draw is None:
            return forest(self.verdicts, title=repr(self.family.name))
        return self.family.draw(self.tables)

    def to_json(self) -> dict[str, Any]:
        """Verdicts, keys of the claims, values and tables as plain JSON types."""
        return {
            "organism": self.organism,
            "versions": versions(),
            "claims": {claim.name: claim.key for claim in self.family.claims},
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "values": self.values.to_dict("records"),
            "tables": {name: table.to_dict("records") for name, table in self.tables.items()},
        }


def test(
    name: str,
    *,
    organism: str | Path | Sequence[str | Path] = "toy/owl",
    seeds: int | Sequence[int] = 8,
    quick: bool = False,
    workers: int | None = None,
    backend: str = "joblib",
) -> Findings:
    """Measure a family of claims on every seed of an organism, or on lineage folders, and judge it.

    `organism` is toy/<trait>, digits, digits:FILE, or folders that `Lineage.save` wrote, each of them one training run.
    A killed call goes on where it was. Raises InputError for an unknown family, for no seeds (naming how many the
    claims need), for a lineage without a member a claim needs, and for claims edited after their data.
    """
    tested = family(name, organism=kind(organism))
    cells = [Cell(name, *each, quick) for each in _runs(tested, organism, seeds)]
    if kind(organism) == "toy":
        missing = [cell for cell in cells if not _is_grown(cell)]
        sweep(grown, missing, workers=workers, backend=backend, label="lineages")
    found = sweep(measured, cells, workers=workers, backend=backend, label=name)
    return Findings(
        tested,
        ", ".join(dict.fromkeys(cell.organism for cell in cells)),
        tuple(tested.judge(found)),
        pd.DataFrame([{"seed": cell.seed, **run.values} for cell, run in zip(cells, found, strict=True)]),
        _tables(cells, found),
    )


def _runs(tested: Family, organism: Any, seeds: int | Sequence[int]) -> list[tuple[str, int]]:
    """Organism and seed of every run; a folder is a run of its own."""
    several = [organism] if isinstance(organism, (str, Path)) else list(organism)
    if kind(organism) == "folder":
        return [(str(Path(folder)), index) for index, folder in enumerate(several)]
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        need = max(runs_needed(claim.alpha) for claim in tested.claims)
        raise InputError(
            f"seeds {chosen} are not at least one seed, each once; {tested.name} needs {need} for its smallest alpha, "
            f"pass seeds={max(8, need)}"
        )
    return [(str(several[0]), seed) for seed in chosen]


def kind(organism: Any) -> str:
    """What an organism is: "toy", "digits", or "folder" for one or several lineage folders."""
    first = str(organism).partition(":")[0].partition("/")[0]
    return (
        first
        if first in ("toy", "digits") and not (Path(str(organism)) / "lineage.json").is_file()
        else "folder"
    )


def grown(cell: Cell) -> None:
    """Grow the toy lineage of a cell into the cache."""
    trait, plan = _toy(cell)
    grow(trait, seed=cell.seed, plan=plan)


def _is_grown(cell: Cell) -> bool:
    trait, plan = _toy(cell)
    return is_grown(trait, seed=cell.seed, plan=plan)


def _toy(cell: Cell) -> tuple[Trait, Plan]:
    """The trait of a toy's cell, and how its lineage is grown."""
    return get_trait(cell.organism.partition("/")[2]), QUICK if cell.quick else PLAN


def subject(cell: Cell) -> Any:
    """What a cell is measured on, opened or grown."""
    if kind(cell.organism) == "digits":
        from interp.hypotheses.digit_families import DigitSubject

        return DigitSubject(seed=cell.seed, data=cell.organism.partition(":")[2] or None, quick=cell.quick)
    if kind(cell.organism) == "toy":
        trait, plan = _toy(cell)
        lineage = grow(trait, seed=cell.seed, plan=plan)
        return Subject(lineage, seed=cell.seed, recipe=plan.student, plan=plan, quick=cell.quick)
    return Subject(read_lineage(cell.organism), seed=cell.seed, quick=cell.quick)


def measured(cell: Cell) -> Measured:
    """The values and tables of one cell, from the cache where they are done.

    Raises InputError for values that are not finite and for claims edited after their data.
    """
    tested = family(cell.name, organism=kind(cell.organism))
    cache, claims = Cache.default(), {claim.name: claim.key for claim in tested.claims}
    folder = cache.get("claims", _key(cell), partial(_measure, cell, tested, claims))
    kept = json.loads((folder / "measured.json").read_text())
    for claim in tested.claims:
        check_claim(kept["claims"].get(claim.name, "none"), claim)
    return Measured(kept["values"], kept["tables"])


def _measure(cell: Cell, tested: Family, claims: dict[str, str], folder: Path) -> None:
    found = tested.measure(subject(cell))
    for name, value in found.values.items():
        if not abs(value) < float("inf"):
            raise InputError(
                f"{name} of {cell!r} is {value}: its training or measurement was not finite; lower the learning rate "
                "of the recipe or leave that seed out"
            )
    kept = {"claims": claims, "values": found.values, "tables": found.tables}
    write_atomic(folder / "measured.json", json_text(kept))


def _key(cell: Cell) -> str:
    if kind(cell.organism) == "digits":
        return digest(FORMAT, cell)
    if kind(cell.organism) == "toy":
        return digest(FORMAT, cell, _toy(cell)[1])
    lineage = read_lineage(cell.organism, check=False)
    members = {role: model.fingerprint for role, model in lineage.members.items()}
    rows = (lineage.numbers, lineage.neutral_numbers)
    return digest(FORMAT, cell.name, cell.seed, cell.quick, members, lineage.trait, rows)


def _tables(cells: Sequence[Cell], found: Sequence[Measured]) -> dict[str, pd.DataFrame]:
    """Every table of all runs, with the seed of each row."""
    names = dict.fromkeys(name for run in found for name in run.tables)
    return {
        name: pd.DataFrame(
            [
                {"seed": cell.seed, **row}
                for cell, run in zip(cells, found, strict=True)
                for row in run.tables.get(name, [])
            ]
        )
        for name in names
    }


def tested_run(
    name: str, out: str | Path, *, organism: Any, seeds: int, quick: bool, workers: int | None, backend: str
) -> Run:
    """The same as a run folder: verdicts.json, tables, figures and a report."""
    from interp.report import write_report

    arguments = {"name": name, "organism": organism, "seeds": seeds, "quick": quick}
    run = Run.open(out, command="test", arguments=arguments, defaults={})

    def build() -> None:
        found = test(name, organism=organism, seeds=seeds, quick=quick, workers=workers, backend=backend)
        run.save_verdicts(found.verdicts)
        run.save_table("values", found.values)
        for table, frame in found.tables.items():
            run.save_table(table, frame)
        run.save_figure(name, found.figure())
        run.save_figure("verdicts", forest(found.verdicts, title=f"{name} on {found.organism}"))
        run.save_json("summary", {"claims": {claim.name: claim.key for claim in found.family.claims}})

    claims = [claim.key for claim in family(name, organism=kind(organism)).claims]
    run.stage("test", key=digest(FORMAT, arguments, claims), build=build)
    write_report(run)
    return run


def analysis(name: str, doc: str | None, *, argv: Sequence[str] | None = None) -> None:
    """The command line of an analysis of a family: measure, judge, and keep the numbers beside what made them."""
    module = name.replace("-", "_")
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small lineage; nothing is kept")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--organism", default="toy/owl", help="toy/<trait>, digits, or a lineage folder")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--backend", default="joblib", help="joblib or ray")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args(argv)
    where = "" if kind(given.organism) == "toy" else f"{kind(given.organism)}_"
    out = given.out or RESULTS / f"{where}{module}.json"
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    check_recorded(name, out)
    found = test(
        name,
        organism=given.organism,
        seeds=1 if given.quick else given.seeds,
        quick=given.quick,
        workers=given.workers,
        backend=given.backend,
    )
    for verdict in found.verdicts:
        log.info("%r", verdict)
    if not given.quick:
        asked = f"python -m analyses.{module} --seeds {given.seeds} --organism {shlex.quote(given.organism)}"
        write_atomic(out, json_text({"command": asked, **found.to_json()}))


def check_recorded(name: str, path: Path) -> None:
    """InputError when the file holds verdicts of a claim that was edited since."""
    if not path.is_file():
        return
    recorded = json.loads(path.read_text())
    for claim in family(name, organism=kind(recorded["organism"])).claims:
        check_claim(recorded["claims"].get(claim.name, "none"), claim)
