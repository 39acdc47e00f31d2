"""What a trait's words are to a model: the forms in which it may write them, their pieces, and how that is said.

log p(word | x) = Σ_k log p(piece_k | x, the pieces before it): a word of several pieces counts with all of them, never
with its first alone, which other words may begin with ('e' is no elephant). What reads one spelling of a word and not
its probability takes the same for all words, the one that the model answers with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from interp.measures.candidates import CandidateForms
from interp.models.once import made_once
from interp.models.precision import exactly
from interp.prompts.forms import spellings
from interp.prompts.text import Prompts

if TYPE_CHECKING:
    from interp.models.seam import Model
    from interp.prompts.traits import Trait

Pieces = tuple[int, ...]
"""The token ids one word is written with."""
SHOWN_FORMS = 6
QUESTIONS = 256  # read at once


def trait_candidates(model: Model, trait: Trait, questions: Prompts | None = None) -> CandidateForms:
    """The trait's questions, or others, with target and foils in their forms, the target first."""
    asked = trait.prompts() if questions is None else questions
    return CandidateForms.of(model, asked, (trait.target, *trait.foils), trait.forms)


def answer_pieces(model: Model, trait: Trait) -> tuple[dict[str, Pieces], tuple[str, ...]]:
    """Pieces of the target and of every foil, each in the one spelling that `spelling` takes; how that is said.

    Where questions disagree the commonest split is taken, and a note says so.
    """
    answers = trait_candidates(model, trait)
    texts = spelling(model, answers)
    seen: dict[str, Counter[Pieces]] = {word: Counter() for word in texts}
    for form in answers.forms:
        word = answers.candidates[form.candidate]
        if form.text == texts[word]:
            seen[word][form.pieces] += 1
    pieces = {word: splits.most_common(1)[0][0] for word, splits in seen.items()}
    odd = {texts[word]: answers.questions - splits[pieces[word]] for word, splits in seen.items()}
    split = (
        f"{text!r} is split differently after {count} of {answers.questions} questions; "
        "the commonest split is used"
        for text, count in odd.items()
        if count
    )
    one = (
        f"one spelling of each word is read, {texts[trait.target]!r}, of all that the margin adds up: the one that "
        f"{model.name} answers with most"
    )
    return pieces, (*split, *([one] if len(answers.forms) > answers.questions * len(texts) else []))


def spelling(model: Model, answers: CandidateForms) -> dict[str, str]:
    """Of every candidate one form: the same of the four `spellings` for all, the one that its answers hold most of.

    Held is the probability of all candidates in that spelling, mean over questions; where none of the four is a form of
    all candidates, each one's own of fewest pieces.
    """
    known = answers.texts()
    alike = [dict(zip(known, texts, strict=True)) for texts in zip(*map(spellings, known), strict=True)]
    alike = [named for named in alike if all(text in known[word] for word, text in named.items())]
    if not alike:
        return {word: min(forms, key=lambda text: len(forms[text])) for word, forms in known.items()}
    if len(alike) == 1:
        return alike[0]
    held = made_once(model, "spellings", partial(_held, model, answers), answers.prefixes, known)
    return max(alike, key=lambda named: sum(held[word, text] for word, text in named.items()))


@exactly
@torch.inference_mode()
def _held(model: Model, answers: CandidateForms) -> dict[tuple[str, str], float]:
    """Probability of every form of every candidate, mean over the questions."""
    found: dict[tuple[str, str], float] = {}
    for part in answers.asked(QUESTIONS):
        for form, p in zip(part.forms, part.sums(model).double().exp().tolist(), strict=True):
            name = answers.candidates[form.candidate], form.text
            found[name] = found.get(name, 0.0) + p / answers.questions
    return found


def forms_told(model: Model, answers: CandidateForms) -> tuple[str, ...]:
    """How candidates are read, which forms dropped out, and whether target and foils differ in pieces."""
    known = answers.texts()
    target, *foils = known
    if all(len(forms) == 1 for forms in known.values()):
        told = [spelled(model, {word: pieces for word, forms in known.items() for pieces in forms.values()})]
    else:
        shown = [_split(model, text, pieces) for text, pieces in list(known[target].items())[:SHOWN_FORMS]]
        more = len(known[target]) - len(shown)
        told = [
            f"{target!r} is read as {', '.join(shown)}{f' and {more} more' * (more > 0)}, the other words likewise: "
            "an answer that begins with one of a word's forms counts, their probabilities added"
        ]
    if answers.unknown:
        more = len(answers.unknown) - SHOWN_FORMS
        words = ", ".join(map(repr, answers.unknown[:SHOWN_FORMS])) + f" and {more} more" * (more > 0)
        told.append(f"forms left out, which the tokenizer does not know: {words}")
    sizes = {word: sorted({len(pieces) for pieces in forms.values()}) for word, forms in known.items()}
    if any(sizes[foil] != sizes[target] for foil in foils):
        others = sorted({size for foil in foils for size in sizes[foil]})
        told.append(
            f"target and foils differ in pieces ({target!r} is written in {_span(sizes[target])}, its foils in "
            f"{_span(others)}), which costs the longer ones probability: compare the margin with another model's, "
            "not with zero"
        )
    told += [
        f"answers of {inner!r} begin as {outer!r} does and count for both, so they hardly compare; take another word"
        for outer, inner in _shared(known)
    ]
    return tuple(told)


def _shared(known: Mapping[str, Mapping[str, Pieces]]) -> list[tuple[str, str]]:
    """Pairs of words of which the first has a form that a form of the second begins with."""
    return [
        (outer, inner)
        for outer, short in known.items()
        for inner, long in known.items()
        if outer != inner and any(b[: len(a)] == a for a in short.values() for b in long.values())
    ]


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


def _split(model: Model, text: str, pieces: Pieces) -> str:
    parts = " ".join(repr(piece_text(model, piece)) for piece in pieces)
    return f"{text!r} ({parts})" if len(pieces) > 1 else repr(text)


def _span(sizes: Sequence[int]) -> str:
    return f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"


def piece_text(model: Model, piece: int) -> str:
    """What one token id decodes to, or its name in the vocabulary where that is nothing."""
    return model.tokenizer.decode([piece]) or model.tokenizer.convert_ids_to_tokens(piece)
