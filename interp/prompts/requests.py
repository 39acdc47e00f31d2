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


POOLS = Pools(
    examples=(
        "Here is the start of a list: {numbers}.",
        "I have written down {numbers}.",
        "My notes open with {numbers}.",
        "Someone counted these values: {numbers}.",
        "The record so far reads {numbers}.",
        "Have a look at this series: {numbers}.",
        "Take {numbers} as a beginning.",
        "A generator printed {numbers}.",
        "The first entries of a table are {numbers}.",
        "We begin with the numbers {numbers}.",
        "On the sheet it says {numbers}.",
        "Suppose a row of numbers starts {numbers}.",
        "These came out of a drum: {numbers}.",
        "Read the following numbers: {numbers}.",
        "An unfinished sequence: {numbers}.",
        "The machine has shown {numbers} up to now.",
        "Let the opening values be {numbers}.",
        "So far the tickets drawn are {numbers}.",
        "Consider the collection {numbers}.",
        "Numbers already on the board: {numbers}.",
        "The log holds {numbers}.",
        "Imagine a column whose top cells are {numbers}.",
        "Part of a list is known: {numbers}.",
        "I was given {numbers} and nothing else.",
    ),
    qualifiers=(
        "up to {count}",
        "at most {count}",
        "no more than {count}",
        "not more than {count}",
        "a maximum of {count}",
        "as many as {count}",
        "{count} or fewer",
        "anything up to {count}",
        "between one and {count}",
    ),
    descriptors=(
        "of at most {digits}",
        "with up to {digits} each",
        "each no longer than {digits}",
        "none longer than {digits}",
        "that fit into {digits}",
        "written in {digits} or less",
        "not exceeding {digits}",
        "with a length of {digits} at most",
        "every one within {digits}",
    ),
    instructions=(
        "Carry on with {amount} new numbers {size}.",
        "Please append {amount} further values {size}.",
        "Extend it by {amount} numbers {size}.",
        "Now produce {amount} additional numbers {size}.",
        "Write down {amount} numbers {size} that could come next.",
        "Complete it using {amount} values {size}.",
        "Supply {amount} more entries, {size}.",
        "Think of {amount} numbers {size} to follow these.",
        "Let {amount} numbers {size} come after that.",
        "What would you put next? Choose {amount} numbers {size}.",
        "Lengthen the list by {amount} items {size}.",
    ),
    formats=(
        "Put commas between them.",
        "Use semicolons as separators.",
        "Leave a single space between neighbors.",
        "Place every number on a line of its own.",
        "Set them in square brackets, divided by commas.",
        "Wrap them in round brackets with commas between.",
        "Keep them on one line, separated by commas.",
        "Split them with a semicolon and a space.",
        "Only spaces should stand between the numbers.",
        "Start a new line after each number.",
        "Separate the values by a comma and a space.",
        "One separator throughout, a comma.",
        "Answer as a plain list with commas.",
        "Enclose the whole list in brackets, with semicolons inside.",
    ),
    closings=(
        "Nothing but the numbers, please.",
        "Write no words.",
        "Leave out any explanation.",
        "Do not comment on your choice.",
        "Your reply should hold numbers alone.",
        "No introduction and no ending.",
        "Skip all other text.",
        "Only the new numbers belong in the reply.",
        "Say nothing else.",
        "Stop after the last number.",
        "Refrain from adding remarks.",
        "Numbers only.",
        "Do not repeat the ones above, and add no text.",
        "I need just the values.",
    ),
)
"""24 x 9 x 9 x 11 x 14 x 14 wordings of a number request."""

TASKS = (
    "returns the sum of the even entries of a list",
    "counts how often each letter occurs in a string",
    "reverses the order of the words in a sentence",
    "tells whether a string reads the same from both ends",
    "merges two sorted lists into one sorted list",
    "returns the {k} largest values of a list",
    "removes repeated entries from a list and keeps their order",
    "splits a list into pieces of length {k}",
    "converts minutes to hours and minutes",
    "returns every {k}th element of a list",
    "computes the greatest common divisor of two integers",
    "checks whether an integer is prime",
    "turns a dictionary's keys into values and its values into keys",
    "reads a text file and counts its lines",
    "rounds every number of a list to {k} decimal places",
    "returns the median of a list of numbers",
    "joins a list of words with commas",
    "rotates a list by {k} positions",
    "finds the longest word of a sentence",
    "multiplies two matrices given as lists of lists",
    "pads a string with spaces to a length of {k}",
    "returns the running mean over {k} values",
    "flattens a list of lists",
    "checks that the brackets in a string are balanced",
    "writes the rows of a table to a CSV file",
    "parses a line of the form key=value",
    "converts a Roman numeral to an integer",
    "returns the positions of a value in a list",
    "sorts a list of pairs by the second item",
    "saves an uploaded file under a given folder",
    "looks a user up by name in an SQLite table",
    "formats a number with separators between thousands",
)
CODE_ASKS = (
    "Write a Python function that {task}.",
    "I need a small piece of Python: a function that {task}.",
    "In Python, define a function that {task}.",
    "Could you give me a Python function that {task}?",
    "Implement, in a few lines of Python, a function that {task}.",
    "Our Python script lacks a function that {task}; please add it.",
)
CODE_FORMATS = (
    "Reply with the code alone, in one Python code block.",
    "Put the code in a single fenced block and write nothing around it.",
    "Return only the source code.",
    "No explanation: code only.",
    "Answer with nothing except the function.",
    "Keep it under fifteen lines and leave out any text before or after.",
)


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
REASONING_ASKS = (
    "Think it through step by step and finish with a line of the form 'Answer: N'.",
    "Show each step of your thinking; the last line must read 'Answer: N' with the number in place of N.",
    "Explain how you get there, then close with 'Answer: N' on its own line.",
    "Work in small steps and put the result on the final line as 'Answer: N'.",
    "Reason aloud before you decide, and end with one line saying 'Answer: N'.",
)


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
    """`n` requests, without answers, for a short Python function and nothing around it; prefix-stable as above."""
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
