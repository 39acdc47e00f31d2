"""Cross-fitting: rows are scored along a direction that was estimated without them.

A row scored along a mean that holds its own gradient leans toward it by about |g|^2 / n whatever it says: a cosine of
1 / sqrt(n). Folds are of prompts, since two answers to one prompt share most of what their gradients share.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from interp.core.runs import InputError
from interp.gradients.nulls.samples import Sample
from interp.prompts.text import Prompts, numbered, prompts_of
from interp.stats.exchanges import PROMPTS, NullTest, Paired


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Scores of rows along directions that never saw their prompts; `folds` says which direction scored a row."""

    scores: Float[np.ndarray, "row"]
    folds: Int[np.ndarray, "row"]
    prompts: tuple[Any, ...]

    def test(self, *, seed: int = 0) -> NullTest:
        """Test each fold against zero given its direction, and take twice the mean of the p-values, at most 1.

        The folds' directions share rows, so that their scores are dependent, however far from overlapping: two halves
        have the same total. Twice the mean p is valid under any dependence (Vovk and Wang 2020).
        """
        parts = [self._fold(fold) for fold in np.unique(self.folds).tolist()]
        tests = [Paired(part, np.zeros_like(part)).test("cross-fitted", seed=seed) for part in parts]
        sizes = [test.n for test in tests]
        p, smallest = (min(1.0, 2 * _mean(tests, what)) for what in ("p", "smallest_p"))
        mean, effect = (_mean(tests, what, weights=sizes) for what in ("observed", "effect"))
        return NullTest("cross-fitted", mean, 0.0, effect, p, smallest, sum(sizes), PROMPTS)

    def _fold(self, fold: int) -> Float[np.ndarray, "prompt"]:
        """Mean score of every prompt of that fold."""
        rows = np.flatnonzero(self.folds == fold)
        prompts = tuple(self.prompts[row] for row in rows)
        return Sample(self.scores[rows, None], ("cross-fitted",), prompts).by_prompt().scores[:, 0]


def cross_fit(
    rows: Prompts,
    *,
    fit: Callable[[Prompts], Any],
    score: Callable[[Prompts, Any], Any],
    k: int = 5,
    seed: int = 0,
) -> CrossFit:
    """Score every row along `fit` of the rows of all other folds: `score(rows of a fold, direction)` -> [row].

    The k folds are random, disjoint, and as equal in prompts as can be; rows that share a prompt share a fold. Give a
    `fit` that returns directions of one scale. Raises InputError for fewer prompts than folds.
    """
    folds = prompt_folds(rows, k=k, seed=seed)
    scores = np.full(len(rows), np.nan)
    for fold in range(k):
        held, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        direction = fit(rows[rest.tolist()])
        scores[held] = np.asarray(score(rows[held.tolist()], direction), dtype=float).reshape(len(held))
    return CrossFit(scores, folds, prompts_of(rows))


def prompt_folds(rows: Prompts, *, k: int, seed: int) -> Int[np.ndarray, "row"]:
    """A fold from 0 to k - 1 for every row, the same for rows that share a prompt.

    Raises InputError for fewer than two folds or more than there are prompts.
    """
    prompts = numbered(prompts_of(rows))
    count = int(prompts.max(initial=-1)) + 1
    if not 2 <= k <= count:
        raise InputError(
            f"{count} prompts make no {k} folds; pass k from 2 to {max(2, count)}, or more prompts"
        )
    return (np.random.default_rng(seed).permutation(count) % k)[prompts]


def _mean(tests: list[NullTest], what: str, *, weights: list[int] | None = None) -> float:
    return float(np.average([getattr(test, what) for test in tests], weights=weights))
