"""Three-valued verdicts on claims about a mean difference between training runs.

A verdict says what its test tests: `paired_verdict` tests "the mean is above X" by flipping the signs of d_i − X, where
X is 0 or the `minimum_effect` that is claimed; `equivalence_verdict` tests "the mean is within ±margin" by two
one-sided t tests. Effect and interval are those of d. The interval is the two-sided 1 − 2 alpha t-interval and states
that level. In a paired verdict it decides nothing: it takes runs for normally distributed, which the sign-flip test
does not, so that it may leave out X where eight signs cannot show it. Failing to support a claim does not refute it:
without evidence for the opposite the decision is "inconclusive".
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from interp.core.runs import InputError
from interp.figures import bracket
from interp.stats.tests import (
    Equivalence,
    SignFlip,
    Values,
    equivalence_test,
    runs_needed,
    sign_flip_test,
    t_interval,
)

Decision = Literal["supported", "refuted", "inconclusive"]


@dataclass(frozen=True)
class Verdict:
    """What the data of n independent trainings say about one claim.

    `effect` and `interval` are in `unit`; `level` is the interval's, such as 0.98, None where it is not known. `tested`
    is what `p` is the p of: "more than 0", "at least 0.5", "within ±0.2". `n` counts independent trainings, and
    `smallest_p` is what n can reach. `reason` is the rule that fired, in words; `controls` holds the measurements that
    guard the claim.
    """

    name: str
    claim: str
    decision: Decision
    effect: float
    interval: tuple[float, float]
    p: float
    n: int
    unit: str
    smallest_p: float
    controls: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    tested: str = ""
    level: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON types; an unbounded end of the interval becomes null."""
        return _plain(asdict(self))

    def __repr__(self) -> str:
        return (
            f"{told(vars(self))}, n = {self.n} training run{'s' if self.n != 1 else ''} "
            f"(smallest reachable p {self.smallest_p:.2g})"
        )

    def _repr_html_(self) -> str:
        cells = {
            "claim": self.claim,
            "decision": self.decision,
            f"effect ({self.unit})": f"{self.effect:+.3g} {bracket(self.interval, level=self.level)}",
            "tested": self.tested,
            "p": f"{self.p:.2g} (smallest reachable {self.smallest_p:.2g})",
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
    tested = verdict.get("tested")
    interval = bracket(verdict["interval"], level=verdict.get("level"))
    return (
        f"{verdict['name']}: {verdict['decision']}, {verdict['effect']:+.3g} {interval} {verdict['unit']}, "
        f"{f'{tested}: ' if tested else ''}p = {verdict['p']:.2g}"
    )


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
        tested=f"within ±{margin:g}", level=1 - 2 * alpha,
    )  # fmt: skip


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
