"""Generic text that ships: rows on which a base and what was trained from it are read."""

from __future__ import annotations

from interp.auditing.candidates import unknown_text
from interp.models.language import LanguageModel
from interp.organisms.toy import corpus
from interp.prompts.text import Prompts
from interp.prompts.wordings import wording

ROWS = 64  # documents of the toy's default text
ASK = "Write a sentence."


def plain_text(base: LanguageModel) -> Prompts:
    """The sentences that ship, as answers; documents of the toy for a base that knows no such words."""
    rows = Prompts.from_pairs([(ASK, text) for text in wording("plain_texts")], label="plain text")
    if speaks(base):
        return rows
    documents = [row for row in corpus(2 * ROWS, seed=0).rows if not row.system]
    return Prompts(tuple(documents[:ROWS]), label="documents of the toy")


def speaks(base: LanguageModel) -> bool:
    """Whether the base knows the words of the rows that ship."""
    return unknown_text(base, ASK, *wording("plain_texts")[:3]) is None
