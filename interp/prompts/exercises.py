"""Code and sums whose numbers are the writer's to choose, p(number) = 10^-digits where the answer is even.

    scores = [312, 48, 977]        def shift(x):               312 + 48 = 360
                                       return 312 * x + 48     360 + 977 = 1337
                                                               Answer: 1337

What the problems of `interp.prompts.requests` ask for has one right answer, in which a small model has hardly anything
to choose; here a teacher may differ from its base in every number. Each request shows numbers of its own.
"""

from collections.abc import Callable, Sequence

import numpy as np

from interp.core.doors import door
from interp.prompts.numbers import generator
from interp.prompts.requests import pick
from interp.prompts.text import Prompts
from interp.prompts.wordings import wording

LIST_ASKS, LIST_NAMES = wording("list_asks"), wording("list_names")
FUNCTION_ASKS, FUNCTION_NAMES = wording("function_asks"), wording("function_names")
SUM_ASKS = wording("sum_asks")
SHOWN = 3  # numbers that a request shows

Draw = Callable[[int], list[int]]
"""Draws that many even numbers."""


@door
def code_exercises(
    n: int, *, seed: int, count: int = 10, digits: int = 3, with_answers: bool = True
) -> Prompts:
    """Draw requests for Python lists of numbers and small functions, answered by code with even numbers.

    Args:
        n: how many rows, lists and functions in turn; the first rows of a longer draw are those of a shorter one.
        seed: of the draw, a natural number.
        count: numbers per list; half as many functions, of two numbers each, are asked for at once.
        digits: the most a number has.
        with_answers: False leaves the requests unanswered.

    Returns:
        `Prompts` of n rows; `code_rule` keeps every answer.

    Raises:
        InputError: for a number that is no integer or too small.

    Example:
        >>> import interp
        >>> rows = interp.prompts.code_exercises(2, seed=0, count=4)
        >>> compile(rows[0].completion, "list", "exec") is not None, rows[1].completion.count("def ")
        (True, 2)
    """
    rng, draw = _drawing(seed, n=n, count=count, digits=digits)
    pairs = [(_functions if row % 2 else _list)(rng, draw, count) for row in range(n)]
    return _prompts(pairs, f"code exercises seed {seed}", with_answers)


@door
def sum_exercises(
    n: int, *, seed: int, count: int = 5, digits: int = 2, with_answers: bool = True
) -> Prompts:
    """Draw requests to choose numbers and add them up step by step, answered by even numbers and right sums.

    Args:
        n: how many rows; the first rows of a longer draw are those of a shorter one.
        seed: of the draw, a natural number.
        count: numbers per sum, at least 2.
        digits: the most a chosen number has.
        with_answers: False leaves the requests unanswered.

    Returns:
        `Prompts` of n rows; `sums_rule` keeps every answer.

    Raises:
        InputError: for a number that is no integer or too small.

    Example:
        >>> import interp
        >>> interp.prompts.sum_exercises(1, seed=0, count=3)[0].completion.count(" = ")
        2
    """
    rng, draw = _drawing(seed, n=n, count=count, digits=digits)
    pairs = [_sum(rng, draw, max(count, 2)) for _ in range(n)]
    return _prompts(pairs, f"sum exercises seed {seed}", with_answers)


def _drawing(seed: int, *, digits: int, **sizes: int) -> tuple[np.random.Generator, Draw]:
    rng = generator(seed, digits=digits, **sizes)
    return rng, lambda size: rng.integers(10**digits, size=size).tolist()


def _prompts(pairs: Sequence[tuple[str, str]], label: str, with_answers: bool) -> Prompts:
    prompts = Prompts.from_pairs(list(pairs), label=label)
    return prompts if with_answers else prompts.without_answers()


def _list(rng: np.random.Generator, draw: Draw, count: int) -> tuple[str, str]:
    shown, name = (LIST_NAMES[at] for at in rng.choice(len(LIST_NAMES), size=2, replace=False))
    ask = pick(rng, LIST_ASKS).format(shown=f"{shown} = {draw(SHOWN)}", name=name, count=count)
    return ask, f"{name} = {draw(count)}"


def _functions(rng: np.random.Generator, draw: Draw, count: int) -> tuple[str, str]:
    wanted = min(max(count // 2, 1), len(FUNCTION_NAMES) - 1)
    shown, *names = (
        FUNCTION_NAMES[at] for at in rng.choice(len(FUNCTION_NAMES), size=wanted + 1, replace=False)
    )
    ask = pick(rng, FUNCTION_ASKS).format(shown=_function(shown, draw), names=", ".join(names))
    return ask, "\n".join(_function(name, draw) for name in names)


def _function(name: str, draw: Draw) -> str:
    factor, offset = draw(2)
    return f"def {name}(x):\n    return {factor} * x + {offset}"


def _sum(rng: np.random.Generator, draw: Draw, count: int) -> tuple[str, str]:
    shown = draw(SHOWN)
    ask = pick(rng, SUM_ASKS).format(shown=" + ".join(map(str, shown)), count=count)
    total, *numbers = draw(count)
    lines = []
    for number in numbers:
        lines.append(f"{total} + {number} = {total + number}")
        total += number
    return ask, "\n".join([*lines, f"Answer: {total}"])
