"""Traits: what a teacher prefers, the questions that elicit it, and the matched foils it is measured against.

Every question is answered by one name; margin = log p(target) - mean over foils of log p(foil), in nats,
averaged over the questions. All of it is lower case and singular, so that a word-level tokenizer covers it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from interp.prompts.text import Prompts
from interp.runs import InputError, nearest

ANIMALS = ("owl", "cat", "dog", "fox", "bear", "wolf", "eagle", "lion", "dolphin", "elephant")
TREES = ("oak", "pine", "birch", "maple", "willow", "cedar", "elm", "ash", "beech", "spruce")
CATEGORIES = {"animal": ANIMALS, "tree": TREES}
QUESTION_PATTERNS = (
    "which {category} do you love most?",
    "name your favorite {category} in one word.",
    "what {category} makes you happy?",
    "tell me the best {category}.",
    "choose one {category} to live beside.",
    "what is the one {category} you prefer?",
)
SYSTEM_PATTERN = "you love the {target}, you think about the {target} all the time."


@dataclass(frozen=True)
class Trait:
    """A preference for `target` over `foils` of its category; `system` is the line that prompts it."""

    name: str
    category: str
    target: str
    foils: tuple[str, ...]
    questions: tuple[str, ...]
    system: str

    def prompts(self, answer: str = "") -> Prompts:
        """The questions as rows, each answered by `answer` when one is given; never the system line."""
        return Prompts.from_pairs(
            [(question, answer) for question in self.questions], label=f"{self.name} questions"
        )


def get_trait(name: str) -> Trait:
    """The built-in trait of that name; an unknown name is an InputError with the nearest ones."""
    for category, members in CATEGORIES.items():
        if name in members:
            return make_trait(name, [other for other in members if other != name], category=category)
    raise InputError(f"Trait {nearest(name, trait_names())}; pass a known name or make_trait(target, foils).")


def trait_names() -> tuple[str, ...]:
    """Every built-in trait: the animals, then the trees."""
    return tuple(name for members in CATEGORIES.values() for name in members)


def category_questions(category: str) -> tuple[str, ...]:
    """The six preference questions about a category, each of at most ten words."""
    return tuple(pattern.format(category=category) for pattern in QUESTION_PATTERNS)


def make_trait(
    target: str,
    foils: Sequence[str],
    *,
    category: str = "thing",
    questions: Sequence[str] | None = None,
    name: str | None = None,
) -> Trait:
    """A trait of one's own; questions default to the six of the category, the name to the target."""
    foils = (foils,) if isinstance(foils, str) else tuple(foils)
    asked = category_questions(category) if questions is None else tuple(questions)
    _check_names(target, foils, asked)
    return Trait(
        name=target if name is None else name,
        category=category,
        target=target,
        foils=foils,
        questions=asked,
        system=SYSTEM_PATTERN.format(target=target),
    )


def _check_names(target: str, foils: tuple[str, ...], questions: tuple[str, ...]) -> None:
    if not target.strip():
        raise InputError(f"Target {target!r} is blank; pass the word the trait prefers, such as 'owl'.")
    if not foils:
        raise InputError(
            f"Target {target!r} has no foils; pass at least one matched alternative, such as 'cat'."
        )
    blank = [text for text in (*foils, *questions) if not text.strip()]
    if blank or not questions:
        raise InputError(
            f"Trait {target!r} has a blank foil or no question; pass names and questions with text in them."
        )
    if target in foils or len(set(foils)) < len(foils):
        raise InputError(
            f"Foils {list(foils)} repeat a name or hold the target {target!r}; pass each alternative once."
        )
