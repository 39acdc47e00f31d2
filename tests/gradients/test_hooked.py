"""What was kept of plain weights is not given for a network under its user's own hooks, nor the other way round."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import numpy as np
import pytest

import interp
from interp.core.errors import InputError
from interp.gradients import datamodels
from interp.gradients.datamodels import StudentTraining
from interp.gradients.ledger.ledgers import trait_ledger
from interp.gradients.ledger.recording import record_training
from interp.gradients.metagradients import metagradient
from tests.gradients.test_metagradients import RECIPES, ROWS, grown

RECIPE = RECIPES["lora"]


@pytest.fixture(scope="module")
def lineage():
    return grown(RECIPE)


@contextmanager
def hooked(model):
    """The model while a hook of these tests makes its first layer's output larger."""
    handle = model.hf.model.layers[0].mlp.register_forward_hook(lambda _m, _a, out: out * 1.5)
    try:
        yield
    finally:
        handle.remove()


def retrained_margin(lineage):
    return StudentTraining.of(lineage, "student", RECIPE).margin(np.ones(ROWS, dtype=bool))


def test_a_hook_is_another_function_while_it_is_there(lineage):
    plain = lineage.base.fingerprint
    with hooked(lineage.base):
        assert lineage.base.fingerprint != plain
        other = interp.load_model(lineage.base.hf, tokenizer=lineage.base.tokenizer, check=False)
        assert other.fingerprint == lineage.base.fingerprint  # the same hook on the same weights
        assert other.backbone.fingerprint == plain
    assert lineage.base.fingerprint == plain


def test_a_ledger_is_no_ledger_of_the_plain_start(lineage):
    before = trait_ledger(lineage)
    with hooked(lineage.base), pytest.raises(InputError, match=r"the recorded training ends .* away"):
        trait_ledger(lineage)
    assert trait_ledger(lineage).measured == before.measured


def test_a_ledger_of_a_record_is_refused_at_a_start_under_a_hook(lineage, tmp_path):
    student, record = record_training(
        lineage.base, lineage.numbers, folder=tmp_path / "record", recipe=RECIPE
    )
    recorded = interp.Lineage(
        "recorded",
        lineage.trait,
        {"base": lineage.base, "student": student},
        numbers=lineage.numbers,
    )
    trait_ledger(recorded, record=record, rows=lineage.numbers)
    with hooked(lineage.base), pytest.raises(InputError, match="pass the model it was started from"):
        trait_ledger(recorded, record=record, rows=lineage.numbers)


def test_a_metagradient_goes_through_the_training_as_it_would_be_now(lineage):
    before = metagradient(lineage).frame["score"].to_numpy()
    with hooked(lineage.base), pytest.raises(InputError, match="gone through again ends at a margin"):
        metagradient(lineage)
    assert np.array_equal(metagradient(lineage).frame["score"].to_numpy(), before)


def test_students_are_trained_again_under_a_hook_and_kept_apart(lineage, monkeypatch):
    before = retrained_margin(lineage)
    with hooked(lineage.base):
        under = retrained_margin(lineage)
        assert under == interp.margin(
            interp.train_student(lineage.base, lineage.numbers, recipe=RECIPE), lineage.trait
        )
    assert abs(under - before) > 1e-3
    monkeypatch.setattr(datamodels, "retrained", None)  # from the cache
    assert retrained_margin(lineage) == before


def test_a_traces_stages_are_made_again_under_a_hook(lineage, tmp_path, monkeypatch):
    from interp.joined import tracing

    keys = []

    def stop(*_, key, **__):
        keys.append(key)
        raise InterruptedError

    monkeypatch.setattr(tracing, "open_page", stop)
    for place, under in (("one", False), ("two", True), ("three", False)):
        with (
            hooked(lineage.student) if under else nullcontext(),
            pytest.raises(InterruptedError),
        ):
            interp.trace(lineage, lineage.numbers[:4], tmp_path / place)
    assert keys[0] == keys[2] != keys[1]


def test_a_folder_cannot_hold_a_hook(lineage, tmp_path):
    with hooked(lineage.student), pytest.raises(InputError, match="student has hooks of your own"):
        lineage.save(tmp_path / "hooked")
    lineage.save(tmp_path / "plain")
    assert interp.load_lineage(tmp_path / "plain").student.fingerprint == lineage.student.fingerprint
