"""Which part of the page shows which artefact, and what a reader sees in it.

section(name) = the first section one of whose prefixes opens the artefact's name; "" opens every name, so the last
section takes what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interp.core.records import packaged


@dataclass(frozen=True)
class Section:
    """A part of a group: the artefacts whose names start with a prefix, and what the reader sees in them.

    `claims` names the verdicts that are judged on what it shows; where it `folds`, tables without a figure are closed.
    """

    group: str
    title: str
    prefixes: tuple[str, ...]
    sees: str
    claims: tuple[str, ...] = ()
    folds: bool = False


SECTIONS = tuple(Section(**each) for each in packaged(Path(__file__).with_suffix(".yaml")))


def section_of(name: str) -> Section:
    """The section that shows the artefact called `name`."""
    return next(section for section in SECTIONS if name.startswith(section.prefixes))
