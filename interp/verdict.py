"""Three-valued verdicts on claims about a mean difference between training runs.

`paired_verdict` judges "the mean is positive" (and at least `minimum_effect`) by the sign-flip test,
`equivalence_verdict` judges "the mean is within ±margin" by two one-sided t tests. The interval is the
two-sided 1 - 2 alpha t-interval, whose ends are one-sided level-alpha bounds. Failing to support a claim does
not refute it: without evidence for the opposite the decision is "inconclusive".
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from interp.runs import InputError
from interp.statistics import (
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

    `effect` and `interval` are in `unit`; `n` counts independent trainings, and `smallest_p` is what n can reach.
    `reason` is the rule that fired, in words; `controls` holds the measurements that guard the claim.
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

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON types; an unbounded end of the interval becomes null."""
        return _plain(asdict(self))

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"{self.name}: {self.decision}, {self.effect:+.3g} [{low:+.3g}, {high:+.3g}] {self.unit}, "
            f"p = {self.p:.2g}, n = {self.n} training runs (smallest reachable p {self.smallest_p:.2g})"
        )

    def _repr_html_(self) -> str:
        low, high = self.interval
        cells = {
            "claim": self.claim,
            "decision": self.decision,
            f"effect ({self.unit})": f"{self.effect:+.3g} [{low:+.3g}, {high:+.3g}]",
            "p": f"{self.p:.2g} (smallest reachable {self.smallest_p:.2g})",
            "n": f"{self.n} training runs",
            "because": self.reason,
        } | {str(key): str(value) for key, value in self.controls.items()}
        rows = (
            f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
            for key, value in cells.items()
        )
        return f"<table><caption>{html.escape(self.name)}</caption>{''.join(rows)}</table>"


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
    """Judge the claim that the mean difference over training runs is positive, or at least `minimum_effect`.

    The rules, in this order:
    1. inconclusive when n is too small for a one-sided sign-flip p <= alpha;
    2. refuted when the sign-flip test of a negative mean has p <= alpha, or when `minimum_effect` is
       claimed and the upper end of the interval lies below it;
    3. supported when the sign-flip p <= alpha and the mean is at least `minimum_effect`, if claimed;
    4. inconclusive otherwise.
    For a negative claim negate the differences. `seed` matters only above 16 runs: sign patterns are sampled.
    Raises InputError for an alpha outside (0, 0.5) and a minimum effect that is not positive.

    >>> runs = [0.9, 0.4, 1.2, 0.7, 0.3, 1.0, 0.6, 0.8]
    >>> paired_verdict("transfer", "students gain the trait", runs).decision
    'supported'
    >>> paired_verdict("transfer", "students gain the trait", runs[:3]).reason
    '3 training runs reach p = 0.125 at best; alpha = 0.01 needs 7'
    """
    if not 0 < alpha < 0.5:
        raise InputError(f"alpha {alpha} is outside (0, 0.5); give a level such as 0.01.")
    if minimum_effect is not None and not (math.isfinite(minimum_effect) and minimum_effect > 0):
        raise InputError(
            f"minimum_effect {minimum_effect} is not a positive number; leave it out to claim only the sign."
        )
    up = sign_flip_test(differences, alternative="greater", seed=seed)
    down = sign_flip_test(differences, alternative="less", seed=seed)
    interval = t_interval(differences, confidence=1 - 2 * alpha)
    decision, reason = _decide_positive(up, down.p, interval, alpha, minimum_effect)
    positive = int((np.asarray(differences, dtype=float) > 0).sum())
    facts = {"alpha": alpha, "positive": f"{positive} of {up.n}"}
    if minimum_effect is not None:
        facts["minimum_effect"] = minimum_effect
    return Verdict(
        name, claim, decision, up.mean, interval, up.p, up.n,
        unit=unit, smallest_p=up.smallest_p, controls=facts | dict(controls or {}), reason=reason,
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
    )  # fmt: skip


def _decide_positive(
    up: SignFlip, p_down: float, interval: tuple[float, float], alpha: float, minimum: float | None
) -> tuple[Decision, str]:
    """The rules of `paired_verdict`; every branch says which one fired."""
    if up.smallest_p > alpha:
        best = f"{up.n} training runs reach p = {up.smallest_p:.3g} at best"
        return "inconclusive", f"{best}; alpha = {alpha:g} needs {runs_needed(alpha)}"
    if p_down <= alpha:
        return "refuted", f"the mean is negative (sign-flip p = {p_down:.3g})"
    if minimum is not None and interval[1] < minimum:
        return "refuted", f"the interval ends at {interval[1]:.3g}, below the claimed {minimum:g}"
    if up.p > alpha:
        return (
            "inconclusive",
            f"sign-flip p = {up.p:.3g} is above alpha = {alpha:g} and the opposite is not shown",
        )
    if minimum is not None and up.mean < minimum:
        return (
            "inconclusive",
            f"positive, but the mean is below the claimed {minimum:g}, which the interval still allows",
        )
    return "supported", f"sign-flip p = {up.p:.3g} is at most alpha = {alpha:g}"


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
