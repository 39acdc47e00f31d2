"""Records from YAML: nested, partial over their defaults, and every mistake in one sentence with where it lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from interp.core.errors import InputError
from interp.core.records import over, parse_yaml, read_fields, read_mapping


@dataclass(frozen=True)
class Inner:
    size: int = 1
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Annotated[Inner, over(Inner(size=7))] = Inner(size=7)
    several: Literal["none"] | tuple[int, ...] = "none"
    other: Inner | None = None


def test_a_partial_section_keeps_what_its_field_starts_from() -> None:
    given = {"name": "x", "inner": {"rate": "1e-3"}, "several": [1, 2], "other": {"rate": 2}}
    assert read_fields(Outer, given, "f") == Outer("x", Inner(7, 1e-3), (1, 2), Inner(1, 2.0))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"name": "x", "inner": {"sise": 1}}, "f: inner: key 'sise' is unknown; nearest: size; rename or remove it"),
        ({"nam": "x"}, "f: key 'nam' is unknown; nearest: name; rename or remove it"),
        ({}, "f: key 'name' is missing; add it"),
        ({"name": "x", "other": 3}, "f: other holds 3, where keys of Inner belong; write key: value"),
        (None, "f holds None, where keys of Outer belong; write key: value"),
        ({"name": True}, "f: name holds True: input should be a valid string; correct it, quoting words such as yes"),
        ({"name": "x", "several": "all"}, "f: several holds 'all': input should be 'none' or a list; correct it"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(given: object, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        read_fields(Outer, given, "f")
    assert str(error.value).startswith(sentence)


def test_a_file_without_keys_and_text_that_is_no_yaml(tmp_path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("- a\n")
    with pytest.raises(InputError, match=r"x.yaml holds \['a'\] where keys were expected; write name: x"):
        read_mapping(path, what="a file", example="name: x")
    with pytest.raises(InputError, match=r"^change is not YAML \(.*\); correct the value$"):
        parse_yaml("[1", "change", advice="correct the value")
