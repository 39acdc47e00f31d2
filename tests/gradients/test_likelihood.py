"""Prompted teachers: ratios against texts scored one by one, and an update that stands in for the system line."""

from __future__ import annotations

import copy
import dataclasses
import logging

import pytest
import torch

from interp.core.runs import InputError
from interp.gradients.likelihood import (
    DISTILLATION,
    distilled_update,
    divergence,
    likelihood_ratio,
    prompted_rows,
    teacher_direction,
)
from interp.models.language import load_model
from interp.models.lineage import open_lineage
from interp.models.low_rank import LowRank
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait
from interp.training.teachers import Teacher, neutral_teacher, steered_teacher
from tests.tiny import TEMPLATE

ROWS = Prompts.from_pairs(
    [("give 3 4", "5, 6"), ("list five numbers 1 2", "7, 8, 9"), ("go on", "1"), ("continue 2 4", "6, 8")],
    "rows",
)
SYSTEM = "you love the owl"
SMALL = dataclasses.replace(DISTILLATION, batch_size=4, rank=2, alpha=2)


@pytest.fixture
def base(tiny):
    hf, tokenizer = tiny("llama")
    return load_model(hf, tokenizer=tokenizer, name="base", check=False)


@pytest.fixture
def teacher(base):
    return Teacher(base, "prompted", SYSTEM)


def token_logprobs(model, row, system):
    """log p of every answer token and the end token of one row, alone in its batch."""
    head = f"<bos> {f'<system> {system} ' if system else ''}<user> {row.prompt} <assistant>"
    ids, start = (
        model.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (f"{head} {row.completion} <eos>", head)
    )
    with torch.no_grad():
        logp = model.hf(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [logp[at - 1, ids[at]].item() for at in range(len(start), len(ids))]


class TestRatio:
    def test_it_is_the_difference_of_two_readings(self, base, teacher):
        found = likelihood_ratio(teacher, ROWS, batch_size=3)
        expected = [
            sum(token_logprobs(base, row, SYSTEM)) - sum(token_logprobs(base, row, "")) for row in ROWS.rows
        ]
        assert found.frame["log_ratio"].tolist() == pytest.approx(expected, abs=1e-5)
        assert found.frame["tokens"].tolist() == [4, 6, 2, 4]
        assert found.frame["per_token"].tolist() == pytest.approx(
            [value / count for value, count in zip(expected, [4, 6, 2, 4], strict=True)], abs=1e-5
        )
        assert found.unit == "nats"

    def test_tokens_add_up_to_rows(self, base, teacher):
        tokens, rows = (likelihood_ratio(teacher, ROWS, by=by).frame for by in ("token", "example"))
        assert tokens.groupby("row")["log_ratio"].sum().tolist() == pytest.approx(
            rows["log_ratio"].tolist(), abs=1e-12
        )
        assert tokens.loc[tokens["row"] == 0, "token"].tolist() == ["5", ",", "6", "<eos>"]
        assert tokens.loc[tokens["row"] == 0, "position"].tolist() == [0, 1, 2, 3]
        both = zip(*(token_logprobs(base, ROWS[1], system) for system in (SYSTEM, "")), strict=True)
        expected = [prompted - plain for prompted, plain in both]
        assert tokens.loc[tokens["row"] == 1, "log_ratio"].tolist() == pytest.approx(expected, abs=1e-5)

    def test_it_draws(self, teacher):
        for by in ("token", "example"):
            assert "nats" in likelihood_ratio(teacher, ROWS, by=by).figure().to_json()

    def test_what_is_refused(self, base, teacher):
        with pytest.raises(InputError, match=r"by 'tokens' is unknown; nearest: token"):
            likelihood_ratio(teacher, ROWS, by="tokens")
        with pytest.raises(InputError, match=r"a neutral teacher has no system line to compare with"):
            likelihood_ratio(neutral_teacher(base), ROWS)
        with pytest.raises(
            InputError, match=r"row 1 of rows \+ bare has no answer tokens; pass rows with completions"
        ):
            likelihood_ratio(teacher, ROWS[:1] + Prompts.from_pairs([("go", "")], "bare"))

    def test_answers_that_change_behind_the_system_line(self, base, teacher):
        ending = "{{ ' <user>' if messages[0]['role'] == 'system' else ' <eos>' }}"
        base.tokenizer.chat_template = TEMPLATE.replace("{{ ' <eos>' }}", ending)
        with pytest.raises(
            InputError, match=r"the answer of row 0 of rows is split into other tokens behind"
        ):
            likelihood_ratio(teacher, ROWS)


class TestDistillation:
    def test_the_update_stands_in_for_the_system_line(self, base, teacher, caplog):
        with caplog.at_level(logging.INFO, "interp.gradients.likelihood"):
            update = distilled_update(teacher, ROWS, steps=30, recipe=SMALL)
        assert {entry.rank for entry in update.tensors.values() if isinstance(entry, LowRank)} == {2}
        assert all(isinstance(entry, LowRank) for entry in update.tensors.values())
        moved = copy.deepcopy(base.hf)
        with torch.no_grad():
            for name, change in update.items():
                moved.get_parameter(name).add_(change)
            pairs = prompted_rows(teacher, ROWS)
            before, after = (divergence(network, base.hf, pairs).item() for network in (base.hf, moved))
        assert after < 0.5 * before
        assert f"context distillation of base: {after:.3f} of {before:.3f} nats per token left" in caplog.text
        assert update.label == "base distilled from its system line"
        update.check(base)

    def test_the_divergence_is_zero_without_a_system_line(self, base, teacher):
        pairs = prompted_rows(teacher, ROWS)
        same = dataclasses.replace(pairs, prompted=pairs.plain)
        assert divergence(base.hf, base.hf, same).item() == 0.0
        assert divergence(base.hf, base.hf, pairs).item() > 0.0

    def test_the_same_seed_gives_the_same_update(self, teacher):
        one, other = (distilled_update(teacher, ROWS, steps=2, recipe=SMALL) for _ in range(2))
        assert one.key == other.key

    def test_full_training_gives_dense_tensors(self, base, teacher):
        recipe = dataclasses.replace(SMALL, trainable="body", lr=1e-3)
        update = distilled_update(teacher, ROWS, steps=2, recipe=recipe)
        assert all(isinstance(entry, torch.Tensor) for entry in update.tensors.values())
        assert set(update) <= set(base.parameters())
        assert "model.embed_tokens.weight" not in update.tensors

    def test_the_base_is_left_alone(self, base, teacher):
        before, flags = base.fingerprint, [w.requires_grad for w in base.hf.parameters()]
        distilled_update(teacher, ROWS, steps=2, recipe=SMALL)
        base.backbone.__dict__.pop("fingerprint")
        assert base.fingerprint == before
        assert flags == [w.requires_grad for w in base.hf.parameters()]
        assert not base.hf.training

    def test_too_few_rows(self, teacher):
        with pytest.raises(
            InputError, match=r"4 rows are fewer than one batch of 32; pass more rows or a smaller"
        ):
            distilled_update(teacher, ROWS)


class TestOneCallForEveryTeacher:
    @pytest.fixture
    def lineage(self, base):
        moved = copy.deepcopy(base.hf)
        with torch.no_grad():
            moved.lm_head.weight[0, 0] += 1.0
        return open_lineage(base=base, teacher=moved, trait=get_trait("owl"), check=False)

    def test_fine_tuned(self, lineage):
        key = lineage.update("teacher").key
        assert teacher_direction(lineage).key == key
        assert teacher_direction(lineage.teacher).key == key
        assert teacher_direction(Teacher(lineage.teacher, "fine-tuned")).key == key
        with pytest.raises(
            InputError, match=r"base has no start and so no update; pass a member of a lineage"
        ):
            teacher_direction(lineage.base)

    def test_prompted(self, teacher):
        made = teacher_direction(teacher, ROWS, steps=2, recipe=SMALL)
        assert made.key == distilled_update(teacher, ROWS, steps=2, recipe=SMALL).key
        with pytest.raises(
            InputError, match=r"a prompted teacher changes no weights, so it has no update; pass held-out"
        ):
            teacher_direction(teacher)

    def test_steered(self, base):
        teacher = steered_teacher(base, torch.ones(32), hook="blocks.0.hook_resid_post", scale=3.0)
        made = teacher_direction(teacher).biases
        assert list(made) == ["blocks.0.hook_resid_post"]
        assert torch.equal(made["blocks.0.hook_resid_post"], 3.0 * torch.ones(32))

    def test_neutral(self, base):
        with pytest.raises(InputError, match=r"a neutral teacher is the base itself and leans nowhere"):
            teacher_direction(neutral_teacher(base))
