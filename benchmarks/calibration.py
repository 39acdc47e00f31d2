"""Are the error rates of `interp.stats` what they say? Each test on simulated nulls: rate near 0.05.

A rate is #{p ≤ 0.05} / nulls, or of intervals the share that miss, with Wilson's interval. KS is Kolmogorov-Smirnov's p
against uniform. A permutation p lies on a grid; minus a uniform draw over its own step it is exactly uniform under the
null (a randomised p); that is counted and what KS sees. Where a p is not uniform by construction there is no KS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp.core.content import json_text
from interp.core.runs import write_atomic
from interp.stats.columns import bootstrapped, share_reaching
from interp.stats.exchanges import Matrix, Paired, Ranked, TwoSample
from interp.stats.many import sign_flip_family
from interp.stats.ranks import flipped_null, permuted_null, spearman
from interp.stats.tests import (
    auroc,
    benjamini_hochberg,
    equivalence_test,
    holm,
    permutation_test,
    sign_flip_test,
    t_interval,
    wilson_interval,
)

LEVEL = 0.05
BAND = (0.035, 0.065)
NULLS = 4_000
MORE = 5  # times as many for intervals of a mean, of which 4 000 left open whether they miss too often
RESULTS = Path(__file__).with_name("calibration.json")


@dataclass(frozen=True)
class Calibration:
    """One test over its nulls: the rate of errors, its 95 % interval, and KS against uniform (None: not uniform)."""

    test: str
    nulls: int
    rate: float
    low: float
    high: float
    ks_p: float | None


def sign_flip(nulls: int, rng: np.random.Generator) -> Calibration:
    """Eight normal runs, all patterns."""
    p = [sign_flip_test(row).p for row in rng.normal(size=(nulls, 8))]
    return _of_p("sign-flip, n = 8", p, step=1 / 256, rng=rng)


def permutation(nulls: int, rng: np.random.Generator) -> Calibration:
    """Five against five runs of a skewed law, all assignments."""
    p = [permutation_test(row[:5], row[5:]).p for row in rng.exponential(size=(nulls, 10))]
    return _of_p("permutation, 5 + 5", p, step=1 / 252, rng=rng)


def max_t_family(nulls: int, rng: np.random.Generator) -> Calibration:
    """Ten tests on eight runs, correlated by half: the smallest adjusted p is on the grid of all patterns."""
    draws = rng.normal(size=(nulls, 8, 10)) + rng.normal(size=(nulls, 8, 1))
    p = [float(sign_flip_family(each).p_max.min()) for each in draws]
    return _of_p("max-T, family-wise, 10 tests, n = 8", p, step=2 / 256, rng=rng)


def equivalence(nulls: int, rng: np.random.Generator) -> Calibration:
    """Eight runs whose mean lies on the margin, upper or lower in turn."""
    edges = np.where(np.arange(nulls) % 2, 1.0, -1.0)[:, None]
    p = [equivalence_test(row, margin=1.0).p for row in rng.normal(edges, 0.1, size=(nulls, 8))]
    return _of_p("equivalence on its margin, n = 8", p, step=0.0, rng=rng)


def holm_family(nulls: int, rng: np.random.Generator) -> Calibration:
    """Ten independent uniform p: any of them rejected. The smallest adjusted p is no uniform one."""
    errors = [bool(holm(row).min() <= LEVEL) for row in rng.random((nulls, 10))]
    return _of_errors("Holm, family-wise, 10 tests", errors)


def false_discoveries(nulls: int, rng: np.random.Generator) -> Calibration:
    """Ten independent uniform p: with nothing to find the false discovery rate is the chance of any discovery."""
    errors = [bool(benjamini_hochberg(row).min() <= LEVEL) for row in rng.random((nulls, 10))]
    return _of_errors("Benjamini-Hochberg, FDR, 10 tests", errors)


def wilson(nulls: int, rng: np.random.Generator) -> Calibration:
    """Two hundred trials of a rate of 0.3: misses of the interval."""
    counts = rng.binomial(200, 0.3, size=nulls).tolist()
    return _of_intervals("Wilson, 200 trials", [wilson_interval(each, 200) for each in counts], truth=0.3)


def t_coverage(nulls: int, rng: np.random.Generator) -> Calibration:
    """Eight normal runs: misses of the interval of the mean."""
    return _of_intervals(
        "t interval, n = 8", [t_interval(row) for row in rng.normal(size=(nulls, 8))], truth=0.0
    )


def bootstrap(nulls: int, rng: np.random.Generator) -> Calibration:
    """Eighty clusters of three values that share half of their variance: misses of the interval of the mean."""
    labels = np.repeat(np.arange(80), 3)
    draws = np.repeat(rng.normal(size=(nulls, 80)), 3, axis=1) + rng.normal(size=(nulls, 240))
    edges = (
        bootstrapped(row[:, None], clusters=labels, resamples=399, seed=k) for k, row in enumerate(draws)
    )
    found = [(float(low[0]), float(high[0])) for low, high in edges]
    return _of_intervals("cluster bootstrap, 80 clusters", found, truth=0.0)


def auroc_coverage(nulls: int, rng: np.random.Generator) -> Calibration:
    """Sixty against sixty scores of one law: misses of 0.5."""
    found = [auroc(row[:60], row[60:]).interval for row in rng.normal(size=(nulls, 120))]
    return _of_intervals("AUROC, 60 + 60 scores", found, truth=0.5)


def feature_family(nulls: int, rng: np.random.Generator) -> Calibration:
    """Ten features on two rows of each of 24 prompts, which features share: the smallest p adjusted by max-T."""
    labels, p = np.arange(48) // 2, []
    for seed in range(nulls):
        rows = np.repeat(rng.exponential(size=(24, 1)) * rng.normal(size=(24, 10)), 2, axis=0)
        p.append(float(sign_flip_family(rows, clusters=labels, flips=999, seed=seed).p_max.min()))
    return _of_p("max-T over features, 10 features, 24 prompts", p, step=1 / 1_000, rng=rng)


def pairs(nulls: int, rng: np.random.Generator) -> Calibration:
    """Forty prompts answered by two teachers of one skewed law."""
    p = [Paired(*rng.exponential(size=(2, 40))).test("null", seed=seed).p for seed in range(nulls)]
    return _of_p("pairs of prompts, n = 40", p, step=1 / 10_000, rng=rng)


def two_samples(nulls: int, rng: np.random.Generator) -> Calibration:
    """Twelve prompts against eighteen others of one skewed law, random assignments."""
    draws = rng.exponential(size=(nulls, 30))
    p = [TwoSample(row[:12], row[12:]).test("null", seed=seed).p for seed, row in enumerate(draws)]
    return _of_p("two samples of prompts, 12 + 18", p, step=1 / 10_000, rng=rng)


def rank_among_controls(nulls: int, rng: np.random.Generator) -> Calibration:
    """One direction among 200 of one law."""
    p = [Ranked(float(row[0]), row[1:], "directions").test("null").p for row in rng.normal(size=(nulls, 200))]
    return _of_p("rank among 199 directions", p, step=1 / 200, rng=rng)


def diagonal(nulls: int, rng: np.random.Generator) -> Calibration:
    """Six traits by six data sets with strong effects of rows and columns, all relabellings."""
    effects = rng.normal(size=(nulls, 6, 1)) + rng.normal(size=(nulls, 1, 6))
    p = [Matrix(each).test("null").p for each in 3 * effects + rng.normal(size=(nulls, 6, 6))]
    return _of_p("diagonal of a matrix, 6 traits", p, step=1 / 720, rng=rng)


def rank_correlation_in_groups(nulls: int, rng: np.random.Generator) -> Calibration:
    """Lean and shift of thirty features that share their group of ten and nothing else."""
    groups, p = np.repeat([0, 1, 2], 10), []
    for seed in range(nulls):
        u, t = 3.0 * groups + rng.normal(size=(2, 30))
        null = permuted_null(u, t, groups, draws=199, seed=seed)
        p.append(share_reaching(null, float(spearman(u[None], t)[0])))
    return _of_p("rank correlation, permuted in groups", p, step=1 / 200, rng=rng)


def rank_correlation_of_prompts(nulls: int, rng: np.random.Generator) -> Calibration:
    """Leans of 25 features on forty prompts, teacher less neutral teacher, which are alike."""
    p = []
    for seed in range(nulls):
        t = rng.normal(size=25)
        leans = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 25)) + 0.1 * rng.normal(size=(40, 25))
        null = flipped_null(leans, t, draws=199, seed=seed)
        p.append(share_reaching(null, float(spearman(leans.mean(0)[None], t)[0])))
    return _of_p("rank correlation, prompts exchanged", p, step=1 / 200, rng=rng)


TESTS: tuple[Callable[[int, np.random.Generator], Calibration], ...] = (
    sign_flip,
    permutation,
    max_t_family,
    equivalence,
    holm_family,
    false_discoveries,
    wilson,
    t_coverage,
    bootstrap,
    auroc_coverage,
    feature_family,
    pairs,
    two_samples,
    rank_among_controls,
    diagonal,
    rank_correlation_in_groups,
    rank_correlation_of_prompts,
)


def calibration() -> dict[str, Any]:
    """Run every test on its nulls and write the rows to calibration.json; it adds no ratio to the results."""
    found = [
        test(NULLS * (MORE if test in (t_coverage, bootstrap) else 1), np.random.default_rng(index))
        for index, test in enumerate(TESTS)
    ]
    write_atomic(RESULTS, json_text({"level": LEVEL, "band": BAND, "rows": [asdict(each) for each in found]}))
    return {}


BENCHES: dict[str, Callable[[], dict[str, Any]]] = {"calibration": calibration}


def _of_p(test: str, p: list[float], *, step: float, rng: np.random.Generator) -> Calibration:
    from scipy.stats import kstest

    values = np.array(p) - step * rng.random(len(p))
    ks = kstest(values, "uniform").pvalue
    return _of_errors(test, (values <= LEVEL).tolist(), ks_p=float(ks))


def _of_intervals(test: str, found: list[tuple[float, float]], *, truth: float) -> Calibration:
    return _of_errors(test, [not low <= truth <= high for low, high in found])


def _of_errors(test: str, errors: list[bool], *, ks_p: float | None = None) -> Calibration:
    low, high = wilson_interval(sum(errors), len(errors))
    return Calibration(test, len(errors), sum(errors) / len(errors), low, high, ks_p)
