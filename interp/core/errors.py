"""What a user is told: one sentence with the value, what would have been right, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The caller asked for something impossible; one sentence: the value, what is right, what to do."""


def nearest(name: str, options: Iterable[str]) -> str:
    """The fragment "'ovl' is unknown; nearest: owl, wolf" for an error message, else the known options.

    >>> nearest("ovl", ["owl", "wolf", "oak"])
    "'ovl' is unknown; nearest: owl, wolf"
    """
    known = sorted({str(option) for option in options})
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    if close:
        return f"{str(name)!r} is unknown; nearest: {', '.join(close)}"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"{str(name)!r} is unknown; known: {shown or 'none'}"
