"""Two runs on one page: what was decided otherwise, which numbers differ, what was set otherwise, figures in pairs.

difference = B − A, for every number both summaries hold under the same name and for the effect of every claim.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from interp.core.doors import door
from interp.core.runs import InputError, Run, write_atomic
from interp.report.contents import Contents, Figure, read_contents
from interp.report.markup import MISSING, anchor, cell, finite, flat, number, scroll, text
from interp.report.page import commit_of, draw_figure, title_of
from interp.report.payload import fitted, shell
from interp.report.verdict_cards import decided, drawing, mean, numbers_told, tone

SIDES = ("A", "B")
Verdicts = Sequence[Mapping[str, Any]]


@door
def compare_runs(run_a: Run, run_b: Run, *, out: str | Path) -> Path:
    """Write one page with both runs side by side to the file `out`, at most 6 MB, and return its path.

    Claims and figures are paired by name, numbers by where they stand in the summary; every difference is B − A in
    the unit of the number. Changed decisions come first. Raises InputError for the same folder twice, for a folder as
    `out`, and naming the file for anything in a run that cannot be read.
    """
    if run_a.folder.resolve() == run_b.folder.resolve():
        raise InputError(f"{run_a.folder} is named twice; pass the folders of two different runs to compare")
    path = Path(out)
    if path.is_dir():
        raise InputError(f"{path} is a folder; pass a file for the page, such as {path / 'comparison.html'}")
    a, b = read_contents(run_a), read_contents(run_b)
    names = _names(run_a.folder, run_b.folder)
    both = replace(a, figures=_paired(a, b), tables={}, rows={}, plotly=a.plotly or b.plotly)
    write_atomic(path, fitted(both, lambda kept: _page(a, b, kept, names)))
    return path


def _names(a: Path, b: Path) -> tuple[str, str]:
    """The folders' names, with those above where they are alike."""
    one, other = a.resolve().parts, b.resolve().parts
    depth = next((n for n in range(1, max(len(one), len(other)) + 1) if one[-n:] != other[-n:]), 1)
    return "/".join(one[-depth:]), "/".join(other[-depth:])


def _paired(a: Contents, b: Contents) -> dict[str, Figure]:
    """The figures of both, each under its side and name."""
    return {
        f"{side}/{name}": figure
        for side, contents in zip(SIDES, (a, b), strict=True)
        for name, figure in contents.figures.items()
    }


def _page(a: Contents, b: Contents, both: Contents, names: tuple[str, str]) -> str:
    parts = {
        "Verdicts side by side": _verdicts(a.verdicts, b.verdicts),
        "Numbers": _table(_numbers(a.summary), _numbers(b.summary), "Numbers of both summaries"),
        "What was set otherwise": _settings(a, b),
        "Figures in pairs": _figures(both, {*a.figures}, {*b.figures}),
    }
    title = f"Comparison: {names[0]} and {names[1]}"
    links = "".join(f'<li><a href="#{anchor(part)}">{text(part)}</a></li>' for part in parts)
    runs = "".join(
        f"<dt>{side}</dt><dd>{text(name)} <small>({text(title_of(contents))})</small></dd>"
        for side, name, contents in zip(SIDES, names, (a, b), strict=True)
    )
    header = (
        f'<header><h1>{text(title)}</h1>\n<p class="lede">{_changes(a.verdicts, b.verdicts)}</p><dl>{runs}</dl>'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>'
    )
    body = "\n".join(
        f'<section id="{anchor(part)}"><h2>{text(part)}</h2>\n{content}\n</section>'
        for part, content in parts.items()
    )
    return shell(both, title=title, header=header, body=body)


def _by_name(verdicts: Verdicts) -> dict[str, Mapping[str, Any]]:
    return {str(verdict.get("name")): verdict for verdict in verdicts}


def _order(a: Verdicts, b: Verdicts) -> tuple[list[str], list[str], list[str]]:
    """Names of claims decided otherwise, judged on one side only, and decided alike."""
    one, other = _by_name(a), _by_name(b)
    shared = [name for name in one if name in other]
    changed = [name for name in shared if one[name].get("decision") != other[name].get("decision")]
    alone = [*(name for name in one if name not in other), *(name for name in other if name not in one)]
    return changed, alone, [name for name in shared if name not in changed]


def _changes(a: Verdicts, b: Verdicts) -> str:
    changed, alone, alike = _order(a, b)
    if not (changed or alone or alike):
        return "Neither run judges a claim."
    one = f"{len(alone)} judged in one run only, " if alone else ""
    return f"{len(changed)} of {len(changed) + len(alike)} shared claims decided otherwise, {one}{len(alike)} alike."


def _verdicts(a: Verdicts, b: Verdicts) -> str:
    changed, alone, alike = _order(a, b)
    one, other = _by_name(a), _by_name(b)
    what = dict.fromkeys(changed, "Decided otherwise") | dict.fromkeys(alone, "In one run only")
    what |= dict.fromkeys(alike, "Decided alike")
    cards = "\n".join(_pair(name, one.get(name), other.get(name), said) for name, said in what.items())
    return cards or "<p>Neither run judges a claim.</p>"


def _pair(name: str, a: Mapping[str, Any] | None, b: Mapping[str, Any] | None, said: str) -> str:
    """One claim with what each run decided, and by how much the effect differs."""
    claims = list(dict.fromkeys(str(one.get("claim")) for one in (a, b) if one))
    words = "".join(f'<p class="claim">{text(claim.rstrip("."))}.</p>' for claim in claims)
    if len(claims) > 1:
        words += '<p class="soft">The two runs word this claim differently.</p>'
    gap = _gap((a or {}).get("effect"), (b or {}).get("effect"))
    units = {str(one.get("unit") or "") for one in (a, b) if one}
    moved = f" Effect B − A: <b>{gap} {text(units.pop())}</b>." if gap != MISSING and len(units) == 1 else ""
    sides = "".join(_side(side, *both) for side, both in zip(SIDES, ((a, b), (b, a)), strict=True))
    return (
        f'<article class="card"><h3>{text(said)} <code>{text(name)}</code></h3>{words}'
        f'<p class="soft">{moved}</p><div class="two">{sides}</div></article>'
    )


def _side(side: str, verdict: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> str:
    if verdict is None:
        return f'<div><h4>{side}</h4><p class="soft">Not judged in this run.</p></div>'
    return (
        f'<div class="side verdict {tone(verdict)}"><h4>{side}: {decided(verdict)}</h4>'
        f"{drawing(verdict, other)}<p>{numbers_told(verdict)}</p></div>"
    )


def _gap(a: Any, b: Any) -> str:
    if not (finite(a) and finite(b)):
        return MISSING
    return number(b - a, signed=True) if a != b else "0"


def _numbers(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Every number of a summary by where it stands, and the mean margin of every member over the lineages."""
    lineages = summary.get("lineages") or []
    plain = {name: value for name, value in summary.items() if name != "lineages"}
    names = dict.fromkeys(name for lineage in lineages for name in lineage["members"])
    means = {
        f"mean margin of {name} (nats)": mean([lineage["members"].get(name) for lineage in lineages])
        for name in names
    }
    count = {"lineages": len(lineages)} if lineages else {}
    return {name: value for name, value in (*flat(plain), *count.items(), *means.items()) if finite(value)}


def _settings(a: Contents, b: Contents) -> str:
    """What differs of configuration, code and versions, and how much is alike."""
    one, other = ({name: cell(value) for name, value in _set(contents.record)} for contents in (a, b))
    names = dict.fromkeys([*one, *other])
    apart = [name for name in names if one.get(name) != other.get(name)]
    alike = f'<p class="sees">{len(apart)} of {len(names)} settings and versions differ.</p>'
    if not apart:
        return alike
    rows = ([text(name), one.get(name, MISSING), other.get(name, MISSING)] for name in apart)
    return alike + _written(["setting", *SIDES], rows, "Settings that differ", numeric=False)


def _set(record: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    yield "command", record.get("command")
    yield "git commit", commit_of(record)
    yield from flat(record.get("configuration") or {})
    yield from ((f"version of {name}", value) for name, value in flat(record.get("versions") or {}))


def _table(a: Mapping[str, Any], b: Mapping[str, Any], label: str) -> str:
    names = dict.fromkeys([*a, *b])
    if not names:
        return "<p>Neither summary holds a number.</p>"
    rows = (
        [text(name), number(a.get(name)), number(b.get(name)), _gap(a.get(name), b.get(name))]
        for name in names
    )
    return _written(["number", *SIDES, "B − A"], rows, label, numeric=True)


def _written(head: Sequence[str], rows: Iterable[Sequence[str]], label: str, *, numeric: bool) -> str:
    """A table of cells that are already escaped."""
    kind = ' class="n"' if numeric else ""
    heads = "".join(f'<th scope="col"{kind if place else ""}>{one}</th>' for place, one in enumerate(head))
    lines = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td{kind}>{one}</td>" for one in row[1:]) + "</tr>"
        for row in rows
    )
    table = f"<table><caption>{label}</caption><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"
    return f'<div class="card">{scroll(table, label)}</div>'


def _figures(both: Contents, a: set[str], b: set[str]) -> str:
    shared = sorted(a & b)
    pairs = "\n".join(
        '<div class="two">'
        + "".join(
            draw_figure(f"{side}/{name}", replace(figure, title=f"{side}: {figure.title}"), "", 3)
            for side in SIDES
            for figure in [both.figures[f"{side}/{name}"]]
        )
        + "</div>"
        for name in shared
    )
    alone = "".join(
        f'<p class="soft">Only in {side}: {text(", ".join(sorted(names)))}.</p>'
        for side, names in (("A", a - b), ("B", b - a))
        if names
    )
    return (pairs + alone) or "<p>Neither run holds a figure.</p>"
