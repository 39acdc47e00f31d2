"""The planner: which route, why, and its arithmetic by hand."""

import pytest
import torch

from interp.core.runs import InputError
from interp.gradients.scores.engine import find_sites
from interp.gradients.scores.plan import check_keys, make_plan
from interp.models.low_rank import LowRank
from interp.models.parameters import ParameterDirection
from tests.gradients.scores.test_exactness import directions, load


@pytest.fixture
def llama(tiny):
    return load(tiny("llama"), "llama")


def plan(model, along, *, by=("example",), length=16.0):
    return make_plan(find_sites(model.hf, along), by=by, length=length)


def test_one_dense_direction(llama):
    found = plan(llama, directions(llama)[:1])
    assert (found.route, found.deepest) == ("direction-first", "model.embed_tokens")
    assert found.cost == pytest.approx((2 + 1) / 3)
    assert repr(found).startswith(
        "direction-first (one dense direction costs one more pass over the tokens), 1.00"
    )


def test_eight_dense_directions(llama):
    along = directions(llama)[:1] * 8
    found = plan(llama, along)
    assert found.route == "gradient-first"
    assert found.cost == pytest.approx((2 + 1 + 8 / 16) / 3)
    fine = plan(llama, along, by=("example", "position"))
    assert (fine.route, fine.cost) == ("direction-first", pytest.approx((2 + 8) / 3))


def test_low_rank_directions(llama):
    shape = (32, 64)  # down_proj of the tiny model
    thin = LowRank(torch.ones(shape[0], 4), torch.ones(4, shape[1]))
    name = "model.layers.0.mlp.down_proj.weight"
    found = plan(llama, [ParameterDirection({name: thin}, "thin", "", "")] * 2)
    assert (found.route, found.deepest) == ("low-rank", "model.layers.0.mlp.down_proj")
    assert found.cost == pytest.approx((2 + 2 * 4 * (32 + 64) / (32 * 64)) / 3)


def test_virtual_biases_and_loss_tokens(llama):
    bias = ParameterDirection({}, "b", "", "", biases={"blocks.0.hook_resid_post": torch.ones(32)})
    found = plan(llama, [bias])
    assert (found.route, found.cost) == ("activation-gradient", pytest.approx(2 / 3))
    tokens = plan(llama, directions(llama)[:2], by=("example", "token"))
    assert (tokens.route, tokens.cost) == ("forward-mode", pytest.approx((1 + 2 * 2) / 3))


def test_keys():
    assert check_keys("module") == ("module",)
    assert check_keys(["position", "example"]) == ("example", "position")
    assert check_keys(["head"]) == ("module", "head")
    with pytest.raises(
        InputError, match="by 'modul' is unknown; nearest: module; pass any of example, token"
    ):
        check_keys(["modul"])
    with pytest.raises(InputError, match="by holds no key"):
        check_keys([])
    with pytest.raises(
        InputError, match=r"by=\['token', 'module'\] asks for loss tokens.*ask for them in two calls"
    ):
        check_keys(["token", "module"])


def test_hooks_of_a_virtual_bias_are_checked(llama):
    bias = ParameterDirection({}, "b", "", "", biases={"blocks.7.hook_resid_post": torch.ones(32)})
    with pytest.raises(
        InputError, match=r"'blocks.7.hook_resid_post' is unknown; nearest: blocks.1.hook_resid_post"
    ):
        find_sites(llama.hf, [bias])


@pytest.mark.parametrize("pattern", ["model.embed_tokens.weight", "*norm.weight"])
def test_without_a_matrix_nothing_is_thin(llama, pattern):
    found = plan(llama, [directions(llama)[0].only(pattern)])
    assert (found.route, found.cost) == ("direction-first", pytest.approx(2 / 3))
    assert found.reason == "vectors and rows of embeddings meet the tokens as they are"


def test_heads_of_thin_directions_stay_thin(llama):
    assert plan(llama, directions(llama)[2:], by=("example", "module", "head")).route == "low-rank"


def test_the_deepest_place_comes_first_in_a_forward_pass(llama):
    own = directions(llama)[0]
    norm = own.only("model.layers.1.self_attn.q_proj.weight", "model.layers.1.input_layernorm.weight")
    assert plan(llama, [norm]).deepest == "model.layers.1.input_layernorm"
    assert plan(llama, [norm, own.only("model.layers.0.mlp.down_proj.weight")]).deepest == (
        "model.layers.0.mlp.down_proj"
    )
    hooks = dict.fromkeys(("blocks.1.hook_resid_post", "blocks.1.hook_resid_pre"), torch.ones(32))
    biased = ParameterDirection({}, "b", "", "", biases=hooks)
    assert plan(llama, [biased]).deepest == "blocks.1.hook_resid_pre"
    assert plan(llama, [norm, biased]).deepest == "blocks.1.hook_resid_pre"
