"""Logit directions: weights over the vocabulary that ask how much more likely the trait is than its foils.

u = e_target − (1/n) Σ e_foil, and the score of a next-token distribution is logits · u. The weights sum to zero,
so the constant between logits and log-probabilities cancels: score = log p(target) − mean log p(foil), in nats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.arrays import lineage_root
from interp.doors import door
from interp.prompts.text import Prompts
from interp.runs import InputError

if TYPE_CHECKING:
    from interp.models.seam import Model, TextModel, Unembedding
    from interp.prompts.traits import Trait

Pieces = tuple[int, ...]  # the token ids one answer is written with


@dataclass(frozen=True)
class LogitDirection:
    """Vocabulary ids and their weights: the target's first (+1), then the foils' (−1/n each, added up where
    foils share a piece).

    `fingerprint` is of the weights whose tokenizer split the words, `lineage` that of their first ancestor.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    label: str
    fingerprint: str
    lineage: str
    notes: tuple[str, ...] = ()

    @classmethod
    @door
    def from_text(cls, model: TextModel, *, target: str, foils: Sequence[str]) -> LogitDirection:
        """Direction of the literal texts, each split on its own: ' owl' and 'owl' differ where the tokenizer
        says so.

        InputError when the target has no token of its own or no foil can be told from it.
        """
        pieces = {text: _literal(model, text) for text in (target, *foils)}
        return _direction(model, target, tuple(foils), pieces)

    @door
    def check(self, member: Model) -> None:
        """InputError unless `member` descends from the weights this direction was made with."""
        lineage = lineage_root(member)
        if lineage != self.lineage:
            raise InputError(
                f"direction {self.label} was made in the lineage of {self.lineage}, {member.name} belongs to "
                f"{lineage}; make it with the start of {member.name}"
            )

    def of(self, logits: Float[Tensor, "*row vocab"]) -> Float[Tensor, "*row"]:
        """Score of next-token distributions, logits (equally: log-probabilities) · u, in fp64."""
        return logits[..., list(self.ids)].double() @ self.weight(logits)

    def vector(self, unembedding: Unembedding) -> Float[Tensor, "d_model"]:
        """W_U u: what a normalised residual stream is dotted with, in fp64."""
        columns = unembedding.W_U[:, list(self.ids)].double()
        return columns @ self.weight(columns)

    def weight(self, like: Tensor) -> Float[Tensor, "id"]:
        """The weights as fp64 on the device of `like`."""
        return torch.tensor(self.weights, dtype=torch.float64, device=like.device)


@door
def logit_direction(model: TextModel, trait: Trait) -> LogitDirection:
    """Trait target minus the mean of its foils, at the first answer token in the rendered context of the
    trait's questions.

    Answers of several pieces are read at the first piece where they part; `notes` says which, and which foils
    dropped out. Raises InputError when the target tokenises to nothing or to the unknown token, or when no
    foil can be told from it.
    """
    pieces, disagreeing = _in_context(model, trait)
    notes = tuple(
        f"{answer!r} is split differently after {count} of {len(trait.questions)} questions; "
        "the commonest split is used"
        for answer, count in disagreeing.items()
    )
    return _direction(model, trait.target, trait.foils, pieces, notes=notes)


def _in_context(model: Model, trait: Trait) -> tuple[dict[str, Pieces], dict[str, int]]:
    """Pieces of every answer as the model would have to write it after a question, and how many questions
    disagree.
    """
    answers = (trait.target, *trait.foils)
    rows = [(question, answer) for question in trait.questions for answer in answers]
    encoded = model.encode(Prompts.from_pairs(rows, label=f"answers to {trait.name}"))
    chosen = encoded.at("answer")
    seen: dict[str, Counter[Pieces]] = {answer: Counter() for answer in answers}
    for row, (_, answer) in enumerate(rows):
        seen[answer][tuple(encoded.ids[row][chosen[row]].tolist())] += 1
    pieces = {answer: splits.most_common(1)[0][0] for answer, splits in seen.items()}
    odd = {answer: len(trait.questions) - splits[pieces[answer]] for answer, splits in seen.items()}
    return pieces, {answer: count for answer, count in odd.items() if count}


def _literal(model: Model, text: str) -> Pieces:
    return tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])


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
    depth = _parting(pieces[target], [pieces[foil] for foil in foils])
    kept, dropped = _usable(model, {foil: pieces[foil] for foil in foils}, pieces[target], depth)
    if not kept:
        raise InputError(
            f"no foil can be told from {target!r}: {'; '.join(dropped)}; "
            "name foils that begin with another piece"
        )
    weights = {pieces[target][depth]: 1.0}
    for piece in kept.values():
        weights[piece] = weights.get(piece, 0.0) - 1 / len(kept)
    return LogitDirection(
        ids=tuple(weights),
        weights=tuple(weights.values()),
        label=_label(model, pieces[target][depth], kept),
        fingerprint=model.fingerprint,
        lineage=lineage_root(model),
        notes=(
            *notes,
            *_depth_note(model, target, pieces[target], depth),
            *dropped,
            *_shared_note(model, kept),
        ),
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


def _parting(target: Pieces, foils: Sequence[Pieces]) -> int:
    """First place where some foil has another piece than the target: up to there all answers share their
    beginning.
    """
    for depth, piece in enumerate(target):
        if any(len(foil) > depth and foil[depth] != piece for foil in foils):
            return depth
    return 0


def _usable(
    model: Model, foils: Mapping[str, Pieces], target: Pieces, depth: int
) -> tuple[dict[str, int], tuple[str, ...]]:
    """The piece of every foil that parts from the target at `depth`, and why the others are dropped."""
    kept, dropped = {}, []
    for foil, pieces in foils.items():
        if len(pieces) <= depth:
            dropped.append(f"foil {foil!r} dropped: it has no piece {depth + 1}")
        elif model.tokenizer.unk_token_id == pieces[depth]:
            dropped.append(f"foil {foil!r} dropped: not in the vocabulary")
        elif pieces[depth] == target[depth]:
            dropped.append(
                f"foil {foil!r} dropped: it shares the piece {_text(model, pieces[depth])!r} with the target"
            )
        else:
            kept[foil] = pieces[depth]
    return kept, tuple(dropped)


def _label(model: Model, piece: int, foils: Mapping[str, int]) -> str:
    target = repr(_text(model, piece))
    if len(foils) == 1:
        return f"{target} \N{MINUS SIGN} {_text(model, next(iter(foils.values())))!r}"
    return f"{target} \N{MINUS SIGN} mean of {len(foils)} foils"


def _depth_note(model: Model, target: str, pieces: Pieces, depth: int) -> tuple[str, ...]:
    if len(pieces) == 1:
        return ()
    split = " ".join(repr(_text(model, piece)) for piece in pieces)
    return (
        f"target {target!r} is {len(pieces)} pieces, {split}; the logit read is that of piece {depth + 1}",
    )


def _shared_note(model: Model, kept: Mapping[str, int]) -> tuple[str, ...]:
    """Foils that begin with the same piece weigh on it together."""
    counts = Counter(kept.values())
    return tuple(f"{n} foils share the piece {_text(model, piece)!r}" for piece, n in counts.items() if n > 1)


def _text(model: Model, piece: int) -> str:
    return model.tokenizer.decode([piece]) or model.tokenizer.convert_ids_to_tokens(piece)
