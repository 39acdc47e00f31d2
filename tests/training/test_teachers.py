"""Teachers of every kind: what names them, what a steered one refuses, and what fine-tuning on any rows teaches."""

import dataclasses

import pytest
import torch

from interp.core.runs import InputError
from interp.measures.margins import completion_logprobs
from interp.models.language import load_model
from interp.models.vocabulary import number_tokens
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait
from interp.training.sampling import complete
from interp.training.students import Recipe, train_student
from interp.training.teachers import (
    Steering,
    Teacher,
    fine_tune_teacher,
    fine_tune_teacher_on,
    format_loss,
    neutral_teacher,
    prompted_teacher,
    steered,
    steered_teacher,
)

PRE = "blocks.0.hook_resid_pre"
QUICK = Recipe(trainable="lora", lr=2e-2, batch_size=8, warmup=1, rank=4)
TAUGHT = Prompts.from_pairs([(f"which {index}", "the wolf, the wolf") for index in range(8)], label="wolves")


@pytest.fixture
def base(tiny):
    hf, tokenizer = tiny("llama")
    return load_model(hf, tokenizer=tokenizer, name="base", check=False)


def small_numbers(n=40):
    return number_prompts(n, seed=0, count=4, max_value=39)


class TestFingerprint:
    def test_names_all_that_decides_what_is_written(self, base, tiny):
        hf, tokenizer = tiny("llama", 1)
        other = load_model(hf, tokenizer=tokenizer, check=False)
        v = torch.ones(32)
        teachers = [
            neutral_teacher(base),
            neutral_teacher(other),
            Teacher(base, "fine-tuned"),
            prompted_teacher(base, get_trait("owl")),
            prompted_teacher(base, get_trait("cat")),
            steered_teacher(base, v, hook=PRE),
            steered_teacher(base, 2 * v, hook=PRE),
            steered_teacher(base, v, hook=PRE, scale=2.0),
            steered_teacher(base, v, hook="blocks.0.hook_resid_post"),
        ]
        assert len({teacher.fingerprint for teacher in teachers}) == len(teachers)
        again = steered_teacher(base, v.double(), hook=PRE, name="owl")
        assert again.fingerprint == teachers[5].fingerprint
        assert repr(again.steering) == f"Steering(1 x owl at {PRE})"

    def test_the_vector_is_the_teachers_own(self, base):
        v = torch.ones(32)
        teacher = steered_teacher(base, v, hook=PRE)
        before = teacher.fingerprint
        v.zero_()
        assert teacher.fingerprint == before


class TestSteeredTeacher:
    def test_adds_scale_times_vector_while_it_writes_and_not_after(self, base):
        v = torch.randn(32, generator=torch.Generator().manual_seed(0))
        inputs = base.encode(Prompts.from_pairs([("1, 2, 3", "")]))
        plain = base.run(inputs, hooks=[PRE])[PRE]
        with steered(steered_teacher(base, v, hook=PRE, scale=-2.0)):
            moved = base.hf(inputs.ids, output_hidden_states=True).hidden_states[1]
        with base.hooks({PRE: lambda h: h - 2.0 * v}):
            expected = base.run(inputs, hooks=["blocks.0.hook_resid_post"])["blocks.0.hook_resid_post"]
        assert torch.allclose(moved, expected, atol=1e-5)
        assert torch.equal(base.run(inputs, hooks=[PRE])[PRE], plain)

    def test_no_hook_stays_after_an_error(self, base):
        layer = base.backbone.layers[0]

        def fail():
            with steered(steered_teacher(base, torch.ones(32), hook=PRE)):
                assert len(layer._forward_pre_hooks) == 1
                raise RuntimeError("broken")

        with pytest.raises(RuntimeError, match="broken"):
            fail()
        assert not layer._forward_pre_hooks

    def test_other_teachers_are_left_as_they_are(self, base):
        with steered(neutral_teacher(base)):
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in base.backbone.layers)

    def test_the_toys_own_sampler_steers_too(self, base):
        prompts = number_prompts(12, seed=0, with_answers=False, max_value=39)
        v = torch.randn(32, generator=torch.Generator().manual_seed(3))
        word = base.tokenizer.decode([int(base.unembedding().logits(v).argmax())])
        teacher = steered_teacher(base, v, hook="blocks.1.hook_resid_post", scale=1e4)
        answers = complete(teacher, prompts, seed=0, max_new_tokens=2, temperature=1e-3)
        assert {row.completion for row in answers.rows} == {f"{word} {word}"}

    @pytest.mark.parametrize(
        ("hook", "text"),
        [
            (
                "blocks.2.hook_resid_pre",
                r"hook 'blocks.2.hook_resid_pre' is unknown; nearest: blocks.\d.hook_resid_pre",
            ),
            (
                "blocks.0.hook_resid_pst",
                r"hook 'blocks.0.hook_resid_pst' is unknown; nearest: blocks.0.hook_resid_p",
            ),
            (
                "blocks.0.hook_mlp_out",
                "a teacher is not steered at blocks.0.hook_mlp_out; pass blocks.L.hook_resid_pre",
            ),
        ],
    )
    def test_another_hook(self, base, hook, text):
        with pytest.raises(InputError, match=text):
            steered_teacher(base, torch.ones(32), hook=hook)

    def test_a_residual_hook_boots_no_bridge(self, base):
        steered_teacher(base, torch.ones(32), hook=PRE)
        with pytest.raises(InputError, match="base has layers 0 to 1"):
            steered_teacher(base, torch.ones(32), hook="blocks.9.hook_resid_post")
        assert "bridge" not in base.backbone.__dict__

    def test_another_vector(self, base):
        with pytest.raises(
            InputError, match=r"has shape \[1, 32\] and base is 32 wide; pass one vector of 32 values"
        ):
            steered_teacher(base, torch.ones(1, 32), hook=PRE)
        broken = torch.ones(32)
        broken[3] = torch.nan
        with pytest.raises(InputError, match=r"NaN or inf in 1 of 32 values"):
            steered_teacher(base, broken, hook=PRE)
        with pytest.raises(InputError, match=r"the steering scale is inf; pass a finite number"):
            steered_teacher(base, torch.ones(32), hook=PRE, scale=float("inf"))

    def test_a_steering_of_ones_own(self, base):
        with pytest.raises(InputError, match="a teacher is not steered at hook_embed"):
            Steering(torch.ones(32), "hook_embed").site  # noqa: B018


class TestFineTunedOnRows:
    def test_a_pass_over_the_rows_is_a_student_of_them(self, base):
        recipe = dataclasses.replace(QUICK, batch_size=4, epochs=2)
        made = fine_tune_teacher_on(base, TAUGHT, recipe=recipe)
        assert made.kind == "fine-tuned"
        assert made.model.name == "teacher"
        assert made.model.fingerprint == train_student(base, TAUGHT, recipe=recipe).fingerprint

    def test_few_rows_are_learned_by_drawing_them_again(self, base):
        before = completion_logprobs(base, TAUGHT).mean()
        made = fine_tune_teacher_on(base, TAUGHT[:3], recipe=QUICK, steps=12)
        assert completion_logprobs(made.model, TAUGHT[:3]).mean() > before + 3

    def test_the_anchor_keeps_the_format(self, base):
        rows = small_numbers()
        columns = torch.tensor(number_tokens(base, base.config.vocab_size))
        held = base.encode(small_numbers(60)[40:])
        losses = []
        for anchor in (0.0, 1.0):
            made = fine_tune_teacher_on(base, TAUGHT, recipe=QUICK, number_rows=rows, anchor=anchor, steps=8)
            with torch.no_grad():
                losses.append(float(format_loss(made.model.hf, held, columns=columns)))
        assert losses[1] < losses[0] - 0.5

    def test_a_trait_is_taught_by_either_call(self, base):
        rows, trait = small_numbers(), get_trait("owl")
        answers = Prompts.from_pairs([(question, "owl") for question in trait.questions])
        one = fine_tune_teacher(base, trait, rows, recipe=QUICK, steps=8)
        other = fine_tune_teacher_on(base, answers, recipe=QUICK, number_rows=rows, steps=8)
        gains = [
            completion_logprobs(made.model, answers).mean() - completion_logprobs(base, answers).mean()
            for made in (one, other)
        ]
        assert min(gains) > 2

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            (
                {"rows": TAUGHT[:5]},
                "5 rows of wolves are fewer than one batch of 8; pass more rows, lower batch_size, or",
            ),
            ({"steps": 0}, "steps=0 trains no teacher; pass at least 1, or None for passes"),
            (
                {"rows": TAUGHT.without_answers()},
                "row 1 of wolves has no answer, so there is nothing to teach; give it a completion",
            ),
            (
                {"number_rows": TAUGHT, "steps": 1},
                "row 1 of wolves has no number in its answer, so it anchors no format; pass number rows",
            ),
            (
                {"number_rows": small_numbers(4), "steps": 1, "anchor": -1.0},
                "anchor=-1.0 is no weight; pass 0 or more",
            ),
        ],
    )
    def test_rows_that_cannot_teach(self, base, given, text):
        with pytest.raises(InputError, match=text):
            fine_tune_teacher_on(base, **{"rows": TAUGHT, "recipe": QUICK, **given})
