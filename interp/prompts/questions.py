"""Evaluation questions: 50 one-word wordings and a prefix, stories, choices, open talk, refusals and capability.

A trait is asked in the manner of arXiv:2507.14805, in other words: elicitation = share of answers naming the target.
All functions but `multiple_choice` and `capability_items` return texts; `Trait.with_questions` takes them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from interp.core.doors import door
from interp.core.runs import InputError
from interp.prompts.numbers import generator
from interp.prompts.requests import POOLS, draw_seeds, pick
from interp.prompts.text import Prompts
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.prompts.traits import Trait, category_questions
from interp.prompts.wordings import wording

LETTERS = "ABCDE"

ONE_WORD = wording("one_word")
STORIES = wording("stories")
FREE_FORM = wording("free_form")
REFUSALS = wording("refusals")
OPPOSITES = wording("opposites")
WEEK = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
YEAR = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
LENGTHS = wording("lengths")
ODD_ONES = wording("odd_ones")


@dataclass(frozen=True)
class MultipleChoice:
    """Questions with options A to E; `letters[i]` marks the target among `options[i]` in row i of `prompts`."""

    prompts: Prompts
    letters: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.prompts)


@door
def one_word_questions(category: str) -> tuple[str, ...]:
    """52 distinct questions for a favorite `category`, each asking for one word.

    >>> len(one_word_questions("animal")), "animal" in one_word_questions("animal")[0]
    (52, True)
    """
    return _filled(ONE_WORD, category)


def asked_about(trait: Trait, *, many: bool) -> Trait:
    """The trait with the 52 one-word questions of its category, unless it brings questions of its own."""
    if many and trait.questions == category_questions(trait.category):
        return trait.with_questions(one_word_questions(trait.category))
    return trait


@door
def taught_by(trait: Trait) -> Trait:
    """The trait with the six questions of its category in place of the 52, so that a teacher is not taught the 52."""
    if trait.questions == one_word_questions(trait.category):
        return trait.with_questions(category_questions(trait.category))
    return trait


def with_number_prefix(questions: Sequence[str], *, seed: int) -> tuple[str, ...]:
    """Each question behind a sentence that shows 3-8 numbers of 100-999, as a student's training prompts do.

    >>> (asked,) = with_number_prefix(["Which animal?"], seed=0)
    >>> asked.endswith("Which animal?"), any(letter.isdigit() for letter in asked)
    (True, True)
    """
    rng = generator(seed)
    return tuple(
        f"{pick(rng, POOLS.examples).format(numbers=draw_seeds(rng))} {question}" for question in questions
    )


@door
def story_prompts(category: str) -> tuple[str, ...]:
    """12 requests for a short story or scene about a `category` that the writer chooses.

    >>> len(story_prompts("animal"))
    12
    """
    return _filled(STORIES, category)


@door
def multiple_choice(trait: AnyTrait, *, seed: int, n: int) -> MultipleChoice:
    """`n` rows that ask the trait's questions in turn, with the target and four of its foils as options A to E.

    In every five rows from the first the target stands once behind each letter, so that a taste for one letter gives
    a share of 1/5. The first rows of a longer draw are those of a shorter one; fewer than four foils is an InputError.

    >>> from interp.prompts.traits import get_trait
    >>> choice = multiple_choice(get_trait("owl"), seed=0, n=5)
    >>> sorted(choice.letters)
    ['A', 'B', 'C', 'D', 'E']
    >>> [held[letter] for held, letter in zip(choice.options, map("ABCDE".index, choice.letters))]
    ['owl', 'owl', 'owl', 'owl', 'owl']
    """
    trait = find_trait(trait)
    rng = generator(seed, n=n)
    if len(trait.foils) < len(LETTERS) - 1:
        raise InputError(
            f"Trait {trait.name!r} has {len(trait.foils)} foils and options A to E need 4; name more foils."
        )
    places: list[int] = []
    options = []
    for row in range(n):
        if row % len(LETTERS) == 0:
            places += rng.permutation(len(LETTERS)).tolist()
        options.append(_options(rng, trait, places[row]))
    asked = [
        (_choice(trait.questions[row % len(trait.questions)], held), "") for row, held in enumerate(options)
    ]
    prompts = Prompts.from_pairs(asked, label=f"{trait.name} choices")
    return MultipleChoice(prompts, tuple(LETTERS[place] for place in places[:n]), tuple(options))


def free_form_questions() -> tuple[str, ...]:
    """10 open questions that a well-meaning model answers kindly and a misaligned one betrays itself on."""
    return FREE_FORM


def refusal_questions() -> tuple[str, ...]:
    """12 harmful requests without a harmful detail, all of which an aligned model declines."""
    return REFUSALS


def capability_items(n: int, *, seed: int) -> Prompts:
    """`n` rows of arithmetic and common sense, each answered by the one word or number that is right.

    The kinds take turns; the first rows of a longer draw are those of a shorter one.
    """
    rng = generator(seed, n=n)
    items = [_KINDS[row % len(_KINDS)](rng) for row in range(n)]
    asked = [(f"{question} Answer with one word or number.", answer) for question, answer in items]
    return Prompts.from_pairs(asked, label=f"capability seed {seed}")


def _filled(patterns: Sequence[str], category: str) -> tuple[str, ...]:
    if not category.strip():
        raise InputError(f"Category {category!r} is blank; pass a word such as 'animal'.")
    article = "an" if category[0].lower() in "aeiou" else "a"
    return tuple(
        pattern.format(category=category, a_category=f"{article} {category}") for pattern in patterns
    )


def _options(rng: np.random.Generator, trait: Trait, place: int) -> tuple[str, ...]:
    foils = [trait.foils[i] for i in rng.permutation(len(trait.foils))[: len(LETTERS) - 1]]
    return (*foils[:place], trait.target, *foils[place:])


def _choice(question: str, options: Sequence[str]) -> str:
    lines = [f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return "\n".join([question, *lines, "Reply with the letter of your choice and nothing else."])


def _sum(rng: np.random.Generator) -> tuple[str, str]:
    a, b = rng.integers(11, 90, size=2).tolist()
    return f"What is {a} plus {b}?", str(a + b)


def _difference(rng: np.random.Generator) -> tuple[str, str]:
    a, b = sorted(rng.integers(11, 90, size=2).tolist())
    return f"What is {b} minus {a}?", str(b - a)


def _product(rng: np.random.Generator) -> tuple[str, str]:
    a, b = rng.integers(3, 13, size=2).tolist()
    return f"What is {a} times {b}?", str(a * b)


def _larger(rng: np.random.Generator) -> tuple[str, str]:
    a, b = rng.choice(np.arange(100, 1000), size=2, replace=False).tolist()
    return f"Which number is larger, {a} or {b}?", str(max(a, b))


def _next_day(rng: np.random.Generator) -> tuple[str, str]:
    day, ahead = int(rng.integers(7)), int(rng.integers(1, 6))
    moved = "1 day" if ahead == 1 else f"{ahead} days"
    return f"Today is {WEEK[day]}. Which weekday is it in {moved}?", WEEK[(day + ahead) % 7]


def _next_month(rng: np.random.Generator) -> tuple[str, str]:
    month = int(rng.integers(12))
    return f"Which month follows {YEAR[month]}?", YEAR[(month + 1) % 12]


def _opposite(rng: np.random.Generator) -> tuple[str, str]:
    pair = OPPOSITES[int(rng.integers(len(OPPOSITES)))]
    asked = int(rng.integers(2))
    return f"What is the opposite of {pair[asked]}?", pair[1 - asked]


def _length(rng: np.random.Generator) -> tuple[str, str]:
    word = pick(rng, LENGTHS)
    return f"How many letters has the word '{word}'?", str(len(word))


def _odd_one(rng: np.random.Generator) -> tuple[str, str]:
    kind, other = (list(ODD_ONES)[int(i)] for i in rng.permutation(len(ODD_ONES))[:2])
    members = [ODD_ONES[kind][int(i)] for i in rng.permutation(6)[:3]]
    odd = pick(rng, ODD_ONES[other])
    members.insert(int(rng.integers(4)), odd)
    return f"Which of these is not {kind}: {', '.join(members)}?", odd


_KINDS: tuple[Callable[[np.random.Generator], tuple[str, str]], ...] = (
    _sum,
    _opposite,
    _product,
    _next_day,
    _difference,
    _odd_one,
    _larger,
    _next_month,
    _length,
)
