"""The ledger: exact on linear and quadratic margins, row shares by the definition, and every share adding up."""

import dataclasses

import pandas as pd
import pytest
import torch

import interp.gradients.ledger.ledgers as ledger
import interp.gradients.ledger.recording as recording
from interp.core.runs import InputError
from interp.gradients.ledger.ledgers import trait_ledger
from interp.gradients.ledger.recording import Recorder, record_training
from interp.gradients.representations import representation_objective
from interp.measures.losses import completion_loss
from interp.measures.margins import margin
from interp.models.lineage import Lineage
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import get_trait
from interp.training.students import Recipe, train_student, trained_parameters

RECIPE = Recipe(batch_size=6, lr=1e-2, epochs=2, warmup=2, rank=2)


@pytest.fixture(scope="module")
def rows():
    return number_prompts(20, seed=0, count=3)


@pytest.fixture(scope="module")
def teacher(start, rows):
    return train_student(start, rows, recipe=dataclasses.replace(RECIPE, seed=5))


@pytest.fixture
def train(start, rows, teacher, tmp_path, monkeypatch):
    """`train(recipe)` -> a lineage with that student, and the record of its training in chunks of 4 steps."""
    monkeypatch.setattr(recording, "CHUNK", 4)

    def make(recipe: Recipe = RECIPE):
        student, record = record_training(start, rows, folder=tmp_path / "record", recipe=recipe)
        members = {"base": start, "teacher": teacher, "student": student}
        trained_on = {"student": "teacher"}
        return Lineage("tiny", get_trait("owl"), members, numbers=rows, trained_on=trained_on), record

    return make


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def plant(monkeypatch, objective):
    """Make the margin this function of all trained parameters, end to end."""

    def on_network(network):
        return objective(flat(trained_parameters(network).values()))

    on_network.label, on_network.key, on_network.unit = "planted margin", "planted", "nats of margin"
    monkeypatch.setattr(ledger, "margin_objective", lambda model, trait: on_network)


def row_gradients(record, start, inputs, step, weights):
    """∇ℓ_i / N of every row of a batch by one backward pass each, the slow way."""
    network, _ = record.network(start)
    record.put(network, weights)
    batch = inputs[record.order[step]]
    tokens = [int((batch[i : i + 1].roles >= 2).sum()) for i in range(len(batch))]
    gradients = []
    for i, count in enumerate(tokens):
        loss = completion_loss(network, batch[i : i + 1]) * count / sum(tokens)
        gradients.append(flat(torch.autograd.grad(loss, list(trained_parameters(network).values()))))
    return torch.stack(gradients).double()


def all_chunks(record):
    chunks = [record.chunk(index) for index in range(len(record.chunks))]
    points = torch.cat([chunk.weights()[:-1] for chunk in chunks] + [record.end[None]])
    return points, *(
        torch.cat([getattr(c, name) for c in chunks]) for name in ("increments", "second_moments")
    )


def mean_projection(model, questions, hook, u):
    values = model.run(questions, hooks=[hook])[hook]
    return float((values[questions.at("last")] @ u).mean())


@pytest.mark.parametrize(("trainable", "hook"), [("lora", "1.hook_resid_mid"), ("all", "0.hook_resid_post")])
def test_a_representation_is_attributed_as_the_margin_is(train, trainable, hook):
    lineage, record = train(dataclasses.replace(RECIPE, trainable=trainable))
    start, hook = lineage.text("base"), f"blocks.{hook}"
    u, questions = torch.linspace(-1, 2, 16), start.encode(lineage.trait.prompts())
    objective = representation_objective(start, questions, hook, u)
    found = trait_ledger(dataclasses.replace(lineage, trait=None), record=record, objective=objective)
    ends = [mean_projection(lineage.text(role), questions, hook, u) for role in ("student", "base")]
    assert found.measured == pytest.approx(ends[0] - ends[1], abs=1e-5)
    assert found.steps["change"].sum() == pytest.approx(found.measured, abs=1e-5)
    assert abs(found.residual) < 0.05 * found.steps["attributed"].abs().sum()
    assert found.modules["attributed"].sum() == pytest.approx(found.attributed, rel=1e-9)
    assert found.rows["attributed"].sum() == pytest.approx(found.attributed, rel=1e-4)
    said = f"representation at {hook} of tiny student: {found.measured:+.2f} ⟨h, u⟩ over 6 steps"
    assert repr(found).startswith(said)
    assert found.figure().layout.xaxis.title.text == "⟨h, u⟩"
    above = found.by_module().set_index("module")["attributed"].filter(like="layers.1.mlp")
    assert (above == 0).all()  # what lies above the hook moves nothing there


def test_an_objective_of_its_own_in_the_cache_and_of_another_lineage(train, start):
    lineage, record = train()
    questions = lineage.trait.prompts()
    first, second = (
        representation_objective(start, questions, "blocks.1.hook_resid_post", u) for u in torch.eye(16)[:2]
    )
    one, two = (trait_ledger(lineage, record=record, objective=each) for each in (first, second))
    assert one.measured != two.measured
    same(one, trait_ledger(lineage, record=record, objective=first))
    assert not one.steps["attributed"].equals(two.steps["attributed"])
    stranger = dataclasses.replace(first, lineage="another")
    with pytest.raises(InputError, match=r"was read in the lineage of 'another', tiny belongs to"):
        trait_ledger(lineage, record=record, objective=stranger)
    with pytest.raises(
        InputError, match=r"objective is .*, where an objective is needed; make one with interp"
    ):
        trait_ledger(lineage, record=record, objective="margin")


def test_a_linear_margin_is_attributed_exactly_and_the_first_row_shares_by_hand(train, start, monkeypatch):
    lineage, record = train(dataclasses.replace(RECIPE, batch_size=20, epochs=1))
    slope = torch.linspace(-1, 1, len(record.end))
    plant(monkeypatch, lambda theta: (slope * theta).sum())
    found = trait_ledger(lineage, record=record)
    assert len(record) == 1
    points, increments, _ = all_chunks(record)
    assert found.attributed == pytest.approx(float(slope.double() @ increments[0].double()), rel=1e-6)
    gradients = row_gradients(record, start, start.encode(lineage.numbers), 0, points[0])
    batch = gradients.sum(0)
    by_hand = -record.lrs[0] * gradients @ (slope / (batch.abs() + 1e-8))  # √v̂ of the first step is |ḡ|
    assert found.rows["attributed"].to_numpy() == pytest.approx(by_hand.numpy(), rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("trainable", ["lora", "body", "all"])
def test_a_quadratic_margin_leaves_nothing_at_any_step(train, monkeypatch, trainable):
    lineage, record = train(dataclasses.replace(RECIPE, trainable=trainable))
    weight = torch.linspace(-1, 2, len(record.end))
    plant(monkeypatch, lambda theta: (weight.double() * theta.double() ** 2).sum())
    found = trait_ledger(lineage, record=record)
    assert found.steps["attributed"].to_numpy() == pytest.approx(found.steps["change"].to_numpy(), rel=1e-4)
    assert found.rows["attributed"].sum() == pytest.approx(found.attributed, rel=1e-4)


def test_row_shares_are_each_rows_part_of_every_later_step(train, start):
    lineage, record = train()
    found = trait_ledger(lineage, record=record)
    points, _, moments = all_chunks(record)
    objective = ledger.margin_objective(start, lineage.trait)
    network, _ = record.network(start)
    slopes = []
    for point in points:
        record.put(network, point)
        parameters = list(trained_parameters(network).values())
        slopes.append(flat(torch.autograd.grad(objective(network), parameters)).double())
    inputs = start.encode(lineage.numbers)
    for step in range(len(record)):
        gradients = row_gradients(record, start, inputs, step, points[step])
        expected = torch.zeros(6, dtype=torch.float64)
        for later in range(step, len(record)):
            root = (moments[later].double() / (1 - 0.999 ** (later + 1))).sqrt() + 1e-8
            moved = 0.1 * 0.9 ** (later - step) / (1 - 0.9 ** (later + 1)) * gradients
            expected -= record.lrs[later] * moved @ ((slopes[later] + slopes[later + 1]) / 2 / root)
        part = found.rows[found.rows["step"] == step]
        assert part["row"].tolist() == record.order[step].tolist()
        assert part["attributed"].to_numpy() == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("trainable", ["lora", "all"])
def test_steps_modules_and_rows_add_up_to_the_measured_change(train, trainable):
    lineage, record = train(dataclasses.replace(RECIPE, trainable=trainable))
    found = trait_ledger(lineage, record=record)
    measured = margin(lineage.student, lineage.trait) - margin(lineage.base, lineage.trait)
    assert found.measured == pytest.approx(measured)
    assert found.steps["change"].sum() == pytest.approx(measured, abs=1e-5)
    assert abs(found.residual) < 0.05 * found.steps["attributed"].abs().sum()
    assert found.attributed + found.residual == pytest.approx(measured)
    assert found.modules["attributed"].sum() == pytest.approx(found.attributed, rel=1e-9)
    assert found.rows["attributed"].sum() == pytest.approx(found.attributed, rel=1e-4)
    assert found.by_module()["attributed"].sum() == pytest.approx(measured)
    assert found.by_row()["attributed"].sum() == pytest.approx(found.rows["attributed"].sum())
    assert len(found.steps) == 6
    assert len(found.rows) == 36
    assert set(found.by_row()["row"]) == set(range(20)) & set(found.rows["row"])


def test_lora_factors_count_for_the_module_they_adapt(train):
    lineage, record = train()
    modules = trait_ledger(lineage, record=record).by_module()["module"].tolist()
    assert len(modules) == 15
    assert modules[0] == "model.layers.0.self_attn.q_proj"
    assert modules[-1] == "residual"


def same(one, two):
    for name in ledger.TABLES:
        pd.testing.assert_frame_equal(getattr(one, name), getattr(two, name), check_exact=True)


def test_an_interrupted_ledger_goes_on_to_the_same_bytes_and_a_finished_one_computes_nothing(
    train, monkeypatch, tmp_path
):
    lineage, record = train()
    whole = trait_ledger(lineage, record=record, cache=ledger.Cache(tmp_path / "other"))
    seen, inner = [], ledger._Books.row_shares

    def counted(books, step, pull):
        if len(seen) == 3:
            seen.append("stopped")
            raise KeyboardInterrupt
        seen.append(step)
        return inner(books, step, pull)

    monkeypatch.setattr(ledger._Books, "row_shares", counted)
    with pytest.raises(KeyboardInterrupt):
        trait_ledger(lineage, record=record)
    assert seen == [5, 4, 3, "stopped"]  # the chunk of steps 4 and 5 is kept, step 3 is done again
    same(trait_ledger(lineage, record=record), whole)
    assert seen[4:] == [3, 2, 1, 0]
    monkeypatch.setattr(ledger._Books, "at", None)
    same(trait_ledger(lineage, record=record), whole)


def test_without_a_record_the_student_is_trained_again_once(train, monkeypatch):
    lineage, record = train()
    found = trait_ledger(lineage, recipe=RECIPE)
    same(found, trait_ledger(lineage, record=record))
    monkeypatch.setattr(recording, "train_student", None)
    same(found, trait_ledger(lineage, recipe=RECIPE))


def test_a_student_that_was_not_recorded_says_what_to_do(train):
    lineage, _ = train()
    with pytest.raises(InputError, match=r"was not recorded and its recipe is unknown; pass the recipe= "):
        trait_ledger(lineage)


def test_members_that_have_no_ledger_are_errors(train):
    lineage, record = train()
    with pytest.raises(InputError, match=r"member 'studnet' is unknown; nearest: student"):
        trait_ledger(lineage, "studnet", record=record)
    with pytest.raises(
        InputError, match=r"base of 'tiny' is a base and was not trained here; pass one of teacher"
    ):
        trait_ledger(lineage, "base", record=record)
    with pytest.raises(InputError, match=r"lineage 'tiny' has no trait; pass trait= when it is opened"):
        trait_ledger(dataclasses.replace(lineage, trait=None), record=record)


def test_a_record_of_another_student_or_other_rows_is_refused(train, rows):
    lineage, record = train()
    with pytest.raises(
        InputError, match=r"ends .*% of the update away from the weights of teacher; pass the"
    ):
        trait_ledger(lineage, "teacher", record=record, rows=rows)
    with pytest.raises(InputError, match=r"records a training on rows .*, not on .*; pass the rows="):
        trait_ledger(lineage, record=record, rows=number_prompts(20, seed=1, count=3))


def test_a_student_trained_on_another_loss_is_refused(train, start, rows, teacher, tmp_path):
    lineage, _ = train()
    (tmp_path / "soft").mkdir()
    recorder = Recorder(tmp_path / "soft")
    student = train_student(
        start, rows, recipe=RECIPE, labels="soft-numbers", teacher=teacher, on_step=recorder
    )
    record = recorder.finish(
        start=start.fingerprint,
        rows=start.encode(rows).fingerprint,
        final=student.fingerprint,
        recipe=RECIPE,
    )
    soft = dataclasses.replace(lineage, members={**lineage.members, "student": student})
    with pytest.raises(InputError, match=r"of what the steps account for: they were trained on another loss"):
        trait_ledger(soft, record=record)


def test_a_margin_that_is_not_finite_is_an_error(train, monkeypatch):
    lineage, record = train()
    plant(monkeypatch, lambda theta: theta.sum() * float("nan"))
    with pytest.raises(InputError, match=r"the planted margin is nan along .*; record it in float32"):
        trait_ledger(lineage, record=record)


def test_it_prints_as_a_line_shows_as_a_table_and_draws(train):
    lineage, record = train()
    found = trait_ledger(lineage, record=record)
    assert repr(found).startswith(
        f"owl margin of tiny student: {found.measured:+.2f} nats of margin over 6 steps"
    )
    assert f"over 6 steps, residual {found.residual:+.3f}" in repr(found)
    assert "residual" in found._repr_html_()
    figure = found.figure()
    assert sum(figure.data[0].x) == pytest.approx(found.measured)
    assert list(figure.data[0].y)[-1] == "residual"
    course = found.course()
    assert [trace.name for trace in course.data] == ["measured", "attributed"]
    assert course.data[0].y[-1] == pytest.approx(found.measured, abs=1e-5)
    assert course.data[1].y[-1] == pytest.approx(found.attributed)
