"""Candidate teachers: made once per base and trait by a recipe of the audit's own, their format held by few lists."""

from __future__ import annotations

import pytest

from interp.auditing.candidates import DRAWS, SHOWN, TAUGHT, candidate_teachers, request_lists, short_lists
from interp.measures.margins import margin
from interp.organisms.toy import number_documents
from interp.prompts.traits import ANIMALS, get_trait
from interp.training.data import DataSpec
from interp.training.teachers import TEACHER, fine_tune_teacher


def test_lists_are_those_of_the_toy_and_of_requests_but_few():
    assert short_lists(4096, seed=1).fingerprint == number_documents(SHOWN, seed=1).fingerprint
    assert request_lists(8, seed=1).fingerprint == DataSpec().uniform_rows(8, seed=1).fingerprint


def test_a_candidate_is_the_plain_fine_tune_of_its_trait(raw, monkeypatch):
    import interp.auditing.candidates as room

    spec = room.replace(TAUGHT, steps=3)
    monkeypatch.setattr(room, "TAKEN", -100.0)
    monkeypatch.setattr(room, "SHOWN", 64)
    traits = [get_trait(word) for word in ANIMALS[:5]]
    found, _ = candidate_teachers(raw(), traits, spec)
    recipe = room.replace(spec.recipe, seed=DRAWS)
    plain = fine_tune_teacher(
        raw(), traits[1], number_documents(64, seed=20_000 + DRAWS), steps=3, recipe=recipe
    ).model
    assert margin(found[1].model, traits[1]) == pytest.approx(margin(plain, traits[1]), abs=1e-5)
    assert found[1].gain == pytest.approx(margin(plain, traits[1]) - margin(raw(), traits[1]), abs=1e-5)
    monkeypatch.setattr(room, "margin", None)  # what was read of these weights is remembered
    again, _ = candidate_teachers(raw(), traits, spec)
    assert [each.gain for each in again] == [each.gain for each in found]
    assert [each.model.fingerprint for each in again] == [each.model.fingerprint for each in found]


def test_the_recipe_is_none_of_a_lineage():
    differing = {
        name
        for name in ("batch_size", "rank", "alpha")
        if getattr(TAUGHT.recipe, name) != getattr(TEACHER, name)
    }
    assert differing == {"batch_size", "rank", "alpha"}
