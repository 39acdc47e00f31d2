"""A view shares weights and nothing else, and what an adapter lies on is the base's own network."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from torch import nn

from interp.core.runs import InputError
from interp.models import agreement
from interp.models.backbone import Backbone
from interp.models.language import load_model
from interp.models.seam import check_finite
from interp.models.views import adapted_layers, view, without_adapters


@pytest.fixture
def adapter(tiny, lora, tmp_path):
    hf, tokenizer = tiny("llama", 0)
    lora(hf).save_pretrained(tmp_path)
    return load_model(hf, tokenizer=tokenizer, check=False), tmp_path


def test_a_view_shares_weights_and_no_table_of_hooks(tiny):
    hf = tiny("llama", 0)[0]
    own = view(hf)
    pairs = list(zip(hf.named_modules(), own.named_modules(), strict=True))
    for (name, module), (same, other) in pairs:
        assert name == same
        assert module is not other
        tables = [key for key, value in vars(module).items() if isinstance(value, (dict, set))]
        assert not any(vars(module)[key] is vars(other)[key] for key in tables)
    own.model.layers[0].register_forward_hook(lambda *_: None)
    assert not hf.model.layers[0]._forward_hooks
    assert [w.data_ptr() for w in hf.parameters()] == [w.data_ptr() for w in own.parameters()]


def test_what_lies_beneath_adapters_is_copied_without_them(tiny, lora):
    hf = tiny("llama", 0)[0]
    live = lora(hf, modules_to_save=["norm"]).get_base_model()
    plain, expected = without_adapters(live), dict(hf.named_parameters())
    assert dict(plain.named_parameters()).keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in plain.named_parameters())
    assert not any(adapted_layers(plain))
    assert any(adapted_layers(live))


def test_layers_inside_an_adapted_one_are_not_named(tiny):
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[3])
    live = peft.get_peft_model(copy.deepcopy(tiny("llama", 0)[0]), config).get_base_model()
    names = [name for name, _ in adapted_layers(live)]
    layers = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(len(live.model.layers))]
    assert names[: len(layers) + 1] == ["model.embed_tokens", *layers]
    assert not any(a != b and a.startswith(f"{b}.") for a in names for b in names)


def test_an_adapter_on_a_base_reads_that_base(adapter):
    base, folder = adapter
    member = base.with_adapter(folder, check=False)
    assert member.backbone.plain is base.backbone
    assert member.hook_names == base.hook_names
    assert member.ties == base.ties
    merged = peft.PeftModel.from_pretrained(base.network(copied=True), str(folder)).merge_and_unload()
    expected = dict(merged.named_parameters())
    assert all(torch.equal(weight, expected[name]) for name, weight in member.parameters().items())


def test_an_adapter_without_effect_has_its_bases_fingerprint(tiny, lora):
    hf = tiny("llama", 0)[0]
    still, live = (Backbone.of(lora(hf, scale=scale), "x") for scale in (0, 0.1))
    assert still.fingerprint == Backbone(hf).fingerprint != live.fingerprint
    last = [layer for _, layer in adapted_layers(still.hf)][-1]
    with torch.no_grad():
        for factors in (last.lora_A, last.lora_B):
            factors["default"].weight.fill_(0.1)
    assert Backbone.of(still.peft, "x").fingerprint != Backbone(hf).fingerprint


def test_an_adapter_that_is_no_change_of_weights_is_refused_again(adapter, monkeypatch):
    base, folder = adapter
    monkeypatch.setattr(agreement, "gap", lambda *_: torch.ones(1))
    for _ in range(2):
        with pytest.raises(InputError, match=r"1\.0e\+00 nats away from those of its merged weights"):
            base.with_adapter(folder, check=False)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_one_number_that_is_none_is_found(bad, dtype):
    weights = {
        "none": torch.empty(0),
        "whole": torch.ones(3, dtype=torch.int8),
        "w": torch.zeros(4, dtype=dtype),
    }
    check_finite(weights, "it")
    weights["w"][2] = bad
    with pytest.raises(InputError, match=r"it has NaN or inf in w \(1 of 4 values\)"):
        check_finite(weights, "it")


def test_a_view_puts_one_module_in_place_of_another():
    outer = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 3)))
    own = view(outer, instead={outer[1]: outer[1][0]})
    assert isinstance(own[1], nn.Linear)
    assert own[1].weight.data_ptr() == outer[1][0].weight.data_ptr()
    assert isinstance(outer[1], nn.Sequential)
