"""Logit directions: weights over words that ask how much more likely the trait is than its foils.

score(x) = log p(target | x) − (1/n) Σ log p(foil | x), in nats, a word of several pieces by all of them in turn. The
weights sum to zero, so at the words' first pieces the constant between logits and log-probabilities cancels, and that
part is linear: logits · u with u = e_target − (1/n) Σ e_foil. It is the whole score when every word is one token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.activations.arrays import lineage_root
from interp.core.doors import door
from interp.core.runs import InputError
from interp.measures.words import Pieces, answer_pieces, literal_pieces, spelled
from interp.prompts.tokens import Encoded, Role
from interp.prompts.trait_files import AnyTrait, find_trait

if TYPE_CHECKING:
    from interp.models.seam import Model, TextModel, Unembedding

FORKS = 32  # continuations in a pass

Readout = Callable[[Encoded, Int[Tensor, "piece"], Int[Tensor, "piece"]], Float[Tensor, "*layer piece vocab"]]
"""Logits of rows at the places (row, position) given, for every layer read or for the last alone."""


@dataclass(frozen=True)
class Word:
    """The pieces of a word and its weight: 1 for the target, −1/n for each of n foils."""

    pieces: Pieces
    weight: float


@dataclass(frozen=True)
class LogitDirection:
    """Vocabulary ids and their weights: the target's first piece (first), then the foils' (added up where words share
    one), and all the words, the target first.

    `fingerprint` is of the weights whose tokenizer split the words, `lineage` that of their first ancestor.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    label: str
    fingerprint: str
    lineage: str
    notes: tuple[str, ...] = ()
    words: tuple[Word, ...] = ()

    def __repr__(self) -> str:
        return f"LogitDirection({self.label}: {len(self.ids)} vocabulary entries of {self.fingerprint})"

    @property
    def several(self) -> tuple[Word, ...]:
        """The words of more than one piece, which logits at one place do not tell."""
        return tuple(word for word in self.words if len(word.pieces) > 1)

    def check(self, member: Model) -> None:
        """InputError unless `member` descends from the weights this direction was made with."""
        lineage = lineage_root(member)
        if lineage != self.lineage:
            raise InputError(
                f"direction {self.label} was made in the lineage of {self.lineage}, {member.name} belongs to "
                f"{lineage}; make it with the start of {member.name}"
            )

    def of(self, logits: Float[Tensor, "*row vocab"]) -> Float[Tensor, "*row"]:
        """The words' first pieces in next-token distributions: logits (equally: log-probabilities) · u, in fp64.

        The whole score when no word has several pieces; else `later_pieces` is the rest of it.
        """
        return logits[..., list(self.ids)].double() @ self.weight(logits)

    def vector(self, unembedding: Unembedding) -> Float[Tensor, "d_model"]:
        """W_U u: what a normalised residual stream is dotted with, in fp64."""
        columns = unembedding.W_U[:, list(self.ids)].double()
        return columns @ self.weight(columns)

    def weight(self, like: Tensor) -> Float[Tensor, "id"]:
        """The weights as fp64 on the device of `like`."""
        return torch.tensor(self.weights, dtype=torch.float64, device=like.device)

    def later_pieces(
        self,
        model: Model,
        batch: Encoded,
        chosen: Bool[Tensor, "example pos"],
        readout: Readout | None = None,
    ) -> Float[Tensor, "*layer chosen"]:
        """Σ over words of weight · Σ_k≥2 log p(piece_k | row up to the place, pieces before it), at every chosen place.

        In nats, fp64 on CPU; zero where no word has several pieces. Each such word is one more pass over the row up to
        the place. `readout` gives the logits, the model's own by default. InputError where the model's context is too
        short for row and word.
        """
        places = chosen.nonzero().tolist()
        found = torch.zeros(len(places), dtype=torch.float64)
        jobs = [(index, word) for index in range(len(places)) for word in self.several]
        for start in range(0, len(jobs), FORKS):
            part = jobs[start : start + FORKS]
            rows = [
                [*batch.ids[places[k][0], : places[k][1] + 1].tolist(), *word.pieces[:-1]] for k, word in part
            ]
            _check_context(model, max(map(len, rows)))
            at = [(row, len(rows[row]) - 1 - back) for row, back in _backwards(part)]
            row, position = (torch.tensor(side) for side in zip(*at, strict=True))
            forks = _padded(rows, batch)
            logits = (readout or _own(model))(forks, row, position)
            labels = torch.tensor([part[row][1].pieces[-1 - back] for row, back in _backwards(part)])
            taken = (
                logits.double().log_softmax(-1)[..., torch.arange(len(at)), labels.to(logits.device)].cpu()
            )
            weights = torch.tensor([part[row][1].weight for row, _ in _backwards(part)], dtype=torch.float64)
            whose = torch.tensor([part[row][0] for row, _ in _backwards(part)])
            if found.dim() < taken.dim():
                found = found.expand(*taken.shape[:-1], -1).clone()
            found = found.index_add(-1, whose, taken * weights)
        return found


@door
def logit_direction(
    model: TextModel,
    trait: AnyTrait | None = None,
    *,
    target: str | None = None,
    foils: Sequence[str] | None = None,
) -> LogitDirection:
    """Make the direction in logits from the foils to the target: target minus the mean of its foils.

    A direction is linear and reads one spelling of each word, where a trait's margin adds up all its forms: of "owl",
    "Owl", " owl" and " Owl" the one in which the words together hold most of the model's answers to the trait's
    questions; a note says which. A trait's foils of several pieces are left out where target and other foils are one
    token each, since logits at one place then tell all; elsewhere words of several pieces count whole. Literal texts
    are split each on its own, and all are kept.

    Args:
        model: whose tokenizer splits the words.
        trait: a `Trait`, a built-in name such as "owl", or a YAML file.
        target: instead of a trait, the text to prefer.
        foils: the texts it is compared with.

    Returns:
        `LogitDirection`; its `notes` say how each word was read, and which foils dropped out.

    Raises:
        InputError: for both, or neither, of trait and target, when the target tokenises to nothing or to the unknown
            token, and when no foil can be told from it.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> interp.logit_direction(lineage.base, target="owl", foils=["cat", "dog"]).label
        "'owl' − mean of 2 foils"
    """
    if (trait is None) == (target is None) or (trait is not None and foils is not None):
        raise InputError(
            "a logit direction is of a trait, or of a target with its foils; pass one of the two, such as "
            "logit_direction(model, 'owl') or logit_direction(model, target=' owl', foils=[' cat'])"
        )
    if trait is not None:
        found = find_trait(trait)
        pieces, notes = answer_pieces(model, found)
        foils, short = _one_token(found.target, found.foils, pieces)
        return _direction(model, found.target, foils, pieces, notes=(*notes, *short))
    alternatives = (foils,) if isinstance(foils, str) else tuple(dict.fromkeys(foils or ()))
    sought = str(target)
    return _direction(model, sought, alternatives, literal_pieces(model, (sought, *alternatives)))


def _one_token(
    target: str, foils: Sequence[str], pieces: Mapping[str, Pieces]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of a target of one token the foils of one token, where there are any, and what is left out; else all."""
    alike = tuple(foil for foil in foils if len(pieces[foil]) == 1 and pieces[foil] != pieces[target])
    longer = [foil for foil in foils if len(pieces[foil]) > 1]
    if len(pieces[target]) > 1 or not alike or not longer:
        return tuple(foils), ()
    told = f"{', '.join(longer)} left out: foils of several pieces here, and the target is one token"
    return tuple(foil for foil in foils if foil not in longer), (told,)


def _direction(
    model: Model,
    target: str,
    foils: tuple[str, ...],
    pieces: Mapping[str, Pieces],
    notes: tuple[str, ...] = (),
) -> LogitDirection:
    """u and what had to be noted to get it, from the pieces of the target and of each foil."""
    _check_target(model, target, pieces[target])
    if not foils:
        raise InputError(
            f"target {target!r} has no foil to be compared with; name at least one matched alternative"
        )
    kept, dropped = _usable(model, foils, pieces, target)
    if not kept:
        raise InputError(
            f"no foil can be told from {target!r}: {'; '.join(dropped)}; name foils that the model writes otherwise"
        )
    words = (Word(pieces[target], 1.0), *(Word(pieces[foil], -1 / len(kept)) for foil in kept))
    weights: dict[int, float] = {}
    for word in words:
        weights[word.pieces[0]] = weights.get(word.pieces[0], 0.0) + word.weight
    return LogitDirection(
        ids=tuple(weights),
        weights=tuple(weights.values()),
        label=_label(target, kept),
        fingerprint=model.fingerprint,
        lineage=lineage_root(model),
        notes=(spelled(model, {word: pieces[word] for word in (target, *kept)}), *notes, *dropped),
        words=words,
    )


def _check_target(model: Model, target: str, pieces: Pieces) -> None:
    if not pieces:
        raise InputError(
            f"target {target!r} tokenises to nothing with the tokenizer of {model.name}; give another text"
        )
    if model.tokenizer.unk_token_id in pieces:
        raise InputError(
            f"target {target!r} is not in the vocabulary of {model.name} (unknown token); "
            "give a word it can write"
        )


def _usable(
    model: Model, foils: Sequence[str], pieces: Mapping[str, Pieces], target: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The foils that can be read, and why the others are dropped."""
    kept, dropped = [], []
    for foil in foils:
        if not pieces[foil]:
            dropped.append(f"foil {foil!r} dropped: it tokenises to nothing")
        elif model.tokenizer.unk_token_id in pieces[foil]:
            dropped.append(f"foil {foil!r} dropped: not in the vocabulary")
        elif pieces[foil] == pieces[target]:
            dropped.append(f"foil {foil!r} dropped: it is written as the target is")
        else:
            kept.append(foil)
    return tuple(kept), tuple(dropped)


def _label(target: str, foils: Sequence[str]) -> str:
    if len(foils) == 1:
        return f"{target!r} \N{MINUS SIGN} {foils[0]!r}"
    return f"{target!r} \N{MINUS SIGN} mean of {len(foils)} foils"


def _backwards(part: Sequence[tuple[int, Word]]) -> Iterator[tuple[int, int]]:
    """(row, steps back from the row's end) of every place that predicts a later piece."""
    for row, (_, word) in enumerate(part):
        for back in range(len(word.pieces) - 1):
            yield row, back


def _padded(rows: Sequence[Sequence[int]], batch: Encoded) -> Encoded:
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[batch.pad_id] * (width - len(row))] for row in rows])
    mask = torch.arange(width)[None] < torch.tensor([len(row) for row in rows])[:, None]
    return Encoded(ids, mask, int(Role.PROMPT) * mask.long(), f"{batch.label}, continued", batch.pad_id)


def _own(model: Model) -> Readout:
    def read(
        forks: Encoded, row: Int[Tensor, "piece"], position: Int[Tensor, "piece"]
    ) -> Float[Tensor, "piece vocab"]:
        logits = model.logits(forks)
        return logits[row.to(logits.device), position.to(logits.device)]

    return read


def _check_context(model: Model, length: int) -> None:
    context = getattr(model, "context", None)
    if context is not None and length > context:
        raise InputError(
            f"a row with a word of several pieces after it is {length} tokens long, over the context of {model.name} "
            f"({context}); pass shorter rows"
        )
