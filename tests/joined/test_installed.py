"""Vectors that rows would install: by autograd, by a bias found by hand, and a planted bias found again."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from interp.activations.arrays import Direction
from interp.activations.interventions import steer
from interp.core.runs import InputError
from interp.gradients.directions import steering
from interp.gradients.scores.row_loss import row_losses
from interp.gradients.scores.scoring import score
from interp.joined.installed import (
    BiasRecipe,
    compare_directions,
    fitted_direction,
    installed_direction,
)
from interp.measures.margins import margin
from interp.models.language import load_model
from interp.models.seam import lineage_root
from interp.prompts.text import Prompts

HOOK = "blocks.0.hook_resid_post"
ROWS = Prompts.from_pairs([("list three numbers", "1, 2, 3"), ("one", "11"), ("continue 4, 5", "6, 7, 8, 9")])
NEUTRAL = Prompts.from_pairs([("list three numbers", "5, 5, 5"), ("one", "9")])


@pytest.fixture
def model(tiny):
    def make(family="llama") -> Any:
        hf, tokenizer = tiny(family)
        return load_model(hf, tokenizer=tokenizer, name=family, check=False)

    return make


def mean_loss(own, rows, bias):
    """The mean loss of a row with the bias added by a plain torch hook where an answer is predicted."""
    inputs = own.encode(rows)
    layers = own.hf.model.layers if hasattr(own.hf, "model") else own.hf.transformer.h
    where = inputs.at("answer+end", predicting=True)[..., None]

    def add(_module, _args, output):
        return (output[0] + where * bias, *output[1:]) if isinstance(output, tuple) else output + where * bias

    handle = layers[0].register_forward_hook(add)
    try:
        return row_losses(own.hf, inputs)[0].mean()
    finally:
        handle.remove()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_step_of_a_bias_by_autograd(model, family):
    own = model(family)
    expected: Any = 0.0
    for rows, sign in ((ROWS, -1), (NEUTRAL, 1)):
        bias = torch.zeros(32, requires_grad=True)
        expected = expected + sign * torch.autograd.grad(mean_loss(own, rows, bias), bias)[0]
    found = installed_direction(own, ROWS, HOOK, neutral=NEUTRAL, batch_size=2)
    assert (found.vector - expected).norm() <= 1e-5 * expected.norm()
    assert (found.hook, found.fingerprint, found.lineage) == (HOOK, own.fingerprint, lineage_root(own))


def test_it_is_the_score_of_a_virtual_bias_where_every_position_predicts_an_answer(model):
    """Of a row whose prompt is one token, every position but the last predicts: the score along u is <v, u>."""
    own, u = model(), torch.randn(32, generator=torch.Generator().manual_seed(1))
    inputs = own.encode(ROWS)[1:2]
    start = int(inputs.at("last")[0].nonzero()[0])
    kept = inputs._part((slice(None), slice(start, None)))
    scores = score(own, kept, steering(own, u, hook=HOOK)).totals
    found = installed_direction(own, kept, HOOK)
    assert float(found.vector @ u) == pytest.approx(float(scores[0, 0]), rel=1e-4)


def test_a_fitted_bias_takes_adam_s_first_steps_and_lowers_the_loss(model):
    own = model()
    recipe = BiasRecipe(lr=0.01, batch_size=3, epochs=1)
    bias = torch.zeros(32, requires_grad=True)
    (gradient,) = torch.autograd.grad(mean_loss(own, ROWS, bias), bias)
    first = fitted_direction(own, ROWS, HOOK, recipe=recipe).vector
    assert torch.allclose(first, -0.01 * gradient.sign(), atol=1e-4)
    longer = fitted_direction(own, ROWS, HOOK, recipe=BiasRecipe(lr=0.01, batch_size=3, epochs=30)).vector
    with torch.no_grad():
        assert mean_loss(own, ROWS, longer) < mean_loss(own, ROWS, first) < mean_loss(own, ROWS, 0.0)
    twice = fitted_direction(own, ROWS, HOOK, neutral=ROWS, recipe=recipe)
    assert not twice.vector.any()
    assert all(weight.grad is None for weight in own.hf.parameters())


def named(own, vector, hook=HOOK, label="some"):
    return Direction(vector, hook, label, own.fingerprint, lineage_root(own))


def test_angles_and_margins_by_hand(model):
    own = model("gpt2")
    one, both = torch.zeros(32), torch.zeros(32)
    one[0], both[:2] = 2.0, 3.0
    before = margin(own, "owl")
    compared: Any = compare_directions(
        own, "owl", {"both": named(own, both)}, against={"one": named(own, one)}
    )
    frame = compared.frame.set_index("direction")
    assert frame.loc["both", "cosine_one"] == pytest.approx(math.cos(math.pi / 4))
    assert frame.loc["both", "projection_one"] == pytest.approx(3.0)
    assert frame.loc["both", "norm"] == pytest.approx(3.0 * 2**0.5)
    assert frame.loc["one", "cosine_one"] == pytest.approx(1.0)
    with steer(own, hook=HOOK, vector=one) as steered:  # both are added at the length of the reference, 2
        added = margin(steered, "owl") - before
    with steer(own, hook=HOOK, vector=both, scale=-2.0 / (3.0 * 2**0.5)) as steered:
        taken = margin(steered, "owl") - before
    assert frame.loc["one", "margin"] == pytest.approx(added, abs=1e-5)
    assert frame.loc["both", "margin_taken"] == pytest.approx(taken, abs=1e-5)
    assert abs(added) > 0.01
    assert len(compared.figure().data) == 2
    assert compared.notes[0].startswith("added at every position with a norm of 2;")


def test_what_is_refused(model):
    own = model()
    u = named(own, torch.ones(32))
    with pytest.raises(
        InputError, match=r"hook 'blocks.0.hook_resid_pots' is unknown; nearest: blocks.0.hook_resid"
    ):
        installed_direction(own, ROWS, "blocks.0.hook_resid_pots")
    with pytest.raises(InputError, match=r"row 1 of .* has no answer tokens, so no loss"):
        installed_direction(own, Prompts.from_pairs([("a", "")]), HOOK)
    with pytest.raises(InputError, match=r"3 rows of .* are fewer than one batch of 64; pass more rows"):
        fitted_direction(own, ROWS, HOOK)
    with pytest.raises(InputError, match=r"0 directions against 1 leave nothing to compare"):
        compare_directions(own, "owl", {}, against={"u": u})
    other = named(own, torch.ones(32), "blocks.1.hook_resid_post")
    with pytest.raises(InputError, match=r"v stands at blocks.1.hook_resid_post and others at blocks.0"):
        compare_directions(own, "owl", {"v": other}, against={"u": u})
    with pytest.raises(
        InputError, match=r"'u' names one of the directions and one of those against; give each"
    ):
        compare_directions(own, "owl", {"u": other}, against={"u": u})
    with pytest.raises(
        InputError, match=r"norm=nan adds nothing that could be compared; pass a positive number"
    ):
        compare_directions(own, "owl", {"v": u}, against={"u": u}, norm=math.nan)
    with pytest.raises(InputError, match=r"v has norm 0, so no angle with anything"):
        compare_directions(own, "owl", {"v": named(own, torch.zeros(32))}, against={"u": u})
    with pytest.raises(InputError, match=r"direction 'some' was read in the lineage of 'x'"):
        compare_directions(own, "owl", {"v": Direction(u.vector, HOOK, "some", "x", "x")}, against={"u": u})
