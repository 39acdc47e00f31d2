"""Calibration on planted organisms: false discoveries, power, and runs in which nothing was planted.

Start and member share every token's activation up to independent noise, so with nothing planted they are exchangeable.
False discovery proportions are bounded by mean ≤ 5 % + 2.6 binomial standard errors over the plants, shares of runs by
a one-sided binomial test at 1 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats

from interp.activations.recording import record
from interp.features.dictionary import Dictionary
from interp.features.shift import feature_shift
from interp.organisms.toy import shipped_base
from interp.prompts.numbers import number_prompts
from tests.features.planting import HOOK, TableModel, by_hand, noisy_pair, numbered, topk

ALPHA = 0.05
ROWS, TOKENS = 64, 3


@dataclass(frozen=True)
class Outcome:
    """Of one organism: what was planted, reported and called direct."""

    planted: set[int]
    reported: set[int]
    direct: set[int]

    def false_share(self, name: str) -> float:
        found = getattr(self, name)
        return len(found - self.planted) / max(len(found), 1)


def run(sae, h, planted, *, size, seed, noise):
    """Both halves of an organism with `size` times the sum of these decoder directions planted, and its outcome."""
    rng = torch.Generator().manual_seed(10_000 + seed)
    table = torch.zeros(ROWS * (TOKENS + 1) + 1, h.shape[-1])
    inputs = numbered(ROWS, TOKENS)
    table[inputs.ids[:, 1:]] = h[torch.randperm(len(h), generator=rng)[:ROWS]]
    start, member = noisy_pair(table, size * sae.W_dec[planted].sum(0), noise=noise, rng=rng)
    result = feature_shift(Dictionary(sae, HOOK, "sae", start.fingerprint), member, inputs, seed=seed)
    return Outcome(set(planted) if size else set(), set(result.reported), set(result.direct))


def assert_rate(outcomes, name):
    shares = np.array([outcome.false_share(name) for outcome in outcomes])
    assert shares.mean() <= ALPHA + 2.6 * np.sqrt(ALPHA * (1 - ALPHA) / len(shares))


def power(outcomes, name):
    return np.mean([len(getattr(o, name) & o.planted) / len(o.planted) for o in outcomes])


@pytest.fixture(scope="module")
def orthonormal():
    """24 orthonormal features, each active on its own at a third of the tokens: planting one moves no other."""
    rng = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(24, 24, generator=rng))[0]
    active = torch.rand(400, TOKENS, 24, generator=rng) < 0.3
    amounts = -torch.rand(400, TOKENS, 24, generator=rng).clamp_min(1e-6).log() * active
    return by_hand(directions, TableModel(torch.zeros(1, 24))).sae, amounts @ directions


@pytest.fixture(scope="module")
def overcomplete():
    """A TopK dictionary, 144 features of 48, trained on a toy base's number tokens; features that fire there."""
    recorded = record(shipped_base(0), number_prompts(400, seed=3), hooks=HOOK, positions="answer.numbers")
    h = recorded[HOOK]
    assert recorded.mask.all()
    sae = topk(h.flatten(0, 1), width=144, k=6)
    return sae, h[:, :TOKENS], ((sae.encode(h) > 0).float().mean((0, 1)) > 0.02).nonzero()[:, 0]


@pytest.mark.slow
def test_with_nothing_planted_few_runs_report_anything(orthonormal):
    outcomes = [run(*orthonormal, [0], size=0.0, seed=seed, noise=0.3) for seed in range(200)]
    for name in ("reported", "direct"):
        any_found = sum(bool(getattr(outcome, name)) for outcome in outcomes)
        assert stats.binomtest(any_found, 200, ALPHA, alternative="greater").pvalue > 0.01


def test_orthonormal_plants_are_recovered(orthonormal):
    features = np.random.default_rng(1).integers(24, size=60).tolist()
    strong = [run(*orthonormal, [j], size=0.3, seed=seed, noise=0.3) for seed, j in enumerate(features)]
    weak = [run(*orthonormal, [j], size=0.15, seed=seed, noise=0.3) for seed, j in enumerate(features[:20])]
    for name in ("reported", "direct"):
        assert_rate(strong + weak, name)
        assert power(strong, name) >= 0.95
        assert 0.1 < power(weak, name) < power(strong, name)


@pytest.mark.slow
def test_plants_in_a_trained_dictionary_are_told_from_what_they_drag_along(overcomplete):
    sae, h, live = overcomplete
    picks = np.random.default_rng(2).choice(live.numpy(), size=60).tolist()
    outcomes = [run(sae, h, [j], size=1.0, seed=seed, noise=0.15) for seed, j in enumerate(picks)]
    leaks = np.mean([outcome.false_share("reported") for outcome in outcomes])
    assert leaks > 0.5  # the encoder is not orthogonal: most of what moves was not planted
    assert_rate(outcomes, "direct")
    assert power(outcomes, "direct") >= 0.9


@pytest.mark.slow
def test_several_plants_at_once(overcomplete):
    sae, h, live = overcomplete
    rng = np.random.default_rng(3)
    outcomes = []
    for seed in range(15):
        planted = rng.choice(live.numpy(), size=3, replace=False).tolist()
        outcomes.append(run(sae, h, planted, size=1.0, seed=seed, noise=0.15))
    assert_rate(outcomes, "direct")
    assert power(outcomes, "direct") >= 0.7
