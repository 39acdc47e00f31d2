"""An audit of files into a run folder: its table, curve and figure, what it found as the summary, and the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from interp.auditing.auditor import RECIPE, Audit, AuditRecipe, audit
from interp.core.runs import Run, digest
from interp.figures import Result
from interp.models.language import LanguageModel, load_model
from interp.models.loading import Loading
from interp.models.seam import check_speaks
from interp.prompts.templates import template_key
from interp.prompts.text import Prompts
from interp.prompts.trait_files import find_trait
from interp.report.saving import finish, save
from interp.training.students import Recipe

FORMAT = 1  # raise when the same arguments make another result


def audit_file(
    base: str,
    rows: Path,
    *,
    out: Path,
    traits: Sequence[str] | None = None,
    neutral: Path | None = None,
    limit: int | None = None,
    how: dict[str, Any] | None = None,
    **loading: Unpack[Loading],
) -> Run:
    """Audit the first `limit` rows of a file at a base; `how` is what else `audit` takes.

    Raises InputError as `audit` does, before the model is loaded for files and traits that cannot be read.
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
    model = load_model(base, **loading)
    check_speaks(model, base)
    prints = [given.fingerprint, beside and beside.fingerprint, wanted, options]
    key = digest(FORMAT, model.fingerprint, template_key(model.tokenizer), *prints)
    run.note(fingerprints={"base": model.fingerprint}, data={"rows": given.fingerprint})
    asked = {"traits": wanted, "neutral": beside, **options}
    run.stage("audit", key=key, build=lambda: _written(run, model, given, asked))
    finish(run)
    return run


def _written(run: Run, model: LanguageModel, rows: Prompts, asked: dict[str, Any]) -> None:
    found: Audit = audit(model, rows, **asked)
    if found.frame.empty:
        run.note(notes={"audit": list(found.notes)}, labels={"audit": found.label})
    else:
        unit = "standard deviations per row; gains in nats"
        save(run, "audit", Result(repr(found), found.frame, unit, found.notes, draw=lambda _: found.figure()))
        run.save_table("audit_curve", found.curve)
    run.save_json("summary", {"kind": "audit", **found.to_json()})


def changed_audit(
    *, steps: int | None, batch_size: int | None, pilot: bool = True, leans: bool = False
) -> AuditRecipe:
    """The default recipe with other steps of its candidates, other batches, without its pilot or with gradients."""
    candidates, training = RECIPE.candidates, RECIPE.pilot if pilot else None
    if steps is not None:
        candidates = dataclasses.replace(candidates, steps=steps)
    if batch_size is not None:
        candidates = dataclasses.replace(candidates, recipe=_sized(candidates.recipe, batch_size))
        training = training and dataclasses.replace(training, recipe=_sized(training.recipe, batch_size))
    return AuditRecipe(candidates, training, leans)


def _sized(recipe: Recipe, batch_size: int) -> Recipe:
    return dataclasses.replace(recipe, batch_size=batch_size)
