"""Audits of files into a run folder: tables, curve and figures, what was found as the summary, and the page.

A student's folder, or the lineage folder around it, says by which recipe it was trained; see `trained_by`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from interp.auditing.auditor import RECIPE, Audit, AuditRecipe, audit
from interp.auditing.channels import audit_channels
from interp.auditing.forecasts import read_forecast
from interp.auditing.placebos import StudentAudit, audit_student
from interp.core.errors import InputError
from interp.core.runs import Run, digest
from interp.figures import Result
from interp.models.language import LanguageModel, load_model
from interp.models.lineage import member_from
from interp.models.loading import Loading, read_json
from interp.models.membership import MANIFEST, membership_of
from interp.models.seam import check_speaks
from interp.prompts.text import Prompts
from interp.prompts.tokenizer_keys import tokenizer_key
from interp.prompts.trait_files import find_trait
from interp.report.saving import finish, save, save_stage
from interp.training.grower import read_recipe
from interp.training.students import Recipe

ROWS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
OTHERS = (
    ".txt", ".md", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z", ".xlsx", ".xls", ".ods", ".ndjson",
    ".arrow", ".feather", ".yaml", ".yml", ".xml", ".html", ".pdf", ".pkl", ".npz", ".npy", ".pt", ".safetensors",
)  # fmt: skip
"""Suffixes of files that are neither rows nor a model that can be read; names on a hub end otherwise."""
ACCEPTED = "rows in a JSONL, JSON, CSV, TSV or parquet file, or the folder or name of a student"
FORMAT = 4  # raise when the same arguments make another result
CHANNELS = "channels"  # the stage of a named trait's channels, and its table
WRITTEN = ("audit", "audit_curve", "audit_rows", CHANNELS)  # tables of an audit of rows


def audit_file(
    base: str,
    rows: Path,
    *,
    out: Path,
    traits: Sequence[str] | None = None,
    neutral: Path | None = None,
    limit: int | None = None,
    channels: bool = False,
    how: dict[str, Any] | None = None,
    **loading: Unpack[Loading],
) -> Run:
    """Audit the first `limit` rows of a file at a base; `how` is what else `audit` takes.

    With `channels` the run also holds through what the named trait's evidence goes (`audit_channels`), where one is
    named. Raises InputError as `audit` does, before the model is loaded for files and traits that cannot be read.
    """
    wanted = None if traits is None else [find_trait(name) for name in traits]
    given = Prompts.from_file(rows, limit=limit)
    beside = None if neutral is None else Prompts.from_file(neutral)
    options = {"recipe": RECIPE, "alpha": 0.05, "seed": 0, **(how or {})}
    named = {
        "base": base,
        "rows": str(rows),
        "traits": traits,
        "neutral": neutral and str(neutral),
        "limit": limit,
    }
    said = options | {"recipe": dataclasses.asdict(options["recipe"])}
    run = Run.open(out, command="audit", arguments=named, defaults=said)
    model = open_base(base, **loading)
    prints = [given.fingerprint, beside and beside.fingerprint, wanted, options]
    key = digest(FORMAT, model.fingerprint, tokenizer_key(model.tokenizer), *prints)
    run.note(fingerprints={"base": model.fingerprint}, data={"rows": given.fingerprint})
    asked = {"traits": wanted, "neutral": beside, **options}
    run.stage("audit", key=key, build=lambda: _written(run, model, given, asked))
    trait = run.summary["trait"]
    if channels and trait is not None:
        parts = {name: value for name, value in asked.items() if name != "alpha"}
        named = next((each for each in wanted or () if each.name == trait), trait)
        save_stage(
            run, CHANNELS, lambda: audit_channels(model, given, named, **parts), key=digest(key, CHANNELS)
        )
    finish(run)
    return run


def _written(run: Run, model: LanguageModel, rows: Prompts, asked: dict[str, Any]) -> None:
    found: Audit = audit(model, rows, **asked)
    for name in WRITTEN:  # what was made of other rows in this folder
        for path in (f"tables/{name}.parquet", f"figures/{name}.html", f"figures/{name}.png"):
            (run.folder / path).unlink(missing_ok=True)
    if found.frame.empty:
        run.note(notes={"audit": list(found.notes)}, labels={"audit": found.label})
    else:
        save(run, "audit", _shown(found, "standard deviations per row; gains in nats"))
        run.save_table("audit_curve", found.curve)
        if found.trait is not None:
            run.save_table("audit_rows", found.row_scores)
    run.save_json("summary", {"kind": "audit", **found.to_json()})


def _shown(found: Audit | StudentAudit, unit: str) -> Result:
    return Result(repr(found), found.frame, unit, found.notes, draw=lambda _: found.figure())


def is_student(source: str) -> bool:
    """Whether a source is a model rather than a file of rows: a folder, a GGUF file, or a name that is no file's.

    Raises InputError for a path at which nothing is, which a name on a hub is not.
    """
    path = Path(source)
    suffix = path.suffix.lower()
    if path.exists():
        return path.is_dir() or suffix == ".gguf"
    if (
        suffix in (*ROWS, *OTHERS)
        or path.is_absolute()
        or source.startswith((".", "~"))
        or source.count("/") > 1
    ):
        raise InputError(f"{source} does not exist; pass {ACCEPTED}")
    return True


def trained_by(student: str) -> Recipe | None:
    """The recipe that a student's folder says, or the lineage's around it; None where neither does."""
    own, known = Path(student) / "recipe.json", membership_of(student)
    if own.is_file():
        return read_recipe(read_json(own), str(own))
    manifest = None if known is None else known.folder / MANIFEST
    said = None if manifest is None else read_json(manifest)["members"][Path(student).name].get("recipe")
    return read_recipe(said, str(manifest)) if said and "lr" in said else None


def open_base(base: str, **loading: Unpack[Loading]) -> LanguageModel:
    """A base that writes; InputError for one that does not."""
    model = load_model(base, **loading)
    check_speaks(model, base)
    return model


def open_pair(base: str, student: str, **loading: Unpack[Loading]) -> tuple[LanguageModel, LanguageModel]:
    """A base and what was trained from it, which has the base's tokenizer where it has none of its own."""
    model = open_base(base, **loading)
    return model, open_trained("student", student, model)


def open_trained(role: str, source: str, base: LanguageModel) -> LanguageModel:
    """What was trained from a base, opened as that role and called by its folder."""
    opened = member_from(role, source, base, check=True)
    return dataclasses.replace(opened, name=Path(source).name or source)


def student_audit_file(
    base: str,
    student: str,
    *,
    out: Path,
    rows: Path | None = None,
    text: Path | None = None,
    traits: Sequence[str] | None = None,
    how: dict[str, Any],
    **loading: Unpack[Loading],
) -> Run:
    """Audit a student by its folder; `rows` are its own or as many, and `how` is what else `audit_student` takes.

    How it was trained is read beside it (`trained_by`). Raises InputError as `audit_student` does, before a model is
    loaded for files and traits that cannot be read.
    """
    wanted = None if traits is None else [find_trait(name) for name in traits]
    given, read = (None if path is None else Prompts.from_file(path) for path in (rows, text))
    how = how | {"placebos": dataclasses.replace(how["placebos"], own=trained_by(student))}
    named = {"base": base, "student": student, "rows": rows and str(rows), "text": text and str(text)}
    said = how | {name: dataclasses.asdict(how[name]) for name in ("placebos", "candidates")}
    run = Run.open(out, command="audit-student", arguments={**named, "traits": traits}, defaults=said)
    model, trained = open_pair(base, student, **loading)
    prints = [model.fingerprint, tokenizer_key(model.tokenizer), trained.fingerprint]
    key = digest(FORMAT, *prints, given and given.fingerprint, read and read.fingerprint, wanted, how)
    run.note(fingerprints={"base": model.fingerprint, "student": trained.fingerprint})

    def build() -> None:
        found = audit_student(model, trained, rows=given, text=read, traits=wanted, **how)
        save(run, "student_audit", _shown(found, "standard deviations of placebos; gains in nats"))
        run.save_json("summary", {"kind": "audit-student", **found.to_json()})

    run.stage("student_audit", key=key, build=build)
    finish(run)
    return run


def changed_audit(
    *,
    steps: int | None,
    batch_size: int | None,
    pilot: bool = True,
    leans: bool = False,
    forecast: Path | None = None,
) -> AuditRecipe:
    """The default recipe with other steps of its candidates, other batches, without its pilot, with gradients, or with
    the forecast of a file. InputError for less than a step and less than a row.
    """
    for name, value in (("steps", steps), ("batch-size", batch_size)):
        if value is not None and value < 1:
            raise InputError(f"--{name} {value} trains nothing; pass at least 1")
    candidates, training = RECIPE.candidates, RECIPE.pilot if pilot else None
    if steps is not None:
        candidates = dataclasses.replace(candidates, steps=steps)
    if batch_size is not None:
        candidates = dataclasses.replace(candidates, recipe=_sized(candidates.recipe, batch_size))
        training = training and dataclasses.replace(training, recipe=_sized(training.recipe, batch_size))
    return AuditRecipe(candidates, training, leans, forecast and read_forecast(forecast))


def _sized(recipe: Recipe, batch_size: int) -> Recipe:
    return dataclasses.replace(recipe, batch_size=batch_size)
