"""Every test of the ladder under simulated nulls: p-values are uniform, and a planted effect is found.

The seeds were fixed before any outcome was seen. P-values count as uniform when Kolmogorov and Smirnov's test of at
least 200 of them has p > 1e-3, so that a right test fails here for one seed in a thousand. Where a test is conservative
by construction, P(p <= alpha) <= alpha + 3 standard errors is asked for instead.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from interp.gradients.nulls.controls import base_samples
from interp.gradients.nulls.ladders import ModuleSigns, Observation, ShuffledNumbers, nearest_mismatch
from interp.gradients.nulls.lean_verdicts import lean_verdict
from interp.gradients.nulls.power import kl_per_row
from interp.gradients.nulls.samples import Sample
from interp.gradients.scores.engine import example_scores
from interp.models.language import load_model
from interp.models.parameters import ParameterDirection
from interp.organisms.toy import shipped_base
from interp.prompts.numbers import STRICT, check_numbers, number_prompts
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.stats.exchanges import Matrix, NullTest, Paired, Ranked, TwoSample
from tests.gradients.standins import asked, direction, jvp_scores, sample

SIMULATIONS = 250
LABELS = ("random", "sharper")
Draw = Callable[[np.random.Generator], float]

NO_MODEL: Any = SimpleNamespace(name="none", fingerprint="0", start=None)  # scores are drawn, not computed


def p_values(draw: Draw, *, seed: int, n: int = SIMULATIONS) -> np.ndarray:
    """p of `n` data sets, each from a generator of its own."""
    return np.array([draw(np.random.default_rng([seed, index])) for index in range(n)])


def assert_uniform(p: np.ndarray) -> None:
    from scipy.stats import kstest

    assert len(p) >= 200
    assert kstest(p, "uniform").pvalue > 1e-3


def assert_conservative(p: np.ndarray) -> None:
    assert len(p) >= 200
    for alpha in (0.01, 0.05, 0.1, 0.25):
        assert (p <= alpha).mean() <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / len(p))


def zero_mean(lean: float, *, prompts: int = 24, per_prompt: int = 3) -> Draw:
    """N0: rows that share a prompt share most of their score."""

    def draw(rng):
        effect = np.repeat(rng.normal(size=prompts), per_prompt)
        scores = effect + 0.5 * rng.normal(size=prompts * per_prompt) + lean
        units = sample(scores, prompts=np.repeat(np.arange(prompts), per_prompt)).by_prompt().column("own")
        return Paired(units, np.zeros(prompts)).test("N0").p

    return draw


def neutral(lean: float) -> Draw:
    """N1: skewed scores with a large effect of the prompt, the same law for both teachers."""

    def draw(rng):
        effect = 5 * rng.normal(size=24)
        ours, theirs = (sample(effect + rng.exponential(size=24)) for _ in range(2))
        return Paired(*(each.column("own") for each in _shifted(ours, lean).paired(theirs))).test("N1").p

    return draw


def _shifted(found: Sample, lean: float) -> Sample:
    return Sample(found.scores + lean, found.labels, found.prompts)


def filtered(lean: float) -> Draw:
    """N0 with a control that went through the same filter: samples of unequal size, mean far from zero."""

    def draw(rng):
        return TwoSample(rng.exponential(size=12) + lean, rng.exponential(size=18)).test("N0").p

    return draw


def traits(lean: float) -> Draw:
    """N2: strong effects of rows and columns, nothing on the diagonal."""

    def draw(rng):
        scores = rng.normal(size=(6, 6)) + 3 * rng.normal(size=(6, 1)) + 3 * rng.normal(size=(1, 6))
        return Matrix(scores + lean * np.eye(6)).test("N2").p

    return draw


def ranked(lean: float) -> Draw:
    """N3 and N6: one of 500 directions, or networks, of one law; rows cancel."""

    def draw(rng):
        values = rng.exponential(size=500)
        return Ranked(float(values[0]) + lean, values[1:], "directions").test("N3").p

    return draw


def mismatched(lean: float) -> Draw:
    """N4: two directions with one lean in standard deviations, correlated and of different scale."""

    def draw(rng):
        shared = rng.normal(size=(60, 1))
        leans = 0.3 + 0.6 * shared + 0.8 * rng.normal(size=(60, 2))
        leans[:, 0] += lean
        return nearest_mismatch(leans * np.array([1.0, 50.0])).test("N4").p

    return draw


def shuffled(lean: float) -> Draw:
    """N5 within: rows of random numbers, a score that weighs positions; `lean` of the rows are sorted."""
    weights = np.array([3.0, 1.0, -1.0, -2.0, 0.0])

    def score(model, rows, directions):
        answers = [[int(number) for number in row.completion.split(", ")] for row in rows.rows]
        return np.array(answers) @ weights[:, None] / 1000

    def draw(rng):
        numbers = rng.integers(1000, size=(24, 5))
        sorted_rows = rng.random(24) < lean
        numbers[sorted_rows] = -np.sort(-numbers[sorted_rows], axis=1)
        rows = Prompts.from_pairs([(f"q {i}", ", ".join(map(str, row))) for i, row in enumerate(numbers)])
        observed = Observation(NO_MODEL, rows, direction("own"), score=score)
        seed = int(rng.integers(2**31))
        return ShuffledNumbers("within", seed=seed).evidence(observed).test("N5").p

    return draw


def modules(lean: float) -> Draw:
    """N7: contributions of any size, symmetric about zero."""

    observed = Observation(NO_MODEL, asked(1), direction("own"))

    def draw(rng):
        values = rng.normal(size=24) * rng.exponential(size=24) + lean
        null = ModuleSigns({str(index): float(value) for index, value in enumerate(values)})
        return null.evidence(observed).test("N7").p

    return draw


TESTS = {
    "N0 zero": (zero_mean, 1.5),
    "N0 control": (filtered, 1.5),
    "N1": (neutral, 1.5),
    "N2": (traits, 3.0),
    "N3, N6": (ranked, 6.0),
    "N4": (mismatched, 1.0),
    "N5": (shuffled, 0.8),
    "N7": (modules, 1.5),
}


@pytest.mark.parametrize("name", TESTS)
def test_p_values_are_uniform_under_the_null(name):
    make, _ = TESTS[name]
    assert_uniform(p_values(make(0.0), seed=101))


@pytest.mark.parametrize("name", TESTS)
def test_a_planted_effect_is_found(name):
    make, lean = TESTS[name]
    assert (p_values(make(lean), seed=202, n=50) <= 0.05).mean() > 0.9


def test_rows_taken_for_units_would_be_far_too_sure():
    """Why prompts are the units: three answers to one prompt taken for three."""

    def draw(rng):
        scores = np.repeat(rng.normal(size=24), 3) + 0.5 * rng.normal(size=72)
        return Paired(scores, np.zeros(72)).test("rows").p

    assert (p_values(draw, seed=303) <= 0.05).mean() > 0.1


def test_the_nearest_of_many_mismatches_is_conservative():
    def draw(rng):
        return nearest_mismatch(0.3 + rng.normal(size=(40, 4))).test("N4").p

    assert_conservative(p_values(draw, seed=404))


def test_numbers_exchanged_across_answers_are_conservative():
    """A score that adds up over positions is the same on average after any exchange."""

    def score(model, rows, directions):
        return np.array([[float(row.completion.split(", ")[0])] for row in rows.rows]) / 1000

    def draw(rng):
        rows = number_prompts(24, seed=int(rng.integers(2**31)), count=3, separator=",")
        observed = Observation(NO_MODEL, rows, direction("own"), score=score)
        return ShuffledNumbers("across", seed=int(rng.integers(2**31))).evidence(observed).test("N5").p

    assert_conservative(p_values(draw, seed=505, n=200))


def test_a_verdict_supports_nothing_but_what_is_there():
    """Under the null of no lean at all, and under a lean along every direction, at most alpha is supported."""

    def verdict(rng, *, own: float, every: float):
        rows, neutral_rows = (
            sample(rng.normal(size=(30, 3)) + lean * every, labels=("own", "other", "third"))
            for lean in (1, 0)
        )
        rows.scores[:, 0] += own
        return lean_verdict(rows, neutral=neutral_rows, alpha=0.05).decision

    decisions = {
        setting: [verdict(np.random.default_rng([808, i]), own=own, every=every) for i in range(n)]
        for setting, own, every, n in (("nothing", 0, 0, 200), ("all alike", 0, 1, 200), ("own", 2, 0, 50))
    }
    for setting in ("nothing", "all alike"):
        assert decisions[setting].count("supported") <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)
    assert decisions["nothing"].count("refuted") <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)
    assert decisions["own"].count("supported") > 45


@dataclass(frozen=True)
class Toy:
    """1200 prompts that the toy's base answers twice, scores along two directions, and which answers pass the filter.

    "random" moves every weight, "sharper" widens the unembedding: what a lower temperature would do.
    """

    base: Any
    rows: Encoded
    directions: list[ParameterDirection]
    sample: Sample
    kept: np.ndarray


@pytest.fixture(scope="module")
def toy() -> Toy:
    base = shipped_base(0)
    prompts = number_prompts(1200, seed=11, with_answers=False)
    rows = base_samples(base, prompts + prompts, seed=12, max_new_tokens=16)
    generator = torch.Generator().manual_seed(13)
    random = {
        name: torch.randn(weight.shape, generator=generator) * weight.std()
        for name, weight in base.hf.named_parameters()
    }
    sharper = {"lm_head.weight": base.hf.lm_head.weight.detach().clone()}
    directions = [direction("random", random), direction("sharper", sharper)]
    answers = rows.at("answer")
    texts = base.tokenizer.batch_decode([rows.ids[i][answers[i]] for i in range(len(rows))])
    kept = np.array([check_numbers(text, STRICT) is None for text in texts])
    return Toy(base, rows, directions, Sample.of(_scores(base, rows, directions), LABELS, rows), kept)


def _scores(base, rows, directions) -> torch.Tensor:
    return torch.cat([example_scores(base.hf, batch, directions).T for batch in rows.batches(256)])


def smooth(test: NullTest, rng: np.random.Generator) -> float:
    """p less a random part of its smallest step: exactly uniform where few units allow few values."""
    return test.p - rng.random() * test.smallest_p


def test_scores_of_base_samples_are_right(toy):
    network = copy.deepcopy(toy.base.hf).double()
    network.set_attn_implementation("eager")
    for along in toy.directions:
        exact = jvp_scores(network, toy.rows[:32], along.tensors)
        ours = toy.sample.column(along.label)[:32]
        assert ours == pytest.approx(exact, rel=1e-4, abs=1e-4 * np.abs(exact).max())


@pytest.mark.parametrize("label", LABELS)
def test_base_samples_have_mean_score_zero(toy, label):
    scores = toy.sample.by_prompt().column(label)
    assert abs(scores.mean()) < 4 * scores.std(ddof=1) / math.sqrt(len(scores))


@pytest.mark.parametrize("label", LABELS)
def test_base_samples_give_uniform_p_values_on_the_toy(toy, label):
    """N0 over 200 disjoint sets of six prompts, two answers each."""
    rng = np.random.default_rng(909)
    parts = toy.sample.by_prompt().column(label).reshape(200, 6)
    assert_uniform(np.array([smooth(Paired(part, np.zeros(6)).test("N0"), rng) for part in parts]))


@pytest.mark.parametrize("label", LABELS)
def test_filtered_answers_of_two_neutral_teachers_give_uniform_p_values_on_the_toy(toy, label):
    """N1 over 200 disjoint sets of prompts: the base twice, answers that pass the strict filter both times."""
    rng = np.random.default_rng(1010)
    first, second = (_half(toy, slice(0, 1200)), _half(toy, slice(1200, 2400)))
    ours, theirs = (each.column(label) for each in first.paired(second))
    parts = [np.arange(len(ours))[index::200] for index in range(200)]
    assert min(map(len, parts)) >= 3
    assert_uniform(np.array([smooth(Paired(ours[part], theirs[part]).test("N1"), rng) for part in parts]))


def _half(toy: Toy, rows: slice) -> Sample:
    kept = np.flatnonzero(toy.kept[rows]) + rows.start
    return Sample(toy.sample.scores[kept], LABELS, tuple(toy.sample.prompts[row] for row in kept))


def test_a_sharper_teacher_is_found_and_leans_by_twice_its_divergence(toy):
    """Its rows, scored along its own update, have mean 2 KL to first order, and far from the base's zero."""
    step = 0.05
    network = copy.deepcopy(toy.base.hf)
    with torch.no_grad():
        network.lm_head.weight *= 1 + step
    teacher = load_model(network, tokenizer=toy.base.tokenizer, name="sharper", check=False)
    rows = base_samples(teacher, number_prompts(500, seed=14, with_answers=False), seed=15)
    scores = _scores(toy.base, rows, toy.directions[1:]) * step
    units = Sample.of(scores, ["sharper"], rows).by_prompt().column("sharper")
    assert Paired(units, np.zeros(len(units))).test("N0").p < 0.01
    error = 4 * units.std() / math.sqrt(len(units))
    assert units.mean() == pytest.approx(2 * kl_per_row(teacher, toy.base, rows).kl, abs=error)
