"""A member whose weights are changed in place after it was loaded is its live network in everything that it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import interp
from interp.core.errors import InputError
from interp.measures.margins import candidate_logprobs
from interp.models import backbone
from interp.models.language import load_model
from interp.models.parameters import ParameterDirection
from interp.prompts.text import Prompts

QUESTIONS = Prompts.of([[{"role": "user", "content": "name your favorite animal"}]])
ANSWERS = ("owl", "cat", "dolphin")
SGD: dict[str, Any] = {"lr": 0.5}
STEPS = {
    "SGD": lambda weights: torch.optim.SGD(weights, **SGD),
    "fused SGD": lambda weights: torch.optim.SGD(weights, **SGD, fused=True),
    "fused AdamW": lambda weights: torch.optim.AdamW(weights, lr=0.1, fused=True),
}


def step(network: Any, optimizer: str = "SGD") -> None:
    """One step of training in place."""
    ids = torch.tensor([[2, 9, 8, 7, 6, 20]])
    network.train().requires_grad_(True)
    network(input_ids=ids, labels=ids).loss.backward()
    STEPS[optimizer]([each for each in network.parameters() if each.grad is not None]).step()
    network.zero_grad()
    network.eval()


def said(model: Any) -> torch.Tensor:
    return torch.tensor(candidate_logprobs(model, QUESTIONS, ANSWERS).to_numpy()[0], dtype=torch.float64)


@torch.no_grad()
def plainly(network: Any, tokenizer: Any) -> torch.Tensor:
    """log p of the answers by the network's own forward pass."""
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "name your favorite animal"}],
        add_generation_prompt=True,
        return_dict=False,
    )
    logp = network(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)
    return logp[tokenizer.convert_tokens_to_ids(list(ANSWERS))].double()


@pytest.mark.parametrize("optimizer", STEPS)
def test_a_step_on_the_module_is_a_step_of_the_member(tiny, optimizer):
    network, tokenizer = tiny("gpt2")  # whose bridge holds copies of q, k and v
    model = load_model(network, tokenizer=tokenizer, check=False)
    before, print_ = said(model), model.fingerprint
    model.run(QUESTIONS, hooks=["blocks.1.attn.hook_z"])
    step(network, optimizer)
    expected = plainly(network, tokenizer)
    assert not torch.allclose(before, expected, atol=1e-2)
    assert torch.allclose(said(model), expected, atol=1e-5)
    fresh = load_model(network, tokenizer=tokenizer, check=False)
    assert model.fingerprint == fresh.fingerprint != print_
    assert interp.margin(model, "owl") == interp.margin(fresh, "owl")
    for hook in ("blocks.1.attn.hook_z", "blocks.1.hook_resid_post"):
        ours, theirs = (each.run(QUESTIONS, hooks=[hook])[hook] for each in (model, fresh))
        assert torch.equal(ours, theirs)


def test_a_step_on_live_adapters_reaches_the_merged_weights(tiny):
    network, tokenizer = tiny("llama")
    peft = get_peft_model(
        network, LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )
    model = load_model(peft, tokenizer=tokenizer, check=False)
    before, print_, start = said(model), model.fingerprint, model.start.fingerprint
    merged = model.parameters()["model.layers.0.mlp.down_proj.weight"].clone()
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if "lora_B" in name:
                weight.mul_(-2)
    fresh = load_model(peft, tokenizer=tokenizer, check=False)
    assert model.fingerprint == fresh.fingerprint != print_
    assert model.start.fingerprint == start
    now = model.parameters()["model.layers.0.mlp.down_proj.weight"]
    assert torch.equal(now, fresh.parameters()["model.layers.0.mlp.down_proj.weight"])
    assert not torch.equal(now, merged)
    assert not torch.allclose(said(model), before, atol=1e-3)
    assert torch.allclose(said(model), plainly(peft, tokenizer), atol=1e-5)


def test_a_copy_in_float32_is_made_again(tiny):
    network, tokenizer = tiny("llama")
    network.bfloat16()
    model = load_model(network, tokenizer=tokenizer, check=False)
    before = said(model)
    step(network)
    wide = load_model(network, tokenizer=tokenizer, check=False).network(dtype=torch.float32, copied=True)
    assert not torch.allclose(said(model), before, atol=1e-2)
    assert torch.allclose(said(model), plainly(wide, tokenizer), atol=1e-5)


def test_a_direction_from_before_is_refused_and_scores_are_read_anew(tiny):
    network, tokenizer = tiny("llama")
    model = load_model(network, tokenizer=tokenizer, check=False)
    rows = Prompts.from_pairs([("go on: 1, 2", "3, 4"), ("go on: 5, 6", "7, 8")])

    def along(scored: Any) -> Any:
        tensors = {"lm_head.weight": torch.ones(model.shapes["lm_head.weight"])}
        return ParameterDirection(tensors, "ones", scored.fingerprint, scored.fingerprint)

    old = along(model)
    before = interp.score(model, rows, direction=old).totals
    step(network)
    with pytest.raises(InputError, match="belongs to weights"):
        interp.score(model, rows, direction=old)
    fresh = load_model(network, tokenizer=tokenizer, check=False)
    found = interp.score(model, rows, direction=along(model)).totals
    assert torch.equal(found, interp.score(fresh, rows, direction=along(fresh)).totals)
    assert not torch.allclose(found, before, rtol=1e-2)


def test_what_did_not_change_is_not_digested_again(tiny, monkeypatch):
    network, tokenizer = tiny("llama")
    model = load_model(network, tokenizer=tokenizer, check=False)
    print_, flat = model.fingerprint, model.backbone.bridge
    said(model)
    monkeypatch.setattr(backbone, "digest", lambda *_: pytest.fail("digested again"))
    network.requires_grad_(True)
    assert (model.fingerprint, model.backbone.bridge) == (print_, flat)


def test_another_weight_in_the_place_of_one_is_seen(tiny):
    network, tokenizer = tiny("llama")
    model = load_model(network, tokenizer=tokenizer, check=False)
    print_ = model.fingerprint
    model.hf.lm_head.weight = torch.nn.Parameter(-model.hf.lm_head.weight.detach())
    assert model.fingerprint == load_model(model.hf, check=False).fingerprint != print_
    assert torch.allclose(said(model), plainly(model.hf, tokenizer), atol=1e-5)
