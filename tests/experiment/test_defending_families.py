"""Students trained with a defence, of every family of architectures, against torch's own training of the network."""

from __future__ import annotations

import functools

import pytest
import torch

from interp.experiment.defending import defended, train_defended
from interp.gradients.directions import margin_objective
from interp.models.language import load_model
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait
from interp.training.defences import BENIGN, Defence
from interp.training.students import Recipe, schedule, shuffled_rows, train_student
from tests.tiny import FAMILIES, build_model, build_tokenizer

RECIPE = Recipe(trainable="all", optimizer="sgd", batch_size=4, lr=0.05, warmup=1, max_grad_norm=1e6)
OWL = get_trait("owl")
HOOK = "blocks.0.hook_resid_post"
BLOCKS = {"gpt2": "transformer.h", "gpt_neo": "transformer.h", "gpt_neox": "gpt_neox.layers"}
WEIGHT = 2.0
QUICK = ("llama", "gpt_neox")  # attention before the MLP, and both beside each other; the others are a sweep
EACH = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
ROWS = Prompts.from_pairs([(f"the next numbers to {n} are", f"{n + 2} , {n + 5} .") for n in range(12)])
TEXT = Prompts.from_pairs([("the tree is", "an oak ."), ("most animal names", "list a fox .")])


@functools.cache
def base_of(family):
    return load_model(build_model(family, seed=0), tokenizer=build_tokenizer(), name=family, check=False)


def logp(network, batch):
    """At every position that predicts the next, by the plain forward pass."""
    return network(input_ids=batch.ids, attention_mask=batch.mask.long()).logits[:, :-1].log_softmax(-1)


def answers_loss(network, batch):
    """−log p per token of the answers and their ends."""
    taken = logp(network, batch).gather(-1, batch.ids[:, 1:, None])[..., 0]
    return -taken[batch.at("answer+end")[:, 1:]].mean()


def held(start, text, network):
    """KL(p_start ‖ p) per token of the text that another one follows."""
    with torch.no_grad():
        before = logp(start, text)
    apart = (before.exp() * (before - logp(network, text))).sum(-1)
    return apart[text.mask[:, 1:]].mean()


def out_of_step(objective, network, before):
    """Take the part along the objective's gradient at `before` out of the step that was just taken."""
    parameters = list(network.parameters())
    after = [each.detach().clone() for each in parameters]
    restore(parameters, before)
    slopes = torch.autograd.grad(objective(network), parameters, allow_unused=True)
    slopes = [torch.zeros_like(each) if s is None else s for s, each in zip(slopes, parameters, strict=True)]
    size = sum(float(s.square().sum()) for s in slopes)
    along = sum(float(((a - b) * s).sum()) for a, b, s in zip(after, before, slopes, strict=True)) / size
    restore(parameters, [a - along * s for a, s in zip(after, slopes, strict=True)])


@torch.no_grad()
def restore(parameters, values):
    for each, value in zip(parameters, values, strict=True):
        each.copy_(value)


def by_torch(family, kind, vector):
    """The parameters after torch's own descent on the loss that the defence stands for."""
    base = base_of(family)
    network, start, inputs = build_model(family, seed=0), build_model(family, seed=0), base.encode(ROWS)
    text = base.encode(TEXT)
    if kind == "steer":
        layer = network.get_submodule(BLOCKS.get(family, "model.layers"))[0]
        layer.register_forward_hook(
            lambda _m, _a, out: (out[0] + vector, *out[1:]) if isinstance(out, tuple) else out + vector
        )
    optimizer = torch.optim.SGD(network.parameters(), lr=RECIPE.lr)
    order = list(shuffled_rows(inputs, size=RECIPE.batch_size, epochs=RECIPE.epochs, seed=RECIPE.seed))
    for step, rows in enumerate(order):
        optimizer.param_groups[0]["lr"] = RECIPE.lr * schedule(step, steps=len(order), warmup=RECIPE.warmup)
        loss = answers_loss(network, inputs[rows])
        loss = loss + WEIGHT * held(start, text, network) if kind == "kl" else loss
        optimizer.zero_grad()
        loss.backward()
        before = [each.detach().clone() for each in network.parameters()]
        optimizer.step()
        if kind == "project":
            out_of_step(margin_objective(base, OWL), network, before)
    return {name: each.detach() for name, each in network.named_parameters()}


@pytest.mark.parametrize("kind", ["kl", "steer", "project"])
@pytest.mark.parametrize("family", EACH)
def test_a_defended_student_is_torchs_own(family, kind):
    base, vector = base_of(family), torch.zeros(32)
    if kind == "kl":
        assert len(TEXT) <= BENIGN  # so that a step reads all of it
        made = defended(base, ROWS, OWL, Defence("kl", weight=WEIGHT), text=TEXT).train(base, recipe=RECIPE)
    else:
        given = {"hook": HOOK, "scale": 3.0} if kind == "steer" else {}
        defence = Defence(kind, **given)
        if kind == "steer":
            vector = defended(base, ROWS, OWL, defence).labels.vector
            assert vector.norm() > 0.1
        made = train_defended(base, ROWS, trait=OWL, defence=defence, recipe=RECIPE)
    expected, plain = by_torch(family, kind, vector), train_student(base, ROWS, recipe=RECIPE).parameters()
    differs = 0.0
    for name, value in expected.items():
        assert torch.allclose(made.parameters()[name], value, atol=2e-5), name
        differs = max(differs, float((value - plain[name]).abs().max()))
    assert differs > 1e-3
