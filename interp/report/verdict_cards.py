"""The verdicts as sentences, and the margins of every member beside them.

An interval is told with its level: the verdict's own or, of a verdict that an older version kept, 1 − 2 alpha of its
controls. The drawing puts the effect on it, zero as a solid line and the bounds the claim itself named as dashed ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from interp.figures import ROLES, role_colour
from interp.report.markup import ROWS, cell, finite, flat, hundredths, number, pairs, scroll, text

MARKS = {"supported": "✓", "refuted": "✗", "inconclusive": "?"}
SEES = (
    "Each claim, what was decided about it, and its effect with the interval; the replicate is one independent "
    "training. Drawn: zero as a solid line, the bounds that the claim itself names as dashed ones."
)


def decisions(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """How many claims were judged, and how."""
    if not verdicts:
        return "A run that measures and judges no claim."
    words = [str(verdict.get("decision")) for verdict in verdicts]
    counts = ", ".join(f"{words.count(word)} {text(word)}" for word in dict.fromkeys(words))
    checks = sum(is_check(verdict) for verdict in verdicts)
    beside = f"; {checks} of them a check of the code" if checks else ""
    return f"{len(words)} claim{'s' if len(words) != 1 else ''} judged: {counts}{beside}."


def is_check(verdict: Mapping[str, Any]) -> bool:
    """Whether the claim follows from the mathematics, so that no data could contradict it."""
    return bool((verdict.get("controls") or {}).get("check"))


def verdict_cards(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """One card a verdict, or the sentence that there are none."""
    if not verdicts:
        return "<p>This run holds no verdicts: what follows is measured, not judged.</p>"
    return f'<p class="sees">{SEES}</p>\n' + "\n".join(_card(verdict) for verdict in verdicts)


def _card(verdict: Mapping[str, Any]) -> str:
    reason = f'<p class="soft">Because {text(verdict["reason"])}.</p>' if verdict.get("reason") else ""
    claim = f'<p class="claim">{text(str(verdict.get("claim")).rstrip("."))}.</p>'
    return (
        f'<article class="verdict {tone(verdict)}"><h3>{decided(verdict)}<code>{text(verdict.get("name"))}</code></h3>'
        f"<div>{claim}<p>{numbers_told(verdict)}</p>{reason}</div>{drawing(verdict)}</article>"
    )


def tone(verdict: Mapping[str, Any]) -> str:
    """The class of a card: the decision, when it is one of the three."""
    decision = str(verdict.get("decision"))
    return decision if decision in MARKS else ""


def decided(verdict: Mapping[str, Any]) -> str:
    """The decision in bold with a mark that tells it without colour; of a check that it is one."""
    decision = str(verdict.get("decision"))
    what = " (a check)" if is_check(verdict) else ""
    return f'<b><span aria-hidden="true">{MARKS.get(decision, "")}</span> {text(decision.capitalize())}{what}</b>'


def control_table(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """What guards each verdict, one card each; nothing when no verdict has any."""
    found = {
        str(verdict.get("name")): {name: cell(value) for name, value in flat(verdict.get("controls") or {})}
        for verdict in verdicts
    }
    cards = (
        f'<div class="card"><h4><code>{text(n)}</code></h4>{pairs(one)}</div>'
        for n, one in found.items()
        if one
    )
    joined = "".join(cards)
    return f'<div class="cards">{joined}</div>' if joined else ""


def numbers_told(verdict: Mapping[str, Any]) -> str:
    """Effect, interval, n, what was tested, p and the smallest p within reach, as a sentence."""
    n, least = verdict.get("n"), verdict.get("smallest_p")
    reach = (
        f"the smallest p within reach is {number(least, digits=2)}"
        if finite(least) and least > 0
        else "this test has no smallest p"
    )
    effect = number(verdict.get("effect"), signed=True, digits=3)
    p = number(verdict.get("p"), digits=2)
    tested = f" for {text(verdict['tested'])}" if verdict.get("tested") else ""
    return (
        f"Effect <b>{effect} {text(verdict.get('unit') or '')}</b> ({_interval_words(verdict)}), "
        f"n&nbsp;=&nbsp;{cell(n)} independent training{'' if n == 1 else 's'}, p&nbsp;=&nbsp;{p}{tested}; {reach}."
    )


def _interval_words(verdict: Mapping[str, Any]) -> str:
    """The interval in words, with its level where it is known; an end that is missing is unbounded."""
    ends = list(verdict.get("interval") or ())
    if not any(finite(end) for end in ends):
        return "no interval"
    level, alpha = verdict.get("level"), (verdict.get("controls") or {}).get("alpha")
    level = 1 - 2 * alpha if level is None and finite(alpha) else level
    said = f"{100 * level:.3g} % interval" if finite(level) else "interval"
    low, high = (number(end, signed=True, digits=3) if finite(end) else "unbounded" for end in ends)
    return f"{said} {low} to {high}"


def drawing(verdict: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> str:
    """The effect as a dot on its interval, on an axis that `beside` fits too; nothing where an end is missing."""
    known = _ends(verdict)
    if len(known) != 3:
        return ""
    effect, low, high = known
    marks = [0.0, *_bounds(verdict.get("controls") or {})]
    places = [*known, *marks, *_ends(beside or {}), *_bounds((beside or {}).get("controls") or {})]
    left = min(places)
    width = (max(places) - left) or 1.0

    def at(value: float) -> str:
        return f"{30 + 340 * (value - left) / width:.1f}"

    ticks = "".join(
        f'<line class="{"bound" if mark else "rule"}" x1="{at(mark)}" x2="{at(mark)}" y1="2" y2="30"/>'
        f'<text x="{at(mark)}" y="43">{number(mark, signed=bool(mark), digits=3)}</text>'
        for mark in marks
    )
    return (
        f'<svg class="interval" viewBox="0 0 400 46" aria-hidden="true">{ticks}'
        f'<line x1="{at(low)}" x2="{at(high)}" y1="16" y2="16" stroke="currentColor" stroke-width="4"/>'
        f'<circle cx="{at(effect)}" cy="16" r="7" fill="currentColor"/></svg>'
    )


def _ends(verdict: Mapping[str, Any]) -> list[float]:
    """Effect and the ends of its interval, those that are known."""
    ends = (verdict.get("effect"), *(verdict.get("interval") or ()))
    return [float(end) for end in ends if finite(end)]


def _bounds(controls: Mapping[str, Any]) -> list[float]:
    least, margin = controls.get("minimum_effect"), controls.get("margin")
    return [
        *([float(least)] if finite(least) else []),
        *([-float(margin), float(margin)] if finite(margin) else []),
    ]


def margin_table(lineages: Sequence[Mapping[str, Any]]) -> str:
    """The trait margin of every member in nats, one row a lineage, and the mean of each member below."""
    found = dict.fromkeys(name for lineage in lineages for name in lineage["members"])
    names = [*(role for role in ROLES if role in found), *(name for name in found if name not in ROLES)]
    head = "".join(_member(name, place) for place, name in enumerate(names))
    values = [[lineage["members"].get(name) for name in names] for lineage in lineages]
    labels = [cell(lineage.get("seed")) for lineage in lineages]
    body = "".join(_row(label, row) for label, row in zip(labels[:ROWS], values[:ROWS], strict=True))
    means = _row("mean", [mean(column) for column in zip(*values, strict=True)])
    foot = f"<tfoot>{means}</tfoot>" if len(lineages) > 1 else ""
    note = f"; the first {ROWS} of {len(lineages)}, all in summary.json" if len(lineages) > ROWS else ""
    table = (
        f"<table><caption>Trait margin in nats, one row per independent lineage{note}</caption>"
        f'<thead><tr><th scope="col">seed</th>{head}</tr></thead><tbody>{body}</tbody>{foot}</table>'
    )
    return f'<div class="card">{scroll(table, "Trait margin of every member")}</div>'


def _member(name: str, place: int) -> str:
    swatch = f'<span class="swatch" style="background:{role_colour(name, place)}"></span>'
    return f'<th scope="col" class="n">{swatch}{text(name)}</th>'


def _row(label: str, values: Iterable[Any]) -> str:
    cells = "".join(f'<td class="n">{hundredths(value)}</td>' for value in values)
    return f'<tr><th scope="row">{label}</th>{cells}</tr>'


def mean(values: Iterable[Any]) -> float | None:
    """The mean of what is known; None when nothing is."""
    known = [value for value in values if finite(value)]
    return math.fsum(known) / len(known) if known else None
