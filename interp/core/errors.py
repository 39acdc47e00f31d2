"""What a user is told: one sentence with the value, what would have been right, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


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


@contextmanager
def memory_enough(sentence: str) -> Iterator[None]:
    """Turn running out of memory, on a GPU or not, into an InputError that says what was done and what to lower."""
    try:
        yield
    except RuntimeError as error:
        from torch import OutOfMemoryError

        words = ("out of memory", "not enough memory")
        if not isinstance(error, OutOfMemoryError) and not any(each in str(error) for each in words):
            raise
        raise InputError(sentence) from error
