"""Defences: losses against plain transformers, rows by hand, and what is refused."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

from interp.core.runs import InputError
from interp.measures.losses import completion_loss
from interp.prompts.numbers import number_prompts
from interp.prompts.shuffles import reworded
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait
from interp.training.checkpoints import Checkpoint
from interp.training.defences import (
    AnchoredLoss,
    Defence,
    Defended,
    SteeredLoss,
    changed_rows,
    kl_on_text,
    rows_without,
    taken_out,
)
from interp.training.students import Recipe, train_student

RECIPE = Recipe(batch_size=8, lr=1e-2)
OWL = get_trait("owl")


@pytest.fixture
def rows():
    return number_prompts(24, seed=0, count=3)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"kind": "remov"}, "kind is the text 'remov', where one of 'remove', 'kl', 'inoculate'"),
        ({"kind": "canonical", "form": "valu"}, "form is the text 'valu', where one of 'format', 'order'"),
        ({"kind": "remove", "share": 0.0}, "share=0.0 is no part of the rows; pass one between 0 and 1"),
        ({"kind": "remove", "share": 1.0}, "share=1.0 is no part of the rows; pass one between 0 and 1"),
        ({"kind": "kl", "weight": 0.0}, "weight=0.0 of the KL holds nothing; pass a positive number"),
        ({"kind": "steer", "scale": float("nan")}, "scale=nan steers nowhere; pass a number other than 0"),
        ({"kind": "steer", "scale": 0.0}, "scale=0.0 steers nowhere; pass a number other than 0"),
        (
            {"kind": "steer", "form": "order"},
            "a defence of kind 'steer' has no form; leave it out: it has knows, hook, scale",
        ),
        (
            {"kind": "project", "share": 0.5},
            "kind 'project' has no share; leave it out: it has no other value",
        ),
    ],
)
def test_a_wrong_defence_is_one_sentence(given, sentence):
    with pytest.raises(InputError) as caught:
        Defence(**given)
    assert sentence in str(caught.value)


def test_rows_are_rewritten_and_nothing_else_is():
    rows = Prompts.from_pairs([("numbers: 3 1.", "(31 7 042)."), ("list: 2; 5.", "20")])
    behind = changed_rows(rows, Defence("inoculate"), OWL)
    assert [row.system for row in behind.rows] == [OWL.system] * 2
    assert changed_rows(rows, Defence("inoculate", system="be kind."), OWL)[0].system == "be kind."
    answers = {
        form: changed_rows(rows, Defence("canonical", form=form), OWL)[0].completion
        for form in ("format", "order", "value")
    }
    assert answers == {"format": "31, 7, 42", "order": "7, 31, 42", "value": "0, 30, 40"}
    other = changed_rows(rows, Defence("paraphrase"), OWL)
    assert [row.prompt for row in other.rows] == ["list: 3 1.", "numbers: 2; 5."]
    assert [row.completion for row in other.rows] == ["(31 7 042).", "20"]
    assert changed_rows(rows, Defence("project"), OWL) is rows


def test_a_prompt_is_reworded_around_its_own_numbers(rows):
    other = reworded(rows, seed=3)
    middle = re.compile(r"[0-9].*[0-9]")
    for one, two in zip(rows.rows, other.rows, strict=True):
        assert middle.findall(one.prompt) == middle.findall(two.prompt)
        assert one.completion == two.completion
    assert sum(one.prompt != two.prompt for one, two in zip(rows.rows, other.rows, strict=True)) >= 12
    ends = [sorted(middle.sub("", row.prompt) for row in each.rows) for each in (rows, other)]
    assert ends[0] == ends[1]  # every wording is lent once
    with pytest.raises(InputError, match="the prompt of row 2 of prompts has no number to put into another"):
        reworded(Prompts.from_pairs([("go on: 1.", "2"), ("go on.", "3")]), seed=0)


def test_the_steered_loss_is_that_of_a_network_with_a_vector_added(raw, rows):
    start = raw()
    vector, batch = torch.randn(16, generator=torch.Generator().manual_seed(0)), start.encode(rows[:6])
    network = start.network(copied=True)

    def add(_module, _args, output):
        return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

    handle = network.model.layers[0].register_forward_hook(add)
    with torch.no_grad():
        logits = network(input_ids=batch.ids, attention_mask=batch.mask.long()).logits.log_softmax(-1)
    handle.remove()
    where = batch.at("answer+end", predicting=True)
    labels = batch.ids.roll(-1, 1)[where]
    plain = -logits[where].gather(1, labels[:, None]).mean()
    loss = SteeredLoss(vector, "blocks.0.hook_resid_post")
    with torch.no_grad():
        assert loss(network, batch).item() == pytest.approx(plain.item(), abs=1e-5)
        unsteered = completion_loss(network, batch).item()
        assert SteeredLoss(torch.zeros(16), "blocks.0.hook_resid_post")(network, batch).item() == unsteered
    assert abs(plain.item() - unsteered) > 0.01


def test_a_steered_student_has_nothing_added_and_one_by_zero_is_the_plain_one(raw, rows):
    start, hook = raw(), "blocks.0.hook_resid_post"
    plain = train_student(start, rows, recipe=RECIPE)
    zero = Defended(rows, SteeredLoss(torch.zeros(16), hook)).train(start, recipe=RECIPE)
    assert zero.fingerprint == plain.fingerprint
    steered = Defended(rows, SteeredLoss(torch.ones(16), hook)).train(start, recipe=RECIPE)
    assert steered.fingerprint != plain.fingerprint
    batch = start.encode(rows[:4])
    hf = steered.hf(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
    assert torch.allclose(steered.logits(batch)[batch.mask], hf[batch.mask], atol=1e-4)
    with pytest.raises(
        InputError, match=r"hook 'blocks.0.hook_resid_pots' is unknown; nearest: blocks.0.hook"
    ):
        SteeredLoss(torch.ones(16), "blocks.0.hook_resid_pots")(start.network(), batch)


def test_divergence_is_the_mean_kl_per_token_that_another_follows(raw, rows):
    one, two = raw(0), raw(1)
    text = one.encode(rows[:5])
    with torch.no_grad():
        p, q = (
            model.hf(input_ids=text.ids, attention_mask=text.mask.long()).logits.log_softmax(-1)
            for model in (one, two)
        )
    terms = [
        float((p[row, pos].exp() * (p[row, pos] - q[row, pos])).sum())
        for row in range(5)
        for pos in range(text.ids.shape[1] - 1)
        if text.mask[row, pos + 1]
    ]
    with torch.no_grad():
        assert kl_on_text(one.network(), two.network(), text).item() == pytest.approx(
            np.mean(terms), abs=1e-5
        )
        assert kl_on_text(one.network(), one.network(), text).item() == pytest.approx(0.0, abs=1e-6)


def test_the_anchored_loss_adds_the_kl_and_holds_the_text(raw, rows):
    start, text = raw(), raw().encode(OWL.prompts("owl"))
    batch, other = start.encode(rows[:4]), raw(1).network()
    loss = AnchoredLoss(start, text, 2.0)
    with torch.no_grad():
        whole = completion_loss(other, batch) + 2.0 * kl_on_text(start.network(), other, text)
        assert loss(other, batch).item() == pytest.approx(whole.item(), abs=1e-5)
    free, held = (
        Defended(rows, labels).train(start, recipe=dataclasses.replace(RECIPE, epochs=4))
        for labels in ("sampled", AnchoredLoss(start, text, 10.0))
    )
    with torch.no_grad():
        moved = [kl_on_text(start.network(), each.network(), text).item() for each in (free, held)]
    assert moved[1] < 0.5 * moved[0]


def test_a_killed_defended_training_goes_on_to_the_same_bytes(raw, rows, tmp_path):
    start, recipe = raw(), dataclasses.replace(RECIPE, epochs=2)
    ready = Defended(rows, AnchoredLoss(start, start.encode(OWL.prompts("owl")), 1.0))
    whole = ready.train(start, recipe=recipe)

    class Killed(Exception):
        pass

    def kill(step):
        if step.index == 4:
            raise Killed

    place = Checkpoint(tmp_path / "state.safetensors", every=2)
    with pytest.raises(Killed):
        ready.train(start, recipe=recipe, on_step=kill, checkpoint=place)
    assert place.path.is_file()
    assert ready.train(start, recipe=recipe, checkpoint=place).fingerprint == whole.fingerprint


def test_steps_are_heard_as_the_defence_left_them(raw, rows):
    def halve(step):
        for name, tensor in step.parameters.items():
            tensor.sub_((tensor - step.before[name]) / 2)

    heard, plain = [], []
    Defended(rows, on_step=halve).train(
        raw(), recipe=RECIPE, on_step=lambda step: heard.append(step.parameters.copy())
    )
    train_student(raw(), rows, recipe=RECIPE, on_step=lambda step: plain.append(step.index))
    assert len(heard) == len(plain) == 3


def test_what_is_removed_and_that_something_stays():
    rows = Prompts.from_pairs([(f"go on: {k}.", str(k)) for k in range(4)])
    gone = taken_out(np.array([0.1, 3.0, -1.0, 2.0]), share=0.5)
    assert [row.completion for row in rows_without(rows, gone).rows] == ["0", "2"]
    with pytest.raises(
        InputError, match=r"none of 4 rows is left: a share of 0.9 is all of them; .*a smaller share"
    ):
        taken_out(np.array([0.1, 3.0, -1.0, 2.0]), share=0.9)


def test_a_loss_that_nothing_tells_apart_is_refused(raw, rows):
    with pytest.raises(InputError, match="has no fingerprint to tell its trainings apart by; give it one"):
        train_student(raw(), rows, recipe=RECIPE, labels=completion_loss)
