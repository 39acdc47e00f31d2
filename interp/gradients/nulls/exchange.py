"""What may be exchanged when a null hypothesis holds, and the p-value that follows from exchanging it.

p = share of all exchanges whose statistic is at least the observed one, or (b + 1) / (m + 1) over m random ones, which
is never zero and never too small (Phipson & Smyth 2010). All tests are one-sided: the observed scores are larger.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float

from interp.core.runs import InputError
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded, Role
from interp.stats.tests import EXACT_LIMIT, sign_flip_test

FLIPS = 9_999
ENUMERATED = 8  # all 8! = 40320 relabellings of a matrix are looked at
PROMPTS = "prompts within one lineage"


@dataclass(frozen=True)
class NullTest:
    """One null put to the test; `n` counts what was exchanged, named by `unit`.

    `observed` and `control` are means in the unit of the scores, or standardised means where directions or networks are
    compared. `effect` is their difference in standard deviations of what was exchanged.
    """

    null: str
    observed: float
    control: float
    effect: float
    p: float
    smallest_p: float
    n: int
    unit: str


@dataclass(frozen=True, eq=False)
class Sample:
    """Scores of rows along directions, and for each row the prompt it answers: rows that share one are no two units.

    Scores are [row direction], in nats per unit of the direction. Raises InputError for other counts of prompts or
    labels, a label given twice, and scores that are not finite.
    """

    scores: Float[np.ndarray, "row direction"]
    labels: tuple[str, ...]
    prompts: tuple[Hashable, ...]

    def __post_init__(self) -> None:
        rows, directions = self.scores.shape
        if rows != len(self.prompts) or directions != len(self.labels):
            raise InputError(
                f"{rows} x {directions} scores for {len(self.prompts)} prompts and {len(self.labels)} labels; "
                "pass one prompt per row and one label per direction"
            )
        if len(set(self.labels)) < directions:
            raise InputError(
                f"directions {list(self.labels)} share a label; give each its own (dataclasses.replace)"
            )
        if not np.isfinite(self.scores).all():
            bad = int((~np.isfinite(self.scores)).sum())
            raise InputError(f"{bad} of {self.scores.size} scores are not finite; score those rows again")

    @classmethod
    def of(cls, scores: Any, labels: Sequence[str], rows: Prompts | Encoded) -> Self:
        """Scores [row direction] (tensor or array) of these rows; the prompt is all that stands before the answer."""
        table = np.asarray(scores, dtype=float)
        return cls(table.reshape(len(rows), -1), tuple(labels), prompts_of(rows))

    def column(self, label: str) -> Float[np.ndarray, "row"]:
        """Scores along the direction of that label; InputError when it was not scored."""
        if label not in self.labels:
            raise InputError(f"direction {label!r} was not scored; pass one of {', '.join(self.labels)}")
        return self.scores[:, self.labels.index(label)]

    def by_prompt(self) -> "Sample":
        """One row per prompt, the mean of its rows, in order of first appearance."""
        groups = _groups(self.prompts)
        means = np.array([self.scores[rows].mean(axis=0) for rows in groups.values()])
        return Sample(means, self.labels, tuple(groups))

    def paired(self, other: "Sample") -> tuple["Sample", "Sample"]:
        """Both with one row for each prompt they share, in one order; InputError when they share none."""
        if self.labels != other.labels:
            raise InputError(
                f"directions {list(self.labels)} and {list(other.labels)} differ; score both along the same ones"
            )
        ours, theirs = self.by_prompt(), other.by_prompt()
        place = {prompt: row for row, prompt in enumerate(theirs.prompts)}
        shared = [row for row, prompt in enumerate(ours.prompts) if prompt in place]
        if not shared:
            raise InputError(
                f"none of {len(ours.prompts)} prompts is among the other {len(theirs.prompts)}; "
                "let both teachers answer the same prompts (one seed)"
            )
        keys = tuple(ours.prompts[row] for row in shared)
        matched = theirs.scores[[place[key] for key in keys]]
        return Sample(ours.scores[shared], ours.labels, keys), Sample(matched, ours.labels, keys)

    def minus(self, other: "Sample") -> "Sample":
        """Difference of the two means at every prompt they share."""
        ours, theirs = self.paired(other)
        return Sample(ours.scores - theirs.scores, ours.labels, ours.prompts)


@dataclass(frozen=True, eq=False)
class Paired:
    """Under the null each unit's observed and control value could change places: signs of differences flip."""

    observed: Float[np.ndarray, "unit"]
    control: Float[np.ndarray, "unit"]
    unit: str = PROMPTS

    @property
    def differences(self) -> Float[np.ndarray, "unit"]:
        """Observed minus control."""
        return self.observed - self.control

    def test(self, null: str, *, seed: int = 0) -> NullTest:
        """Sign-flip test, exact up to 16 units; the effect is the mean difference over its standard deviation."""
        values = self.differences
        means = float(self.observed.mean()), float(self.control.mean())
        if 2 ** len(values) <= EXACT_LIMIT:
            exact = sign_flip_test(values)
            p, smallest = exact.p, exact.smallest_p
        else:
            p = _share(self.distribution(draws=FLIPS, seed=seed), float(values.mean()), like=values)
            smallest = 1 / (FLIPS + 1)
        return NullTest(null, *means, standardised(values), p, smallest, len(values), self.unit)

    def reversed(self) -> Self:
        """Observed and control exchanged: its p-value is that of the opposite claim."""
        return type(self)(self.control, self.observed, self.unit)

    def distribution(self, *, draws: int, seed: int) -> Float[np.ndarray, "draw"]:
        """Mean differences under random sign flips."""
        values, rng = self.differences, np.random.default_rng(seed)
        means = np.empty(draws)
        for part in _chunks(draws, len(values)):
            octets = rng.integers(256, size=(len(part), -(-len(values) // 8)), dtype=np.uint8)
            kept = np.unpackbits(octets, axis=1, count=len(values)).astype(float)
            means[part] = (2 * (kept @ values) - values.sum()) / len(values)
        return means


@dataclass(frozen=True, eq=False)
class TwoSample:
    """Under the null all units are draws of one distribution: which sample a unit belongs to is exchanged."""

    observed: Float[np.ndarray, "unit"]
    control: Float[np.ndarray, "other"]
    unit: str = PROMPTS

    def test(self, null: str, *, seed: int = 0) -> NullTest:
        """Permutation test of the difference of means; the effect is in pooled standard deviations."""
        gap = float(self.observed.mean() - self.control.mean())
        spread = math.sqrt((_variance(self.observed) + _variance(self.control)) / 2)
        p = _share(self.distribution(draws=FLIPS, seed=seed), gap, like=self.observed)
        means = float(self.observed.mean()), float(self.control.mean())
        effect, n = _ratio(gap, spread), len(self.observed) + len(self.control)
        return NullTest(null, *means, effect, p, 1 / (FLIPS + 1), n, self.unit)

    def distribution(self, *, draws: int, seed: int) -> Float[np.ndarray, "draw"]:
        """Differences of means under random relabellings."""
        rng, pool = np.random.default_rng(seed), np.concatenate([self.observed, self.control])
        n, rest = len(self.observed), len(self.control)
        sums = np.empty(draws)
        for part in _chunks(draws, len(pool)):
            sums[part] = rng.permuted(np.tile(pool, (len(part), 1)), axis=1)[:, :n].sum(axis=1)
        return sums / n - (pool.sum() - sums) / rest


@dataclass(frozen=True, eq=False)
class Ranked:
    """Under the null the observed value is one of m + 1 exchangeable ones; any rank is equally likely."""

    observed: float
    controls: Float[np.ndarray, "control"]
    unit: str

    def test(self, null: str, *, seed: int = 0) -> NullTest:
        """p = (b + 1) / (m + 1) with b controls at least as large; the effect is in their standard deviations."""
        p = _share(self.controls, self.observed, like=self.controls)
        centre, m = float(self.controls.mean()), len(self.controls)
        effect = _ratio(self.observed - centre, math.sqrt(_variance(self.controls)))
        return NullTest(null, self.observed, centre, effect, p, 1 / (m + 1), m, self.unit)

    def distribution(self, *, draws: int, seed: int) -> Float[np.ndarray, "control"]:
        """The controls themselves: nothing is drawn."""
        return self.controls


@dataclass(frozen=True, eq=False)
class Matrix:
    """Directions by data sets, in one order: under the null any data set could belong to any direction.

    The statistic is the mean of the diagonal. Effects of a whole row or column are the same in every relabelling.
    """

    scores: Float[np.ndarray, "trait trait"]
    unit: str = "traits"

    def test(self, null: str, *, seed: int = 0) -> NullTest:
        """Exact over all K! relabellings up to K = 8, else over random ones."""
        size = len(self.scores)
        observed, total = float(np.trace(self.scores)) / size, float(self.scores.sum())
        control = (total / size - observed) / (size - 1)
        every = self.distribution(draws=FLIPS, seed=seed)
        exact = size <= ENUMERATED
        above = _at_least(every, observed, like=self.scores)
        p = float(above.mean()) if exact else float((above.sum() + 1) / (len(every) + 1))
        effect = _ratio(observed - float(every.mean()), float(every.std()))
        return NullTest(null, observed, control, effect, p, 1 / (len(every) + (not exact)), size, self.unit)

    def distribution(self, *, draws: int, seed: int) -> Float[np.ndarray, "draw"]:
        """Mean of the diagonal under every relabelling up to K = 8, else under random ones."""
        size, rng = len(self.scores), np.random.default_rng(seed)
        if size <= ENUMERATED:
            orders = np.array(list(permutations(range(size))))
        else:
            orders = rng.permuted(np.tile(np.arange(size), (draws, 1)), axis=1)
        return self.scores[np.arange(size), orders].mean(axis=1)


Evidence = Paired | TwoSample | Ranked | Matrix


def _chunks(draws: int, size: int) -> list[np.ndarray]:
    """Indices of the draws in parts of some four million numbers."""
    return np.array_split(np.arange(draws), max(1, draws * size // 4_000_000))


def standardised(values: Float[np.ndarray, "unit"]) -> float:
    """Mean over standard deviation: for scores along a teacher's update, sqrt(2 KL) to first order."""
    return _ratio(float(values.mean()), math.sqrt(_variance(values)))


def prompts_of(rows: Prompts | Encoded) -> tuple[Hashable, ...]:
    """What each row answers: its messages before the answer, or the tokens of its prompt."""
    if isinstance(rows, Prompts):
        return tuple(row.asked for row in rows.rows)
    asked = rows.roles == Role.PROMPT
    return tuple(tuple(ids[mask].tolist()) for ids, mask in zip(rows.ids, asked, strict=True))


def _groups(keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        groups[key].append(row)
    return groups


def _share(draws: Float[np.ndarray, "draw"], observed: float, *, like: Float[np.ndarray, "value"]) -> float:
    return float((_at_least(draws, observed, like=like).sum() + 1) / (len(draws) + 1))


def _at_least(
    draws: Float[np.ndarray, "draw"], observed: float, *, like: Float[np.ndarray, "*value"]
) -> Bool[np.ndarray, "draw"]:
    """Sums of the same values in another order differ in their last digits; what is equal must count as equal."""
    return draws >= observed - 1e-12 * (abs(observed) + float(np.abs(like).mean()))


def _variance(values: Float[np.ndarray, "unit"]) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def _ratio(value: float, spread: float) -> float:
    if spread == 0:
        return 0.0 if value == 0 else math.copysign(math.inf, value)
    return value / spread
