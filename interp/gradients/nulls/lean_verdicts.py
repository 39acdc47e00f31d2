"""Do these rows lean along this direction? Judged against a neutral teacher's rows and against mismatched directions.

The claim is that the rows exceed every control, so that it takes every test to reject: p = max over controls (Berger
1982). Within one lineage the units are prompts, which support nothing about other trainings; over several lineages
each counts once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.core.doors import door
from interp.core.runs import InputError
from interp.gradients.nulls.samples import NEUTRAL, Sample
from interp.stats.exchanges import NullTest, Paired
from interp.stats.tests import t_interval
from interp.stats.verdict import Decision, Verdict, paired_verdict, told

MISMATCHED = "mismatched: "
TESTED = "more than every control"


@dataclass(frozen=True, repr=False)
class LeanVerdict(Verdict):
    """What the rows of one lineage say about one direction; `n` counts prompts and `trainings` is always 1.

    `effect` and `interval` are the mean lean in `unit`, less the neutral teacher's where it was scored. `p` is the
    largest of the tests' in `tests`, and `nearest` the smallest of their effects: standard deviations per prompt.
    """

    tests: tuple[NullTest, ...] = ()

    @property
    def trainings(self) -> int:
        """Independent trainings behind the verdict."""
        return 1

    @property
    def complete(self) -> bool:
        """Whether both a neutral teacher and a mismatched direction were compared."""
        names = [test.null for test in self.tests]
        return NEUTRAL in names and any(name.startswith(MISMATCHED) for name in names)

    @property
    def nearest(self) -> float:
        """The smallest standardised difference from a control."""
        return min(test.effect for test in self.tests)

    def to_verdict(self) -> Verdict:
        """The same for a run's verdicts, whose n counts trainings: n = 1, with the prompts among the controls."""
        shared: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(Verdict)}
        shared["n"] = self.trainings
        return Verdict(**shared)

    def to_json(self) -> dict[str, Any]:
        """Return `to_verdict` as plain JSON types: what is kept counts trainings."""
        return self.to_verdict().to_json()

    def __repr__(self) -> str:
        return (
            f"{told(vars(self))}, within one lineage, "
            f"n = {self.n} prompts (1 training; smallest reachable p {self.smallest_p:.2g})"
        )

    def _repr_html_(self) -> str:
        return self.to_verdict()._repr_html_()


def lean_verdict(
    scores: Sample,
    *,
    direction: str | None = None,
    neutral: Sample | None = None,
    mismatched: Sequence[str] | None = None,
    alpha: float = 0.01,
    name: str = "leans-along-the-direction",
    unit: str = "nats per unit of the direction",
    seed: int = 0,
) -> LeanVerdict:
    """Judge within one lineage that rows lean along `direction` more than neutral rows do, and than along others.

    `direction` defaults to the first scored, `mismatched` to all the others. `neutral` are a neutral teacher's rows
    scored along the same directions; they are paired by prompt. The rules, in this order:
    1. inconclusive where neutral rows or mismatched directions are missing, or prompts too few for p <= alpha;
    2. refuted when any control exceeds the rows at level alpha, shared out over the controls;
    3. supported when every test has p <= alpha;
    4. inconclusive otherwise.

    Raises InputError for an alpha outside (0, 0.5) and a direction that was not scored.
    """
    if not 0 < alpha < 0.5:
        raise InputError(f"alpha {alpha} is outside (0, 0.5); give a level such as 0.01.")
    own = scores.labels[0] if direction is None else direction
    others = [label for label in scores.labels if label != own] if mismatched is None else list(mismatched)
    lean = scores.by_prompt() if neutral is None else scores.minus(neutral)
    pairs = _comparisons(scores, neutral, lean, own, others)
    tests = tuple(pair.test(null, seed=seed) for null, pair in pairs.items())
    opposite = {
        test.null: pairs[test.null].reversed().test(test.null, seed=seed).p
        for test in tests
        if test.effect < 0
    }
    values = lean.column(own)
    judged = tests or (Paired(values, np.zeros_like(values)).test("zero", seed=seed),)
    decision, reason = _decide(tests, opposite, _missing(neutral, others), alpha, len(values))
    scope = {"alpha": alpha, "scope": "within one lineage", "prompts": len(values)}
    beside = {test.null: f"{test.effect:+.3f} sd, p = {test.p:.2g}" for test in judged}
    level = 1 - 2 * alpha
    return LeanVerdict(
        name, _claim(own, others), decision, float(values.mean()), t_interval(values, confidence=level),
        max(test.p for test in judged), len(values), unit, max(test.smallest_p for test in judged),
        controls=scope | beside, reason=reason, tested=TESTED, level=level, tests=judged,
    )  # fmt: skip


@door
def across_lineages(
    verdicts: Sequence[LeanVerdict], *, alpha: float = 0.01, name: str = "leans-across-lineages"
) -> Verdict:
    """Judge over lineages of their own seeds that the lean exceeds its nearest control, one value per lineage.

    The value is `nearest`, in standard deviations per prompt: positive only where every control was exceeded, so that
    the test is conservative. Seven lineages can reach p = 0.01. Raises InputError for no verdict, and for one
    without a neutral or a mismatched control.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> along = [lineage.update("teacher"), lineage.update("teacher_eagle")]
        >>> rows = (lineage.numbers[:64], lineage.neutral_numbers[:64])
        >>> own, neutral = (interp.score(lineage.base, each, along) for each in rows)
        >>> verdict = interp.gradients.across_lineages([own.verdict(neutral=neutral)])
    """
    if not verdicts:
        raise InputError("no verdict was given; pass one lean_verdict per lineage")
    incomplete = [v for v in verdicts if not v.complete]
    if incomplete:
        raise InputError(
            f"{len(incomplete)} of {len(verdicts)} lineages lack a neutral or a mismatched control; score both"
        )
    claim = "in every lineage the rows lean along their teacher's update further than any control does"
    return paired_verdict(
        name, claim, [v.nearest for v in verdicts], alpha=alpha, unit="sd per prompt",
        controls={"supported within": f"{sum(v.decision == 'supported' for v in verdicts)} of {len(verdicts)}"},
    )  # fmt: skip


def _comparisons(
    scores: Sample, neutral: Sample | None, lean: Sample, own: str, others: Sequence[str]
) -> dict[str, Paired]:
    """The own lean against the neutral rows, and against every mismatched direction in standard deviations."""
    pairs: dict[str, Paired] = {}
    if neutral is not None:
        ours, theirs = scores.paired(neutral)
        pairs[NEUTRAL] = Paired(ours.column(own), theirs.column(own))
    unit = _standard(lean.column(own))
    return pairs | {f"{MISMATCHED}{label}": Paired(unit, _standard(lean.column(label))) for label in others}


def _standard(values: Float[np.ndarray, "prompt"]) -> Float[np.ndarray, "prompt"]:
    """In units of the standard deviation, without taking the mean off."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return values / spread if spread > 0 else values


def _missing(neutral: Sample | None, others: Sequence[str]) -> str:
    """What was not scored and how to score it, "" when all is there."""
    lacking = []
    if neutral is None:
        lacking.append("no neutral teacher's rows were scored: pass neutral=")
    if not others:
        lacking.append("no mismatched direction was scored: score along other teachers' updates too")
    return "; ".join(lacking)


def _decide(
    tests: Sequence[NullTest], opposite: dict[str, float], missing: str, alpha: float, n: int
) -> tuple[Decision, str]:
    """The rules of `lean_verdict`; every branch says which one fired."""
    if missing:
        return "inconclusive", missing
    worst = max(tests, key=lambda test: test.p)
    if worst.smallest_p > alpha:
        return (
            "inconclusive",
            f"{n} prompts reach p = {worst.smallest_p:.3g} at best, above alpha = {alpha:g}",
        )
    name, reverse = min(opposite.items(), key=lambda item: item[1], default=("", 1.0))
    if reverse * len(tests) <= alpha:
        return "refuted", f"{name} exceeds the rows (p = {reverse:.3g}, times {len(tests)} controls)"
    if worst.p > alpha:
        return (
            "inconclusive",
            f"{worst.null}: p = {worst.p:.3g} is above alpha = {alpha:g}, the opposite not shown",
        )
    return (
        "supported",
        f"within one lineage, every control has p <= {alpha:g}; the largest is {worst.p:.3g} ({worst.null})",
    )


def _claim(own: str, others: Sequence[str]) -> str:
    beside = (
        f"and along {own} more than along {', '.join(others)}" if others else "and more than mismatched ones"
    )
    return f"within one lineage, these rows lean along {own} more than a neutral teacher's, {beside}"
