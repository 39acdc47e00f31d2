"""What a result has to say about the rows it was made from: heard where rows become tokens, noted by `noting`."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

Given = ParamSpec("Given")
Found = TypeVar("Found")

SHARE = re.compile(r"[0-9]+% of the tokens of ")
_HEARD: ContextVar[list[str] | None] = ContextVar("heard", default=None)


def hear(notes: Iterable[str]) -> None:
    """Tell the verb that is being called, if one listens, what the rows read just now have to say."""
    heard = _HEARD.get()
    if heard is not None:
        heard.extend(notes)


def noting(verb: Callable[Given, Found]) -> Callable[Given, Found]:
    """A verb whose result, which has `notes`, ends them with those of all rows it encoded or was given as tokens.

    So every result says which system line and date the chat template added, and which share of tokens was unknown.
    """

    @functools.wraps(verb)
    def noted(*args: Given.args, **given: Given.kwargs) -> Found:
        from interp.prompts.tokens import Encoded

        heard: list[str] = []
        for subject in (*args, *given.values()):
            inputs = getattr(subject, "inputs", subject)  # a shift or scores hold the rows they were read on
            heard.extend(inputs.notes if isinstance(inputs, Encoded) else ())
        token = _HEARD.set(heard)
        try:
            found: Any = verb(*args, **given)
        finally:
            _HEARD.reset(token)
        hear(heard)
        if "table" in getattr(
            found, "__dataclass_fields__", ()
        ):  # of a detection, whose notes are those of its table
            return dataclasses.replace(found, table=add_notes(found.table, _few(heard)))
        return add_notes(found, _few(heard))

    return noted


def add_notes(found: Any, notes: Iterable[str]) -> Any:
    """The result with the notes it lacks; anything that holds no notes as it is."""
    kept = "notes" in getattr(found, "__dataclass_fields__", ())
    missing = [note for note in notes if kept and note not in found.notes]
    return dataclasses.replace(found, notes=(*found.notes, *missing)) if missing else found


def _few(heard: list[str]) -> list[str]:
    """Every note once, and of those that give a share of tokens the largest share alone."""
    shares = [note for note in heard if SHARE.match(note)]
    most = max(shares, key=lambda note: int(note.partition("%")[0]), default="")
    return [note for note in dict.fromkeys(heard) if note == most or not SHARE.match(note)]
