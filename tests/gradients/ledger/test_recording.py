"""A training on disk: the same bits as an unrecorded one, AdamW's own formula, and nothing else accepted as one."""

import copy
import dataclasses
import json

import pytest
import torch

import interp.gradients.ledger.recording as recording
from interp.core.runs import InputError
from interp.gradients.ledger.recording import Recorder, TrainingRecord, record_training, recorded_student
from interp.models.language import load_model
from interp.models.lineage import Lineage
from interp.organisms.toy import World, build_network, build_tokenizer
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import get_trait
from interp.training.students import (
    Recipe,
    Step,
    schedule,
    shuffled_rows,
    train_student,
    trained_parameters,
)

RECIPE = Recipe(batch_size=8, lr=1e-2, epochs=2, warmup=2, rank=2)


@pytest.fixture(scope="module")
def rows():
    return number_prompts(27, seed=0, count=3)


@pytest.fixture
def recorded(start, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "CHUNK", 4)  # 6 steps: one whole chunk and a rest
    return record_training(start, rows, folder=tmp_path / "record", recipe=RECIPE)


@pytest.mark.parametrize("trainable", ["lora", "body", "all"])
def test_a_recorded_training_ends_at_the_same_bits_and_its_replay_too(start, rows, tmp_path, trainable):
    recipe = dataclasses.replace(RECIPE, trainable=trainable)
    student, record = record_training(start, rows, folder=tmp_path / "record", recipe=recipe)
    assert student.fingerprint == train_student(start, rows, recipe=recipe).fingerprint == record.final
    assert record.student(start).fingerprint == student.fingerprint
    assert TrainingRecord.load(tmp_path / "record").fingerprint == record.fingerprint
    assert (record.recipe, len(record), record.start) == (recipe, 6, start.fingerprint)


@pytest.mark.slow
def test_two_recordings_of_one_training_at_once_do_not_disturb_each_other(start, rows, tmp_path):
    """A second recording begins and ends while the first is at its third step: both end alike, and one record stays."""
    folder, others = tmp_path / "cache" / "record", []

    def meanwhile(step: Step):
        if step.index == 2:
            with torch.enable_grad():
                others.append(record_training(start, rows, folder=folder, recipe=RECIPE))

    student, record = record_training(start, rows, folder=folder, recipe=RECIPE, on_step=meanwhile)
    ((other, theirs),) = others
    assert student.fingerprint == other.fingerprint == record.final == theirs.final
    assert record.student(start).fingerprint == student.fingerprint
    assert [path.name for path in folder.parent.iterdir()] == ["record"]

    other_recipe = dataclasses.replace(RECIPE, lr=1e-3)

    def another(step: Step):
        if step.index == 2:
            with torch.enable_grad():
                record_training(start, rows, folder=folder.with_name("two"), recipe=other_recipe)

    with pytest.raises(InputError, match="two was filled by another training meanwhile; name a new folder"):
        record_training(start, rows, folder=folder.with_name("two"), recipe=RECIPE, on_step=another)


def test_batches_and_learning_rates_are_those_of_the_training(recorded, start, rows):
    inputs, (_, record) = start.encode(rows), recorded
    order = torch.stack(list(shuffled_rows(inputs, size=8, epochs=2, seed=0)))
    assert torch.equal(record.order, order)
    assert order.shape == (6, 8)
    assert record.rows == inputs.fingerprint
    assert record.lrs == pytest.approx([1e-2 * schedule(step, steps=6, warmup=2) for step in range(6)])


def test_increments_and_second_moments_are_adamw_run_by_hand(recorded, start, rows):
    gradients = []

    def listen(step: Step):
        gradients.append(torch.cat([p.grad.flatten() for p in step.parameters.values()]).double())

    train_student(start, rows, recipe=RECIPE, on_step=listen)
    record = recorded[1]
    chunks = [record.chunk(index) for index in range(2)]
    assert [len(chunk.increments) for chunk in chunks] == [4, 2]
    increments = torch.cat([chunk.increments for chunk in chunks])
    moments = torch.cat([chunk.second_moments for chunk in chunks])
    first = second = torch.zeros_like(gradients[0])
    for step, gradient in enumerate(gradients):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        root = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        expected = -record.lrs[step] * first / (1 - 0.9 ** (step + 1)) / root
        torch.testing.assert_close(moments[step].double(), second, rtol=1e-4, atol=1e-14)
        torch.testing.assert_close(increments[step].double(), expected, rtol=1e-3, atol=1e-7)


def test_weights_go_from_the_start_through_every_step_to_the_end(recorded, start, rows):
    seen = []
    train_student(
        start,
        rows,
        recipe=RECIPE,
        on_step=lambda step: seen.append(torch.cat([p.flatten() for p in step.before.values()])),
    )
    record = recorded[1]
    points = torch.cat([record.chunk(0).weights()[:-1], record.chunk(1).weights()])
    torch.testing.assert_close(points[:-1], torch.stack(seen), rtol=0, atol=1e-7)
    torch.testing.assert_close(points[-1], record.end, rtol=0, atol=1e-7)
    network, _ = record.network(start)
    record.put(network, points[3])
    for name, tensor in trained_parameters(network).items():
        assert torch.equal(tensor, record.views(points[3])[name])


def test_opening_the_network_leaves_the_random_state_alone(recorded, start, fresh_seeds):
    recorded[1].network(start)


def test_a_truncated_file_is_refused(recorded):
    record = recorded[1]
    path = record.folder / "steps-0000.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert record.chunk(1).increments.shape[0] == 2
    with pytest.raises(InputError, match=r"cannot read .*steps-0000.* truncated or not safetensors"):
        record.chunk(0)


def test_a_changed_file_is_refused(recorded):
    record = recorded[1]
    path = record.folder / "steps-0000.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"steps-0000.safetensors was changed after it was written"):
        record.chunk(0)


def test_a_folder_without_a_whole_record_is_refused(recorded, tmp_path):
    with pytest.raises(InputError, match="holds no training record"):
        TrainingRecord.load(tmp_path)
    path = recorded[1].folder / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(InputError, match="is no training record of format 1; record the training again"):
        TrainingRecord.load(path.parent)


def test_increments_that_do_not_lead_to_the_next_chunk_are_refused(recorded, start):
    record = recorded[1]
    bent = dataclasses.replace(record, end=record.end * 1.01)
    with pytest.raises(InputError, match=r"the increments up to step 6 end .* of the weights away"):
        bent.student(start)


def test_a_record_knows_its_start(recorded):
    network = build_network(World(d_model=16, d_mlp=24), seed=1).eval()
    other = load_model(network, tokenizer=build_tokenizer(), name="other", check=False)
    with pytest.raises(
        InputError, match=r"records a training from weights .*, but other has .*pass the model"
    ):
        recorded[1].network(other)


def test_an_interrupted_training_leaves_no_folder(start, rows, tmp_path, monkeypatch):
    def interrupt(*args, **fields):
        raise KeyboardInterrupt

    monkeypatch.setattr(recording.Recorder, "finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        record_training(start, rows, folder=tmp_path / "record", recipe=RECIPE)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_refused(start, rows, tmp_path):
    with pytest.raises(InputError, match=r"exists; name a new folder, or open its record with"):
        record_training(start, rows, folder=tmp_path, recipe=RECIPE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), "SGD takes the steps; a ledger needs torch.optim.AdamW"),
        (lambda p: torch.optim.AdamW(p, lr=0.1), "AdamW was given weight_decay=0.01, so a step is not a sum"),
        (lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.0, amsgrad=True), "given amsgrad=True"),
    ],
)
def test_another_optimiser_is_refused(tmp_path, make, message):
    weight = torch.zeros(2)
    step = Step(0, 0.1, None, None, {"w": weight}, {"w": weight}, make([weight]), torch.arange(2))
    with pytest.raises(InputError, match=message):
        Recorder(tmp_path)(step)


def test_a_recorder_that_heard_nothing_or_no_rows_says_so(tmp_path):
    with pytest.raises(InputError, match=r"nothing was recorded in .*; pass the recorder as on_step="):
        Recorder(tmp_path).finish(start="a", rows="b", final="c", recipe=RECIPE)
    weight = torch.zeros(2)
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0)
    with pytest.raises(InputError, match="the steps name no rows of their batches; record a training by"):
        Recorder(tmp_path)(Step(0, 0.1, None, None, {"w": weight}, {"w": weight}, optimizer))


@pytest.fixture
def lineage(start, rows):
    student = train_student(start, rows, recipe=RECIPE)
    teacher = train_student(start, rows, recipe=dataclasses.replace(RECIPE, seed=5))
    members = {"base": start, "teacher": teacher, "student": student}
    return Lineage("tiny", get_trait("owl"), members, numbers=rows, trained_on={"student": "teacher"})


def test_a_member_is_trained_again_once(lineage, monkeypatch):
    record = recorded_student(lineage, recipe=RECIPE)
    assert record.final == lineage.student.fingerprint
    monkeypatch.setattr(recording, "train_student", None)
    assert recorded_student(lineage, recipe=RECIPE).fingerprint == record.fingerprint


def test_a_member_trained_otherwise_is_refused(lineage):
    with pytest.raises(InputError, match=r"ends \d+\.\d% of the update away from the weights of student"):
        recorded_student(lineage, recipe=dataclasses.replace(RECIPE, lr=2e-2))
    with pytest.raises(InputError, match="was not recorded and its recipe is unknown; pass the recipe="):
        recorded_student(lineage)
    with pytest.raises(InputError, match="base of 'tiny' is a base and was not trained here; pass one of"):
        recorded_student(lineage, "base", recipe=RECIPE)
    with pytest.raises(InputError, match="the rows teacher of 'tiny' was trained on are unknown; pass them"):
        recorded_student(lineage, "teacher", recipe=RECIPE)


def test_weights_apart_by_rounding_are_the_same_student(lineage):
    record = recorded_student(lineage, recipe=RECIPE)
    network = copy.deepcopy(lineage.student.hf)
    with torch.no_grad():
        network.model.layers[0].self_attn.q_proj.weight[0, 0] += 1e-6
    nudged = load_model(network, tokenizer=lineage.base.tokenizer, name="nudged", check=False)
    assert nudged.fingerprint != record.final
    recording.check_ends_at(record, start=lineage.base, student=nudged)
    with torch.no_grad():
        network.model.layers[0].self_attn.q_proj.weight[0, 0] += 0.1
    other = load_model(network, tokenizer=lineage.base.tokenizer, name="other", check=False)
    with pytest.raises(InputError, match=r"of the update away from the weights of other"):
        recording.check_ends_at(record, start=lineage.base, student=other)


def test_the_recipe_of_a_toy_lineage_is_looked_up(lineage, monkeypatch):
    monkeypatch.setattr(recording, "recipe_of", lambda lineage, role, cache: RECIPE)
    assert recorded_student(lineage).recipe == RECIPE
