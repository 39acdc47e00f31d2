"""What a fine-tune changed, of models in folders: a run folder with its page, and the evidence as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

from interp.auditing.files import open_base, open_trained
from interp.auditing.placebos import placebo_students
from interp.core.errors import InputError
from interp.core.runs import Run, digest
from interp.discovery.comparing import own_openings
from interp.discovery.discovering import Discovery, check_count, discover, readable
from interp.models.loading import Loading
from interp.prompts.text import Prompts
from interp.prompts.tokenizer_keys import tokenizer_key
from interp.prompts.trait_files import find_trait
from interp.report.saving import finish, save

FORMAT = 2  # raise when the same arguments make another result


def discover_file(
    base: str,
    member: str,
    *,
    out: Path,
    baseline: str | None = None,
    text: Path | None = None,
    limit: int | None = None,
    how: dict[str, Any] | None = None,
    placebos: dict[str, Any] | None = None,
    **loading: Unpack[Loading],
) -> Run:
    """Discover what a member changed into a run folder; evidence.json holds all of it for another reader.

    Of `text` the first `limit` rows are read. `how` is what else `discover` takes (trait, words, seed, and openings as
    a file, see `read_openings`), `placebos` count, rows (a file) and recipe of their trainings. Raises InputError as
    `discover` does: before a model is loaded for files and traits that cannot be read and for too few placebos, and
    before a placebo is trained for all else.
    """
    asked = {"trait": None, "words": None, "seed": 0, "openings": None, **(how or {})}
    made, begun = placebos or {}, asked.pop("openings")
    trait = None if asked["trait"] is None else find_trait(asked["trait"])
    given = None if text is None else Prompts.from_file(text, limit=limit)
    openings = None if begun is None else read_openings(begun)
    rows = None if made.get("rows") is None else Prompts.from_file(made["rows"])
    if made and rows is None:
        raise InputError(
            "placebos are trained on the base's own answers to the member's prompts; pass its rows, or no placebos"
        )
    check_count(made.get("count", 0))
    named = {"base": base, "member": member, "baseline": baseline, "text": text and str(text), "limit": limit}
    named |= {} if begun is None else {"openings": str(begun)}
    run = Run.open(out, command="discover", arguments=named, defaults={**asked, "placebos": _plain(made)})
    start = open_base(base, **loading)
    trained = open_trained("member", member, start)
    other = None if baseline is None else open_trained("baseline", baseline, start)
    models = {"base": start, "member": trained, **({} if other is None else {"baseline": other})}
    prints = {role: model.fingerprint for role, model in models.items()}
    run.note(fingerprints=prints)
    data = [
        None if each is None else each.fingerprint for each in (given, rows, own_openings(start, openings))
    ]
    key = digest(FORMAT, prints, tokenizer_key(start.tokenizer), *data, trait, asked, made)

    def build() -> None:
        how, null = {**asked, "trait": trait, "text": given, "openings": openings}, []
        if rows is not None:
            readable(start, trained, other, **how, placebos=made["count"])
            null = placebo_students(start, rows, recipe=made["recipe"], count=made["count"])
        found = discover(start, trained, other, **how, placebos=null)
        _save(run, found)

    run.stage("discover", key=key, build=build)
    finish(run)
    return run


def read_openings(path: Path) -> list[str] | Prompts:
    """Beginnings of answers from a file: a line of a .txt is one, of any other rows a question and a beginning.

    Raises InputError for a file that cannot be read or holds none.
    """
    if path.suffix.lower() != ".txt":
        return Prompts.from_file(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as text ({error}); write an opening a line, in UTF-8"
        ) from error
    if not (found := [line for line in lines if line]):
        raise InputError(f"{path} holds no opening; write one a line")
    return found


def _plain(made: dict[str, Any]) -> dict[str, Any]:
    """How placebos are made, for the record."""
    return {**made, "rows": str(made["rows"]), "recipe": repr(made["recipe"])} if made else {}


def _save(run: Run, found: Discovery) -> None:
    """Every table, the figure of the words, the evidence, and what the page opens with."""
    evidence = found.to_json()
    for name, table in found.tables().items():
        save(run, f"discovered_{name}", table, drawn=table.draw is not None)
    run.save_json("evidence", evidence)
    said = {name: evidence[name] for name in ("label", "found", "placebos", "notes")}
    run.save_json("summary", {"kind": "discover", "story": found.story, **said})
