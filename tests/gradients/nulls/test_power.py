"""The power law d = sqrt(2 KL) on a family where everything is exact, and the divergence of two tiny models."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from interp.core.runs import InputError
from interp.gradients.nulls.controls import base_samples
from interp.gradients.nulls.power import kl_per_row, power, rows_needed
from interp.measures.margins import completion_logprobs
from interp.models.language import load_model
from interp.prompts.numbers import number_prompts


def test_six_point_two_over_two_kl():
    assert rows_needed(0.005) == math.ceil(6.1826 / 0.01) == 619
    assert rows_needed(0.005, versus="neutral") == pytest.approx(2 * 619, abs=1)
    assert rows_needed(50.0) == 1


def test_rows_that_share_a_prompt_count_less():
    alone = rows_needed(1e-4)
    assert rows_needed(1e-4, per_prompt=4, correlation=1.0) == pytest.approx(4 * alone, abs=4)
    assert rows_needed(1e-4, per_prompt=4, correlation=0.5) == pytest.approx(2.5 * alone, abs=4)
    assert rows_needed(1e-4, per_prompt=4) == alone


@pytest.mark.parametrize("versus", ["zero", "neutral"])
@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.95])
def test_power_at_the_rows_needed_is_the_power_asked_for(versus, wanted):
    n = rows_needed(1e-4, power=wanted, alpha=0.01, versus=versus)
    assert power(n, 1e-4, alpha=0.01, versus=versus) == pytest.approx(wanted, abs=1e-3)


def test_without_rows_enough_the_test_rejects_at_its_level():
    assert power(1, 1e-12, alpha=0.05) == pytest.approx(0.05, abs=1e-4)


def family(step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Base and teacher over six symbols, logits moved by step * u; the score along the update, and KL in nats."""
    logits, u = np.array([1.0, 0.0, -1.0, 0.5, 0.2, -0.3]), np.array([1.0, -1.0, 0.5, 0.0, 2.0, -0.5])
    base = np.exp(logits) / np.exp(logits).sum()
    teacher = base * np.exp(step * u) / (base * np.exp(step * u)).sum()
    score = step * (u - base @ u)  # <grad log p(y), v> of a softmax
    return base, teacher, score, float(teacher @ np.log(teacher / base))


@pytest.mark.parametrize("step", [0.05, 0.1, 0.2])
def test_the_effect_is_the_root_of_twice_the_divergence(step):
    base, teacher, score, kl = family(step)
    assert base @ score == pytest.approx(0, abs=1e-15)  # the identity behind the base-sampled null
    effect = (teacher @ score) / math.sqrt(base @ score**2)
    assert effect == pytest.approx(math.sqrt(2 * kl), rel=0.5 * step)
    assert teacher @ score == pytest.approx(2 * kl, rel=step)


@pytest.mark.parametrize("versus", ["zero", "neutral"])
def test_simulated_power_is_the_power_of_the_formula(versus):
    base, teacher, score, kl = family(0.1)
    n, trials = rows_needed(kl, versus=versus), 3000
    rng = np.random.default_rng(17)
    z = _z(rng, teacher, score, n, trials, base=base if versus == "neutral" else None)
    rejected = float((z > 1.6449).mean())
    spread = math.sqrt(0.8 * 0.2 / trials)
    first_order = 0.01  # what d = sqrt(2 KL) neglects at this step
    assert rejected == pytest.approx(power(n, kl, versus=versus), abs=4 * spread + first_order)


def test_simulated_level_is_alpha():
    base, _, score, kl = family(0.1)
    rejected = float((_z(np.random.default_rng(18), base, score, rows_needed(kl), 3000) > 1.6449).mean())
    assert rejected == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 3000))


def _z(rng, law, score, n, trials, base=None) -> np.ndarray:
    """z of the mean score in `trials` samples of n symbols, less that of n base symbols where a base is given."""
    counts = rng.multinomial(n, law, size=trials)
    other = 0 if base is None else rng.multinomial(n, base, size=trials)
    mean = (counts - other) @ score / n
    squares = (counts + other) @ score**2 / n
    first = (counts @ score / n) ** 2 + (0 if base is None else (other @ score / n) ** 2)
    return mean / np.sqrt((squares - first) / n)


def pair(tiny, scale: float):
    """A tiny base, and a teacher whose unembedding is `scale` times as wide: it samples at a lower temperature."""
    hf, tokenizer = tiny("llama")
    other = copy.deepcopy(hf)
    with torch.no_grad():
        other.lm_head.weight *= scale
    named = ((hf, "base"), (other, "teacher"))
    return [load_model(each, tokenizer=tokenizer, check=False, name=name) for each, name in named]


def test_divergence_is_that_of_the_distributions(tiny):
    """One sampled token: KL is a sum over the vocabulary."""
    base, teacher = pair(tiny, 1.5)
    one = number_prompts(1, seed=0, max_value=39, with_answers=False)
    rows = base_samples(teacher, one[[0] * 1500], seed=1, max_new_tokens=1)
    asked = base.encode(one)
    p, q = (model.logits(asked)[0, -1].double().log_softmax(-1) for model in (teacher, base))
    exact = float((p.exp() * (p - q)).sum())
    ratio = completion_logprobs(teacher, rows, end=True) - completion_logprobs(base, rows, end=True)
    found = kl_per_row(teacher, base, rows)
    assert found.kl == pytest.approx(exact, abs=4 * float(ratio.std()) / math.sqrt(1500))
    assert (found.rows, found.prompts) == (1500, 1)
    assert found.interval == (-math.inf, math.inf)  # one prompt says nothing about others


def test_divergence_over_prompts_has_an_interval_and_no_prompt_system(tiny):
    base, teacher = pair(tiny, 1.5)
    rows = base_samples(teacher, number_prompts(300, seed=0, max_value=39, with_answers=False), seed=1)
    found = kl_per_row(teacher, base, rows)
    assert 0 < found.interval[0] < found.kl < found.interval[1]
    assert kl_per_row(teacher, teacher, rows).kl == 0
    assert str(found).startswith("KL ")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: rows_needed(0.0),
            "KL 0.0 nats leaves nothing to detect; pass a positive divergence per row",
        ),
        (lambda: rows_needed(math.nan), "KL nan nats leaves nothing to detect"),
        (lambda: rows_needed(0.1, alpha=1.5), "alpha 1.5 is outside"),
        (lambda: rows_needed(0.1, power=1.0), "power 1.0 is outside"),
        (lambda: rows_needed(0.1, correlation=2.0), "rows per prompt with correlation 2.0 cannot be"),
        (lambda: power(0, 0.1), "n = 0 rows is no test; pass at least 1"),
    ],
)
def test_impossible_requests(call, message):
    with pytest.raises(InputError, match=message):
        call()
