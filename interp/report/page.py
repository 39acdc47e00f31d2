"""One page from one run: which part shows what, in which order, and how it was made.

page = shell(header, verdicts, picture, groups of sections, provenance). Text from data is escaped, drawings and rows
travel packed, and the hashes of the two scripts (W3C Content Security Policy Level 3) keep the page from running or
loading anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.core.doors import door
from interp.core.runs import Run, write_atomic
from interp.report.contents import Contents, Figure, read_contents
from interp.report.markup import anchor, cell, flat, frame_table, pairs, text
from interp.report.payload import cuts, fitted, shell
from interp.report.sections import SECTIONS, Section, section_of
from interp.report.token_viewer import is_token_table, token_viewer
from interp.report.verdict_cards import control_table, decisions, margin_table, verdict_cards

MARGINS = (
    "The trait margin of every member: the mean log-probability of the target minus the mean of its foils, at the "
    "answers to the trait's questions, in nats; positive prefers the target."
)
CONTROLS = "What guards each claim: its level and bounds, and the measurements taken beside it."


@door
def write_report(run: Run) -> Path:
    """Write report.html into the run folder, at most 6 MB and byte for byte the same each time, and return its path.

    Where it would grow beyond that, the largest figures stay in their own files and the last rows of the largest
    tables in theirs, and the page says which. Raises InputError naming the file for verdicts, a summary, tables or
    figures that cannot be read, and for a run whose text alone is too large.
    """
    page = fitted(read_contents(run), _page)
    path = run.artefact("report.html")
    write_atomic(path, page)
    return path


def _page(contents: Contents) -> str:
    opening, groups = _opening(contents), _groups(contents)
    body = [_part(title, content) for title, content in opening.items()]
    body += [_group(title, parts) for title, parts in groups.items()]
    made = _provenance(contents)
    body.append(_part("How this was made", made))
    links = [*opening, *groups, "How this was made"]
    title = title_of(contents)
    return shell(contents, title=title, header=_header(contents, links), body="\n".join(body))


def _part(title: str, body: str, level: int = 2) -> str:
    return f'<section id="{anchor(title)}"><h{level}>{text(title)}</h{level}>\n{body}\n</section>'


def _group(title: str, parts: Mapping[str, str]) -> str:
    inner = "\n".join(_part(name, body, 3) for name, body in parts.items())
    return _part(title, inner)


def _opening(contents: Contents) -> dict[str, str]:
    """What the page opens with: the verdicts, and the one picture that matters."""
    parts = {"Verdicts": verdict_cards(contents.verdicts)}
    picture, lineages = _picture(contents), contents.summary.get("lineages") or []
    if picture or lineages:
        title = "Every member" if lineages or picture == "margins" else "At a glance"
        parts[title] = _glance(contents, picture, lineages)
    return parts


def _groups(contents: Contents) -> dict[str, dict[str, str]]:
    """Group, then title and body of every section that has something to show, in reading order."""
    lineages, picture = contents.summary.get("lineages") or [], _picture(contents)
    figures = {name: figure for name, figure in contents.figures.items() if name != picture}
    tables = {name: table for name, table in contents.tables.items() if not (lineages and name == "margins")}
    groups: dict[str, dict[str, str]] = {section.group: {} for section in SECTIONS}
    if controls := control_table(contents.verdicts):
        groups["Controls"]["Controls of the verdicts"] = f'<p class="sees">{CONTROLS}</p>\n{controls}'
    for section in SECTIONS:
        names = [name for name in sorted({*figures, *tables}) if section_of(name) is section]
        if names:
            mine = [(name, figures.get(name), tables.get(name)) for name in names]
            groups[section.group][section.title] = _section(contents, section, mine)
    return {title: parts for title, parts in groups.items() if parts}


def _picture(contents: Contents) -> str | None:
    """The one picture that matters: the margins, else what was transmitted, else the first figure."""
    known = (name for name in ("margins", "transmission") if name in contents.figures)
    return next(known, next(iter(contents.figures), None))


def _glance(contents: Contents, picture: str | None, lineages: Sequence[Mapping[str, Any]]) -> str:
    """The picture with what it shows, and the margin of every member of every lineage."""
    shown = ""
    if picture:
        sees = MARGINS if picture == "margins" else section_of(picture).sees
        drawn = draw_figure(picture, contents.figures[picture], _notes(contents, picture), 3)
        shown = f'<p class="sees">{text(sees)}</p>\n{drawn}\n'
    if not lineages:
        return shown
    return (
        shown
        + (f'<p class="sees">{text(MARGINS)}</p>\n' if picture != "margins" else "")
        + margin_table(lineages)
    )


def _section(
    contents: Contents, section: Section, artefacts: Sequence[tuple[str, Figure | None, Any]]
) -> str:
    """Figures with their tables folded below; token tables first, as coloured text."""
    rows = {name: table for name, _, table in artefacts if table is not None and is_token_table(table)}
    pieces = [f'<p class="sees">{text(section.sees)}</p>', token_viewer(rows, contents.rows) if rows else ""]
    for name, figure, table in artefacts:
        notes = _notes(contents, name)
        if figure is not None:
            pieces.append(draw_figure(name, figure, notes))
        if table is not None and name not in rows:
            pieces.append(frame_table(name, table, folded=figure is not None))
        if figure is None and notes:
            pieces.append(f"<div>{notes}</div>")
    return "\n".join(filter(None, pieces))


def _notes(contents: Contents, name: str) -> str:
    """What the verb that made an artefact noted about it, as run.json keeps it under "notes"."""
    known = contents.record.get("notes") or {}
    return "".join(f"<p>{text(note)}</p>" for note in known.get(name, ()))


def draw_figure(name: str, figure: Figure, notes: str, level: int = 4) -> str:
    """A figure with its title as a heading of `level`, its axes as the label of the picture, notes below."""
    caption = f"<figcaption>{notes}</figcaption>" if notes else ""
    plot = (
        f'<div class="plot" role="img" data-figure="{text(name)}" style="min-height:{figure.height}px" '
        f'aria-label="{text(f"{figure.title}; {figure.axes}")}"></div>'
    )
    if figure.drawing is None:
        plot = (
            f"<p>Too large for this page: open figures/{text(name.rpartition('/')[2])}.html of the run.</p>"
        )
    head = f"<h{level}>{text(figure.title)}</h{level}>"
    return f'<figure class="card">{head}{plot}{caption}</figure>'


def title_of(contents: Contents) -> str:
    """The command of a run and what it was about."""
    subject = contents.summary.get("trait") or contents.summary.get("toward")
    return f"interp {contents.record.get('command')}" + (f": {subject}" if subject else "")


def _header(contents: Contents, parts: Iterable[str]) -> str:
    words = ", ".join(
        f"{text(name)} = {cell(value)}" for name, value in contents.record.get("arguments", {}).items()
    )
    facts = {
        name: cell(value)
        for name, value in contents.summary.items()
        if name not in ("kind", "trait", "lineages") and value and not isinstance(value, Mapping)
    }
    links = "".join(f'<li><a href="#{anchor(part)}">{text(part)}</a></li>' for part in parts)
    return (
        f'<header><h1>{text(title_of(contents))}</h1>\n<p class="lede">{decisions(contents.verdicts)}</p>\n'
        f'<p class="soft">{f"Run with {words}." if words else "Run with every default."}</p>\n'
        f'{pairs(facts)}<nav aria-label="Sections"><ul>{links}</ul></nav></header>'
    )


def _provenance(contents: Contents) -> str:
    """Command, configuration, seeds, commit, stages, and folded: versions, fingerprints and data; no times."""
    record = contents.record
    facts = {
        "command": f"<code>interp {text(record.get('command'))}</code>",
        "git commit": f"<code>{text(commit_of(record))}</code>",
    }
    facts |= {
        "seeds": cell(record.get("seeds")),
        "configuration digest": f"<code>{cell(record.get('digest'))}</code>",
    }
    given = record.get("arguments", {})
    configuration = {
        name: cell(value) + ("" if name.split(" ")[0] in given else " <small>(default)</small>")
        for name, value in flat(record.get("configuration", {}))
    }
    stages = {
        name: f"<code>{cell(stage.get('key'))}</code>" for name, stage in record.get("stages", {}).items()
    }
    folded = {"Stages and their keys": stages} | {
        title: {key: f"<code>{cell(value)}</code>" for key, value in flat(record.get(name) or {})}
        for title, name in (
            ("Versions", "versions"),
            ("Weights' fingerprints", "fingerprints"),
            ("Data hashes", "data"),
        )
    }
    sees = (
        "Everything that decided these numbers; the same configuration, weights and data give the same page."
    )
    details = "".join(
        f"<details><summary>{title}</summary>{pairs(cells)}</details>"
        for title, cells in folded.items()
        if cells
    )
    room = "".join(f"<li>{text(line)}</li>" for line in cuts(contents))
    left = f'<div class="card"><h3>Left out for room</h3><ul>{room}</ul></div>' if room else ""
    return (
        f'<p class="sees">{sees}</p><div class="card">{pairs(facts)}</div>'
        f'<div class="card"><h3>Configuration</h3>{pairs(configuration) or "none"}</div>{details}{left}'
    )


def commit_of(record: Mapping[str, Any]) -> str:
    """The commit a run was made at, and whether the checkout had changes."""
    git = record.get("git") or {}
    changed = " with uncommitted changes" if git.get("dirty") else ""
    return str(git.get("commit") or "outside a checkout") + changed
