"""One page from one run: which part shows what, in which order, and how it was made.

page = template(style, script, plotly.js, parts). Text from data is escaped, figures travel as JSON, and the hashes of
the two scripts (W3C Content Security Policy Level 3) keep the page from running or loading anything else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from interp.report.contents import Contents, Figure, read_contents
from interp.report.markup import anchor, cell, flat, frame_table, pairs, text
from interp.report.tokens import is_token_table, token_rows
from interp.report.verdicts import decisions, margin_table, verdict_cards
from interp.runs import Run, write_atomic

log = logging.getLogger(__name__)

LIMIT = 6_000_000  # bytes of a page
MARGINS = (
    "The trait margin of every member: the mean log-probability of the target minus the mean of its foils, at the "
    "answers to the trait's questions, in nats; positive prefers the target."
)


@dataclass(frozen=True)
class Section:
    """A part of the page: the artefacts whose names start with a prefix, and what the reader sees in them."""

    title: str
    prefixes: tuple[str, ...]
    sees: str


SECTIONS = (
    Section(
        "What was transmitted",
        ("transmission", "scorecard", "confusion", "margins_by", "evaluation", "guards"),
        "The trait margin of each arm minus that of the same arm on the neutral teacher's rows, in nats, one point a "
        "training: positive took on the trait. The score card holds every measure with its unit; its intervals run "
        "over trainings or over questions, as each line says, and never over both.",
    ),
    Section(
        "Teacher by student",
        ("matrix",),
        "How far a student of each base (column) took on the trait from the rows of each base's teacher (row), minus "
        "the same student on that base's own rows, in nats: positive (red) took it on. A shared initialisation is the "
        "diagonal.",
    ),
    Section(
        "Who can see it in the numbers",
        ("detectors",),
        "How well each detector tells the trait teacher's rows from the neutral teacher's, as area under the ROC curve "
        "with its interval: 0.5 is guessing, 1 is always right.",
    ),
    Section(
        "Training and data",
        ("training", "data"),
        "Loss on the trained batch and on fresh rows of the same teacher, in nats per token, and the trait margin, in "
        "nats, over the steps; arms at equal loss; and how many answers each filter dropped.",
    ),
    Section(
        "Which logits moved",
        ("moved",),
        "How far the log-probability of each vocabulary entry moved at the positions read, member minus its own start "
        "on identical tokens, in nats: positive (red) became likelier.",
    ),
    Section(
        "Through which components",
        ("attribution", "lens"),
        "How much of the change of the trait's logit direction (target minus foils) each component contributed, and "
        "how much of it is there after each layer, member minus its own start, in logits: positive pushes toward "
        "the trait.",
    ),
    Section(
        "The weight update",
        ("spectrum",),
        "How large each weight matrix's change is, member minus its own start, in the units of the weights, and how "
        "far its top directions overlap the unembedding of the trait's and of number tokens, in log2 of overlap over "
        "chance: positive (red) is more than a random direction has.",
    ),
    Section(
        "Token entanglement",
        ("entanglement",),
        "How far each number goes with the trait's target, as log2 of its score for the target over that for the foils "
        "or for neutral rows (the unembedding's score is a difference of cosines): positive is tied to the target.",
    ),
    Section(
        "Which features moved",
        ("features",),
        "How much more each feature of a sparse dictionary is active in a member than in its own start on identical "
        "tokens, in the units of the feature: positive (red) became more active. The error is what the dictionary "
        "does not reconstruct.",
    ),
    Section(
        "The joined trace",
        ("joined",),
        "Each answer token carries its gradient score: what a step along the teacher's update would add to its "
        "log-probability at the base, in nats (red and + up, blue and − down). On hover or under the arrow keys are "
        "the teacher's change of logits and log-probability, the features it moved where the token is predicted, and "
        "the modules the score comes from. Under the row's number stands its share of the student's change of trait "
        "margin, in nats.",
    ),
    Section(
        "The rows, token by token",
        ("tokens",),
        "Each token carries the change of the trait's logit direction where that token is predicted, member minus its "
        "own start, in logits: red and + lean toward the trait, blue and − away from it; the change of the token's "
        "own log-probability, in nats, is on hover or under the arrow keys.",
    ),
    Section("More", ("",), "What else this run saved; every axis and column names its own unit and sign."),
)


def write_report(run: Run) -> Path:
    """Write report.html into the run folder, at most 6 MB and byte for byte the same each time, and return its path.

    The largest figures stay in their own files, and the page says where, when it would grow beyond that. Raises
    InputError naming the file for verdicts, a summary, tables or figures that cannot be read.
    """
    contents = read_contents(run)
    page = _page(contents)
    while len(page.encode()) > LIMIT and (drawn := _drawn(contents)):
        largest = max(drawn, key=lambda name: (len(drawn[name]), name))
        log.info("figure %s: too large for the page, left in its own file", largest)
        outside = {largest: replace(contents.figures[largest], drawing=None)}
        contents = replace(contents, figures=contents.figures | outside)
        page = _page(contents)
    path = run.artefact("report.html")
    write_atomic(path, page)
    return path


def _drawn(contents: Contents) -> dict[str, str]:
    return {name: figure.drawing for name, figure in contents.figures.items() if figure.drawing is not None}


def _page(contents: Contents) -> str:
    parts, script = _parts(contents), _template("report.js")
    drawings = ",".join(f"{json.dumps(name)}:{drawing}" for name, drawing in _drawn(contents).items())
    return Template(_template("report.html")).substitute(
        title=text(_title(contents)),
        hashes=" ".join(f"'{_hash(code)}'" for code in (contents.plotly, script)),
        style=_template("report.css"),
        header=_header(contents, parts),
        body="\n".join(
            f'<section id="{anchor(title)}"><h2>{text(title)}</h2>\n{body}\n</section>'
            for title, body in parts.items()
        ),
        figures=f"{{{drawings}}}".replace("<", "\\u003c"),
        plotly=contents.plotly,
        script=script,
    )


def _template(name: str) -> str:
    return files("interp.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(code: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


def _parts(contents: Contents) -> dict[str, str]:
    """Title and body of every part that has something to show, in reading order."""
    parts = {"Verdicts": verdict_cards(contents.verdicts)}
    picture, lineages = _picture(contents), contents.summary.get("lineages") or []
    if picture or lineages:
        parts["Every member" if lineages or picture == "margins" else "At a glance"] = _glance(
            contents, picture, lineages
        )
    figures = {name: figure for name, figure in contents.figures.items() if name != picture}
    tables = {name: table for name, table in contents.tables.items() if not (lineages and name == "margins")}
    for section in SECTIONS:
        names = sorted(name for name in {*figures, *tables} if name.startswith(section.prefixes))
        if names:
            mine = [(name, figures.pop(name, None), tables.pop(name, None)) for name in names]
            parts[section.title] = _section(section, mine, {name: _notes(contents, name) for name in names})
    return parts | {"How this was made": _provenance(contents.record)}


def _picture(contents: Contents) -> str | None:
    """The one picture that matters: the margins, else what was transmitted, else the first figure."""
    known = (name for name in ("margins", "transmission") if name in contents.figures)
    return next(known, next(iter(contents.figures), None))


def _glance(contents: Contents, picture: str | None, lineages: Sequence[Mapping[str, Any]]) -> str:
    """The picture with what it shows, and the margin of every member of every lineage."""
    shown = ""
    if picture:
        section = next(section for section in SECTIONS if picture.startswith(section.prefixes))
        sees = MARGINS if picture == "margins" else section.sees
        drawn = _draw(picture, contents.figures[picture], _notes(contents, picture))
        shown = f'<p class="sees">{text(sees)}</p>\n{drawn}\n'
    if not lineages:
        return shown
    return (
        shown
        + (f'<p class="sees">{text(MARGINS)}</p>\n' if picture != "margins" else "")
        + margin_table(lineages)
    )


def _section(
    section: Section, artefacts: Sequence[tuple[str, Figure | None, Any]], notes: Mapping[str, str]
) -> str:
    """Figures with their tables folded below; token tables first, as coloured text."""
    rows = {name: table for name, _, table in artefacts if table is not None and is_token_table(table)}
    pieces = [f'<p class="sees">{text(section.sees)}</p>', token_rows(rows) if rows else ""]
    for name, figure, table in artefacts:
        if figure is not None:
            pieces.append(_draw(name, figure, notes[name]))
        if table is not None and name not in rows:
            pieces.append(frame_table(name, table, folded=figure is not None))
        if figure is None and notes[name]:
            pieces.append(f"<div>{notes[name]}</div>")
    return "\n".join(filter(None, pieces))


def _notes(contents: Contents, name: str) -> str:
    """What the verb that made an artefact noted about it, as run.json keeps it under "notes"."""
    known = contents.record.get("notes") or {}
    return "".join(f"<p>{text(note)}</p>" for note in known.get(name, ()))


def _draw(name: str, figure: Figure, notes: str) -> str:
    caption = f"<figcaption>{notes}</figcaption>" if notes else ""
    plot = (
        f'<div class="plot" role="img" data-figure="{text(name)}" style="min-height:{figure.height}px" '
        f'aria-label="{text(f"{figure.title}; {figure.axes}")}"></div>'
    )
    if figure.drawing is None:
        plot = f"<p>Too large for this page: open figures/{text(name)}.html.</p>"
    return f'<figure class="card"><h3>{text(figure.title)}</h3>{plot}{caption}</figure>'


def _title(contents: Contents) -> str:
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
        f'<header><h1>{text(_title(contents))}</h1>\n<p class="lede">{decisions(contents.verdicts)}</p>\n'
        f'<p class="soft">{f"Run with {words}." if words else "Run with every default."}</p>\n'
        f'{pairs(facts)}<nav aria-label="Sections"><ul>{links}</ul></nav></header>'
    )


def _provenance(record: Mapping[str, Any]) -> str:
    """Command, configuration, seeds, commit, stages, and folded: versions, fingerprints and data; no times."""
    git = record.get("git") or {}
    commit = str(git.get("commit") or "outside a checkout") + (
        " with uncommitted changes" if git.get("dirty") else ""
    )
    facts = {
        "command": f"<code>interp {text(record.get('command'))}</code>",
        "git commit": f"<code>{text(commit)}</code>",
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
    return (
        f'<p class="sees">{sees}</p><div class="card">{pairs(facts)}</div>'
        f'<div class="card"><h3>Configuration</h3>{pairs(configuration) or "none"}</div>{details}'
    )
