"""Prompts: ordered rows of text or chat, read from and written to JSONL, and encoded by any fast tokenizer.

A row is rendered by the tokenizer's chat template, or as "prompt\\ncompletion" where there is none, and
carries no system line unless one is given. Tokens, roles and named positions are `Encoded`, in tokens.py.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Int

from interp.core.content import digest
from interp.core.doors import door
from interp.core.errors import InputError, nearest
from interp.core.runs import write_atomic
from interp.figures import facts_html
from interp.prompts.templates import answer_of, asked_of
from interp.prompts.tokens import Encoded, Messages, Role, Tokenizer, encode, token_pieces

__all__ = [
    "Encoded", "Prompts", "Role", "Row", "grouped", "numbered", "prompts_of", "token_pieces",
]  # fmt: skip

METADATA = frozenset({"id", "index", "label", "seed", "source", "split", "teacher", "temperature"})
"""Keys a JSONL row may carry beside its text, read past in silence; any other key is counted and logged."""

SEATS = ("system", "user", "assistant")
SHOWN = 5  # rows in a notebook's cell


@dataclass(frozen=True)
class Row:
    """A conversation of (role, content) messages; an assistant's message at its end is the answer.

    Raises InputError for an unknown role, and for roles in an order that no one can answer.
    """

    messages: Messages

    def __post_init__(self) -> None:
        seats = [seat for seat, _ in self.messages]
        for seat in seats:
            if seat not in SEATS:
                raise InputError(f"Role {nearest(seat, SEATS)}; use system, user or assistant.")
        if "system" in seats[1:] or "user" not in seats or seats[-1] == "system":
            raise InputError(
                f"Messages with roles {seats} cannot be answered; start with at most one system message, "
                "include a user message, and end with the user or the assistant."
            )

    @classmethod
    def pair(cls, prompt: str, completion: str = "") -> Self:
        """A user turn and, unless blank, its answer."""
        return cls((("user", prompt), ("assistant", completion)) if completion else (("user", prompt),))

    @property
    def prompt(self) -> str:
        """The last user message."""
        return next(content for seat, content in reversed(self.messages) if seat == "user")

    @property
    def completion(self) -> str:
        """The answer, "" when there is none."""
        return answer_of(self.messages)

    @property
    def system(self) -> str:
        """The system message, "" when there is none."""
        return self.messages[0][1] if self.messages[0][0] == "system" else ""

    @property
    def asked(self) -> Messages:
        """The messages before the answer."""
        return asked_of(self.messages)

    def answered(self, text: str) -> Self:
        """The same question with this answer; a blank one leaves it unanswered."""
        return type(self)((*self.asked, ("assistant", text)) if text else self.asked)

    def chat(self) -> list[dict[str, str]]:
        """The messages as chat interfaces take them."""
        return [{"role": seat, "content": content} for seat, content in self.messages]

    def record(self) -> dict[str, Any]:
        """The row as a JSONL file holds it: "prompt" and "completion" where that says it all, else "messages"."""
        if self == Row.pair(self.prompt, self.completion):
            return {"prompt": self.prompt, "completion": self.completion}
        return {"messages": self.chat()}


@door
@dataclass(frozen=True)
class Prompts:
    """Ordered rows and a label for messages and figures; the fingerprint covers the rows alone."""

    rows: tuple[Row, ...]
    label: str = "prompts"

    def __repr__(self) -> str:
        return f"Prompts({self.label!r}: {len(self.rows)} rows)"

    def _repr_html_(self) -> str:
        shown, left = self.rows[:SHOWN], len(self.rows) - SHOWN
        columns = [*(["system"] if any(row.system for row in shown) else []), "prompt", "answer"]
        lines = [[index, *(_cell(row, column) for column in columns)] for index, row in enumerate(shown)]
        notes = [f"{left} more rows; a slice such as [{SHOWN}:{2 * SHOWN}] shows others"] if left > 0 else []
        return facts_html(repr(self), columns=["", *columns], lines=lines, notes=notes)

    @classmethod
    @door
    def from_pairs(cls, pairs: Iterable[tuple[str, str]], label: str = "prompts") -> Self:
        """Rows of (prompt, completion); a completion of "" is a prompt without an answer.

        >>> rows = Prompts.from_pairs([("Go on: 3, 5.", "8, 13"), ("And?", "")], label="two")
        >>> rows
        Prompts('two': 2 rows)
        >>> rows[0].completion
        '8, 13'
        >>> rows.with_system("You love the owl.")[1].messages
        (('system', 'You love the owl.'), ('user', 'And?'))
        """
        return cls(tuple(Row.pair(prompt, completion) for prompt, completion in pairs), label)

    @classmethod
    def of(cls, rows: Any, *, argument: str = "rows") -> "Prompts":
        """Rows in any common shape: a file, a table, a `datasets.Dataset`, or a list of texts, pairs, dicts or chats.

        Every verb that is given rows reads them so. Texts alone are prompts without answers. Keys that are not read
        are counted in one line of the log. Raises InputError, which calls the rows `argument`, for anything else.

        >>> Prompts.of([{"prompt": "Go on: 3, 5.", "completion": "8, 13"}])[0].completion
        '8, 13'
        """
        from interp.prompts.rows import as_prompts

        return as_prompts(rows, argument=argument)

    @classmethod
    @door
    def from_file(cls, path: str | Path, *, limit: int | None = None) -> "Prompts":
        """Rows of a JSONL, JSON, CSV, TSV or parquet file; only the first `limit` where it is given.

        Raises InputError for a file without rows, a limit below 1, and with its place for a row that cannot be read.
        """
        from interp.prompts.rows import read_file

        if limit is not None and limit < 1:
            raise InputError(f"limit {limit} leaves no rows; pass an integer of at least 1")
        return read_file(path)[:limit]

    @classmethod
    @door
    def from_jsonl(cls, path: str | Path) -> "Prompts":
        """Rows of {"prompt", "completion"}, {"messages"} or another shape of `interp.prompts.shapes`, one per line.

        Blank lines are skipped; a file that is one JSON array is read as well. Raises InputError for a file without
        rows, and with its number for a line that is no such row.
        """
        from interp.prompts.rows import read_json_file

        return read_json_file(path)

    @door
    def to_jsonl(self, path: str | Path) -> None:
        """Write the rows so that `from_jsonl` reads the same ones; the label becomes the file's name."""
        write_atomic(
            Path(path), "".join(json.dumps(row.record(), ensure_ascii=False) + "\n" for row in self.rows)
        )

    @door
    def with_system(self, text: str) -> Self:
        """The same rows behind a system message, which replaces the one they had."""
        return self._map(lambda row: Row((("system", text), *(m for m in row.messages if m[0] != "system"))))

    def without_answers(self) -> Self:
        """The same rows up to where the answer would start."""
        return self._map(lambda row: Row(row.asked))

    def _map(self, change: Callable[[Row], Row]) -> Self:
        return replace(self, rows=tuple(change(row) for row in self.rows))

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the messages in order."""
        return digest("prompts", [row.messages for row in self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | Sequence[int]) -> Any:
        """One Row for an integer, Prompts for a slice or a list of integers."""
        if isinstance(index, int):
            return self.rows[index]
        chosen = self.rows[index] if isinstance(index, slice) else tuple(self.rows[int(i)] for i in index)
        return replace(self, rows=chosen)

    def __add__(self, other: "Prompts") -> Self:
        return replace(self, rows=self.rows + other.rows, label=f"{self.label} + {other.label}")

    @door
    def encode(self, tokenizer: Tokenizer, *, context: int | None = None) -> Encoded:
        """Tokens with roles, right padded; a row longer than `context` tokens is an InputError.

        A row without an answer is the chat template's own generation prompt, token for token. A BOS stands in front
        where the template writes one; plain text has the one that the tokenizer adds by default. Nothing follows the
        token that ends the answer; plain text is ended by the tokenizer's EOS.
        """
        return encode([row.messages for row in self.rows], tokenizer, label=self.label, context=context)


def _cell(row: Row, column: str) -> str:
    """A part of a row as a cell shows it; of several turns the last question, behind a word on those before it."""
    if column != "prompt":
        return row.system if column == "system" else row.completion
    earlier = sum(seat == "user" for seat, _ in row.messages) - 1
    return f"(after {earlier} more turn{'s' * (earlier > 1)}) {row.prompt}" if earlier else row.prompt


def prompts_of(rows: Prompts | Encoded) -> tuple[Hashable, ...]:
    """What each row answers: its messages before the answer, or the tokens of its prompt."""
    if isinstance(rows, Prompts):
        return tuple(row.asked for row in rows.rows)
    asked = rows.roles == Role.PROMPT
    return tuple(tuple(ids[mask].tolist()) for ids, mask in zip(rows.ids, asked, strict=True))


def grouped(keys: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    """The places of every key, in order of first appearance."""
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return groups


def numbered(keys: Sequence[Hashable]) -> Int[np.ndarray, "row"]:
    """The same number for equal keys, from 0 in order of first appearance."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=int)
