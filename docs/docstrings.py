"""Docstrings are prose with formulas, not markup: ⟨g, v⟩ may be written <g, v>, and a * b is a product.

A griffe extension that escapes what Markdown would take for a tag, a link or emphasis, outside `code` and indented
formulas, and that fences examples.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

MARKS = str.maketrans({"<": "&lt;", "*": r"\*", "[": r"\[", "]": r"\]"})


class Plain(griffe.Extension):
    """Every docstring as Markdown that shows it as it was written."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe once for every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = "\n\n".join(map(shown, obj.docstring.value.split("\n\n")))


def shown(paragraph: str) -> str:
    """A paragraph as Markdown: an example in a fence, an indented formula as it is, prose with its marks escaped."""
    if paragraph.startswith(">>> "):
        return f"```pycon\n{paragraph}\n```"
    return "\n".join(line if line.startswith("    ") else escaped(line) for line in paragraph.split("\n"))


def escaped(line: str) -> str:
    """The line with its marks escaped outside `code`."""
    pieces = re.split(r"(`[^`]*`)", line)
    pieces[::2] = [piece.translate(MARKS) for piece in pieces[::2]]
    return "".join(pieces)
