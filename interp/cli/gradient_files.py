"""Directions, scores and ledgers asked for in words: what the commands `interp score` and `interp ledger` do.

update:PATH is θ(PATH) − θ(base), trait:NAME is ∇θ of that trait's margin at the base, and FILE.safetensors holds
tensors by weight name. Everything cheap is checked before a model is loaded, and files appear whole or not at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from interp.core.runs import InputError, Run, digest, nearest
from interp.gradients.directions import trait_gradient
from interp.gradients.ledger.ledgers import Ledger, trait_ledger
from interp.gradients.ledger.recording import trained_from
from interp.gradients.scores.plan import check_keys
from interp.gradients.scores.preparation import check_rows
from interp.gradients.scores.scoring import Scores, score, standard_errors
from interp.models.kept import kept_folder
from interp.models.language import load_model
from interp.models.lineage import Lineage, open_lineage
from interp.models.loading import Loading, find_folder
from interp.models.membership import MANIFEST
from interp.models.parameters import ParameterDirection, read_direction
from interp.organisms.library import load_lineage
from interp.prompts.text import Prompts
from interp.prompts.tokenizer_keys import tokenizer_key
from interp.prompts.trait_files import find_trait

if TYPE_CHECKING:
    from interp.models.language import LanguageModel

FORMS = "pass update:PATH, trait:NAME or a .safetensors file"
Reader = Callable[["LanguageModel"], ParameterDirection]


def score_file(
    base: str,
    data: Path,
    directions: Sequence[str],
    *,
    out: Path,
    by: str | Collection[str] = ("example",),
    limit: int | None = None,
    **loading: Unpack[Loading],
) -> Scores:
    """Score the rows of a JSONL file at a base along named directions and write the table to `out` (parquet).

    Only the first `limit` rows are read; `loading` holds dtype, device and revision of the base. Raises InputError for
    a limit below 1, a direction or metric that cannot be read, and where `score` does.
    """
    return score_beside(base, data, directions, neutral=None, out=out, by=by, limit=limit, **loading)[0]


def score_beside(
    base: str,
    data: Path,
    directions: Sequence[str],
    *,
    neutral: Path | None,
    out: Path,
    by: str | Collection[str] = ("example",),
    limit: int | None = None,
    **loading: Unpack[Loading],
) -> tuple[Scores, Scores | None]:
    """`score_file`, and the scores of a neutral teacher's rows along the same directions, which are not written."""
    check_keys(by)
    _check_table(out)
    readers = [direction_reader(text) for text in directions]
    given = [Prompts.from_file(path, limit=limit) for path in (data, neutral) if path is not None]
    model = load_model(base, **loading)
    inputs = [model.encode(rows) for rows in given]
    for each in inputs:
        check_rows(each)
    read = [reader(model) for reader in readers]
    scores = score(model, inputs[0], read, by=by)
    scores.save(out)
    return scores, score(model, inputs[1], read, by=["example"]) if len(inputs) > 1 else None


def score_summary(scores: Scores, neutral: Scores | None = None) -> dict[str, Any]:
    """Rows, route and, of every direction, the mean score, its standard error over rows and the share above zero; of
    neutral rows scored likewise their number, mean and standard error beside them."""
    totals = scores.totals
    means, positive = totals.mean(0).tolist(), (totals > 0).double().mean(0).tolist()
    errors, beside = standard_errors(scores), [{} for _ in scores.directions]
    if neutral is not None:
        theirs = zip(neutral.totals.mean(0).tolist(), standard_errors(neutral), strict=True)
        beside = [
            {"neutral_rows": len(neutral), "neutral_mean": mean, "neutral_standard_error": error}
            for mean, error in theirs
        ]
    return {
        "rows": len(scores),
        "label": scores.label,
        "by": list(scores.by),
        "unit": scores.unit,
        "route": scores.plan.route,
        "reason": scores.plan.reason,
        "cost": scores.plan.cost,
        "notes": list(scores.notes),
        "directions": [
            {
                "direction": label,
                "mean": means[k],
                "standard_error": errors[k],
                "share_positive": positive[k],
                **beside[k],
            }
            for k, label in enumerate(scores.directions)
        ],
    }


def ledger_file(
    name: str,
    student: str = "student",
    *,
    seed: int | None = None,
    out: Path | None = None,
    trait: str | None = None,
    base: str | None = None,
    **loading: Unpack[Loading],
) -> Ledger:
    """Compute the ledger of a member of a lineage: an organism such as toy/owl (`seed`, default 0) or a folder.

    `base` is the checkpoint of a lineage that is kept without it, such as smollm2/owl. `trait`, a name or a YAML file,
    is asked about instead of the lineage's own; `loading` holds dtype, device and revision. With `out`, its tables and
    figures are written to that run folder; nothing is written for bad input. Raises InputError for a seed beside a
    lineage folder, and where `load_lineage` and `trait_ledger` do.
    """
    grown = not (kept_folder(name) / MANIFEST).is_file()
    if seed is not None and (Path(name) / MANIFEST).is_file():
        raise InputError(f"seed {seed} grows an organism and {name} is a lineage folder; leave out the seed")
    arguments = {"lineage": name, "student": student, **({"seed": seed or 0} if grown else {})}
    given = {"trait": trait, "base": base}
    arguments |= {key: value for key, value in given.items() if value is not None}
    if out is not None and out.exists() and (out.is_file() or any(out.iterdir())):
        _open(out, arguments)  # refuses what is not this run before anything is computed
    lineage = load_lineage(name, seed=seed, base=base, trait=trait, **loading)
    trained_from(lineage, student)
    ledger = trait_ledger(lineage, student)
    if out is not None:
        run = _open(out, arguments)
        prints = {role: lineage[role].fingerprint for role in (student, lineage.started_from[student])}
        run.note(fingerprints=prints)
        key = digest(prints, lineage.trait, tokenizer_key(lineage.base.tokenizer))
        run.stage("ledger", key=key, build=lambda: _write(run, ledger, lineage, student))
    return ledger


def ledger_summary(ledger: Ledger) -> dict[str, Any]:
    """Measured, attributed and residual change of margin in nats, and what every module accounts for."""
    modules = ledger.by_module()
    rows: Any = ledger.rows["row"]
    return {
        "label": ledger.label,
        "unit": ledger.unit,
        "measured": ledger.measured,
        "attributed": ledger.attributed,
        "residual": ledger.residual,
        "steps": len(ledger.steps),
        "rows": int(rows.nunique()),
        "modules": dict(zip(modules["module"], modules["attributed"], strict=True)),
        "notes": list(ledger.notes),
    }


def _open(out: Path, arguments: dict[str, Any]) -> Run:
    return Run.open(out, command="ledger", arguments=arguments, defaults={})


def _write(run: Run, ledger: Ledger, lineage: Lineage, student: str) -> None:
    tables = {"modules": ledger.by_module(), "steps": ledger.steps, "steps_modules": ledger.modules}
    for name, table in {**tables, "rows": ledger.by_row(), "rows_steps": ledger.rows}.items():
        run.save_table(f"ledger_{name}", table)
    run.save_figure("ledger_modules", ledger.figure())
    run.save_figure("ledger_course", ledger.course())
    trait = "" if lineage.trait is None else lineage.trait.name
    summary = {"kind": "ledger", "lineage": lineage.name, "student": student, "trait": trait}
    run.save_json("summary", summary | ledger_summary(ledger))


def direction_reader(text: str) -> Reader:
    """What reads, at a model, the direction that `text` names, labelled by that text.

    update:PATH, a fine-tuned model or an adapter of it (adapters stay low-rank); trait:NAME, the gradient of the margin
    of a built-in trait or of a YAML file's; or a safetensors file. Raises InputError for another prefix, an unknown
    trait and a missing file, and the reader for tensors that do not fit the model or belong to other weights.
    """
    prefix, colon, rest = text.partition(":")
    if colon and prefix in READERS:
        if not rest:
            raise InputError(f"direction {text!r} names nothing after the colon; {FORMS}")
        return _labelled(READERS[prefix](rest), text)
    if not text.endswith(".safetensors"):
        named = f"prefix {nearest(prefix, READERS)}" if colon else f"direction {text!r} is of no known form"
        raise InputError(f"{named}; {FORMS}")
    if not Path(text).is_file():
        raise InputError(f"there is no file {text}; {FORMS}")
    return _labelled(lambda model: read_direction(text, model), text)


def _update(path: str) -> Reader:
    folder = find_folder(path)
    return lambda model: open_lineage(base=model, teacher=str(folder)).update("teacher")


def _trait(name: str) -> Reader:
    trait = find_trait(name)
    return lambda model: trait_gradient(model, trait)


READERS = {"update": _update, "trait": _trait}


def _labelled(read: Reader, text: str) -> Reader:
    return lambda model: dataclasses.replace(read(model), label=text)


def _check_table(out: Path) -> None:
    """InputError for a place where no parquet file can stand."""
    if out.suffix != ".parquet":
        raise InputError(
            f"scores are written as parquet and {out} ends otherwise; name a file ending in .parquet"
        )
    if out.is_dir():
        raise InputError(f"{out} is a folder; name a file ending in .parquet")
