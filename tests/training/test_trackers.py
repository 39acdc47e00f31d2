"""What a tracker is told of a training is what the training did, and it changes nothing of it."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import interp
from interp.core.errors import InputError
from interp.training.trackers import Tracker
from interp.training.watching import StopAfter, TrainingLog

RECIPE = interp.training.Recipe(batch_size=4, lr=1e-2, warmup=1, rank=2)
ROWS = interp.number_prompts(12, seed=0, count=3)


@pytest.fixture(params=["wandb", "trackio"])
def told(request, monkeypatch):
    """The calls that a stand-in for the tracker's package was given, and its name."""
    calls = []
    package: Any = ModuleType(request.param)
    package.__spec__ = ModuleSpec(request.param, None)  # which accelerate looks for
    package.init = lambda **given: calls.append(("init", given))
    package.log = lambda values, step: calls.append((step, values))
    package.finish = lambda: calls.append(("finish", {}))
    monkeypatch.setitem(sys.modules, request.param, package)
    return SimpleNamespace(name=request.param, calls=calls)


def test_loss_and_rate_of_every_step_are_logged_with_what_is_listened_to(raw, told):
    start = raw()
    log = TrainingLog(start, fresh=ROWS, every=1)
    with Tracker(told.name, project="owl", config={"rank": 2}, listener=log) as tracker:
        student = interp.train_student(start, ROWS, recipe=RECIPE, on_step=tracker)
    first, *steps, last = told.calls
    assert first == ("init", {"project": "owl", "name": None, "config": {"rank": 2}})
    assert last == ("finish", {})
    assert [step for step, _ in steps] == log.frame["step"].tolist()
    for name in ("loss", "lr", "fresh_loss"):
        assert [values[name] for _, values in steps] == log.frame[name].tolist()
    assert student.fingerprint == interp.train_student(start, ROWS, recipe=RECIPE).fingerprint


def test_a_listener_within_ends_the_training(raw, told):
    interp.train_student(
        raw(), ROWS, recipe=RECIPE, on_step=Tracker(told.name, project="owl", listener=StopAfter(2))
    )
    assert [step for step, _ in told.calls[1:]] == [1, 2]


def test_a_checkpoint_keeps_what_the_listener_keeps(raw, told):
    log = TrainingLog(raw(), every=1)
    tracker = Tracker(told.name, project="owl", listener=log)
    tracker.restore({"rows": [{"step": 1.0}]})
    assert tracker.state() == log.state() == {"rows": [{"step": 1.0}]}
    assert Tracker(told.name, project="owl").state() == {}


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(
        InputError,
        match=r"trackio is not installed; run pip install -e '\.\[trackers\]' in the clone, or pip",
    ):
        Tracker("trackio", project="owl")
