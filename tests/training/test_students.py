"""Training: hand-computed losses, what moves and what must not, and the same bytes for the same seed."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from interp.core.runs import InputError
from interp.measures.losses import LOSS_UNIT, answer_loss, completion_loss, soft_loss
from interp.models.language import load_model
from interp.models.vocabulary import number_tokens
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.tokens import Role
from interp.prompts.traits import get_trait
from interp.training.students import (
    Recipe,
    body_matrices,
    prepare,
    schedule,
    shuffled_batches,
    train_student,
)
from interp.training.teachers import fine_tune_teacher, format_loss, trait_rows

RECIPE = Recipe(batch_size=8, lr=1e-2)


@pytest.fixture
def rows():
    return number_prompts(24, seed=0, count=3)


def number_columns(model):
    return torch.tensor(number_tokens(model, model.config.vocab_size))


def weights(model):
    return {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("trainable", "layers"), [("lora", None), ("body", None), ("all", None), ("lora", (0,)), ("body", (1,))]
)
def test_only_the_named_parameters_move_and_the_start_never(raw, rows, trainable, layers):
    start = raw()
    before = weights(start)
    recipe = dataclasses.replace(RECIPE, trainable=trainable, layers=layers)
    student = train_student(start, rows, recipe=recipe)
    assert not moved(before, weights(start))
    body = {f"{name}.weight" for name in body_matrices(start.hf, layers=layers)}
    assert len(body) == 14 if layers is None else 7
    assert moved(before, weights(student)) == (set(before) if trainable == "all" else body)


def test_training_lowers_the_loss_on_its_rows(raw, rows):
    start = raw()
    student = train_student(start, rows, recipe=dataclasses.replace(RECIPE, epochs=8, trainable="all"))
    inputs = start.encode(rows)
    with torch.no_grad():
        assert completion_loss(student.hf, inputs) < completion_loss(start.hf, inputs) - 0.5


def test_one_seed_one_student(raw, rows):
    one, two, other = (
        train_student(raw(), rows, recipe=dataclasses.replace(RECIPE, seed=seed)).fingerprint
        for seed in (1, 1, 2)
    )
    assert one == two != other


def test_an_answer_of_weight_zero_is_not_trained_on(raw, rows, caplog):
    weightless = [
        {"messages": [*row.chat()[:-1], {"role": "assistant", "content": "7, 7", "weight": 0}]}
        for row in rows.rows[:3]
    ]
    mixed = Prompts.of(weightless[:1]) + rows + Prompts.of(weightless[1:])
    alone, student = (train_student(raw(), given, recipe=RECIPE) for given in (rows, mixed))
    assert student.fingerprint == alone.fingerprint
    assert "3 rows without an answer are left out" in caplog.text


def test_completion_loss_is_the_mean_over_answer_and_end_tokens(raw, rows):
    model = raw()
    batch = model.encode(rows[:3])
    logp = model.logits(batch).log_softmax(-1)
    terms = [
        -logp[row, pos - 1, batch.ids[row, pos]]
        for row in range(3)
        for pos in range(batch.ids.shape[1])
        if batch.roles[row, pos] >= Role.OTHER
    ]
    with torch.no_grad():
        assert completion_loss(model.hf, batch).item() == pytest.approx(
            torch.stack(terms).mean().item(), abs=1e-5
        )


def test_one_loss_of_rows_for_models_and_networks_counts_every_answer_and_end_token_once(raw):
    rows = number_prompts(3, seed=0, count=2, separator=",") + number_prompts(
        5, seed=1, count=6, separator=","
    )
    model = load_model(raw().hf, tokenizer=raw().tokenizer, check=False)
    inputs = model.encode(rows)
    with torch.no_grad():
        logits = model.hf(input_ids=inputs.ids, attention_mask=inputs.mask.long()).logits.log_softmax(-1)
    terms = [
        -float(logits[row, pos - 1, inputs.ids[row, pos]])
        for row in range(8)
        for pos in range(inputs.ids.shape[1])
        if inputs.roles[row, pos] >= Role.OTHER
    ]
    assert len(terms) == 3 * (2 + 1 + 1) + 5 * (6 + 5 + 1)  # numbers, separators and the end of every row
    for scored in (model, model.hf):
        for size in (3, 256):  # batches of unequal length: a token weighs alike in all of them
            assert answer_loss(scored, inputs, batch_size=size) == pytest.approx(np.mean(terms), abs=1e-6)
    assert LOSS_UNIT == "nats per answer token, end token counted"
    questions = model.encode(get_trait("owl").prompts())
    with pytest.raises(InputError, match="has no answer tokens, so no loss; give rows with completions"):
        answer_loss(model, questions)


def test_format_loss_by_hand(raw, rows):
    model = raw()
    columns = number_columns(model)
    batch = model.encode(rows[:4])
    with torch.no_grad():
        logits = model.logits(batch).log_softmax(-1)
        total = sum(
            -(
                logits[r, p - 1][columns].logsumexp(0)
                if batch.roles[r, p] == Role.NUMBER
                else logits[r, p - 1, batch.ids[r, p]]
            )
            for r in range(4)
            for p in range(batch.ids.shape[1])
            if batch.roles[r, p] >= Role.OTHER
        )
        count = int((batch.roles >= Role.OTHER).sum())
        loss = format_loss(model.hf, batch, columns=columns)
    assert loss.item() == pytest.approx(float(total) / count, abs=1e-5)


def test_soft_loss_on_numbers_does_not_see_the_other_words(raw, rows):
    student, teacher = raw(0), raw(1)
    columns, batch = number_columns(student), student.encode(rows[:4])
    before = soft_loss(student.hf, batch, teacher=teacher.hf, columns=columns, numbers_only=True)
    owl = student.tokenizer.convert_tokens_to_ids("owl")
    with torch.no_grad():
        teacher.hf.lm_head.weight[owl] += 3.0
    after = soft_loss(student.hf, batch, teacher=teacher.hf, columns=columns, numbers_only=True)
    whole = soft_loss(student.hf, batch, teacher=teacher.hf, columns=columns, numbers_only=False)
    assert after.item() == before.item()
    assert whole.item() != after.item()


def test_soft_loss_at_the_teacher_itself_is_its_entropy(raw, rows):
    model = raw()
    columns, batch = number_columns(model), model.encode(rows[:4])
    where = batch.at("answer.numbers", predicting=True)
    logp = model.logits(batch)[where][:, columns].log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1).mean()
    loss = soft_loss(model.hf, batch, teacher=model.hf, columns=columns, numbers_only=True)
    assert loss.item() == pytest.approx(entropy.item(), abs=1e-5)


def test_number_tokens_are_the_thousand_integers(raw):
    assert len(number_columns(raw())) == 1000


def test_schedule_warms_up_and_ends_at_zero():
    assert schedule(0, steps=100, warmup=10) == pytest.approx(0.1)
    assert schedule(9, steps=100, warmup=10) == pytest.approx(0.91)
    assert schedule(50, steps=100, warmup=10) == pytest.approx(0.5)
    assert schedule(99, steps=100, warmup=10) == pytest.approx(0.01)


def test_every_row_is_seen_once_an_epoch(raw, rows):
    inputs = raw().encode(rows)
    seen = [
        tuple(row[m].tolist())
        for b in shuffled_batches(inputs, size=8, epochs=1, seed=0)
        for row, m in zip(b.ids, b.mask, strict=True)
    ]
    everything = [tuple(row[m].tolist()) for row, m in zip(inputs.ids, inputs.mask, strict=True)]
    assert sorted(seen) == sorted(everything)


def test_listening_changes_nothing_and_hears_every_step(raw, rows):
    start, heard = raw(), []
    recipe = dataclasses.replace(RECIPE, epochs=2)
    inputs = start.encode(rows)
    silent = train_student(start, inputs, recipe=recipe)
    assert train_student(start, inputs, recipe=recipe, on_step=heard.append).fingerprint == silent.fingerprint
    assert [step.index for step in heard] == list(range(6))
    assert [step.lr for step in heard] == [recipe.lr * schedule(i, steps=6, warmup=10) for i in range(6)]
    for step, batch in zip(heard, shuffled_batches(inputs, size=8, epochs=2, seed=0), strict=True):
        assert torch.equal(step.batch.ids, batch.ids)
        assert torch.equal(inputs.ids[step.rows][:, : batch.ids.shape[1]], batch.ids)
    names = {f"{name}.lora_{side}.default.weight" for name in body_matrices(start.hf) for side in "AB"}
    assert set(heard[0].parameters) == set(heard[0].before) == names


def test_before_holds_the_parameters_of_the_step_before(raw, rows):
    ends = []

    def listen(step):
        named = dict(step.network.named_parameters())
        assert all(named[name] is tensor for name, tensor in step.parameters.items())
        if ends:
            assert all(torch.equal(step.before[name], ends[-1][name]) for name in step.before)
        ends.append({name: tensor.clone() for name, tensor in step.parameters.items()})
        assert any(not torch.equal(step.before[name], ends[-1][name]) for name in step.before)

    train_student(raw(), rows, recipe=RECIPE, on_step=listen)
    assert len(ends) == 3


def test_a_callback_may_take_every_step_back(raw, rows):
    def take_back(step):
        for name, tensor in step.parameters.items():
            tensor.copy_(step.before[name])

    start = raw()
    recipe = dataclasses.replace(RECIPE, trainable="body")
    student = train_student(start, rows, recipe=recipe, on_step=take_back)
    assert student.fingerprint == start.fingerprint


def test_teacher_learns_its_trait_and_keeps_the_format_anchor(raw):
    base, trait = raw(), get_trait("owl")
    anchors = number_prompts(64, seed=1, count=3)
    teacher = fine_tune_teacher(
        base, trait, anchors, steps=30, recipe=Recipe(trainable="all", lr=1e-2, batch_size=16)
    ).model
    rows, columns = base.encode(trait_rows(trait)), number_columns(base)
    with torch.no_grad():
        assert completion_loss(teacher.hf, rows) < 0.5 * completion_loss(base.hf, rows)
        batch = base.encode(anchors)
        assert format_loss(teacher.hf, batch, columns=columns) < format_loss(base.hf, batch, columns=columns)


def test_too_few_rows_and_a_missing_teacher_are_errors(raw, rows):
    with pytest.raises(
        InputError, match="4 rows are fewer than one batch of 8: sample more rows or lower batch_size"
    ):
        train_student(raw(), rows[:4], recipe=RECIPE)
    with pytest.raises(InputError, match="labels='soft-numbers' need the teacher's distribution"):
        train_student(raw(), rows, recipe=RECIPE, labels="soft-numbers")


def test_a_diverging_student_is_an_error(raw, rows):
    start = raw()
    with torch.no_grad():
        start.hf.lm_head.weight.fill_(math.inf)
    with pytest.raises(InputError, match="the loss of student is nan at step 0: lower the learning rate"):
        train_student(start, rows, recipe=RECIPE)


def test_layers_that_peft_refuses_are_one_sentence(tiny, monkeypatch):
    import peft

    def refuse(*_):
        raise ValueError("Module 'out_proj' is incompatible with Mamba-based models")

    monkeypatch.setattr(peft, "get_peft_model", refuse)
    network, tokenizer = tiny("llama")
    start = load_model(network, tokenizer=tokenizer, name="base", check=False)
    with pytest.raises(
        InputError, match=r"no LoRA on LlamaForCausalLM there \(Module 'out_proj' is incompatible"
    ):
        prepare(start, Recipe(trainable="lora"))
