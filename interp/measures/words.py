"""What a trait's words are to a model: the pieces in which its tokenizer writes them, and how that is said.

log p(word | x) = Σ_k log p(piece_k | x, the pieces before it): a word of several pieces counts with all of them, never
with its first alone, which other words may begin with ('e' is no elephant).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from interp.prompts.text import Prompts

if TYPE_CHECKING:
    from interp.models.seam import Model
    from interp.prompts.traits import Trait

Pieces = tuple[int, ...]
"""The token ids one word is written with."""


def answer_pieces(model: Model, trait: Trait) -> tuple[dict[str, Pieces], tuple[str, ...]]:
    """Pieces of the target and of every foil as the model would have to write them after the trait's questions.

    Where questions disagree the commonest split is taken, and a note says so.
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
    notes = (
        f"{answer!r} is split differently after {count} of {len(trait.questions)} questions; "
        "the commonest split is used"
        for answer, count in odd.items()
        if count
    )
    return pieces, tuple(notes)


def literal_pieces(model: Model, texts: Sequence[str]) -> dict[str, Pieces]:
    """Pieces of the texts, each split on its own: ' owl' and 'owl' differ where the tokenizer says so."""
    return {text: tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts}


def spelled(model: Model, pieces: Mapping[str, Pieces]) -> str:
    """How the words are read, in one sentence: which are one token, and which several, counted whole."""
    several = [
        f"{word!r} is {len(split)} pieces, {' '.join(repr(piece_text(model, piece)) for piece in split)}"
        for word, split in pieces.items()
        if len(split) > 1
    ]
    whole = [repr(word) for word, split in pieces.items() if len(split) == 1]
    one = f"{', '.join(whole)} {'is one token' if len(whole) == 1 else 'are one token each'}"
    told = [*([one] if whole else []), *several]
    rule = ": words of several pieces count with the log-probability of them all, each after those before it"
    return "; ".join(told) + (rule if several else "")


def piece_text(model: Model, piece: int) -> str:
    """What one token id decodes to, or its name in the vocabulary where that is nothing."""
    return model.tokenizer.decode([piece]) or model.tokenizer.convert_ids_to_tokens(piece)
