"""`interp test NAME`: a family of claims over independent training runs, every run measured once, then judged.

verdict(claim) = judge(value of run 1, ..., value of run n). A run's values lie in the cache under the key of the code
that measured them and of the data it read, so that other code measures again; beside them lie the keys of the claims,
and a claim that was edited afterwards is refused instead of judged.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.core.content import json_text
from interp.core.doors import door
from interp.core.processes import sweep
from interp.core.provenance import origin, versions
from interp.core.runs import Cache, InputError, Run, digest, write_atomic
from interp.experiment.folders import find_trainings, open_subject, own_trainings
from interp.figures import forest
from interp.hypotheses.claims import check_claim
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement, Subject
from interp.models.lineage import read_lineage
from interp.models.members import MANIFEST
from interp.organisms.library import FORMAT as GROWN, QUICK_TOY, TOY, ToyRecipe, grow, grow_all, toy_grower
from interp.prompts.traits import Trait, get_trait
from interp.report.saving import finish
from interp.stats.verdict import Verdict
from interp.studies.registry import family
from interp.studies.sources import code_key
from interp.training.grower import FORMAT as TAUGHT

if TYPE_CHECKING:
    import plotly.graph_objects as go

FORMAT = 2  # raise when a measurement computes something else from the same run
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One run to be measured: family, organism or lineage folder, seed, whether in small, and what is left out."""

    name: str
    organism: str
    seed: int
    quick: bool = False
    without: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{self.name} on {self.organism} seed {self.seed}"


@dataclass(frozen=True, eq=False)
class Findings:
    """What a family of claims found: the verdicts, one row of values per run, and the tables of all runs by name.

    `data` is the key of what the runs were grown from. `notes` say what the number of runs can decide, and which claims
    were not judged because a part was left out.
    """

    family: Family
    organism: str
    verdicts: tuple[Verdict, ...]
    values: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]
    notes: tuple[str, ...] = ()
    data: str = ""

    def __repr__(self) -> str:
        said = "; ".join(f"{each.name} {each.decision}" for each in self.verdicts)
        return f"{self.family.name} on {self.organism}, n = {len(self.values)}: {said}"

    def _repr_html_(self) -> str:
        return "".join(verdict._repr_html_() for verdict in self.verdicts)

    @property
    def frame(self) -> pd.DataFrame:
        """`values`: one row per run."""
        return self.values

    def figure(self) -> go.Figure:
        """The figure of the family; the verdicts as a forest for one that has none."""
        if self.family.draw is None:
            return forest(self.verdicts, title=repr(self.family.name))
        return self.family.draw(self.tables)

    def to_json(self) -> dict[str, Any]:
        """Verdicts, keys of claims, code and data, commit and day, values and tables as plain JSON types."""
        return {
            "organism": self.organism,
            "versions": versions(),
            **origin(),
            **family_keys(self.family),
            "data": self.data,
            "withdrawn": {claim.name: claim.withdrawn for claim in self.family.claims if claim.withdrawn},
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "values": self.values.to_dict("records"),
            "tables": {name: table.to_dict("records") for name, table in self.tables.items()},
        }


def family_keys(tested: Family) -> dict[str, Any]:
    """What is frozen of a family: the keys of its claims and of its measuring code, and the rule that judges."""
    return {
        "claims": {claim.name: claim.key for claim in tested.claims if not claim.withdrawn},
        "judged": tested.rule,
        "code": code_key(tested.measure),
    }


@door
def test(
    name: str,
    *,
    organism: str | Path | Sequence[str | Path] = "toy/owl",
    seeds: int | Sequence[int] | None = None,
    quick: bool = False,
    without: Sequence[str] = (),
    workers: int | None = None,
    backend: str = "joblib",
) -> Findings:
    """Test a family of claims on every seed of an organism, or on lineage folders; a killed call goes on where it was.

    Args:
        name: of the family, such as "lemma" or "shared-initialisation".
        organism: toy/<trait>, digits, digits:FILE, or lineage folders: one that `interp run` or `interp organism`
            wrote, several, the folder they are in, or a pattern. Each folder is one training run; what it lacks is
            trained by the recipes its lineage.json holds, and by nothing else.
        seeds: how many or which (8 by default), of a toy or of digits.
        quick: train and measure in small.
        without: parts that an architecture or a lineage has not, left out with the claims on them.
        workers: runs measured at a time; one per core by default.
        backend: "joblib" runs them here, "ray" on a cluster.

    Returns:
        `Findings`: one verdict per claim, and one row of values per run.

    Raises:
        InputError: for an unknown family or part, no seeds (naming how many the claims need), seeds of folders, a
            folder that does not say how it was made, a lineage without a member that a claim needs and that cannot be
            grown, and claims edited after their data.

    Example:
        >>> import interp
        >>> interp.test("lemma", seeds=8)  # doctest: +SKIP
    """
    tested = family(name, organism=kind(organism))
    notes = _left_out(tested, without)
    trials = trials_of(tested, organism, seeds, quick=quick, without=without)
    if short := tested.undecided(len(trials), without=without):
        log.warning("%s on %s: %s", name, _named(trials), short)
        notes = (*notes, short)
    if kind(organism) == "toy":
        trait, recipe = _toy(trials[0])
        seeds = [trial.seed for trial in trials]
        grow_all(trait, seeds=seeds, recipe=recipe, workers=workers, backend=backend)
    found = sweep(measured, trials, workers=workers, backend=backend, label=name)
    return Findings(
        tested,
        _named(trials),
        tuple(tested.judge(found, without=without)),
        pd.DataFrame(
            [{"seed": seed, **run.values} for seed, run in zip(_numbers(trials), found, strict=True)]
        ),
        _tables(trials, found),
        notes,
        data_key(trials),
    )


def _named(trials: Sequence[Trial]) -> str:
    return ", ".join(dict.fromkeys(trial.organism for trial in trials))


def _numbers(trials: Sequence[Trial]) -> list[int]:
    """What tells the runs apart in tables: their seeds, or where two folders have one seed, their places."""
    seeds = [trial.seed for trial in trials]
    return seeds if len(set(seeds)) == len(seeds) else list(range(len(trials)))


def _left_out(tested: Family, without: Sequence[str]) -> tuple[str, ...]:
    """What was left out and which claims are not judged for it; InputError for what cannot be left out."""
    kept = {claim.name for claim in tested.judged(without)}
    gone = [claim.name for claim in tested.claims if claim.name not in kept]
    if not without:
        return ()
    return (f"left out: {', '.join(without)}; not judged, as they need it: {', '.join(gone)}",)


def trials_of(
    tested: Family,
    organism: Any,
    seeds: int | Sequence[int] | None,
    *,
    quick: bool = False,
    without: Sequence[str] = (),
) -> list[Trial]:
    """One trial for each run of an organism."""
    return [Trial(tested.name, *each, quick, tuple(without)) for each in _runs(tested, organism, seeds)]


def _runs(tested: Family, organism: Any, seeds: int | Sequence[int] | None) -> list[tuple[str, int]]:
    """Organism and seed of every run; a folder is a run of its own."""
    several = [organism] if isinstance(organism, (str, Path)) else list(organism)
    if kind(organism) == "folder":
        found = find_trainings(several)
        if seeds is not None:
            raise InputError(
                f"seeds={seeds} are given with lineage folders, which are {len(found)} training runs as they are; "
                "leave seeds out, or pass more folders"
            )
        return [(str(each.folder), each.seed) for each in found]
    if len(several) != 1:
        raise InputError(
            f"{len(several)} organisms are given, {several[0]} first; pass one of toy/<trait> and digits, or lineage "
            "folders alone"
        )
    seeds = 8 if seeds is None else seeds
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        need = max(tested.needed().values())
        raise InputError(
            f"seeds {chosen} are not at least one seed, each once; {tested.name} needs {need} for its smallest alpha, "
            f"pass seeds={max(8, need)}"
        )
    return [(str(several[0]), seed) for seed in chosen]


def kind(organism: Any) -> str:
    """What an organism is: "toy", "digits", or "folder" for one or several lineage folders."""
    several = [organism] if isinstance(organism, (str, Path)) else list(organism)
    if len(several) != 1:
        return (
            "folder" if any(kind(each) == "folder" for each in several) or not several else kind(several[0])
        )
    first = str(several[0]).partition(":")[0].partition("/")[0]
    path = Path(str(several[0]))
    known = first in ("toy", "digits") and not (path / MANIFEST).is_file() and not path.is_dir()
    return first if known else "folder"


def _toy(trial: Trial) -> tuple[Trait, ToyRecipe]:
    """The trait of a toy's trial, and how its lineage is grown."""
    return get_trait(trial.organism.partition("/")[2]), QUICK_TOY if trial.quick else TOY


def subject(trial: Trial) -> Any:
    """What a trial is measured on, opened or grown."""
    if kind(trial.organism) == "digits":
        from interp.studies.digit_families import DigitSubject

        return DigitSubject(seed=trial.seed, data=trial.organism.partition(":")[2] or None, quick=trial.quick)
    if kind(trial.organism) == "toy":
        trait, recipe = _toy(trial)
        lineage = grow(trait, seed=trial.seed, recipe=recipe)
        given: dict[str, Any] = {"seed": trial.seed, "quick": trial.quick, "without": trial.without}
        grower = toy_grower(recipe, seed=trial.seed)
        return Subject(lineage, recipe=grower.students, grower=grower, **given)
    return open_subject(Path(trial.organism), quick=trial.quick, without=trial.without)


def measured(trial: Trial) -> Measurement:
    """Measure one trial, or load its values and tables from the cache.

    Raises InputError for values that are not finite and for claims edited after their data.
    """
    tested = family(trial.name, organism=kind(trial.organism))
    cache, claims = Cache.default(), {claim.name: claim.key for claim in tested.claims}
    folder = cache.get("claims", _key(trial, tested), partial(_measure, trial, tested, claims))
    kept = json.loads((folder / "measured.json").read_text())
    for claim in tested.claims:
        check_claim(kept["claims"].get(claim.name, "none"), claim)
    return Measurement(kept["values"], kept["tables"], kept["doubts"])


def _measure(trial: Trial, tested: Family, claims: dict[str, str], folder: Path) -> None:
    given = subject(trial)
    found = tested.measure(given)
    for name, value in found.values.items():
        if not abs(value) < float("inf"):
            raise InputError(
                f"{name} of {trial!r} is {value}: its training or measurement was not finite; lower the learning rate "
                "of the recipe or leave that seed out"
            )
    trained = [*own_trainings(given.lineage), *given.trainings] if isinstance(given, Subject) else []
    tables = found.tables | ({"trainings": trained} if trained else {})
    kept = {"claims": claims, "values": found.values, "tables": tables, "doubts": dict(found.doubts)}
    write_atomic(folder / "measured.json", json_text(kept))


def _key(trial: Trial, tested: Family) -> str:
    given = (trial.name, trial.seed, trial.quick, trial.without)
    return digest(FORMAT, given, _data(trial), code_key(tested.measure))


def forget(tested: Family, trials: Sequence[Trial]) -> None:
    """Drop from the cache what the trials measured, so that claims frozen anew are measured anew."""
    for trial in trials:
        shutil.rmtree(Cache.default().folder("claims", _key(trial, tested)), ignore_errors=True)


def data_key(trials: Sequence[Trial]) -> str:
    """16 hex characters of what the trials are grown or read from, whatever their seeds."""
    return digest("data", sorted({_data(trial) for trial in trials}))


def _data(trial: Trial) -> str:
    """The recipe of a toy's lineages, images and recipe of digits, or everything in a lineage folder."""
    if kind(trial.organism) == "digits":
        given = subject(trial)
        return digest("digits", given.images.fingerprint, given.recipe)
    if kind(trial.organism) == "toy":
        return digest("toy", GROWN, TAUGHT, *_toy(trial))
    lineage = read_lineage(trial.organism, check=False)
    members = {role: model.fingerprint for role, model in lineage.members.items()}
    rows = (lineage.numbers, lineage.neutral_numbers)
    return digest("folder", members, lineage.trait, rows, lineage.growth)


def _tables(trials: Sequence[Trial], found: Sequence[Measurement]) -> dict[str, pd.DataFrame]:
    """Every table of all runs, with the seed of each row."""
    names = dict.fromkeys(name for run in found for name in run.tables)
    return {
        name: pd.DataFrame(
            [
                {"seed": seed, **row}
                for seed, run in zip(_numbers(trials), found, strict=True)
                for row in run.tables.get(name, [])
            ]
        )
        for name in names
    }


def tested_run(
    name: str,
    out: str | Path,
    *,
    organism: Any,
    seeds: int | None,
    quick: bool,
    without: Sequence[str] = (),
    workers: int | None,
    backend: str,
) -> Run:
    """Test a family and write a run folder: verdicts.json, tables, figures and a report.

    The page says how many trainings it is about: seeds of a toy or of digits, folders otherwise.

    Example:
        >>> import interp
        >>> given = {"organism": "digits", "seeds": 1, "quick": True, "workers": 1, "backend": "joblib"}
        >>> run = interp.studies.tested_run("shared-initialisation", "runs/digits", **given)
        >>> (run.folder / "verdicts.json").is_file()
        True
    """
    tested = family(name, organism=kind(organism))
    runs = _runs(tested, organism, seeds)
    shown: dict[str, Any] = {"name": name, "organism": organism}
    if kind(organism) == "folder":
        shown |= {"organism": [place for place, _ in runs], "training runs": len(runs)}
    else:
        shown["seeds"] = len(runs)
    arguments = {**shown, "quick": quick} | ({"without": list(without)} if without else {})
    run = Run.open(out, command="test", arguments=arguments, defaults={})

    def build() -> None:
        given: dict[str, Any] = {"organism": organism, "seeds": seeds, "quick": quick, "without": without}
        found = test(name, **given, workers=workers, backend=backend)
        run.note(notes={"verdicts": list(found.notes)})
        run.save_verdicts(found.verdicts)
        run.save_table("values", found.values)
        for table, frame in found.tables.items():
            run.save_table(table, frame)
        run.save_figure(name, found.figure())
        run.save_figure("verdicts", forest(found.verdicts, title=f"{name} on {found.organism}"))
        run.note(frozen={**keys, "data": found.data, **origin()})
        run.save_json("summary", {"claims": keys["claims"], "notes": "; ".join(found.notes)})

    keys = family_keys(tested)
    run.stage("test", key=digest(FORMAT, arguments, keys), build=build)
    finish(run)
    return run
