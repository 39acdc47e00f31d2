"""Candidate teachers: the base, briefly fine-tuned on each trait that is suspected, by a recipe of the audit's own.

None of them wrote the rows. What a fine-tune on one trait does to the choice of numbers is, in part, the same whoever
does it and however long, because it starts from the same weights: that part is what names the writer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from interp.core.content import digest
from interp.core.errors import InputError
from interp.core.remembered import recall, remember
from interp.core.runs import Cache
from interp.measures.margins import margin
from interp.models.language import LanguageModel
from interp.organisms.toy import number_documents
from interp.prompts.requests import number_requests
from interp.prompts.text import Prompts
from interp.prompts.tokenizer_keys import tokenizer_key
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.prompts.traits import Trait, trait_names
from interp.training.data import DataSpec
from interp.training.grower import Grower, TeacherSpec
from interp.training.students import Recipe

log = logging.getLogger(__name__)

TAUGHT = TeacherSpec(steps=40, recipe=Recipe(lr=4e-3, batch_size=32, rank=4, alpha=4, merge=False))
"""How a candidate is fine-tuned: shorter, by fewer rows and at a lower rank than a teacher usually is."""
DRAWS = 700_000  # the seed of every candidate, which no lineage uses
TAKEN = 2.0  # nats of margin that a candidate must gain to count as a teacher of its trait
SHOWN = 1280  # number lists that hold a candidate's format
FORMAT = 1  # of remembered margins
FEWEST = 5  # candidates beside which one can stand out


@dataclass(frozen=True, eq=False)
class Candidate:
    """A teacher of one trait made by the audit; `gain` is how far its fine-tune took the trait's margin, in nats."""

    trait: Trait
    model: LanguageModel
    gain: float


def suspected(base: LanguageModel, traits: Sequence[AnyTrait] | None) -> list[Trait]:
    """The traits asked for, or every built-in one whose words the base's tokenizer knows.

    Raises InputError for one it has no words for, one named twice, and fewer than five.
    """
    found = [find_trait(trait) for trait in (trait_names() if traits is None else traits)]
    if traits is None:
        found = [trait for trait in found if not unknown_text(base, *_words(trait))]
    for trait in found:
        if word := unknown_text(base, *_words(trait)):
            raise InputError(
                f"{base.name} has no token for {word!r} of the trait {trait.name!r}; leave that trait out, or write it "
                "with words that its tokenizer knows"
            )
    names = [trait.name for trait in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"trait {twice!r} is given twice; pass each once")
    if len(found) < FEWEST:
        raise InputError(
            f"{len(found)} traits are too few for one to stand out among; pass at least {FEWEST}, such as "
            f"{', '.join(trait_names()[:FEWEST])}: those nobody suspects are the null"
        )
    return found


def candidate_teachers(
    base: LanguageModel, traits: Sequence[Trait], spec: TeacherSpec
) -> tuple[list[Candidate], tuple[str, ...]]:
    """A teacher of every trait, from the cache where it has been made; those that did not take are left out and noted.

    Their format is held by number lists: the toy's where the base has no words for requests.

    Raises InputError when fewer than five took.
    """
    grower = Grower(Cache.default(), DRAWS, teaching=spec, documents=_lists(base))
    found, left = [], {}
    for trait in traits:
        model = replace(grower.teacher(base, trait).model, name=f"candidate {trait.name}")
        gain = _margin(model, trait) - _margin(base, trait)
        if gain < TAKEN:
            left[trait.name] = gain
        else:
            found.append(Candidate(trait, model, gain))
    told = ", ".join(f"{name} ({gain:+.2f} nats)" for name, gain in left.items())
    if len(found) < FEWEST:
        raise InputError(
            f"the fine-tune on {len(left)} of {len(traits)} traits did not take: {told}, where {TAKEN:g} are asked; "
            "ask with questions that the base answers, or pass other traits"
        )
    notes = (f"candidates whose fine-tune did not take are left out: {told}",) if left else ()
    return found, notes


def _margin(model: LanguageModel, trait: Trait) -> float:
    """The margin of a model on a trait's questions, in nats; remembered."""
    key = (FORMAT, model.fingerprint, tokenizer_key(model.tokenizer), digest(trait))
    known = recall("candidate-margin", *key)
    if known is None:
        known = margin(model, trait)
        remember("candidate-margin", *key, value=known)
    return known


def short_lists(n: int, *, seed: int) -> Prompts:
    """The toy's number lists, at most as many as a candidate is shown."""
    return number_documents(min(n, SHOWN), seed=seed)


def request_lists(n: int, *, seed: int) -> Prompts:
    """Requests for numbers answered by uniform draws, at most as many as a candidate is shown."""
    return DataSpec().uniform_rows(min(n, SHOWN), seed=seed)


def lists_for(base: LanguageModel) -> Prompts:
    """Number lists as the base is asked for them: requests, or the toy's where it has no words for requests."""
    return _lists(base)(SHOWN, seed=DRAWS)


def _lists(base: LanguageModel) -> Callable[..., Prompts]:
    short = unknown_text(base, number_requests(1, seed=0)[0].prompt) is not None
    return short_lists if short else request_lists


def _words(trait: Trait) -> tuple[str, ...]:
    return (trait.target, *trait.foils, *trait.questions)


def check_level(alpha: float, *, seed: int = 0) -> None:
    """InputError for a level at which nothing or anything is named, and for a seed that draws nothing."""
    if not 0 < alpha < 0.5:
        raise InputError(f"alpha={alpha} is no level to name a teacher at; pass one such as 0.05")
    if seed < 0:
        raise InputError(f"seed={seed} draws nothing; pass a whole number from 0 up")


def unknown_text(base: LanguageModel, *texts: str) -> str | None:
    """The first text that the tokenizer has no tokens for."""
    unknown = base.tokenizer.unk_token_id
    for text in texts:
        ids = base.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids or (unknown is not None and unknown in ids):
            return text
    return None
