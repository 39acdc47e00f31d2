"""What the page says of a verdict and of every member's margin, as plain values that the templates put into words.

An interval is told with its level: the verdict's own or, of a verdict that an older version kept, 1 − 2 alpha of its
controls. The drawing puts the effect on it, zero as a solid line and the bounds the claim itself named as dashed ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from interp.figures import ROLES
from interp.report.cells import anchor, finite, number

MARKS = {"supported": "✓", "refuted": "✗", "inconclusive": "?", "holds": "=", "fails": "≠"}
TOLD = {
    "known": "What is known",
    "quantity": "What is measured",
    "seen": "Seen before",
    "together": "Judged together",
}
"""Of the controls, what the verdict's own card says in words; all but the first stand folded."""


def decisions(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """How many claims were judged, and how."""
    if not verdicts:
        return ""
    claims, checks = (
        [str(each.get("decision")) for each in verdicts if is_check(each) == wanted]
        for wanted in (False, True)
    )
    told = [_counted(claims, "claim", "judged")] if claims or not checks else []
    return "; ".join([*told, *([_counted(checks, "check", "of the code")] if checks else [])]) + "."


def _counted(words: Sequence[str], what: str, said: str) -> str:
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    return f"{len(words)} {what}{'s' if len(words) != 1 else ''} {said}: {counts}"


def is_check(verdict: Mapping[str, Any]) -> bool:
    """Whether the claim follows from the mathematics, so that no data could contradict it."""
    return bool((verdict.get("controls") or {}).get("check"))


def verdict_id(verdict: Mapping[str, Any]) -> str:
    """The id of a verdict's card."""
    return f"claim-{anchor(str(verdict.get('name')))}"


def interval_words(verdict: Mapping[str, Any]) -> str:
    """The interval in words, with its level where it is known; an end that is missing is unbounded."""
    ends = list(verdict.get("interval") or ())
    if not any(finite(end) for end in ends):
        return "no interval"
    if verdict.get("level") == 1:
        return "all runs from {} to {}".format(*(number(end, signed=True, digits=3) for end in ends))
    level, alpha = verdict.get("level"), (verdict.get("controls") or {}).get("alpha")
    level = 1 - 2 * alpha if level is None and finite(alpha) else level
    said = f"{100 * level:.3g} % interval" if finite(level) else "interval"
    low, high = (number(end, signed=True, digits=3) if finite(end) else "unbounded" for end in ends)
    return f"{said} {low} to {high}"


def verdict_drawing(
    verdict: Mapping[str, Any], beside: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Where effect, interval and marks stand on an axis that `beside` fits too; None where an end is missing.

    The axis runs from 30 to 370; `marks` are (class, place, label) of zero and of the claim's own bounds.
    """
    known = _ends(verdict)
    if len(known) != 3:
        return None
    marks = [0.0, *_bounds(verdict)]
    places = [*known, *marks, *_ends(beside or {}), *_bounds(beside or {})]
    left = min(places)
    width = (max(places) - left) or 1.0

    def at(value: float) -> str:
        return f"{30 + 340 * (value - left) / width:.1f}"

    ticks = [
        ("bound" if mark else "rule", at(mark), number(mark, signed=bool(mark), digits=3)) for mark in marks
    ]
    return dict(zip(("effect", "low", "high"), map(at, known), strict=True)) | {"marks": ticks}


def _ends(verdict: Mapping[str, Any]) -> list[float]:
    """Effect and the ends of its interval, those that are known."""
    ends = (verdict.get("effect"), *(verdict.get("interval") or ()))
    return [float(end) for end in ends if finite(end)]


def _bounds(verdict: Mapping[str, Any]) -> list[float]:
    controls = verdict.get("controls") or {}
    least, margin = controls.get("minimum_effect"), controls.get("margin")
    return [
        *([float(least)] if finite(least) else []),
        *([-float(margin), float(margin)] if finite(margin) else []),
    ]


def member_margins(lineages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Names of all members, roles first; of every lineage its seed and their margins in nats; and their means."""
    found = dict.fromkeys(name for lineage in lineages for name in lineage["members"])
    names = [*(role for role in ROLES if role in found), *(name for name in found if name not in ROLES)]
    lines = [(lineage.get("seed"), [lineage["members"].get(name) for name in names]) for lineage in lineages]
    means = [mean(column) for column in zip(*(values for _, values in lines), strict=True)]
    return {"names": names, "lines": lines, "means": means}


def mean(values: Iterable[Any]) -> float | None:
    """The mean of what is known; None when nothing is."""
    known = [value for value in values if finite(value)]
    return math.fsum(known) / len(known) if known else None
