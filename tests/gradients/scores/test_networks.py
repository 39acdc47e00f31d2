"""Networks beyond the seven families: other places of the norms, other scales of the logits, other ways to call."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from interp.core.runs import InputError
from interp.gradients.scores.engine import (
    contributions,
    example_scores,
    find_sites,
    positions,
    whole_examples,
)
from interp.gradients.scores.heads import head_layout
from interp.gradients.scores.scoring import score
from interp.gradients.scores.sites import kind_of
from interp.models.language import load_model
from tests.gradients.rows import along, bare, by_row, near
from tests.gradients.scores.test_exactness import ROWS, apart, directions, load, oracle
from tests.tiny import COMMON, VOCABULARY, build_tokenizer

SHAPES = {
    "gemma3_text": {
        "num_key_value_heads": 1,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 16,
    },
    "hunyuan_v1_dense": {"num_key_value_heads": 1, "head_dim": 8},
    "olmo2": {"num_key_value_heads": 2},
    "phi": {},
    "cohere": {"num_key_value_heads": 2},
    "granite": {"num_key_value_heads": 2, "logits_scaling": 3.0},
    "gpt_bigcode": {"multi_query": False},
}


def build(family: str):
    sizes = {**COMMON, **SHAPES[family]}
    if family == "gpt_bigcode":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, **SHAPES[family]}
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = AutoConfig.for_model(family, vocab_size=len(VOCABULARY), **ids, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
    return load_model(network, tokenizer=build_tokenizer(), name=family, check=False)


@pytest.fixture
def llama(tiny):
    return load(tiny("llama"), "llama")


@pytest.mark.parametrize("family", ["gemma3_text", "hunyuan_v1_dense", "olmo2", "phi", "cohere", "granite"])
def test_exact_on_other_architectures_too(family):
    model = build(family)
    own, encoded, network = directions(model), model.encode(ROWS), bare(model)
    expected, sites = oracle(network, encoded, own), find_sites(network, own)
    for reader in (positions, whole_examples):
        assert apart(contributions(network, encoded, sites=sites, reader=reader).totals(), expected) <= 1e-5


@pytest.mark.parametrize("family", ["gemma3_text", "hunyuan_v1_dense"])
def test_a_norm_of_the_only_key_head_is_told_apart_by_position(family):
    """It sees [example, 1, pos, d], whose strides look like those of [example, pos, 1, d]."""
    model = build(family)
    leaf = "k_norm" if family == "gemma3_text" else "key_layernorm"
    name = f"model.layers.1.self_attn.{leaf}.weight"
    direction, encoded = along(model, {name: torch.linspace(-1, 1, 8)}), model.encode(ROWS)
    network = bare(model)
    found = contributions(network, encoded, sites=find_sites(network, [direction])).places
    (values,) = found.values()
    assert values.shape == (1, *encoded.ids.shape)
    assert (values[0] != 0).any(0).sum() > 10
    leaves = {name: network.get_parameter(name).requires_grad_()}
    expected = [-(row[name] @ direction[name]) for row in by_row(network, encoded, leaves)]
    assert near(values[0].sum(-1), torch.stack(expected))
    fine = score(model, ROWS, direction, by=["example", "position", "module"])
    assert near(fine.totals[:, 0], torch.stack(expected))


def test_a_fused_matrix_under_a_familiar_name_and_of_another_order_is_refused():
    model = build("gpt_bigcode")  # q, k, v inside every head, where gpt2 has the heads inside q, k, v
    name = "transformer.h.0.attn.c_attn.weight"
    (site,) = find_sites(model.hf, [along(model, {name: torch.ones(96, 32)})])
    with pytest.raises(InputError, match="c_attn is an attention matrix of a layout without known heads"):
        head_layout(site, model.hf.config)


class GatedRMSNorm(nn.Module):
    """y = w x̂ silu(gate): a norm by name whose weight meets more than x̂."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, width))

    def forward(self, x, gate=None):
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * x * (1 if gate is None else nn.functional.silu(gate))


class GatedLayer(nn.Module):
    """A layer's feed-forward part with such a norm, gated by its own input or by name."""

    def __init__(self, width: int, *, named: bool) -> None:
        super().__init__()
        self.norm, self.gate, self.named = GatedRMSNorm(width), nn.Linear(width, width), named

    def forward(self, x):
        return self.norm(x, gate=self.gate(x)) if self.named else self.norm(x, self.gate(x))


@pytest.mark.parametrize("named", [False, True])
def test_a_module_called_with_more_than_its_input(llama, named):
    network = copy.deepcopy(llama.hf)
    network.model.layers[1].mlp = GatedLayer(32, named=named)
    model = load_model(network, tokenizer=llama.tokenizer, name="gated", check=False)
    network = bare(model)
    assert kind_of(network.model.layers[1].mlp.norm) == "other"
    own, encoded = directions(model), model.encode(ROWS)
    found = contributions(network, encoded, sites=find_sites(network, own)).totals()
    assert apart(found, oracle(network, encoded, own)) <= 1e-5


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_a_mode_without_gradients(llama, mode):
    expected = score(llama, ROWS, directions(llama)[0]).totals
    other = dataclasses.replace(directions(llama)[0], label="again")  # no shard of it is stored
    with mode():
        assert torch.equal(score(llama, ROWS, other).totals, expected)


def test_a_wrapped_network_with_live_adapters(llama):
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(copy.deepcopy(llama.hf), LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    leaves = {n: w for n, w in wrapped.named_parameters() if "lora_" in n}
    flags = [weight.requires_grad for weight in wrapped.parameters()]
    direction, encoded = along(llama, {n: torch.ones(w.shape) for n, w in leaves.items()}), llama.encode(ROWS)
    found = example_scores(wrapped, encoded, [direction])[0]
    expected = [-sum(g.double().sum() for g in row.values()) for row in by_row(wrapped, encoded, leaves)]
    assert near(found, torch.stack(expected))
    assert [weight.requires_grad for weight in wrapped.parameters()] == flags
    assert all(weight.grad is None for weight in wrapped.parameters())


class TestTheDoor:
    def test_no_rows(self, llama):
        with pytest.raises(InputError, match="rows holds no rows to score; pass at least one prompt"):
            score(llama, llama.encode(ROWS)[:0], directions(llama)[0])

    def test_floats_too_narrow_to_differentiate(self, llama):
        direction = along(llama, {"model.norm.weight": torch.ones(32)})
        llama.hf.model.layers[0].mlp.up_proj.weight.data = torch.ones(64, 32).to(torch.float8_e4m3fn)
        with pytest.raises(InputError, match=r"quantised weights \(.*up_proj.weight is float8_e4m3fn\)"):
            score(llama, ROWS, dataclasses.replace(direction, fingerprint=llama.fingerprint))
