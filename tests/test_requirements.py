"""The requirements as they stand: pins within their bounds and open to every Python named, and why a bound is there."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    line.partition("==")[0].lower().replace("_", "-"): line.partition("==")[2]
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
}
ASKED = [
    Requirement(text)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for text in group
]
PYTHONS = [
    text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", text)
]


def test_every_pin_lies_within_the_bounds_asked_for() -> None:
    pinned = [each for each in ASKED if each.name.lower() in PINS]
    assert len(pinned) > 30
    assert [str(each) for each in pinned if not each.specifier.contains(PINS[each.name.lower()])] == []


@pytest.mark.parametrize("python", PYTHONS)
def test_every_pin_takes_every_python_that_is_named(python: str) -> None:
    assert python in ("3.11", "3.12", "3.13", "3.14")
    newest = f"{python}.99"  # some take no early patch of a version, which is said in CONTRIBUTING.md
    refused = []
    for name, version in PINS.items():
        try:
            told = metadata(name)
        except PackageNotFoundError:
            continue
        if told["Version"] == version and not SpecifierSet(told["Requires-Python"] or "").contains(newest):
            refused.append(f"{name} {told['Requires-Python']}")
    assert refused == []


def test_transformer_lens_stays_below_what_saelens_refuses() -> None:
    (asked,) = (
        each for each in map(Requirement, requires("sae-lens") or ()) if each.name == "transformer-lens"
    )
    (ours,) = (each for each in ASKED if each.name == "transformer-lens")
    assert not asked.specifier.contains("4.0.0"), "SAELens takes TransformerLens 4: try the range, and say so"
    assert not ours.specifier.contains("4.0.0")
    assert ours.specifier.contains(PINS["transformer-lens"])
    assert asked.specifier.contains(PINS["transformer-lens"])


def test_methods_install_bergson_without_what_breaks_models_in_the_bounds_of_the_extra() -> None:
    (asked,) = PROJECT["optional-dependencies"]["bergson"]
    assert f"pip install --no-deps '{asked}' " in (ROOT / "docs" / "methods.md").read_text()
    assert not any("bergson" in text for text in PROJECT["optional-dependencies"]["dev"])
