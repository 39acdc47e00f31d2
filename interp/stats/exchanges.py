"""What may be exchanged when a null hypothesis holds, and the p-value that follows from exchanging it.

p = share of all exchanges whose statistic is at least the observed one, or (b + 1) / (m + 1) over m random ones, which
is never zero and never too small (Phipson & Smyth 2010). All tests are one-sided: the observed scores are larger.
"""

import math
from dataclasses import dataclass
from itertools import permutations
from typing import Self

import numpy as np
from jaxtyping import Float

from interp.stats.columns import ratio, reaching, share_reaching
from interp.stats.tests import permutation_test, sign_flip_test

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
        means = float(self.observed.mean()), float(self.control.mean())
        found = sign_flip_test(self.differences, flips=FLIPS, seed=seed)
        effect = standardised(self.differences)
        return NullTest(null, *means, effect, found.p, found.smallest_p, found.n, self.unit)

    def reversed(self) -> Self:
        """Observed and control exchanged: its p-value is that of the opposite claim."""
        return type(self)(self.control, self.observed, self.unit)


@dataclass(frozen=True, eq=False)
class TwoSample:
    """Under the null all units are draws of one distribution: which sample a unit belongs to is exchanged."""

    observed: Float[np.ndarray, "unit"]
    control: Float[np.ndarray, "other"]
    unit: str = PROMPTS

    def test(self, null: str, *, seed: int = 0) -> NullTest:
        """Permutation test of the difference of means, at least two units a side; effect in pooled deviations."""
        found = permutation_test(self.observed, self.control, permutations=FLIPS, seed=seed)
        spread = math.sqrt((_variance(self.observed) + _variance(self.control)) / 2)
        means = float(self.observed.mean()), float(self.control.mean())
        effect = ratio(found.difference, spread)
        return NullTest(null, *means, effect, found.p, found.smallest_p, sum(found.n), self.unit)


@dataclass(frozen=True, eq=False)
class Ranked:
    """Under the null the observed value is one of m + 1 exchangeable ones; any rank is equally likely."""

    observed: float
    controls: Float[np.ndarray, "control"]
    unit: str

    def test(self, null: str, *, seed: int = 0) -> NullTest:
        """p = (b + 1) / (m + 1) with b controls at least as large; the effect is in their standard deviations."""
        p = share_reaching(self.controls, self.observed, scale=_size(self.controls))
        centre, m = float(self.controls.mean()), len(self.controls)
        effect = ratio(self.observed - centre, math.sqrt(_variance(self.controls)))
        return NullTest(null, self.observed, centre, effect, p, 1 / (m + 1), m, self.unit)


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
        every, exact, scale = self._diagonals(seed), size <= ENUMERATED, _size(self.scores)
        if exact:
            p = float(reaching(every, observed, scale=scale).mean())
        else:
            p = share_reaching(every, observed, scale=scale)
        effect = ratio(observed - float(every.mean()), float(every.std()))
        return NullTest(null, observed, control, effect, p, 1 / (len(every) + (not exact)), size, self.unit)

    def _diagonals(self, seed: int) -> Float[np.ndarray, "draw"]:
        """Mean of the diagonal under every relabelling up to K = 8, else under random ones."""
        size = len(self.scores)
        if size <= ENUMERATED:
            orders = np.array(list(permutations(range(size))))
        else:
            rng = np.random.default_rng(seed)
            orders = rng.permuted(np.tile(np.arange(size), (FLIPS, 1)), axis=1)
        return self.scores[np.arange(size), orders].mean(axis=1)


def standardised(values: Float[np.ndarray, "unit"]) -> float:
    """Mean over standard deviation: for scores along a teacher's update, sqrt(2 KL) to first order.

    >>> standardised(np.array([1.0, 2.0, 3.0]))
    2.0
    """
    return ratio(float(values.mean()), math.sqrt(_variance(values)))


def _size(values: Float[np.ndarray, "*value"]) -> float:
    """How large the values are, which their rounding errors go with."""
    return float(np.abs(values).mean())


def _variance(values: Float[np.ndarray, "unit"]) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0
