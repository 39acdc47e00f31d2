"""Scores by loss token: the kernel on pairs of value and tangent, and what a pass with tangents leaves behind."""

import copy

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from interp.gradients.scores.dual_attention import DualAttention, dual_attention
from interp.gradients.scores.engine import contributions, find_sites
from interp.gradients.scores.forward_mode import token_contributions
from interp.gradients.scores.row_loss import token_losses
from interp.models.backbone import view
from interp.models.parameters import ParameterDirection
from interp.prompts.tokens import Role
from tests.gradients.scores.test_exactness import ROWS, directions, load


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parts(*, groups: int = 4, queries: int = 5, keys: int = 5) -> list[torch.Tensor]:
    """Query, key and value and their tangents: two rows of four heads of width three."""
    shapes = [(2, 4, queries, 3), (2, groups, keys, 3), (2, groups, keys, 3)] * 2
    return [draw(*shape, seed=seed) for seed, shape in enumerate(shapes)]


OFFSET = draw(2, 1, 5, 5, seed=9)
SEEN = (OFFSET > -0.5) | torch.eye(5, dtype=torch.bool)
CASES = {
    "everything": {},
    "causal": {"is_causal": True},
    "boolean mask": {"attn_mask": SEEN},
    "float mask": {"attn_mask": OFFSET},
    "scale": {"scale": 0.3, "is_causal": True},
}


def tangent_of(attention, q, k, v, dq, dk, dv, **options):
    with forward_ad.dual_level():
        pairs = [forward_ad.make_dual(x, dx) for x, dx in ((q, dq), (k, dk), (v, dv))]
        return forward_ad.unpack_dual(attention(*pairs, **options))


class TestDualAttention:
    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("groups", [4, 2, 1])
    def test_value_and_tangent_by_finite_differences(self, case, groups):
        q, k, v, *moved = parts(groups=groups)
        options = CASES[case] | {"enable_gqa": groups < 4}
        value, tangent = tangent_of(dual_attention, q, k, v, *moved, **options)

        def at(step):
            return scaled_dot_product_attention(
                *(x + step * dx for x, dx in zip((q, k, v), moved, strict=True)), **options
            )

        torch.testing.assert_close(value, at(0.0))
        difference = (at(1e-5) - at(-1e-5)) / 2e-5
        torch.testing.assert_close(tangent, difference, rtol=1e-7, atol=1e-8)

    def test_against_the_plain_kernel(self):
        with sdpa_kernel(SDPBackend.MATH):
            expected = tangent_of(scaled_dot_product_attention, *parts(), is_causal=True)
        found = tangent_of(dual_attention, *parts(), is_causal=True)
        torch.testing.assert_close(found.primal, expected.primal)
        torch.testing.assert_close(found.tangent, expected.tangent)

    def test_one_part_moves(self):
        q, k, v, _, _, dv = parts()
        with forward_ad.dual_level():
            out = dual_attention(q, k, forward_ad.make_dual(v, dv), is_causal=True)
            tangent = forward_ad.unpack_dual(out).tangent
        # linear in v: what the attention makes of dv
        torch.testing.assert_close(tangent, scaled_dot_product_attention(q, k, dv, is_causal=True))

    def test_nothing_moves(self):
        q, k, v, *_ = parts()
        found = dual_attention(q, k, v, is_causal=True)
        torch.testing.assert_close(found, scaled_dot_product_attention(q, k, v, is_causal=True))

    def test_a_last_query_over_longer_keys(self):
        found = tangent_of(dual_attention, *parts(queries=1), attn_mask=SEEN[:, :, -1:])
        with sdpa_kernel(SDPBackend.MATH):
            expected = tangent_of(scaled_dot_product_attention, *parts(queries=1), attn_mask=SEEN[:, :, -1:])
        torch.testing.assert_close(found.tangent, expected.tangent)

    def test_it_stands_in_only_while_it_is_open(self):
        q, k, v, dq, dk, dv = (x.float() for x in parts())
        with DualAttention():
            inside = tangent_of(scaled_dot_product_attention, q, k, v, dq, dk, dv, is_causal=True)
        outside = tangent_of(dual_attention, q, k, v, dq, dk, dv, is_causal=True)
        torch.testing.assert_close(inside.tangent, outside.tangent)
        assert scaled_dot_product_attention is torch.nn.functional.scaled_dot_product_attention


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
