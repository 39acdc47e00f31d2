"""Docstrings are prose with formulas, not markup: ⟨g, v⟩ may be written <g, v>, and a * b is a product.

A griffe extension that escapes what Markdown would take for a tag, a link or emphasis, outside `code` and indented
formulas, that fences examples, and that leaves the sections (Args, Returns, Raises, Example) to griffe.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

MARKS = str.maketrans({"<": "&lt;", "*": r"\*", "[": r"\[", "]": r"\]"})
SECTIONS = ("Args:\n", "Returns:\n", "Raises:\n")


class Plain(griffe.Extension):
    """Every docstring as Markdown that shows it as it was written."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe once for every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = "\n\n".join(map(shown, obj.docstring.value.split("\n\n")))


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
