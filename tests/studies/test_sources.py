"""The key of measuring code: what changes it, what does not, and how far it reaches."""

from __future__ import annotations

import importlib
import itertools
import sys
import textwrap

import pytest

from interp.studies import sources
from interp.studies.registry import FAMILIES

COUNT = itertools.count()
HELPER = """
from interp.measures.margins import margin as asked
SCALE = 2.0
UNUSED = 1

def measure(x):
    'Measures.'
    return scaled(x)  # a comment

def scaled(x):
    return SCALE * x

def apart(x):
    return asked(x)

class Table:
    def total(self):
        return scaled(1)
    def figure(self):
        return "drawn"
"""


@pytest.fixture
def keyed(tmp_path, monkeypatch):
    """The key of `name` in a module of that source."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def key(text, name="measure"):
        module = f"handmade_{next(COUNT)}"
        made.append(module)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        found = sources._reached(importlib.import_module(module).__name__, name)
        return {
            (home.replace(module, "it"), what): sources._digested(home, what).value for home, what in found
        }

    yield key
    for module in made:
        sys.modules.pop(module, None)


def test_comments_docstrings_layout_and_what_is_not_reached_change_nothing(keyed):
    key = keyed(HELPER)
    assert set(key) == {("it", "measure"), ("it", "scaled"), ("it", "SCALE")}
    for old, new in (
        ("'Measures.'", "'Measures it.'"),
        ("'Measures.'\n", "\n"),
        ("  # a comment", ""),
        ("return scaled(x)", "return (\n        scaled(x)\n    )"),
        ("UNUSED = 1", "UNUSED = 2"),
        ("return asked(x)", "return asked(x) + 1"),
    ):
        assert keyed(HELPER.replace(old, new)) == key, new


@pytest.mark.parametrize(
    ("old", "new"),
    [("SCALE * x", "SCALE + x"), ("SCALE = 2.0", "SCALE = 3.0"), ("def measure(x):", "def measure(x, y=0):")],
)
def test_what_is_computed_changes_it(keyed, old, new):
    assert keyed(HELPER.replace(old, new)) != keyed(HELPER)


def test_methods_that_show_are_no_part_of_it(keyed):
    key = keyed(HELPER, "Table")
    assert keyed(HELPER.replace('"drawn"', '"drawn anew"'), "Table") == key
    assert keyed(HELPER.replace("scaled(1)", "scaled(2)"), "Table") != key


def test_a_name_from_a_measuring_room_is_followed_to_its_home_and_others_are_not(keyed):
    assert ("interp.measures.margins", "margin") in keyed(HELPER, "apart")
    by_face = "import interp\ndef measure(x):\n    return interp.gradients.transplant(interp.margin(x))"
    homes = set(keyed(by_face))
    assert {("interp.measures.margins", "margin"), ("interp.gradients.nulls.controls", "transplant")} <= homes
    trained = (
        "from interp.training.students import train_student\ndef measure(x):\n    return train_student(x)"
    )
    assert set(keyed(trained)) == {("it", "measure")}


def test_every_family_has_a_code_of_its_own_that_is_the_same_twice():
    keys = {name: sources.code_key(each.measure) for name, each in FAMILIES.items()}
    assert len(set(keys.values())) == len(FAMILIES)
    sources.code_key.cache_clear()
    assert sources.code_key(FAMILIES["one-direction"].measure) == keys["one-direction"]
    reached = {home for home, _ in sources._reached("interp.studies.one_direction", "measure_direction")}
    assert {"interp.studies.mean_shifts", "interp.measures.margins", "interp.activations.shifts"} <= reached
    assert not any(
        home.startswith(("interp.figures", "interp.models", "interp.training")) for home in reached
    )
