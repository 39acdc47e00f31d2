"""Scores of a model with live LoRA adapters: along the factors themselves, and along the weights they add to."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from interp.gradients.scores.row_loss import row_losses
from interp.gradients.scores.scoring import score
from interp.models.language import load_model
from interp.models.parameters import ParameterDirection
from interp.prompts.text import Prompts

ROWS = Prompts.from_pairs([("list three numbers", "1, 2, 3"), ("one", "11"), ("continue 4, 5", "6, 7, 8, 9")])


@pytest.fixture(params=["llama", "gpt2"])
def adapted(request, tiny):
    network, tokenizer = tiny(request.param)
    targets = ["q_proj", "down_proj"] if request.param == "llama" else ["c_attn", "c_fc"]
    config = LoraConfig(
        r=2, lora_alpha=6, target_modules=targets, fan_in_fan_out=request.param == "gpt2", lora_dropout=0.0
    )
    wrapped = get_peft_model(network, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    return load_model(wrapped, tokenizer=tokenizer, name="adapted", check=False)


def along(model, shapes) -> ParameterDirection:
    generator = torch.Generator().manual_seed(5)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return ParameterDirection(tensors, "any", model.fingerprint, model.fingerprint)


def by_autograd(network, encoded, direction: ParameterDirection) -> torch.Tensor:
    weights = {n: w.requires_grad_() for n, w in network.named_parameters() if n in direction.tensors}
    found = []
    for row in range(len(encoded)):
        loss = row_losses(network, encoded[row : row + 1])[0].sum()
        gradients = torch.autograd.grad(loss, list(weights.values()))
        pairs = zip(weights, gradients, strict=True)
        found.append(-sum((g.double() * direction[n].double()).sum() for n, g in pairs))
    return torch.stack(found)


def test_along_the_factors(adapted):
    shapes = {n: tuple(w.shape) for n, w in adapted.hf.named_parameters() if "lora_" in n}
    direction = along(adapted, shapes)
    scores = score(adapted, ROWS, direction, by=["example", "module"])
    expected = by_autograd(adapted.hf, adapted.encode(ROWS), direction)
    torch.testing.assert_close(scores.totals[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert {name.rpartition(".lora_")[2][0] for name in scores.frame["module"]} == {"A", "B"}


def test_along_the_weights_with_the_adapters_in(adapted):
    direction = along(adapted, adapted.shapes)
    merged = load_model(copy.deepcopy(adapted.peft).merge_and_unload(), name="merged", check=False)
    expected = by_autograd(merged.hf, adapted.encode(ROWS), direction)
    torch.testing.assert_close(score(adapted, ROWS, direction).totals[:, 0], expected, rtol=1e-4, atol=1e-3)
