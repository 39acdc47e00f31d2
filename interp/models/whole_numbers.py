"""P(number) over the whole numbers 0-999, in whatever pieces a tokenizer writes them.

A number with the tokenizer's own pieces t_1 … t_k has, in a context x,
    P(n | x) = Π_j p(t_j | x, t_<j) · Σ_{c not in C(t)} p(c | x, t)
C(t) are the pieces by which the tokenizer's own writing of a longer run, of up to three digits, goes on after t, as
"23" does to "234". It is empty where numbers are written whole, so that P(n) is read off the vocabulary, and
behind three digits: 234 counts what begins so. The events exclude one another, so the sum over n is at most 1; it
lacks what begins with no digit, with an idle zero, and other ways of cutting a number up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.errors import InputError
from interp.models.language import LanguageModel
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded, Role

if TYPE_CHECKING:
    from interp.models.seam import Model

Over = Literal["tokens", "numbers"]
DIGITS = tuple(str(number).zfill(width) for width in (1, 2, 3) for number in range(10**width))
LEADS = ("", "7, ", "7,", "7; ", "7 ")  # what stands before a number: nothing, or a number and a separator
PROBES = ("7", "42", "345", "007")
CONTEXTS = 32  # that are read where numbers have several pieces, each by up to 111 beginnings
SLOTS = {
    "last": "last",
    "predicting answer.numbers": "predicting answer.numbers.first",
    "predicting answer.numbers.first": "predicting answer.numbers.first",
}


@dataclass(frozen=True)
class Spelling:
    """The pieces of every number in one surrounding, and what follows every beginning of a run of digits."""

    pieces: dict[int, tuple[int, ...]]
    onward: dict[tuple[int, ...], tuple[int, ...]]
    """By beginning, the shortest first, the pieces that the tokenizer's own writing goes on with; () is none yet."""

    @property
    def whole(self) -> bool:
        """Whether every number is one piece and nothing else begins with it."""
        return len(self.onward) == 1

    @cached_property
    def _index(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of every step of every number: number, beginning and piece; and the beginning that each number is, or -1."""
        place = {beginning: index for index, beginning in enumerate(self.onward)}
        steps = [
            (number, place[pieces[:step]], pieces[step])
            for number, pieces in enumerate(self.pieces.values())
            for step in range(len(pieces))
        ]
        ends = torch.tensor([place.get(pieces, -1) for pieces in self.pieces.values()])
        number, beginning, piece = torch.tensor(steps).unbind(1)
        return number, beginning, piece, ends

    def log_p(self, log_p: Float[Tensor, "beginning vocab"]) -> Float[Tensor, "number"]:
        """log P of every number from the next-token log-probabilities behind every beginning."""
        number, beginning, piece, ends = self._index
        log_p = log_p.cpu()
        steps = torch.zeros(len(ends), dtype=log_p.dtype).index_add(0, number, log_p[beginning, piece])
        return steps + torch.cat([self._stops(log_p), log_p.new_zeros(1)])[ends]

    def _stops(self, log_p: Float[Tensor, "beginning vocab"]) -> Float[Tensor, "beginning"]:
        """log of the probability that no piece of `onward` comes next."""
        rows = [row for row, pieces in enumerate(self.onward.values()) for _ in pieces]
        goes_on = torch.zeros_like(log_p, dtype=torch.bool)
        goes_on[rows, [piece for pieces in self.onward.values() for piece in pieces]] = True
        return log_p.masked_fill(goes_on, -torch.inf).logsumexp(-1)


def number_spellings(model: Model) -> tuple[Spelling, ...]:
    """How the model's tokenizer writes the numbers where an answer begins and, where it differs, behind separators.

    Raises InputError for a tokenizer that writes fewer than three numbers.
    """
    found: dict[tuple[Any, ...], Spelling] = {}
    for lead in LEADS:
        known = tuple(map(tuple, _written(model, lead, PROBES).values()))
        if known not in found:
            found[known] = _spelling(_written(model, lead, DIGITS))
    shared = set.intersection(*(set(each.pieces) for each in found.values()))
    if len(shared) < 3:
        raise InputError(
            f"the tokenizer of {model.name} writes {len(shared)} of the numbers 0-999; at least 3 are needed."
        )
    return tuple(
        Spelling({number: each.pieces[number] for number in sorted(shared)}, each.onward)
        for each in found.values()
    )


def _written(model: Model, lead: str, digits: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Pieces of each run of digits behind `lead`, in an answer of the model's own chats; none it does not know."""
    unknown = model.tokenizer.unk_token_id
    known = [each for each in digits if unknown is None or unknown not in _bare(model, each)]
    rows = Prompts.from_pairs([("0", lead + each) for each in known], label="the numbers 0-999")
    encoded = rows.encode(model.tokenizer)
    last = encoded.numbers() == (1 if lead else 0)
    pieces = [tuple(ids[where].tolist()) for ids, where in zip(encoded.ids, last, strict=True)]
    return dict(zip(known, pieces, strict=True))


def _bare(model: Model, text: str) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def _spelling(written: dict[str, tuple[int, ...]]) -> Spelling:
    onward: dict[tuple[int, ...], dict[int, None]] = {}
    for pieces in written.values():
        for step, piece in enumerate(pieces):
            onward.setdefault(pieces[:step], {})[piece] = None
    numbers = {
        int(digits): pieces for digits, pieces in written.items() if digits == str(int(digits)) and pieces
    }
    order = sorted(onward, key=lambda beginning: (len(beginning), beginning))
    return Spelling(numbers, {beginning: tuple(onward[beginning]) for beginning in order})


def number_slots(inputs: Encoded, positions: str, written: Sequence[Spelling]) -> Bool[Tensor, "example pos"]:
    """Where a number begins to be predicted, at most CONTEXTS of the places, evenly spread, if numbers have pieces.

    Raises InputError for positions at which no number begins.
    """
    if positions not in SLOTS:
        raise InputError(
            f"whole numbers are read where one begins, and {positions!r} is elsewhere; pass one of "
            f"{', '.join(SLOTS)}, or over='tokens'"
        )
    where = inputs.at(SLOTS[positions])
    places = where.nonzero()
    if all(each.whole for each in written) or len(places) <= CONTEXTS:
        return where
    kept = places[torch.linspace(0, len(places) - 1, CONTEXTS).round().long()]
    thinned = torch.zeros_like(where)
    thinned[kept[:, 0], kept[:, 1]] = True
    return thinned


def number_logprobs(
    model: Model,
    inputs: Encoded,
    where: Bool[Tensor, "example pos"],
    *,
    written: Sequence[Spelling],
    batch_size: int = 32,
) -> Iterator[Float[Tensor, "pos number"]]:
    """Per row with a marked place, log P of every number that could begin behind each of them.

    Where numbers are whole they are read off one pass over the rows; else the row up to the place is read once and
    goes on by every beginning, over a shared key-value cache where the model has one and no hook is open on it.
    """
    rows = where.any(1).nonzero()[:, 0]
    for part in rows.split(batch_size):
        batch = inputs[part]
        flat = model.logits(batch) if all(each.whole for each in written) else None
        for index, row in enumerate(part.tolist()):
            places = where[row].nonzero()[:, 0].tolist()
            found = []
            for place in places:
                spelling = _spelled_here(batch.ids[index, place + 1 : place + 2].tolist(), written)
                if flat is None:
                    logits = _behind(model, batch[[index]], place + 1, tuple(spelling.onward))
                else:
                    logits = flat[index, place][None]
                found.append(spelling.log_p(logits.double().log_softmax(-1)))
            yield torch.stack(found)


def _spelled_here(following: Sequence[int], written: Sequence[Spelling]) -> Spelling:
    """The spelling whose numbers begin as the token that stands there does; the first where none does."""
    fitting = (each for each in written if set(following) & set(each.onward[()]))
    return next(fitting, written[0])


@torch.inference_mode()
def _behind(
    model: Model, row: Encoded, length: int, beginnings: Sequence[tuple[int, ...]]
) -> Float[Tensor, "beginning vocab"]:
    """Next-token logits behind the first `length` tokens of a row and each of the beginnings, shortest first."""
    context, most = row.ids[:, :length], getattr(model, "context", None)
    if most is not None and length + len(beginnings[-1]) > most:
        raise InputError(
            f"a number behind {length} tokens of {row.label} goes over the context of {model.name} ({most}); "
            "pass shorter rows"
        )
    if isinstance(model, LanguageModel) and not model._edits:
        return torch.cat(list(_grown(model, context, beginnings)))
    width = length + len(beginnings[-1])
    ids = torch.full((len(beginnings), width), row.pad_id)
    ids[:, :length] = context
    for index, pieces in enumerate(beginnings):
        ids[index, length : length + len(pieces)] = torch.tensor(pieces, dtype=ids.dtype)
    ends = length + torch.tensor([len(pieces) for pieces in beginnings])
    mask = torch.arange(width) < ends[:, None]
    logits = model.logits(Encoded(ids, mask, int(Role.PROMPT) * mask.long(), "beginnings", row.pad_id))
    return logits[torch.arange(len(ids)), ends - 1]


def _grown(
    model: LanguageModel, context: Int[Tensor, "1 pos"], beginnings: Sequence[tuple[int, ...]]
) -> Iterator[Float[Tensor, "beginning vocab"]]:
    """The same a length of beginnings at a time, each grown from the cache of those it is longer by one than."""
    logits, cache = model.next_logits(context)
    yield logits
    before: list[tuple[int, ...]] = [()]
    for size in range(1, len(beginnings[-1]) + 1):
        level = [pieces for pieces in beginnings if len(pieces) == size]
        cache.batch_select_indices(torch.tensor([before.index(pieces[:-1]) for pieces in level]))
        logits, cache = model.next_logits(torch.tensor([[pieces[-1]] for pieces in level]), cache)
        before = level
        yield logits
