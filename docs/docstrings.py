"""Docstrings are prose with formulas, not markup: ⟨g, v⟩ may be written <g, v>, and a * b is a product.

A griffe extension that escapes what Markdown would take for a tag, a link or emphasis, outside `code` and indented
formulas, that fences examples, and that leaves the sections (Args, Returns, Raises, Example) to griffe. In signatures a
default that is a constant's name is shown by its value: `batch_size: int = 32`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import griffe

MARKS = str.maketrans({"<": "&lt;", "*": r"\*", "[": r"\[", "]": r"\]"})
SECTIONS = ("Args:\n", "Returns:\n", "Raises:\n")
LONGEST = 80
"""Characters of a value that still reads better than its name."""


class Plain(griffe.Extension):
    """Every docstring as Markdown that shows it as it was written."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe once for every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = "\n\n".join(map(shown, obj.docstring.value.split("\n\n")))

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Called by griffe once all modules are read, before dataclasses get their initialisers."""
        for each in _members(pkg):
            if isinstance(each, griffe.Function):
                for parameter in each.parameters:
                    parameter.default = valued(parameter.default, loader.modules_collection)
            elif isinstance(each, griffe.Attribute) and each.parent is not None and each.parent.is_class:
                each.value = valued(each.value, loader.modules_collection)


def _members(of: griffe.Module | griffe.Class) -> Iterator[griffe.Object]:
    """All that is defined in a module or class, and in those within it."""
    for each in of.members.values():
        if not isinstance(each, griffe.Alias):
            yield each
            if isinstance(each, (griffe.Module, griffe.Class)):
                yield from _members(each)


def valued(default: Any, known: Mapping[str, Any] | Any) -> Any:
    """The value of a constant that is named as a default; anything else, and what is long, as it is."""
    if isinstance(default, griffe.ExprBinOp):
        return dataclasses.replace(
            default, left=valued(default.left, known), right=valued(default.right, known)
        )
    if not isinstance(default, griffe.ExprName):
        return default
    try:
        found = known[default.canonical_path]
        value = valued(found.value, known) if found.is_attribute else None
    except (KeyError, griffe.GriffeError):
        return default
    return default if value is None or len(str(value)) > LONGEST else value


def shown(paragraph: str) -> str:
    """A paragraph as Markdown: a section for griffe to read, a session in a fence, an indented formula as it is, prose
    with its marks escaped and no line that griffe would take for a title.
    """
    if paragraph.startswith(">>> "):
        return f"```pycon\n{paragraph}\n```"
    if paragraph.startswith("Example:\n"):
        return paragraph.replace("Example:", "Examples:", 1)
    if paragraph.startswith(SECTIONS):
        return "\n".join(re.sub(r"^(    \**\w+: )?(.*)", _entry, line) for line in paragraph.split("\n"))
    lines = [line if line.startswith("    ") else escaped(line) for line in paragraph.split("\n")]
    return "\n".join(re.sub(r"^(\w[\s\w-]*):", r"\1&#58;", line) for line in lines)


def _entry(found: re.Match[str]) -> str:
    """A line of a section, its name as griffe reads it."""
    return (found[1] or "") + escaped(found[2])


def escaped(line: str) -> str:
    """The line with its marks escaped outside `code`."""
    pieces = re.split(r"(`[^`]*`)", line)
    pieces[::2] = [piece.translate(MARKS) for piece in pieces[::2]]
    return "".join(pieces)
