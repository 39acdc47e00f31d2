"""Scores by loss token: against finite differences, and what a pass with tangents leaves behind."""

import copy

import pytest
import torch

from interp.gradients.scores.engine import contributions, find_sites, token_losses
from interp.gradients.scores.forward_mode import token_contributions
from interp.models.backbone import view
from interp.models.parameters import ParameterDirection
from interp.prompts.tokens import Role
from tests.gradients.scores.test_exactness import ROWS, directions, load


@pytest.fixture(params=["llama", "gpt2", "gemma2"])
def model(request, tiny):
    return load(tiny(request.param), request.param)


def along(model, tensors, *, biases=None) -> ParameterDirection:
    return ParameterDirection(tensors, "some", model.fingerprint, model.fingerprint, biases=biases or {})


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_every_loss_token_by_finite_differences(model, kernel):
    network = view(model.hf).requires_grad_(False).double()
    if network._supports_sdpa:
        network.set_attn_implementation(kernel)
    direction, encoded = directions(model)[0], model.encode(ROWS)
    found = token_contributions(network, encoded, sites=find_sites(network, [direction]))
    moved = [copy.deepcopy(network) for _ in range(2)]
    step = 1e-4
    for sign, copied in zip((1, -1), moved, strict=True):
        for name, weight in copied.named_parameters():
            weight.data += sign * step * direction[name].double()
    up, down = (token_losses(copied, encoded) for copied in moved)
    first = int((encoded.roles >= Role.OTHER)[:, 1:].any(0).nonzero()[0])
    expected = -(up - down) / (2 * step)
    scores = next(iter(found.places.values()))[0, :, first + 1 : first + 1 + expected.shape[1]]
    # norms work in single precision inside a network of doubles
    assert (scores - expected).abs().max() <= 2e-3 * expected.square().mean().sqrt()


def test_losses_and_token_counts_come_along(model):
    encoded, network = model.encode(ROWS), view(model.hf).requires_grad_(False)
    found = token_contributions(network, encoded, sites=find_sites(network, directions(model)[:1]))
    answered = encoded.roles >= Role.OTHER
    assert found.tokens.tolist() == answered.sum(1).tolist()
    torch.testing.assert_close(found.loss, token_losses(network, encoded).sum(1))
    scores = next(iter(found.places.values()))
    assert scores.shape == (1, *encoded.ids.shape)
    assert not scores[0][~answered].any()


def test_no_module_keeps_a_forward_of_its_own(model, monkeypatch):
    network, encoded = view(model.hf).requires_grad_(False), model.encode(ROWS)
    biased = along(model, {}, biases={"blocks.0.hook_resid_pre": torch.ones(32)})
    sites = find_sites(network, [*directions(model)[:1], biased])

    def left() -> tuple[int, int]:
        own = sum("forward" in vars(module) for module in network.modules())
        return own, sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())

    before = left()
    token_contributions(network, encoded, sites=sites)
    assert left() == before

    def broken(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(type(network.base_model), "forward", broken)
    with pytest.raises(ZeroDivisionError):
        token_contributions(network, encoded, sites=sites)
    assert left() == before


def test_a_direction_of_vectors_only(model):
    tensors = {name: t for name, t in directions(model)[0].items() if t.dim() == 1}
    network, encoded = view(model.hf).requires_grad_(False), model.encode(ROWS)
    sites = find_sites(network, [along(model, tensors)])
    assert all(set(site.stacks) <= {"bias"} for site in sites if site.kind == "matrix")
    whole = contributions(network, encoded, sites=sites).totals()
    tokens = token_contributions(network, encoded, sites=sites).totals()
    assert (tokens - whole).abs().max() <= 1e-5 * whole.square().mean().sqrt()
