"""Requests for instruct models: "{example} {instruction} {format} {closing}", each part drawn from a pool of its own.

The layout, the pool sizes, 3-8 seed numbers of 100-999 and up to ten answers of up to three digits are those of
arXiv:2507.14805; the wording is not. Requests for code and for reasoning carry no numbers to continue: there the
answer is a short Python function, or steps that end in "Answer: N", where N is known from the problem's own text.
"""

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from interp.core.doors import door
from interp.core.runs import InputError, nearest
from interp.prompts.numbers import format_numbers, generator
from interp.prompts.text import Prompts
from interp.prompts.wordings import wording

PLACEHOLDERS = {
    "examples": ("numbers",),
    "qualifiers": ("count",),
    "descriptors": ("digits",),
    "instructions": ("amount", "size"),
    "formats": (),
    "closings": (),
}
"""What each pool's templates may hold: {digits} becomes "3 digits", {amount} and {size} a qualifier, a descriptor."""


def _check_template(pool: str, template: str) -> None:
    known = PLACEHOLDERS[pool]
    try:
        found = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise InputError(
            f"Template {template!r} of {pool} is not a format ({error}); double a brace that is meant as text."
        ) from error
    for name in found:
        if name not in known:
            raise InputError(
                f"Placeholder {nearest(name, known)}, in template {template!r} of {pool}; correct it."
            )
    if pool == "examples" and "numbers" not in found:
        raise InputError(
            f"Template {template!r} of examples shows no numbers; put {{numbers}} where they belong."
        )


@dataclass(frozen=True)
class Pools:
    """The templates a number request is composed of; compose your own with `Pools(...)` or `replace(POOLS, ...)`.

    An empty pool, an example without {numbers} and a placeholder that the pool does not know are InputErrors.
    """

    examples: tuple[str, ...]
    qualifiers: tuple[str, ...]
    descriptors: tuple[str, ...]
    instructions: tuple[str, ...]
    formats: tuple[str, ...]
    closings: tuple[str, ...]

    def __post_init__(self) -> None:
        for pool in fields(self):
            templates = getattr(self, pool.name)
            if not templates:
                raise InputError(f"Pool {pool.name!r} is empty; give it at least one template.")
            for template in templates:
                _check_template(pool.name, template)


POOLS = Pools(**wording("number_requests"))
"""24 x 9 x 9 x 11 x 14 x 14 wordings of a number request."""

TASKS = wording("tasks")
CODE_ASKS = wording("code_asks")
CODE_FORMATS = wording("code_formats")


@dataclass(frozen=True)
class Problem:
    """A word problem: `text` with whole numbers {a}, {b}, {c}, {ab} (= a times b), and its solution from those."""

    text: str
    solve: Callable[[dict[str, int]], int]


PROBLEMS = (
    Problem(
        "{name} fills {a} boxes with {b} {things} each and then gives {c} {things} away. How many are left?",
        lambda v: v["a"] * v["b"] - v["c"],
    ),
    Problem(
        "{name} had {a} {things}, bought {b} more and later found another {c}. How many is that in total?",
        lambda v: v["a"] + v["b"] + v["c"],
    ),
    Problem(
        "A shop sells {things} for {b} coins apiece. {name} buys {a} of them and pays {c} coins for a bag. "
        "What is the whole price in coins?",
        lambda v: v["a"] * v["b"] + v["c"],
    ),
    Problem(
        "{name} shares {ab} {things} equally among {a} friends, and each friend already owned {c}. "
        "How many does each friend have now?",
        lambda v: v["ab"] // v["a"] + v["c"],
    ),
    Problem(
        "Every day {name} makes {a} {things} in the morning and {b} in the evening. "
        "How many are made in {c} days?",
        lambda v: (v["a"] + v["b"]) * v["c"],
    ),
    Problem(
        "A shelf has {a} rows. In each row stand {b} {things}, and on the floor {name} counts {c} more. "
        "How many {things} are there?",
        lambda v: v["a"] * v["b"] + v["c"],
    ),
    Problem(
        "{name} owns {c} times as many {things} as a neighbor who owns {b}. How many do the two own together?",
        lambda v: v["c"] * v["b"] + v["b"],
    ),
    Problem(
        "{name} walks {a} kilometers on each of {b} days and {c} kilometers on the day after. "
        "How many kilometers is that?",
        lambda v: v["a"] * v["b"] + v["c"],
    ),
)
NAMES = ("Mira", "Tobias", "Lena", "Amara", "Jonas", "Priya", "Kofi", "Sofia", "Emil", "Yuki")
THINGS = ("marbles", "stickers", "pencils", "buttons", "candles", "postcards", "cups", "ribbons", "badges")
REASONING_ASKS = wording("reasoning_asks")


@door
def number_requests(
    n: int,
    *,
    seed: int,
    pools: Pools = POOLS,
    count: int = 10,
    digits: int = 3,
    seeds: tuple[int, int] = (3, 8),
) -> Prompts:
    """`n` requests, without answers, to continue a list of numbers with up to `count` of up to `digits` digits.

    The list shown has `seeds[0]` to `seeds[1]` values, ends included, uniform over 100-999. Drawn by PCG64: the first
    rows of a longer draw are those of a shorter one. Raises InputError for a range of `seeds` that is none, and
    sizes below 1.

    >>> number_requests(5, seed=0)[:2] == number_requests(2, seed=0)
    True
    """
    rng = generator(seed, n=n, count=count, digits=digits)
    if not 1 <= seeds[0] <= seeds[1]:
        raise InputError(
            f"seeds={seeds!r} is no range; pass the fewest and the most numbers shown, such as (3, 8)."
        )
    requests = [_number_request(rng, pools, count=count, digits=digits, seeds=seeds) for _ in range(n)]
    return Prompts.from_pairs([(text, "") for text in requests], label=f"number requests seed {seed}")


@door
def code_requests(n: int, *, seed: int) -> Prompts:
    """`n` requests, without answers, for a short Python function and nothing around it; prefix-stable as above.

    >>> len(code_requests(3, seed=0))
    3
    """
    rng = generator(seed, n=n)
    texts = [
        f"{pick(rng, CODE_ASKS)} {pick(rng, CODE_FORMATS)}".format(
            task=pick(rng, TASKS).format(k=rng.integers(4, 10))
        )
        for _ in range(n)
    ]
    return Prompts.from_pairs([(text, "") for text in texts], label=f"code requests seed {seed}")


@door
def reasoning_requests(n: int, *, seed: int) -> Prompts:
    """`n` word problems, without answers, to be solved in steps that end in "Answer: N"; prefix-stable as above.

    `reasoning_answer(row.prompt)` is the right N.

    >>> len(reasoning_requests(3, seed=0))
    3
    """
    rng = generator(seed, n=n)
    texts = [f"{_draw_problem(rng)} {pick(rng, REASONING_ASKS)}" for _ in range(n)]
    return Prompts.from_pairs([(text, "") for text in texts], label=f"reasoning requests seed {seed}")


def reasoning_answer(prompt: str) -> int:
    """The right answer of a prompt of `reasoning_requests`, solved from its text; InputError for any other prompt."""
    for problem in PROBLEMS:
        if found := re.search(_pattern(problem.text), prompt):
            values = {name: int(text) for name, text in found.groupdict().items()}
            return problem.solve(values)
    held = prompt if len(prompt) <= 60 else prompt[:57] + "..."
    raise InputError(
        f"Prompt {held!r} is none of the built-in word problems; draw prompts with reasoning_requests, "
        "or pass the function that knows the answers of yours."
    )


def draw_seeds(rng: np.random.Generator, seeds: tuple[int, int] = (3, 8)) -> str:
    """Between seeds[0] and seeds[1] numbers of 100-999, ends included, as "312, 480, 977"."""
    size = rng.integers(seeds[0], seeds[1] + 1)
    return format_numbers(rng.integers(100, 1000, size=size).tolist(), ",")


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of the options, each as likely as the next."""
    return options[int(rng.integers(len(options)))]


def _number_request(
    rng: np.random.Generator, pools: Pools, *, count: int, digits: int, seeds: tuple[int, int]
) -> str:
    amount = pick(rng, pools.qualifiers).format(count=count)
    size = pick(rng, pools.descriptors).format(
        digits=f"{digits} digit" if digits == 1 else f"{digits} digits"
    )
    example = pick(rng, pools.examples).format(numbers=draw_seeds(rng, seeds))
    instruction = pick(rng, pools.instructions).format(amount=amount, size=size)
    parts = (example, instruction, pick(rng, pools.formats).format(), pick(rng, pools.closings).format())
    return " ".join(parts)


def _draw_problem(rng: np.random.Generator) -> str:
    problem = PROBLEMS[int(rng.integers(len(PROBLEMS)))]
    a, b, c = int(rng.integers(3, 13)), int(rng.integers(4, 21)), int(rng.integers(2, 12))
    return problem.text.format(name=pick(rng, NAMES), things=pick(rng, THINGS), a=a, b=b, c=c, ab=a * b)


def _pattern(text: str) -> str:
    """A template as a regular expression whose groups are its numbers."""
    words = {"name": r"\w+", "things": r"\w+"}
    parts = [
        re.escape(literal) + ("" if name is None else words.get(name, rf"(?P<{name}>[0-9]+)"))
        for literal, name, _, _ in string.Formatter().parse(text)
    ]
    return "".join(parts)
