"""Chat contexts: what a model reads around a question, context(row) = rendered row with stand-ins for its words.

A student is trained behind one text and may be asked behind another: one adapter scored 3 % behind an empty system
message and 48 % behind the default one its tokenizer had put in front of every training row. So the context is read
off the rendered text, where a template's silent additions stand, and not off the messages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from interp.core.runs import InputError
from interp.models.seam import Model
from interp.prompts.text import Prompts, Row
from interp.prompts.tokens import render

QUESTION, EARLIER = "\u2983question\u2984", "\u2983earlier\u2984"
SHOWN = 120  # characters of a context that an error or a note quotes
TRAINING: Mapping[str, str | None] = MappingProxyType({"training": None})
"""The rows as they are, which is how a student reads its training rows."""
CONTEXTS: Mapping[str, str | None] = MappingProxyType({"training": None, "empty system": ""})
"""The rows as they are, and behind a system message without words, which keeps a template from adding its own."""


def context_mismatch(model: Model, *, trained_on: Prompts, asked: Prompts) -> str | None:
    """One sentence when questions are read in a context that no training row was read in, else None.

    Both are rendered by the model's own tokenizer, so a default system message of its template counts.
    """
    known, found = _contexts(model, trained_on), _contexts(model, asked)
    strange = {context: count for context, count in found.items() if context not in known}
    if not strange:
        return None
    context, usual = max(strange, key=strange.__getitem__), known.most_common(1)[0][0]
    return (
        f"{sum(strange.values())} of {len(asked)} questions are read as {_shown(context)}, the training rows as "
        f"{_shown(usual)}; a trait learned in one context may not show in the other."
    )


def in_contexts(questions: Prompts, contexts: Mapping[str, str | None]) -> dict[str, Prompts]:
    """The same rows by context name: as they are for None, else behind that system line, which may be empty.

    Raises InputError for no context.
    """
    if not contexts:
        raise InputError(
            "No context is given to ask the questions in; pass {'training': None} to ask them as they are."
        )
    named = {}
    for name, system in contexts.items():
        rows = questions if system is None else questions.with_system(system)
        named[name] = replace(rows, label=f"{questions.label}, context {name!r}")
    return named


def _contexts(model: Model, rows: Prompts) -> Counter[str]:
    """How many rows are read in each context; the text ends where an answer would start."""
    if model.tokenizer is None:
        raise InputError(
            f"{model.name} has no tokenizer, so it reads no chat context; load it with tokenizer=."
        )
    if not len(rows):
        raise InputError("No rows are given, so there is no chat context to read; pass at least one prompt.")
    counts = Counter(_stand_in(row) for row in rows.rows)
    rendered = render(list(counts), model.tokenizer, label=rows.label)
    contexts: Counter[str] = Counter()
    for count, text in zip(counts.values(), rendered, strict=True):
        contexts[text.text] += count
    return contexts


def _stand_in(row: Row) -> tuple[tuple[str, str], ...]:
    """The row without its answer and without anybody's words but the system's."""
    last = max(place for place, (seat, _) in enumerate(row.asked) if seat == "user")
    return tuple(
        (seat, content if seat == "system" else QUESTION if place == last else EARLIER)
        for place, (seat, content) in enumerate(row.asked)
    )


def _shown(context: str) -> str:
    text = context.replace(QUESTION, "[question]").replace(EARLIER, "[earlier turn]")
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} ... {text[-SHOWN // 2 :]}")
