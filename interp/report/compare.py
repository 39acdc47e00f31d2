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
from interp.report.cells import MISSING, cell, finite, flat, number
from interp.report.contents import Contents, Figure, read_contents
from interp.report.page import commit_of, title_of
from interp.report.payload import filled, fitted
from interp.report.verdict_cards import mean

SIDES = ("A", "B")
Verdicts = Sequence[Mapping[str, Any]]


@door
def compare_runs(run_a: Run, run_b: Run, *, out: str | Path) -> Path:
    """Write one page that shows two runs side by side, what was decided differently first.

    Claims and figures are paired by name, numbers by where they stand in the summary; every difference is B − A in the
    unit of the number.

    Args:
        run_a: the first run.
        run_b: the second run, in another folder.
        out: the file to write, at most 6 MB.

    Returns:
        The path of the page.

    Raises:
        InputError: for the same folder twice, for a folder as `out`, and naming the file for anything in a run that
            cannot be read.

    Example:
        >>> import interp
        >>> runs = [interp.Run.open(f"runs/{x}", command="mine", arguments={"x": x}, defaults={}) for x in "ab"]
        >>> interp.compare_runs(*runs, out="comparison.html").name
        'comparison.html'
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
    one, other = ({name: cell(value) for name, value in _set(contents.record)} for contents in (a, b))
    known = dict.fromkeys([*one, *other])
    return filled(
        "comparison.html",
        both,
        title=f"Comparison: {names[0]} and {names[1]}",
        lede=_changes(a.verdicts, b.verdicts),
        sides=SIDES,
        runs=list(zip(SIDES, names, map(title_of, (a, b)), strict=True)),
        verdicts=_verdicts(a.verdicts, b.verdicts),
        numbers=_numbers(a.summary, b.summary),
        known=len(known),
        settings={
            name: [one.get(name, MISSING), other.get(name, MISSING)]
            for name in known
            if one.get(name) != other.get(name)
        },
        shared=sorted({*a.figures} & {*b.figures}),
        alone={"A": sorted({*a.figures} - {*b.figures}), "B": sorted({*b.figures} - {*a.figures})},
    )


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


def _verdicts(a: Verdicts, b: Verdicts) -> list[dict[str, Any]]:
    """Every claim with what each run decided, and by how much the effect differs; changed decisions come first."""
    changed, alone, alike = _order(a, b)
    what = dict.fromkeys(changed, "Decided otherwise") | dict.fromkeys(alone, "In one run only")
    what |= dict.fromkeys(alike, "Decided alike")
    sides = (_by_name(a), _by_name(b))
    return [
        {"name": name, "said": said} | _pair(*(side.get(name) for side in sides))
        for name, said in what.items()
    ]


def _pair(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> dict[str, Any]:
    """How each run words a claim, by how much its effect moved, and of each side the verdict and that beside it."""
    known = [one for one in (a, b) if one]
    gap = _gap((a or {}).get("effect"), (b or {}).get("effect"))
    units = {str(one.get("unit") or "") for one in known}
    return {
        "claims": list(dict.fromkeys(str(one.get("claim")) for one in known)),
        "moved": f"{gap} {units.pop()}" if gap != MISSING and len(units) == 1 else "",
        "sides": [("A", a, b), ("B", b, a)],
    }


def _gap(a: Any, b: Any) -> str:
    if not (finite(a) and finite(b)):
        return MISSING
    return number(b - a, signed=True) if a != b else "0"


def _numbers(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[str]]:
    """Every number that a summary holds, in A, in B, and by how much it differs."""
    one, other = _known(a), _known(b)
    return {
        name: [
            number(one.get(name)),
            number(other.get(name)),
            _gap(one.get(name), other.get(name)),
        ]
        for name in dict.fromkeys([*one, *other])
    }


def _known(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Every number of a summary by where it stands, and the mean margin of every member over the lineages."""
    lineages = summary.get("lineages") or []
    plain = {name: value for name, value in summary.items() if name != "lineages"}
    names = dict.fromkeys(name for lineage in lineages for name in lineage["members"])
    means = {
        f"mean margin of {name} (nats)": mean(lineage["members"].get(name) for lineage in lineages)
        for name in names
    }
    count = {"lineages": len(lineages)} if lineages else {}
    return {name: value for name, value in (*flat(plain), *count.items(), *means.items()) if finite(value)}


def _set(record: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    yield "command", record.get("command")
    yield "git commit", commit_of(record)
    yield from flat(record.get("configuration") or {})
    yield from ((f"version of {name}", value) for name, value in flat(record.get("versions") or {}))
