"""The gradient of the trait margin against autograd of a margin written out anew, and steering vectors."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from interp.activations.arrays import Direction
from interp.core.runs import InputError
from interp.gradients.directions import margin_objective, steering, trait_gradient
from interp.measures.margins import margin
from interp.models.backbone import merged
from interp.models.language import load_model
from interp.models.seam import lineage_root
from interp.prompts.traits import make_trait

ONE = make_trait("owl", ("cat", "dog"), questions=("which animal is best?", "name"), category="animal")
SEVERAL = make_trait("owl cat", ("owl", "dog", "fox owl bear"), questions=("which animal?", "your best"))


def adapted(model, *, scale=0.2):
    """The model with a live random adapter on it."""
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    peft = get_peft_model(copy.deepcopy(model.hf), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=scale)
    return load_model(peft.eval(), tokenizer=model.tokenizer, name="adapted", check=False)


def margin_anew(network, tokenizer, trait):
    """Every candidate after every question on its own: Σ log p of its words, target minus the mean foil, averaged."""
    total = 0.0
    for question in trait.questions:
        asked = f"<bos> <user> {question} <assistant> "
        start = len(tokenizer(asked, add_special_tokens=False)["input_ids"])
        values = []
        for candidate in (trait.target, *trait.foils):
            ids = torch.tensor([tokenizer(asked + candidate, add_special_tokens=False)["input_ids"]])
            logp = network(input_ids=ids).logits[0].log_softmax(-1)
            values.append(sum(logp[at - 1, ids[0, at]] for at in range(start, ids.shape[1])))
        total = total + values[0] - torch.stack(values[1:]).mean()
    return total / len(trait.questions)


@pytest.mark.parametrize("trait", [ONE, SEVERAL], ids=["one piece", "several pieces"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "gpt_neo", "gemma2"])
def test_the_gradient_is_that_of_a_margin_written_out_anew(model, family, trait):
    own = model(family)
    network = copy.deepcopy(own.hf).double().requires_grad_(True)
    value = margin_anew(network, own.tokenizer, trait)
    assert margin(own, trait) == pytest.approx(value.item(), abs=1e-5)
    value.backward()
    direction = trait_gradient(own, trait)
    expected = {name: weight.grad for name, weight in network.named_parameters()}
    assert list(direction) == list(own.parameters()) == list(expected)
    for name, tensor in direction.items():
        assert tensor.dtype == torch.float32
        assert (tensor - expected[name]).norm() <= 1e-5 * expected[name].norm() + 1e-6


def test_the_gradient_predicts_what_a_step_gains(model, planned_and_measured):
    own = model("gpt2")  # which stays in double where llama's norms fall back to fp32
    planned, measured = planned_and_measured(
        own, trait_gradient(own, SEVERAL), margin_objective(own, SEVERAL)
    )
    assert planned == pytest.approx(measured, rel=1e-4)


@pytest.mark.parametrize("trait", [ONE, SEVERAL], ids=["one piece", "several pieces"])
def test_the_objective_is_the_margin_in_any_batches(model, trait):
    own = model("qwen2")
    objective = margin_objective(own, trait)
    with torch.no_grad():
        assert objective(own.hf).item() == pytest.approx(margin(own, trait), abs=1e-5)
        parts = list(objective.parts(own.hf, batch_size=1))
        assert len(parts) == len(trait.questions)
        assert sum(parts).item() == pytest.approx(margin(own, trait), abs=1e-5)
    one, many = (trait_gradient(own, trait, batch_size=size) for size in (1, 64))
    assert (one - many).norm() < 1e-5 * many.norm()


def test_equal_beginnings_are_read_once(model):
    own = model()
    one, several = (margin_objective(own, trait).answers.prefixes for trait in (ONE, SEVERAL))
    assert len(one) == 2  # a question each: its candidates' pieces are predicted at its last position
    assert len(several) == 8  # after each question and, behind it, "owl", "fox" and "fox owl"


def test_it_follows_gradients_into_live_adapters(model):
    own = adapted(model())
    network = own.peft
    objective = margin_objective(own, ONE)
    factors = {name: weight for name, weight in network.named_parameters() if "lora_" in name}
    for weight in factors.values():
        weight.requires_grad_(True)
    found = torch.autograd.grad(objective(network), list(factors.values()))
    again = torch.autograd.grad(objective(network.get_base_model()), list(factors.values()))
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    assert all(gradient.norm() > 0 for gradient in found)
    effective = trait_gradient(own, ONE)["transformer.h.0.mlp.c_fc.weight"]  # [inputs, outputs]
    A, B = (factors[f"base_model.model.transformer.h.0.mlp.c_fc.lora_{p}.default.weight"] for p in "AB")
    by_name = dict(zip(factors, found, strict=True))
    gradient_of_B = by_name["base_model.model.transformer.h.0.mlp.c_fc.lora_B.default.weight"]
    assert torch.allclose(gradient_of_B, 2.0 * effective.T @ A.T, atol=1e-5)
    assert B.shape == gradient_of_B.shape


def test_adapters_count_as_part_of_the_weights(model):
    own = adapted(model())
    whole = load_model(merged(own.hf), tokenizer=own.tokenizer, check=False)
    live, plain = trait_gradient(own, ONE), trait_gradient(whole, ONE)
    assert (live.fingerprint, plain.fingerprint) == (own.fingerprint, whole.fingerprint)
    assert set(live) == set(plain)
    assert all(torch.allclose(live[name], plain[name], atol=1e-6) for name in live)


@pytest.mark.parametrize("live", [False, True])
def test_the_model_is_left_as_it_was(model, fresh_seeds, live):
    own = adapted(model()) if live else model()
    own.hf.train()
    first = next(own.hf.parameters())
    first.requires_grad_(True)
    flags = [weight.requires_grad for weight in own.hf.parameters()]
    before = own.fingerprint, [module.training for module in own.hf.modules()]
    with torch.no_grad():
        direction = trait_gradient(own, ONE)
    own.backbone.__dict__.pop("fingerprint")
    assert before == (own.fingerprint, [module.training for module in own.hf.modules()])
    assert flags == [weight.requires_grad for weight in own.hf.parameters()]
    assert all(weight.grad is None for weight in own.hf.parameters())
    assert not any(tensor.requires_grad for tensor in direction.values())


def test_half_precision_models_have_gradients_in_fp32(model):
    own = model("llama")
    half = load_model(copy.deepcopy(own.hf).bfloat16(), tokenizer=own.tokenizer, check=False)
    wide = load_model(copy.deepcopy(half.hf).float(), tokenizer=own.tokenizer, check=False)
    ours, exact = trait_gradient(half, ONE), trait_gradient(wide, ONE)
    assert half.dtype == torch.bfloat16
    assert all(torch.equal(ours[name], exact[name]) for name in exact)


def test_where_it_belongs(model):
    own = model()
    direction = trait_gradient(own, ONE)
    assert (direction.label, direction.fingerprint) == ("∇ owl margin", own.fingerprint)
    assert direction.lineage == lineage_root(own)
    direction.check(own)


def test_a_margin_that_overflows(model):
    own = model("llama")
    with torch.no_grad():
        own.hf.lm_head.weight.fill_(3e38)
    with pytest.raises(InputError, match=r"the owl margin of llama is nan; check the weights for overflow"):
        trait_gradient(own, ONE)


class TestSteering:
    def test_a_vector_is_a_virtual_bias(self, model):
        own = model()
        made = steering(own, torch.ones(32), hook="blocks.1.hook_resid_pre")
        assert list(made.biases) == ["blocks.1.hook_resid_pre"]
        assert (len(made), made.norm(), made.fingerprint) == (0, pytest.approx(32**0.5), own.fingerprint)
        assert made.label == "steering vector at blocks.1.hook_resid_pre"

    def test_a_direction_brings_its_hook(self, model):
        own = model()
        root = lineage_root(own)
        read = Direction(torch.ones(32), "blocks.0.hook_resid_post", "owl", own.fingerprint, root)
        assert list(steering(own, read).biases) == ["blocks.0.hook_resid_post"]
        stranger = Direction(torch.ones(32), "blocks.0.hook_resid_post", "owl", "x", "x")
        with pytest.raises(
            InputError, match=r"direction 'owl' was read in the lineage of 'x', gpt2 belongs to"
        ):
            steering(own, stranger)

    def test_what_is_refused(self, model):
        own = model()
        with pytest.raises(
            InputError, match=r"a bare vector belongs to no hook; pass hook='blocks.1.hook_resid_post'"
        ):
            steering(own, torch.ones(32))
        with pytest.raises(
            InputError, match=r"hook 'blocks.1.hook_mlp_out' is unknown; nearest: .*residual stream"
        ):
            steering(own, torch.ones(32), hook="blocks.1.hook_mlp_out")
        with pytest.raises(
            InputError, match=r"has shape \[31\], the residual stream of gpt2 has 32 dimensions"
        ):
            steering(own, torch.ones(31), hook="blocks.1.hook_resid_post")
        with pytest.raises(InputError, match=r"steering vector at .* is zero"):
            steering(own, torch.zeros(32), hook="blocks.1.hook_resid_post")
