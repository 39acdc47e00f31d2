"""Three-valued verdicts on claims about a mean difference between training runs.

A verdict says what its test tests: `paired_verdict` tests "the mean is above X" by flipping the signs of d_i − X, where
X is 0 or the `minimum_effect` that is claimed; `equivalence_verdict` tests "the mean is within ±margin" by two
one-sided t tests. Effect and interval are those of d. The interval is the two-sided 1 − 2 alpha t-interval and states
that level. In a paired verdict it decides nothing: it takes runs for normally distributed, which the sign-flip test
does not, so that it may leave out X where eight signs cannot show it. Failing to support a claim does not refute it:
without evidence for the opposite the decision is "inconclusive". A check follows from the mathematics and has no p: it
"holds" where every run lies within its tolerance, and "fails" otherwise. Over a family, `holm_verdicts` decides anew by
Holm's p.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from interp.core.runs import InputError
from interp.figures import bracket, signed
from interp.stats.tests import (
    Equivalence,
    SignFlip,
    Values,
    equivalence_test,
    holm,
    runs_needed,
    sign_flip_test,
    t_interval,
)

Decision = Literal["supported", "refuted", "inconclusive", "holds", "fails"]
AFTER_HOLM = "p after Holm over"  # opens the control that holds the corrected p


@dataclass(frozen=True)
class Verdict:
    """What the data of n independent trainings say about one claim.

    `effect` and `interval` are in `unit`; `level` is the interval's, such as 0.98, None where it is not known, and 1
    for the range of all runs. `tested` is what `p` is the p of: "more than 0", "at least 0.5", "within ±0.2";
    `p_against` is the p of the opposite, which refutes; a check has neither. `n` counts independent trainings, and
    `smallest_p` is what n can reach. `reason` is the rule that fired, in words; `controls` holds the measurements that
    guard the claim.
    """

    name: str
    claim: str
    decision: Decision
    effect: float
    interval: tuple[float, float]
    p: float | None
    n: int
    unit: str
    smallest_p: float
    controls: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    tested: str = ""
    level: float | None = None
    p_against: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON types; an unbounded end of the interval becomes null."""
        return _plain(asdict(self))

    def __repr__(self) -> str:
        least = "" if self.p is None else f" (smallest reachable p {self.smallest_p:.2g})"
        return f"{told(vars(self))}, n = {self.n} training run{'s' if self.n != 1 else ''}{least}"

    def _repr_html_(self) -> str:
        cells = {
            "claim": self.claim,
            "decision": self.decision,
            f"effect ({self.unit})": f"{signed(self.effect, 3)} {bracket(self.interval, level=self.level)}",
            "tested": self.tested,
            "p": "none: a check"
            if self.p is None
            else f"{self.p:.2g} (smallest reachable {self.smallest_p:.2g})",
            "n": f"{self.n} training runs",
            "because": self.reason,
        } | {str(key): str(value) for key, value in self.controls.items()}
        rows = (
            f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
            for key, value in cells.items()
        )
        return f"<table><caption>{html.escape(self.name)}</caption>{''.join(rows)}</table>"


def told(verdict: Mapping[str, Any]) -> str:
    """A verdict (its JSON, or its fields) in a line: decision, effect, interval with its level, what was tested, p."""
    interval = bracket(verdict["interval"], level=verdict.get("level"))
    measured = f"{signed(verdict['effect'], 3)} {interval} {verdict['unit']}"
    tested = verdict.get("tested")
    if verdict["p"] is None:
        return f"{verdict['name']}: check {verdict['decision']}, {measured}, {tested}"
    return f"{verdict['name']}: {verdict['decision']}, {measured}, {f'{tested}: ' if tested else ''}{p_told(verdict)}"


def p_told(verdict: Mapping[str, Any]) -> str:
    """The p of a verdict that has one and, where it was judged in a family, what is left of it after the correction.

    >>> p_told({"p": 0.00391})
    'p = 0.0039'
    """
    corrected = [
        f", {value:.2g} {key.removeprefix('p ')}"
        for key, value in (verdict.get("controls") or {}).items()
        if key.startswith(AFTER_HOLM)
    ]
    return f"p = {verdict['p']:.2g}{''.join(corrected)}"


def paired_verdict(
    name: str,
    claim: str,
    differences: Values,
    *,
    alpha: float = 0.01,
    minimum_effect: float | None = None,
    unit: str = "nats",
    controls: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Verdict:
    """Judge the claim that the mean difference over training runs is more than 0, or at least `minimum_effect`.

    With X = 0 or the minimum effect, d_i − X is what signs are flipped of. The rules, in this order:
    1. inconclusive when n is too small for a one-sided sign-flip p <= alpha;
    2. refuted when the sign-flip test of a mean below X has p <= alpha;
    3. supported when that of a mean above X has p <= alpha, which is the p of the verdict;
    4. inconclusive otherwise.
    For a negative claim negate the differences. `seed` matters only above 16 runs: sign patterns are sampled.
    Raises InputError for an alpha outside (0, 0.5) and a minimum effect that is not positive.

    >>> runs = [0.9, 0.4, 1.2, 0.7, 0.3, 1.0, 0.6, 0.8]
    >>> paired_verdict("transfer", "students gain the trait", runs)
    transfer: supported, +0.738 [98 %: +0.417, +1.06] nats, more than 0: p = 0.0039, n = 8 training runs (smallest \
reachable p 0.0039)
    >>> paired_verdict("transfer", "students gain the trait", runs, minimum_effect=0.5).decision
    'inconclusive'
    >>> paired_verdict("transfer", "students gain the trait", runs[:3]).reason
    '3 training runs reach p = 0.125 at best; alpha = 0.01 needs 7'
    """
    if not 0 < alpha < 0.5:
        raise InputError(f"alpha {alpha} is outside (0, 0.5); give a level such as 0.01.")
    if minimum_effect is not None and not (math.isfinite(minimum_effect) and minimum_effect > 0):
        raise InputError(
            f"minimum_effect {minimum_effect} is not a positive number; leave it out to claim only the sign."
        )
    least = minimum_effect or 0.0
    up = sign_flip_test(differences, alternative="greater", above=least, seed=seed)
    down = sign_flip_test(differences, alternative="less", above=least, seed=seed)
    interval = t_interval(differences, confidence=1 - 2 * alpha)
    decision, reason = _decide_above(up, down.p, alpha, least)
    values = np.asarray(differences, dtype=float)
    facts: dict[str, Any] = {"alpha": alpha, "positive": f"{int((values > 0).sum())} of {up.n}"}
    if minimum_effect is not None:
        facts |= {"minimum_effect": least, f"at least {least:g}": f"{int((values >= least).sum())} of {up.n}"}
    return Verdict(
        name, claim, decision, up.mean, interval, up.p, up.n,
        unit=unit, smallest_p=up.smallest_p, controls=facts | dict(controls or {}), reason=reason,
        tested="more than 0" if minimum_effect is None else f"at least {least:g}", level=1 - 2 * alpha,
        p_against=down.p,
    )  # fmt: skip


def equivalence_verdict(
    name: str,
    claim: str,
    differences: Values,
    *,
    margin: float = 0.2,
    alpha: float = 0.05,
    unit: str = "nats",
    controls: Mapping[str, Any] | None = None,
) -> Verdict:
    """Judge the claim that the mean difference over training runs lies within ±margin.

    The rules, in this order:
    1. inconclusive with a single run, which has no spread to test against;
    2. supported when both one-sided t tests have p <= alpha, that is when the interval lies inside ±margin;
    3. refuted when the interval lies wholly outside ±margin;
    4. inconclusive otherwise.
    A t test has no smallest p from two runs on, so `smallest_p` is 0 there and 1 for a single run.

    >>> equivalence_verdict("control", "no gain", [0.02, -0.05, 0.01, 0.04, -0.03]).decision
    'supported'
    """
    test = equivalence_test(differences, margin=margin, alpha=alpha)
    decision, reason = _decide_equivalent(test)
    return Verdict(
        name, claim, decision, test.mean, test.interval, test.p, test.n,
        unit=unit, smallest_p=1.0 if test.n == 1 else 0.0,
        controls={"alpha": alpha, "margin": margin} | dict(controls or {}), reason=reason,
        tested=f"within ±{margin:g}", level=1 - 2 * alpha, p_against=test.p_outside,
    )  # fmt: skip


def check_verdict(
    name: str,
    claim: str,
    values: Values,
    *,
    tolerance: float,
    least: bool = False,
    unit: str = "",
    controls: Mapping[str, Any] | None = None,
) -> Verdict:
    """Whether what follows from the mathematics comes out: every run within ±tolerance, or with `least` at least there.

    There is no p, since no data could contradict what is checked; the interval is the range of all runs.

    >>> check_verdict("sum", "the parts add up", [0.001, -0.002, 0.0], tolerance=0.01, unit="nats")
    sum: check holds, −0.000333 [all runs: −0.002, +0.001] nats, every run within ±0.01, n = 3 training runs
    """
    found = np.asarray(values, dtype=float)
    inside = found >= tolerance if least else np.abs(found) <= tolerance
    bound = f"at least {tolerance:g}" if least else f"within ±{tolerance:g}"
    facts = {
        "minimum_effect" if least else "margin": tolerance,
        "inside": f"{int(inside.sum())} of {len(found)}",
    }
    return Verdict(
        name, claim, "holds" if inside.all() else "fails", float(found.mean()),
        (float(found.min()), float(found.max())), None, len(found),
        unit=unit, smallest_p=0.0, controls=facts | dict(controls or {}),
        reason=f"{int(inside.sum())} of {len(found)} runs lie {bound}", tested=f"every run {bound}", level=1.0,
    )  # fmt: skip


def holm_verdicts(verdicts: Sequence[Verdict], *, alpha: float) -> list[Verdict]:
    """The verdicts of one family decided anew by Holm's p at `alpha`; checks have no p and stay as they are.

    A claim is supported when its p, corrected over all claims, is at most alpha, and refuted when that of its opposite,
    corrected over all opposites, is: each with an error of at most alpha over the family. The corrected p stands among
    the controls; effect, interval and p are those of the claim alone.
    """
    tested = [verdict for verdict in verdicts if verdict.p is not None]
    if not tested:
        return list(verdicts)
    said = f"{AFTER_HOLM} {len(tested)} claim{'s' if len(tested) != 1 else ''}"
    for_it, against = (
        dict(zip(map(id, tested), holm([getattr(each, side) for each in tested]), strict=True))
        for side in ("p", "p_against")
    )
    return [
        verdict
        if verdict.p is None
        else _corrected(verdict, float(for_it[id(verdict)]), float(against[id(verdict)]), said, alpha)
        for verdict in verdicts
    ]


def _corrected(verdict: Verdict, p: float, p_against: float, said: str, alpha: float) -> Verdict:
    after = said.removeprefix("p ")
    decision, reason = (
        "inconclusive",
        f"p = {p:.3g} {after} is above alpha = {alpha:g}, the opposite not shown",
    )
    if p <= alpha:
        decision, reason = "supported", f"p = {p:.3g} {after} is at most alpha = {alpha:g}"
    elif p_against <= alpha:
        decision, reason = "refuted", f"the opposite is shown: p = {p_against:.3g} {after}"
    controls = {**verdict.controls, "alpha": alpha, said: p}
    return replace(verdict, decision=decision, reason=reason, controls=controls)


def _decide_above(up: SignFlip, p_down: float, alpha: float, least: float) -> tuple[Decision, str]:
    """The rules of `paired_verdict`; every branch says which one fired."""
    if up.smallest_p > alpha:
        runs = f"{up.n} training runs reach" if up.n > 1 else "one training run reaches"
        best = f"{runs} p = {up.smallest_p:.3g} at best"
        return "inconclusive", f"{best}; alpha = {alpha:g} needs {runs_needed(alpha)}"
    if p_down <= alpha:
        return "refuted", f"the mean is below {least:g} (sign-flip p = {p_down:.3g})"
    if up.p > alpha:
        return (
            "inconclusive",
            f"sign-flip p = {up.p:.3g} against {least:g} is above alpha = {alpha:g} and the opposite is not shown",
        )
    return "supported", f"sign-flip p = {up.p:.3g} against {least:g} is at most alpha = {alpha:g}"


def _decide_equivalent(test: Equivalence) -> tuple[Decision, str]:
    low, high = test.interval
    if test.n == 1:
        return (
            "inconclusive",
            "one training run has no spread: the smallest reachable p is 1; at least 2 are needed",
        )
    if test.equivalent:
        return "supported", f"the interval lies inside ±{test.margin:g}"
    if low > test.margin or high < -test.margin:
        return "refuted", f"the interval lies outside ±{test.margin:g}"
    return "inconclusive", f"the interval crosses ±{test.margin:g}"


def _plain(value: Any) -> Any:
    """Numpy scalars, tuples and non-finite floats as what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
