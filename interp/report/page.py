"""One page from one run: which part shows what, in which order, and how it was made.

page = template(what happened, verdicts, groups of sections, provenance). The templates escape all text, drawings and
rows travel packed, and the hashes of the two scripts (W3C Content Security Policy Level 3) keep the page from running
or loading anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.core.doors import door
from interp.core.runs import Run, write_atomic
from interp.report.cells import cell, flat
from interp.report.contents import Contents, read_contents
from interp.report.payload import cuts, filled, fitted
from interp.report.sections import SECTIONS, Section, section_of
from interp.report.token_tables import is_token_table
from interp.report.verdict_cards import decisions

OPENING, NULL = "What happened", "What did not show"
SHOWN = ("supported", "holds")
BEHIND = section_of("parts")
"""Where the tables stand, folded, that their own section does not draw."""
TOLD = ("story", "short", "models")
"""What a summary may tell at the top of its page: sentences, the finding in bold before every claim, and the models."""

Part = tuple[Section, list[str], dict[str, tuple[int, int]]]
"""A section, the artefacts it shows, and of its token tables how many rows stand on the page and how many there are."""


@door
def write_report(run: Run) -> Path:
    """Write report.html into a run folder: everything the run holds on one page, byte for byte the same each time.

    The page has at most 6 MB. Where it would grow beyond that, the largest figures and the last rows of the largest
    tables stay in their own files, and the page says which.

    Args:
        run: the run folder.

    Returns:
        The path of the page.

    Raises:
        InputError: naming the file, for verdicts, a summary, tables or figures that cannot be read; for a run whose
            text alone is too large.

    Example:
        >>> import interp
        >>> run = interp.Run.open("runs/mine", command="mine", arguments={}, defaults={})
        >>> interp.write_report(run).name
        'report.html'
    """
    page = fitted(read_contents(run), _page)
    path = run.artefact("report.html")
    write_atomic(path, page)
    return path


def _page(contents: Contents) -> str:
    record, summary = contents.record, contents.summary
    lineages = summary.get("lineages") or []
    shown, null = _parted(contents.verdicts)
    tables = {name: table for name, table in contents.tables.items() if not (lineages and name == "margins")}
    groups = _groups(contents, sorted({*contents.figures, *tables}))
    return filled(
        "run.html",
        contents,
        title=title_of(contents),
        lede=decisions(contents.verdicts),
        links=_links(groups, contents.verdicts, null),
        opening=OPENING,
        shown=shown,
        null=null,
        record=record,
        given={
            name: value for name, value in record.get("arguments", {}).items() if value not in (None, [], "")
        },
        story=[str(said) for said in summary.get("story") or []],
        short=[str(said) for said in summary.get("short") or []],
        models=list(summary.get("models") or []),
        facts={
            name: value
            for name, value in summary.items()
            if name not in (*TOLD, "kind", "trait", "lineages") and value and not isinstance(value, Mapping)
        },
        lineages=lineages,
        groups=groups,
        tables=tables,
        notes=record.get("notes") or {},
        of_table=record.get("of_table") or {},
        says=record.get("says") or {},
        commit=commit_of(record),
        folded=_folded(record),
        cuts=cuts(contents),
    )


def _links(groups: Mapping[str, Any], verdicts: Sequence[Any], null: Sequence[Any]) -> list[str]:
    """The parts of the page in reading order."""
    rest = [group for group in groups if group != OPENING]
    opening, judged = [OPENING] * (OPENING in groups), ["Verdicts"] * bool(verdicts)
    return [*opening, *judged, *rest, *[NULL] * bool(null), "How this was made"]


def _parted(verdicts: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Any]]:
    """The claims that the data support and the checks that hold, and those that did not show."""
    shown = [verdict for verdict in verdicts if verdict.get("decision") in SHOWN]
    return shown, [verdict for verdict in verdicts if verdict not in shown]


def _groups(contents: Contents, names: Sequence[str]) -> dict[str, list[Part]]:
    """Every group that has something to show, in reading order: its sections, each with the artefacts it shows."""
    groups: dict[str, list[Part]] = {section.group: [] for section in SECTIONS}
    tables = {name for name in names if name not in contents.figures and not _is_rows(contents, name)}
    homes = {
        name: BEHIND if name in tables and section_of(name).folds else section_of(name) for name in names
    }
    for section in SECTIONS:
        mine = [name for name in names if homes[name] is section]
        rows = [name for name in mine if _is_rows(contents, name)]
        if mine:
            counts = {name: (contents.rows[name], contents.total(name)) for name in rows}
            groups[section.group].append((section, mine, counts))
    return {title: parts for title, parts in groups.items() if parts}


def _is_rows(contents: Contents, name: str) -> bool:
    return name in contents.tables and is_token_table(contents.tables[name])


def _folded(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What stands folded at the end: configuration, keys of the stages, versions, fingerprints and data; no times."""
    stages = {name: stage.get("key") for name, stage in record.get("stages", {}).items()}
    given, settings = record.get("arguments", {}), dict(flat(record.get("configuration", {})))
    told = {
        name: f"{cell(value)}{'' if name.split(' ')[0] in given else ' (default)'}"
        for name, value in settings.items()
    }
    kept = (("Versions", "versions"), ("Weights' fingerprints", "fingerprints"), ("Data hashes", "data"))
    found = {title: dict(flat(record.get(name) or {})) for title, name in kept}
    return {"Configuration": told, "Stages and their keys": stages} | found


def title_of(contents: Contents) -> str:
    """The command of a run and what it was about."""
    subject = contents.summary.get("trait") or contents.summary.get("toward")
    return f"interp {contents.record.get('command')}" + (f": {subject}" if subject else "")


def commit_of(record: Mapping[str, Any]) -> str:
    """The commit a run was made at, and whether the checkout had changes."""
    git = record.get("git") or {}
    changed = " with uncommitted changes" if git.get("dirty") else ""
    return str(git.get("commit") or "outside a checkout") + changed
