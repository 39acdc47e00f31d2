"""A training that was killed ends at the same bytes; parts of a batch make the same step; what is watched is true."""

import dataclasses
import logging
import subprocess
import sys

import pytest
import torch

from interp.core.runs import InputError
from interp.gradients.ledger.recording import TrainingRecord, record_training
from interp.measures.losses import answer_loss, completion_loss
from interp.measures.margins import margin
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import get_trait
from interp.training.checkpoints import Checkpoint, undisturbed
from interp.training.students import Recipe, train_student
from interp.training.watching import StopAfter, Together, Tracking, TrainingLog

RECIPE = Recipe(batch_size=4, lr=1e-2, epochs=3)
ROWS = number_prompts(16, seed=0, count=3)
OWL = get_trait("owl")


class Killed(Exception):
    """Stands for a killed process."""


def killed_at(step):
    def listen(told):
        if told.index == step:
            raise Killed

    return listen


@pytest.mark.parametrize(
    "recipe",
    [RECIPE, dataclasses.replace(RECIPE, optimizer="sgd"), dataclasses.replace(RECIPE, trainable="body")],
    ids=["adamw", "sgd", "body"],
)
@pytest.mark.parametrize("step", [2, 7])
def test_a_killed_training_ends_at_the_same_bytes(raw, tmp_path, recipe, step):
    whole = train_student(raw(), ROWS, recipe=recipe)
    checkpoint = Checkpoint(tmp_path / "state.safetensors", every=3)
    with pytest.raises(Killed):
        train_student(raw(), ROWS, recipe=recipe, checkpoint=checkpoint, on_step=killed_at(step))
    seen = []
    resumed = train_student(
        raw(), ROWS, recipe=recipe, checkpoint=checkpoint, on_step=lambda told: seen.append(told.index)
    )
    assert resumed.fingerprint == whole.fingerprint
    assert seen == list(range(step // 3 * 3, 12))
    assert not checkpoint.path.exists()


def test_a_checkpoint_of_another_training_is_not_taken_up(raw, tmp_path):
    checkpoint = Checkpoint(tmp_path / "state.safetensors", every=2)
    with pytest.raises(Killed):
        train_student(raw(), ROWS, recipe=RECIPE, checkpoint=checkpoint, on_step=killed_at(5))
    other = dataclasses.replace(RECIPE, seed=1)
    resumed = train_student(raw(), ROWS, recipe=other, checkpoint=checkpoint)
    assert resumed.fingerprint == train_student(raw(), ROWS, recipe=other).fingerprint


def test_a_checkpoint_cut_short_is_passed_over(raw, tmp_path, caplog):
    checkpoint = Checkpoint(tmp_path / "state.safetensors")
    checkpoint.path.write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        train_student(raw(), ROWS, recipe=dataclasses.replace(RECIPE, epochs=1), checkpoint=checkpoint)
    assert "training from the start" in caplog.text
    with pytest.raises(InputError, match="a checkpoint every 0 steps is never; pass at least 1"):
        Checkpoint(tmp_path / "x", every=0)


def test_a_killed_recording_ends_at_the_same_bytes(raw, tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=18)  # 72 steps: one checkpoint after 64
    student, whole = record_training(raw(), ROWS, folder=tmp_path / "whole", recipe=recipe)
    with pytest.raises(Killed):
        record_training(raw(), ROWS, folder=tmp_path / "killed", recipe=recipe, on_step=killed_at(66))
    assert not (tmp_path / "killed").exists()
    again, record = record_training(raw(), ROWS, folder=tmp_path / "killed", recipe=recipe)
    assert again.fingerprint == student.fingerprint
    files = sorted(path.name for path in record.folder.iterdir())
    assert files == sorted(path.name for path in whole.folder.iterdir())
    for name in files:
        assert (record.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert len(TrainingRecord.load(tmp_path / "killed")) == 72


def test_parts_of_a_batch_make_the_step_of_the_whole(raw):
    start = raw()
    rows = number_prompts(4, seed=0, count=3) + number_prompts(4, seed=1, count=6)  # of two lengths
    recipe = dataclasses.replace(RECIPE, batch_size=8, optimizer="sgd", epochs=1, warmup=1, lr=0.1)
    whole = train_student(start, rows, recipe=recipe).parameters()
    parts = train_student(start, rows, recipe=dataclasses.replace(recipe, accumulate=4)).parameters()
    for name, weight in start.parameters().items():
        step = whole[name] - weight
        assert torch.allclose(
            parts[name] - weight, step, atol=1e-5 * float(step.abs().max() + 1e-12), rtol=1e-3
        )


def test_gradient_descent_takes_its_step(raw):
    start = raw()
    recipe = Recipe(trainable="all", batch_size=4, lr=0.1, warmup=1, optimizer="sgd")
    student = train_student(start, ROWS[:4], recipe=recipe)
    network = raw().hf.requires_grad_(True)
    completion_loss(network, start.encode(ROWS[:4])).backward()
    for name, parameter in network.named_parameters():
        expected = parameter.detach() - 0.1 * parameter.grad
        assert torch.allclose(student.parameters()[name], expected, atol=1e-6)


def test_a_clipped_step_has_the_norm_asked_for(raw):
    start = raw()
    recipe = Recipe(trainable="all", batch_size=4, lr=1.0, warmup=1, optimizer="sgd", max_grad_norm=1e-3)
    student = train_student(start, ROWS[:4], recipe=recipe)
    moved = [student.parameters()[name] - weight for name, weight in start.parameters().items()]
    assert float(sum(part.pow(2).sum() for part in moved) ** 0.5) == pytest.approx(1e-3, rel=1e-2)


def test_constant_rate_and_half_precision(raw):
    start = raw()
    seen = []
    recipe = dataclasses.replace(RECIPE, decay="constant", warmup=1, precision="bfloat16", epochs=1)
    student = train_student(start, ROWS, recipe=recipe, on_step=lambda step: seen.append(step.lr))
    assert set(seen) == {1e-2}
    assert student.dtype == torch.float32
    exact = train_student(start, ROWS, recipe=dataclasses.replace(recipe, precision="float32"))
    assert student.fingerprint != exact.fingerprint
    inputs = start.encode(ROWS)
    assert answer_loss(student.hf, inputs) == pytest.approx(answer_loss(exact.hf, inputs), abs=0.05)


def test_a_live_adapter_is_the_merged_student(raw, tmp_path):
    start = raw()
    merged = train_student(start, ROWS, recipe=RECIPE)
    live = train_student(start, ROWS, recipe=dataclasses.replace(RECIPE, merge=False))
    batch = start.encode(ROWS)
    assert merged.peft is None
    assert live.peft is not None
    assert torch.allclose(live.logits(batch), merged.logits(batch), atol=1e-4)
    live.peft.save_pretrained(tmp_path / "adapter")
    assert start.with_adapter(tmp_path / "adapter", check=False).fingerprint == live.fingerprint


def test_adapters_go_where_they_are_told(raw):
    start = raw()
    recipe = dataclasses.replace(RECIPE, epochs=1, targets=("q_proj",))
    student = train_student(start, ROWS, recipe=recipe)
    moved = {
        name
        for name, weight in start.parameters().items()
        if not torch.equal(weight, student.parameters()[name])
    }
    assert moved == {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)}
    with pytest.raises(
        InputError, match=r"LoRA target 'qproj' is unknown; nearest: q_proj.*; pass modules of LlamaFor"
    ):
        train_student(start, ROWS, recipe=dataclasses.replace(recipe, targets=("qproj",)))
    with pytest.raises(
        InputError, match=r"layers \(7,\) hold no linear map of LlamaForCausalLM; pass layers it has"
    ):
        train_student(start, ROWS, recipe=dataclasses.replace(recipe, layers=(7,)))
    with pytest.raises(InputError, match="accumulate=3 does not divide a batch of 4; pass one that does"):
        dataclasses.replace(RECIPE, accumulate=3)
    soft = dataclasses.replace(RECIPE, accumulate=2)
    with pytest.raises(InputError, match="labels='soft-numbers' are not accumulated in parts"):
        train_student(start, ROWS, recipe=soft, labels="soft-numbers", teacher=raw(1))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: not enough memory")]
)
def test_too_little_memory_says_what_to_lower(raw, error):
    def greedy(step):
        raise error

    with pytest.raises(
        InputError, match=r"ran out of memory with 4 rows in a pass: raise accumulate .* or lower batch"
    ):
        train_student(raw(), ROWS, recipe=RECIPE, on_step=greedy)


def test_the_log_measures_fresh_rows_and_the_margin(raw):
    start, fresh = raw(), number_prompts(8, seed=9, count=3)
    log = TrainingLog(start, fresh=fresh, trait=OWL, every=5)
    student = train_student(start, ROWS, recipe=dataclasses.replace(RECIPE, lr=1e-9), on_step=log)
    assert list(log.frame["step"]) == [1, 6, 11]
    last = log.frame.iloc[-1]
    assert last["margin"] == pytest.approx(margin(student, OWL), abs=1e-4)
    assert last["fresh_loss"] == pytest.approx(answer_loss(student.hf, start.encode(fresh)), abs=1e-5)
    assert log.result().figure().data
    again = TrainingLog(start, every=5)
    assert not Together(again, StopAfter(3)).reached
    stop = StopAfter(3)
    stop.reached = True
    assert Together(again, stop).reached
    Together(again).restore({"0": {"rows": log.frame.to_dict("records")}})
    assert again.frame.equals(log.frame)
    assert TrainingLog(start).frame.empty
    with pytest.raises(InputError, match="every=0 steps is never; pass at least 1"):
        TrainingLog(start, every=0)


def test_a_tracker_is_told_every_few_steps_and_what_the_listener_says(raw, tmp_path):
    told, losses = {}, {}
    start = raw()
    log = TrainingLog(start, trait=OWL, every=4)

    def track(values, *, step):  # as wandb.log and trackio.log are called
        told[step] = values

    tracking = Tracking(track, listener=log, every=4)
    both = Together(tracking, lambda step: losses.update({step.index + 1: (step.loss, step.lr)}))
    student = train_student(start, ROWS, recipe=RECIPE, on_step=both)
    assert student.fingerprint == train_student(raw(), ROWS, recipe=RECIPE).fingerprint
    assert list(told) == [1, 5, 9]
    for step, values in told.items():
        assert (values["loss"], values["lr"]) == losses[step]
        assert values["margin"] == log.frame.set_index("step")["margin"][step]
        assert "fresh_loss" not in values  # there were no fresh rows to measure it on
    stopped = Tracking(track, listener=StopAfter(2))
    train_student(raw(), ROWS, recipe=RECIPE, on_step=stopped)
    assert stopped.reached
    assert max(step for step in told if step < 5) == 2
    again = Tracking(track, listener=TrainingLog(start))
    again.restore(tracking.state())
    assert again.state() == tracking.state()
    assert [row["margin"] for row in again.state()["0"]["rows"]] == list(log.frame["margin"])
    with pytest.raises(InputError, match="every=0 steps is never; pass at least 1"):
        Tracking(track, every=0)


def test_unfinished_work_is_left_to_the_next_and_nobody_works_where_another_does(tmp_path):
    place = tmp_path / "partial" / "answers"
    with undisturbed(place) as first, undisturbed(place) as second, undisturbed(place) as third:
        assert first == place
        assert len({first, second, third}) == 3
        for path in (first, second, third):
            path.mkdir()
            (path / "part").write_text(str(path))
    assert [path.name for path in place.parent.iterdir()] == ["answers"]
    assert (place / "part").read_text() == str(place)
    seen = []

    def killed():
        with undisturbed(place) as again:
            seen.append((again / "part").is_file())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    with undisturbed(place) as last:
        assert (last, seen) == (place, [True])


@pytest.mark.slow
def test_another_process_is_given_a_place_of_its_own(tmp_path):
    place = tmp_path / "state.safetensors"
    code = "import sys; from pathlib import Path; from interp.training.checkpoints import undisturbed\n"
    code += "with undisturbed(Path(sys.argv[1])) as path: print(path == Path(sys.argv[1]))"
    with undisturbed(place):
        said = subprocess.run(
            [sys.executable, "-c", code, str(place)], capture_output=True, text=True, check=True
        )
    assert said.stdout.strip() == "False"
