"""Candidates of a trait as sets of forms: what an answer may begin with to count as one, and its probability.

    log p(candidate | question) = log Σ_form Π_k p(piece_k | question, the pieces before it)

A form stands for every answer that begins with its tokens: "Owl" for "Owls" and "Owlet" too. Two forms are then either
disjoint or one holds the other, so forms that go on from another form, or are written with the same tokens, are left
out, and the rest are added. Other ways to split the same letters into tokens are not counted.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.prefixes import Ids, prefix_logits
from interp.prompts.forms import USUAL, word_forms
from interp.prompts.text import Prompts, grouped

if TYPE_CHECKING:
    from interp.models.seam import Model


@dataclass(frozen=True)
class Form:
    """One way to write a candidate after one question, and where `CandidateForms.prefixes` predict its pieces."""

    question: int
    candidate: int
    text: str
    pieces: Ids
    places: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class CandidateForms:
    """Questions with every form of every candidate as tokens; equal beginnings stand once among the `prefixes`.

    The forms of one candidate after one question are disjoint. `unknown` are texts that the tokenizer cannot write.
    """

    questions: int
    candidates: tuple[str, ...]
    prefixes: tuple[Ids, ...]
    forms: tuple[Form, ...]
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, model: Model, questions: Prompts, candidates: Sequence[str], rules: Sequence[str] | None = ()
    ) -> CandidateForms:
        """Each candidate in its forms by these rules; None takes those that suit the model's tokenizer."""
        rules = usual_rules(model.tokenizer) if rules is None else rules
        texts = [(index, text) for index, word in enumerate(candidates) for text in word_forms(word, rules)]
        known = [each for each in texts if each[1] in candidates or _writes(model.tokenizer, each[1])]
        if len(known) > len(candidates):  # most forms fall together on some tokenizers: one question tells
            known = [(form.candidate, form.text) for form, _ in _encoded(model, questions[:1], known)[0]]
        found, notes = _encoded(model, questions, known)
        unknown = dict.fromkeys(text for _, text in texts if not _writes(model.tokenizer, text))
        prefixes: dict[Ids, int] = {}
        forms = []
        for form, asked in found:
            before = [asked + form.pieces[:k] for k in range(len(form.pieces))]
            forms.append(
                replace(form, places=tuple(prefixes.setdefault(each, len(prefixes)) for each in before))
            )
        return cls(len(questions), tuple(candidates), tuple(prefixes), tuple(forms), tuple(unknown), notes)

    def asked(self, size: int) -> Iterator[CandidateForms]:
        """Consecutive questions, `size` at a time."""
        for start in range(0, self.questions, size):
            own = [form for form in self.forms if start <= form.question < start + size]
            used = dict.fromkeys(place for form in own for place in form.places)
            at = {place: index for index, place in enumerate(used)}
            yield replace(
                self,
                questions=min(size, self.questions - start),
                prefixes=tuple(self.prefixes[place] for place in used),
                forms=tuple(
                    replace(
                        form, question=form.question - start, places=tuple(at[place] for place in form.places)
                    )
                    for form in own
                ),
            )

    def sums(self, network: Any) -> Float[Tensor, "form"]:
        """log p of every form in nats, with the graph of a network that keeps one."""
        where, labels, whose = self._entries
        found = torch.zeros(len(self.forms))
        for places, logits in prefix_logits(network, self.prefixes):
            logp = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
            row = torch.full((len(self.prefixes),), -1)
            row[places] = torch.arange(len(places))
            here = row[where] >= 0
            taken = logp[row[where[here]].to(logp.device), labels[here].to(logp.device)].cpu()
            found = found.to(taken).index_add(0, whose[here], taken)
        return found

    def table(self, sums: Float[Tensor, "form"]) -> Float[Tensor, "question candidate"]:
        """log p(candidate | question): the forms of each, added as probabilities."""
        width = len(self.candidates)
        own = torch.tensor([form.question * width + form.candidate for form in self.forms])
        return _added(sums, own, self.questions * width).reshape(self.questions, width)

    def mass(self, sums: Float[Tensor, "form"]) -> Float[Tensor, "question"]:
        """The probability that all candidates hold together, by question; what one holds of another counts once."""
        whole = torch.tensor([form in self._outermost for form in self.forms])
        own = torch.tensor([form.question for form in self.forms])
        return _added(sums[whole], own[whole], self.questions).exp()

    def texts(self) -> dict[str, dict[str, Ids]]:
        """The pieces of every form of every candidate: where questions disagree, those after the first of them."""
        found: dict[str, dict[str, Ids]] = {word: {} for word in self.candidates}
        for form in self.forms:
            found[self.candidates[form.candidate]].setdefault(form.text, form.pieces)
        return found

    @cached_property
    def _entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """For every piece: the prefix that predicts it, its token, and its form."""
        entries = [
            (place, piece, index)
            for index, form in enumerate(self.forms)
            for place, piece in zip(form.places, form.pieces, strict=True)
        ]
        where, labels, whose = (torch.tensor(side) for side in zip(*entries, strict=True))
        return where, labels, whose

    @cached_property
    def _outermost(self) -> frozenset[Form]:
        """The forms without those that another form holds, whatever its candidate, after the same question."""
        return frozenset(_outer(self.forms, [form.question for form in self.forms]))


def usual_rules(tokenizer: Any) -> tuple[str, ...]:
    """The rules that suit a tokenizer: case and space, and articles where it tells "The" from "the".

    A closed vocabulary of small letters, such as the toy's, writes words and no sentences.
    """
    upper, lower = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("The", "the"))
    return (*USUAL, "article") if upper != lower and _writes(tokenizer, "The") else USUAL


def _writes(tokenizer: Any, text: str) -> bool:
    """Whether the tokenizer knows a text: no unknown token, and nothing but its case and spaces lost."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids or tokenizer.unk_token_id in ids:
        return False
    back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return "".join(back.split()).casefold() == "".join(text.split()).casefold()


def _encoded(
    model: Model, questions: Prompts, texts: Sequence[tuple[int, str]]
) -> tuple[list[tuple[Form, Ids]], tuple[str, ...]]:
    """Every form after every question with the tokens before it, disjoint within a candidate; what the rows say."""
    rows = tuple(row.answered(text) for row in questions.rows for _, text in texts)
    encoded = model.encode(Prompts(rows, label=f"{questions.label} answers"))
    answer = encoded.at("answer")
    starts, sizes = answer.int().argmax(1).tolist(), answer.sum(1).tolist()
    forms, asked = [], {}
    for index, ids in enumerate(encoded.ids.tolist()):
        start, stop = starts[index], starts[index] + sizes[index]
        question, (candidate, text) = index // len(texts), texts[index % len(texts)]
        forms.append(Form(question, candidate, text, tuple(ids[start:stop]), ()))
        asked[forms[-1]] = tuple(ids[:start])
    kept = _outer(forms, [(form.question, form.candidate) for form in forms])
    return [(form, asked[form]) for form in kept], encoded.notes


def _outer(forms: Sequence[Form], groups: Sequence[Hashable]) -> list[Form]:
    """The forms in order, but for those that are written as, or go on from, another one of their group."""
    kept = []
    for rows in grouped(groups).values():
        own = {forms[row].pieces: row for row in reversed(rows)}  # of equal ones the first
        kept += [
            row for pieces, row in own.items() if not any(pieces[:k] in own for k in range(1, len(pieces)))
        ]
    return [forms[row] for row in sorted(kept)]


def _added(logs: Float[Tensor, "form"], into: Int[Tensor, "form"], count: int) -> Float[Tensor, "sum"]:
    """log Σ exp of the values that go into each of `count` sums; one value alone stays what it is."""
    top = torch.full((count,), -torch.inf, dtype=logs.dtype).scatter_reduce(0, into, logs.detach(), "amax")
    return top + torch.zeros_like(top).index_add(0, into, (logs - top[into]).exp()).log()
