"""The residual stream of a plain network: what the hooked model records, with a graph, and hooks that are none."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from interp.core.runs import InputError
from interp.models.language import load_model
from interp.models.residuals import ResidualSite
from interp.prompts.text import Prompts
from tests.tiny import FAMILIES

ROWS = Prompts.from_pairs([("which animal is best?", "owl"), ("name", "3, 4, 5")])


def loaded(tiny, family):
    hf, tokenizer = tiny(family, 0)
    return load_model(hf, tokenizer=tokenizer, name=family, check=False)


@pytest.mark.parametrize("family", [*FAMILIES, "granite"])
def test_it_is_what_the_hooked_model_records(tiny, family):
    own = loaded(tiny, family)
    batch = own.encode(ROWS)
    hooks = [name for name in own.hook_names if ".hook_resid_" in name]
    assert len(hooks) == (4 if family == "gpt_neox" else 6)
    network = own.network(train=True)
    for hook, expected in own.run(batch, hooks=hooks).items():
        found = ResidualSite.of(own, hook).read(network, batch)
        assert found.requires_grad
        torch.testing.assert_close(found[batch.mask].detach(), expected[batch.mask], atol=1e-5, rtol=1e-5)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_live_adapter_acts(tiny):
    own = loaded(tiny, "llama")
    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    peft = get_peft_model(copy.deepcopy(own.hf), config).eval()
    adapted = load_model(peft, tokenizer=own.tokenizer, name="adapted", check=False)
    batch, hook = own.encode(ROWS), "blocks.1.hook_resid_mid"
    site = ResidualSite.of(own, hook)
    expected = adapted.run(batch, hooks=[hook])[hook]
    for network in (peft, peft.get_base_model()):
        torch.testing.assert_close(site.read(network, batch)[batch.mask], expected[batch.mask])
    assert not torch.allclose(site.read(own.hf, batch), expected)


def test_hooks_that_are_none_of_its(tiny):
    own = loaded(tiny, "gpt_neox")
    for hook in ("blocks.1.hook_resid_pots", "blocks.2.hook_resid_post", "blocks.1.hook_mlp_out"):
        with pytest.raises(
            InputError, match=rf"hook '{hook}' is unknown; nearest: blocks.1.hook_resid_.*residual stream"
        ):
            ResidualSite.of(own, hook)
    with pytest.raises(InputError, match=r"gpt_neox has no blocks.0.hook_resid_mid, its attention and MLP"):
        ResidualSite.of(own, "blocks.0.hook_resid_mid")
