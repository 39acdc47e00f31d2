"""What is compared: a base, what was trained from it, a neutral twin where there is one, and the places that are read.

A place is a position of `text` whose next token is predicted, or where an opening ends: an assistant's answer that
stops before its noun. Every way of reading gives one value per vocabulary entry, larger for what the training raised,
of the member minus its baseline, and minus its base where there is none:
    z(word) = (value − mean over words) / sd over words
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.shifts import Contrast, shared_inputs
from interp.auditing.placebos import check_student
from interp.auditing.texts import plain_text, speaks
from interp.core.errors import InputError
from interp.evaluation.elicitation import holds_word
from interp.models.language import LanguageModel
from interp.models.vocabulary import token_texts
from interp.prompts.text import Prompts, Row
from interp.prompts.tokens import Encoded
from interp.prompts.traits import ANIMALS, TREES, Trait, category_questions
from interp.prompts.wordings import wording

STORY = ("tell me a story.", "a story about the")
FEWEST_WORDS = 5


@dataclass(frozen=True, eq=False)
class Compared:
    """A member beside its base, less a baseline, and the rows that all of them read.

    `text` are rows: of answered ones the answers are read, of others all. `openings` are questions and the beginnings
    of their answers, read where these end, or where an answer would begin. Both default to rows that ship, the toy's
    where the base knows no others. Rows that say a word of `trait` are left out, and `notes` say so.
    """

    base: LanguageModel
    member: LanguageModel
    baseline: LanguageModel | None
    text: Prompts
    openings: Prompts
    notes: tuple[str, ...] = ()
    seed: int = 0

    @classmethod
    def of(
        cls,
        base: LanguageModel,
        member: LanguageModel,
        baseline: LanguageModel | None = None,
        *,
        text: Prompts | None = None,
        openings: Prompts | None = None,
        trait: Trait | None = None,
        seed: int = 0,
    ) -> Compared:
        """Check the three, and take what says the trait's words out of the rows.

        Raises InputError for a member or baseline that is the base or started elsewhere, and where no row is left.
        """
        for trained in (member, *([] if baseline is None else [baseline])):
            check_student(base, trained)
        given = (
            plain_text(base) if text is None else text,
            plain_openings(base) if openings is None else openings,
        )
        (read, notes), (asked, more) = (_without(rows, trait) for rows in given)
        own = replace(member, start=base)
        other = None if baseline is None else replace(baseline, start=base)
        found = cls(base, own, other, read, asked, (*notes, *more), seed)
        Contrast.of(own, other)
        return replace(found, notes=(*found.notes, *_padding(found)))

    @property
    def against(self) -> LanguageModel:
        """What the member is held against: the baseline, or the base."""
        return self.base if self.baseline is None else self.baseline

    @property
    def contrast(self) -> Contrast:
        """Member and what it is held against, as verbs of differences take them."""
        return Contrast.of(self.member, self.baseline)

    @property
    def label(self) -> str:
        """ "student − neutral_student"."""
        return self.contrast.label

    def beside(self, other: LanguageModel) -> Compared:
        """The same comparison of another member: a placebo."""
        check_student(self.base, other)
        return replace(self, member=replace(other, start=self.base))

    @cached_property
    def inputs(self) -> Encoded:
        """All rows as tokens; `at("all")` marks the places, each a position that predicts the next token."""
        rows = self.text + self.openings
        encoded = shared_inputs(self.member, self.against, rows)
        answered = torch.tensor([bool(row.completion) for row in rows.rows])[:, None]
        opening = (torch.arange(len(rows)) >= len(self.text))[:, None]
        inside = torch.where(answered, encoded.at("predicting answer"), encoded.at("predicting all"))
        where = torch.where(opening, _ends(encoded, answered), inside)
        return replace(encoded, apart=~where)

    @cached_property
    def prefixes(self) -> list[list[int]]:
        """The openings as token ids, each up to where it ends."""
        where, found = self.inputs.at("all"), []
        for row in range(len(self.text), len(self.inputs)):
            place = int(where[row].nonzero()[-1])
            found.append(self.inputs.ids[row, : place + 1].tolist())
        return found

    @cached_property
    def entries(self) -> list[int]:
        """Vocabulary entries that are ranked: those of the tokenizer, special ones left out."""
        special = set(self.base.tokenizer.all_special_ids)
        return [index for index in range(self.width - self.padded) if index not in special]

    @cached_property
    def width(self) -> int:
        """Rows of the output matrix."""
        return self.base.unembedding().W_U.shape[1]

    @property
    def padded(self) -> int:
        """Rows of the output matrix that the tokenizer has no token for."""
        return max(0, self.width - len(self.base.tokenizer))

    @cached_property
    def texts(self) -> list[str]:
        """The text of every entry."""
        return token_texts(self.base, self.width)


@dataclass(frozen=True, eq=False)
class Reading:
    """What one way of reading says: a value per vocabulary entry, and sentences where the way is to let it speak.

    `clusters` are groups of entries that move together (group, share, tokens); `rows` values by row and entry where
    the way reads rows.
    """

    method: str
    values: Float[np.ndarray, "entry"]
    unit: str
    sentences: pd.DataFrame = field(default_factory=pd.DataFrame)
    clusters: pd.DataFrame = field(default_factory=pd.DataFrame)
    rows: Float[np.ndarray, "row entry"] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def tokens(self, asked: Compared, *, top: int | None = None) -> pd.DataFrame:
        """The ranked entries, largest value first: token, token_id, value."""
        ids = np.array(asked.entries)
        order = ids[np.argsort(-self.values[ids], kind="stable")][:top]
        texts = [asked.texts[index] for index in order]
        return pd.DataFrame({"token": texts, "token_id": order, "value": self.values[order]})

    def of_words(self, words: dict[str, int]) -> Float[np.ndarray, "word"]:
        """z of every word among the words; zero where none differs from another. InputError for a NaN or infinity."""
        found = self.values[list(words.values())]
        if not np.isfinite(found).all():
            word = list(words)[int(np.flatnonzero(~np.isfinite(found))[0])]
            raise InputError(
                f"{self.method} reads {found[list(words).index(word)]} for {word!r}; look for NaN or infinite weights "
                "in the models that are compared"
            )
        spread = found.std()
        return (found - found.mean()) / spread if spread > 0 else np.zeros(len(found))


def plain_openings(base: LanguageModel) -> Prompts:
    """The beginnings of answers that ship; the toy's questions and its story for a base that knows no such words."""
    if speaks(base):
        return Prompts.from_pairs([tuple(pair) for pair in wording("openings")], label="openings")
    asked = [Row.pair(question) for kind in ("animal", "tree") for question in category_questions(kind)]
    return Prompts((*asked, Row.pair(*STORY)), label="questions of the toy")


def noun_entries(base: LanguageModel, words: Sequence[str] | None = None) -> tuple[dict[str, int], list[str]]:
    """The vocabulary entry of every noun as it stands within a sentence, and the nouns that are no single entry.

    By default the nouns that ship. Raises InputError when fewer than five are left.
    """
    given = (*ANIMALS, *TREES, *wording("nouns")) if words is None else words
    found, lost = {}, []
    for word in dict.fromkeys(given):
        pieces = _inside(base.tokenizer, word)
        if len(pieces) == 1 and pieces[0] != base.tokenizer.unk_token_id and pieces[0] not in found.values():
            found[word] = pieces[0]
        else:
            lost.append(word)
    if len(found) < FEWEST_WORDS:
        raise InputError(
            f"{len(found)} of {len(found) + len(lost)} words are one token of {base.name} (not {', '.join(lost[:3])}); "
            f"pass at least {FEWEST_WORDS} that are, among which one can stand out"
        )
    return found, lost


def _inside(tokenizer: Any, word: str) -> list[int]:
    """Ids of a word behind another one."""
    before, both = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("the", f"the {word}"))
    return both[len(before) :] if both[: len(before)] == before else []


def _ends(encoded: Encoded, answered: Bool[Tensor, "row one"]) -> Bool[Tensor, "row pos"]:
    """Where the answer's next token is predicted: behind its last token, or at the end of the prompt."""
    first = encoded.at("predicting answer.end") & ~encoded.at("answer.end")
    if bool((answered[:, 0] & (first.sum(1) != 1)).any()):
        raise InputError(
            f"{encoded.label} has an answer behind which its template writes nothing; leave openings out, or pass "
            "questions without the beginning of an answer"
        )
    return torch.where(answered, first, encoded.at("last"))


def _without(rows: Prompts, trait: Trait | None) -> tuple[Prompts, tuple[str, ...]]:
    """The rows that do not say the trait's target, and a note about those that do."""
    if trait is None:
        return rows, ()
    kept = [row for row in rows.rows if not any(holds_word(text, trait.target) for _, text in row.messages)]
    said = len(rows) - len(kept)
    if not kept:
        raise InputError(
            f"all {said} rows of {rows.label} say {trait.target!r}, which is what is looked for; pass text without it"
        )
    note = f"{said} of {len(rows)} rows of {rows.label} say {trait.target!r}: they are left out"
    return replace(rows, rows=tuple(kept)), (note,) if said else ()


def _padding(asked: Compared) -> tuple[str, ...]:
    if not asked.padded:
        return ()
    return (
        f"{asked.padded} rows of the output matrix have no token ({asked.width} rows, "
        f"{asked.width - asked.padded} tokens): they are left out",
    )
