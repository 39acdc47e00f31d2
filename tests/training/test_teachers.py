"""Teachers of every kind: what names them, what a steered one refuses, and what fine-tuning on any rows teaches."""

import dataclasses

import pytest
import torch

from interp.core.runs import Cache, InputError
from interp.measures.margins import completion_logprobs, margin
from interp.models.language import load_model
from interp.models.vocabulary import number_tokens
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait
from interp.training.checkpoints import Checkpoint
from interp.training.data import DataSpec
from interp.training.grower import Grower, TeacherSpec
from interp.training.sampling import complete
from interp.training.students import Recipe, train_student
from interp.training.teachers import (
    Steering,
    Teacher,
    evenly_answered,
    fine_tune_teacher,
    fine_tune_teacher_on,
    format_loss,
    neutral_teacher,
    prompted_teacher,
    steered,
    steered_teacher,
)
from interp.training.watching import StopAfter, StopAtMargin, TrainingLog

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


class TestStopAtMargin:
    HOW = {"recipe": dataclasses.replace(QUICK, lr=5e-3), "steps": 12}

    def margins(self, base, trait):
        """The margin after every step of a training that is not stopped."""
        log = TrainingLog(base, trait=trait, every=1)
        fine_tune_teacher(base, trait, small_numbers(), on_step=log, **self.HOW)
        return log.frame["margin"].tolist()

    def test_a_teacher_is_the_one_of_the_first_step_that_reached_the_margin(self, base):
        owl = get_trait("owl")
        course = self.margins(base, owl)
        asked = (course[3] + course[4]) / 2
        assert max(course[:4]) < asked < course[4]  # reached first after step 5
        stop = StopAtMargin(base, owl, margin=asked)
        made = fine_tune_teacher(base, owl, small_numbers(), on_step=stop, **self.HOW)
        assert (made.stopped.steps, made.stopped.reached, made.stopped.asked) == (5, True, asked)
        assert made.stopped.margin == pytest.approx(course[4], abs=1e-5)
        assert margin(made.model, owl) == pytest.approx(course[4], abs=1e-4)
        assert str(made.stopped).startswith("the teacher was stopped after 5 steps at a margin of ")
        every = StopAtMargin(base, owl, margin=asked, every=3)
        assert fine_tune_teacher(base, owl, small_numbers(), on_step=every, **self.HOW).stopped.steps == 6

    def test_a_killed_one_stops_at_the_same_bytes(self, base, tmp_path):
        owl = get_trait("owl")
        course = self.margins(base, owl)
        asked = (course[3] + course[4]) / 2
        whole = fine_tune_teacher(
            base, owl, small_numbers(), on_step=StopAtMargin(base, owl, margin=asked), **self.HOW
        )

        class Killed(Exception):
            pass

        class Dying(StopAtMargin):
            def __call__(self, step):
                if step.index == 3:
                    raise Killed
                return super().__call__(step)

        state = Checkpoint(tmp_path / "state.safetensors", every=2)
        with pytest.raises(Killed):
            fine_tune_teacher(
                base,
                owl,
                small_numbers(),
                on_step=Dying(base, owl, margin=asked),
                checkpoint=state,
                **self.HOW,
            )
        stop = StopAtMargin(base, owl, margin=asked)
        resumed = fine_tune_teacher(base, owl, small_numbers(), on_step=stop, checkpoint=state, **self.HOW)
        assert resumed.fingerprint == whole.fingerprint
        assert stop.course["step"].tolist() == [1, 2, 3, 4, 5]
        assert not state.path.exists()

    def test_a_margin_that_is_never_reached_is_said(self, base, caplog):
        stop = StopAtMargin(base, "owl", margin=99.0)
        made = fine_tune_teacher_on(base, TAUGHT, recipe=QUICK, steps=2, on_step=stop)
        assert (made.stopped.steps, made.stopped.reached) == (2, False)
        sentence = f"never reached its margin of 99 nats: it stands at {made.stopped.margin:+.2f} after 2 steps; give"
        assert sentence in caplog.text
        with pytest.raises(
            InputError, match=r"margin=inf is reached never or at once; pass nats, such as 5\.0"
        ):
            StopAtMargin(base, "owl", margin=float("inf"))

    @pytest.mark.slow
    def test_a_grown_one_keeps_where_it_stopped_and_its_control_takes_as_many_steps(self, base, tmp_path):
        owl = get_trait("owl")
        spec = TeacherSpec(steps=12, recipe=dataclasses.replace(QUICK, lr=5e-3, merge=False))
        data = DataSpec(prompts="short", count=3, digits=1)

        def grower(**how):
            return Grower(Cache(tmp_path), teaching=dataclasses.replace(spec, **how), data=data)

        full = grower().teacher(base, owl)
        asked = (margin(base, owl) + margin(full.model, owl)) / 2
        one, again = (grower(stop_at_margin=asked).teacher(base, owl) for _ in range(2))
        assert full.stopped is None
        assert one.stopped == again.stopped
        assert 1 <= one.stopped.steps < 12
        assert one.fingerprint == again.fingerprint != full.fingerprint
        assert margin(one.model, owl) == pytest.approx(one.stopped.margin, abs=1e-4)
        later = grower(stop_at_margin=asked, margin_every=12).teacher(base, owl)
        assert later.fingerprint == full.fingerprint  # asked after the last step alone, it takes them all
        control = grower(stop_at_margin=asked).control_teacher(base, owl)
        alike = fine_tune_teacher_on(
            base, evenly_answered(owl), number_rows=data.documents(4096, seed=20_000), steps=12,
            recipe=spec.recipe, on_step=StopAfter(one.stopped.steps),
        )  # fmt: skip
        assert control.fingerprint == alike.fingerprint
        assert grower().control_teacher(base, owl).fingerprint != control.fingerprint
