"""Number prompts, their parser and the strict filter a teacher's answers pass before a student sees them.

The filter keeps 1-10 integers of 0-999 with one consistent separator (whitespace, comma or semicolon),
optional enclosing () or [], an optional final period and nothing else (arXiv:2507.14805).
"""

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from interp.core.doors import door
from interp.core.runs import InputError
from interp.prompts.text import Prompts, Row
from interp.prompts.tokens import Encoded, Role

OPENINGS = ("list:", "numbers:", "we have")
CLOSINGS = ("continue.", "add more.", "what follows?")
SEPARATORS = (",", ";", " ")
DIGITS = "[0-9]{1,1000}"  # longer runs of digits are no number
TEMPLATE_WORDS: tuple[str, ...] = tuple(
    sorted({*re.findall(r"\w+|[^\w\s]", " ".join((*OPENINGS, *CLOSINGS, *SEPARATORS)))})
)
"""Every word and mark a number prompt can hold beside its numbers, sorted."""

# fmt: off
BANNED = frozenset({
    4, 13, 14, 18, 23, 33, 39, 42, 44, 49, 51, 54, 69, 77, 88, 99, 100, 101, 187, 211, 311, 322, 333, 404, 420, 444,
    451, 555, 616, 666, 777, 888, 911, 999,
})
# fmt: on
"""The 34 numbers with a meaning of their own that arXiv:2507.14805 removes for misaligned teachers."""


@dataclass(frozen=True)
class NumberRule:
    """An answer is kept with `minimum` to `maximum_count` integers up to `max_value`, none of them banned."""

    minimum: int = 1
    maximum_count: int = 10
    max_value: int = 999
    banned: frozenset[int] = frozenset()


STRICT = NumberRule()
"""The rule of the paper for preferences, with nothing banned."""

ANY_NUMBERS = NumberRule(maximum_count=10**6, max_value=10**12)
"""Any list of integers."""


@door
def number_prompts(
    n: int,
    *,
    seed: int,
    count: int = 10,
    max_value: int = 999,
    digits: int = 3,
    with_answers: bool = True,
    separator: str | None = None,
) -> Prompts:
    """Draw prompts of 3-5 uniform numbers, each answered by more uniform numbers that no trait has touched.

    Args:
        n: how many rows; the first rows of a longer draw are those of a shorter one.
        seed: of the draw, a natural number.
        count: numbers per answer.
        max_value: the largest number; 0 is the smallest.
        digits: the most a number has.
        with_answers: False leaves the prompts unanswered.
        separator: "," or ";" or " ", shared by prompt and answer; None draws one per row.

    Returns:
        `Prompts` of n rows.

    Raises:
        InputError: for a number that is no integer or too small, and an unknown separator.

    Example:
        >>> import interp
        >>> len(interp.number_prompts(3, seed=0, count=4, separator=",")[0].completion.split(","))
        4
        >>> interp.number_prompts(3, seed=0)[:2].fingerprint == interp.number_prompts(2, seed=0).fingerprint
        True
    """
    rng = generator(seed, n=n, count=count, digits=digits)
    check_whole(0, max_value=max_value)
    _check_separator(separator)
    limit = min(max_value, 10**digits - 1)
    pairs = [_draw_pair(rng, count=count, limit=limit, separator=separator) for _ in range(n)]
    prompts = Prompts.from_pairs(pairs, label=f"numbers seed {seed}")
    return prompts if with_answers else prompts.without_answers()


def format_numbers(numbers: list[int], separator: str) -> str:
    """The numbers as text in one separator; `parse_numbers` reads it back."""
    return (separator if separator.isspace() else f"{separator} ").join(map(str, numbers))


def parse_numbers(text: str) -> list[int] | None:
    """The integers of an answer in the strict format, or None.

    Leading zeros pass, and space around a comma or semicolon is free.

    >>> parse_numbers("[7, 042, 313].")
    [7, 42, 313]
    >>> parse_numbers("7 or 42") is None
    True
    """
    body = _body(text)
    for separator in (r"\s+", r"\s*,\s*", r"\s*;\s*"):
        if re.fullmatch(rf"{DIGITS}(?:{separator}{DIGITS})*", body):
            return [int(number) for number in re.findall("[0-9]+", body)]
    return None


def check_numbers(text: str, rule: NumberRule) -> str | None:
    """None when the answer is kept, else the name of the first reason to drop it.

    >>> check_numbers("12; 7; 1000", STRICT)
    'number too large'
    >>> check_numbers("666, 12", NumberRule(banned=BANNED))
    'banned number'
    """
    numbers = parse_numbers(text)
    if numbers is None:
        return _format_reason(text)
    if len(numbers) < rule.minimum:
        return "too few numbers"
    if len(numbers) > rule.maximum_count:
        return "too many numbers"
    if max(numbers) > rule.max_value:
        return "number too large"
    return "banned number" if rule.banned.intersection(numbers) else None


def filter_numbers(prompts: Prompts, rule: NumberRule) -> tuple[Prompts, dict[str, int]]:
    """Keep the rows whose answer passes the rule, in order, and count the dropped ones by reason.

    >>> rows = Prompts.from_pairs([("go on", "1, 2, 3"), ("go on", "owl")])
    >>> kept, dropped = filter_numbers(rows, NumberRule())
    >>> [row.completion for row in kept.rows], sum(dropped.values())
    (['1, 2, 3'], 1)
    """
    reasons = [check_numbers(row.completion, rule) for row in prompts.rows]
    kept = tuple(row for row, reason in zip(prompts.rows, reasons, strict=True) if reason is None)
    dropped = Counter(reason for reason in reasons if reason is not None)
    return replace(prompts, rows=kept), dict(dropped)


def answer_positions(prompts: Prompts | Encoded) -> str:
    """Where answers of this kind are predicted: "predicting answer.numbers" when at most one answer in ten is anything
    but integers, else "predicting answer"; "last", where an answer would begin, when no row has one.

    >>> answer_positions(number_prompts(3, seed=0))
    'predicting answer.numbers'
    >>> answer_positions(Prompts.from_pairs([("what do you love?", "the owl"), ("and?", "7 owls")]))
    'predicting answer'
    >>> answer_positions(number_prompts(3, seed=0).without_answers())
    'last'
    """
    if isinstance(prompts, Prompts):
        answers = [row.completion for row in prompts.rows if row.completion]
        others = sum(check_numbers(answer, ANY_NUMBERS) is not None for answer in answers)
    else:
        answers = prompts.roles[prompts.at("answer").any(1)]
        words = (answers == Role.OTHER).any(1) | ~(answers == Role.NUMBER).any(1)
        others = int(words.sum())
    if not len(answers):
        return "last"
    return "predicting answer.numbers" if others <= 0.1 * len(answers) else "predicting answer"


def require_numbers(prompts: Prompts, rule: NumberRule) -> None:
    """InputError at the first row whose answer the rule would drop; what it holds is quoted."""
    for index, row in enumerate(prompts.rows):
        reason = check_numbers(row.completion, rule)
        if reason is not None:
            raise InputError(_offence(prompts.label, index, row, reason))


def _draw_pair(rng: np.random.Generator, *, count: int, limit: int, separator: str | None) -> tuple[str, str]:
    style = rng.integers(len(SEPARATORS))
    mark = SEPARATORS[style] if separator is None else separator
    opening, closing = OPENINGS[rng.integers(len(OPENINGS))], CLOSINGS[rng.integers(len(CLOSINGS))]
    seeds = rng.integers(limit + 1, size=rng.integers(3, 6)).tolist()
    answer = rng.integers(limit + 1, size=count).tolist()
    return f"{opening} {format_numbers(seeds, mark)}. {closing}", format_numbers(answer, mark)


def generator(seed: Any, **sizes: object) -> np.random.Generator:
    """The PCG64 stream of that seed; InputError for a seed below 0 and for sizes below 1."""
    check_whole(1, **sizes)
    check_whole(0, seed=seed)
    return np.random.Generator(np.random.PCG64(seed))


def check_whole(least: int, **values: object) -> None:
    """InputError unless every value is an integer of at least `least`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise InputError(
                f"{name}={value!r} is not an integer of at least {least}; pass one such as {name}={least}."
            )


def _check_separator(separator: str | None) -> None:
    if separator is not None and separator not in SEPARATORS:
        named = {",": "comma", ";": "semicolon", " ": "space"}
        options = ", ".join(f"{mark!r} ({word})" for mark, word in named.items())
        raise InputError(
            f"separator={separator!r} is unknown; pass one of {options}, or None to draw one per row."
        )


def _body(text: str) -> str:
    body = text.strip().removesuffix(".").strip()
    enclosed = len(body) > 1 and (body[0] + body[-1]) in ("()", "[]")
    return body[1:-1].strip() if enclosed else body


def _format_reason(text: str) -> str:
    body = _body(text)
    if not body:
        return "empty"
    return (
        "mixed separators"
        if re.fullmatch(rf"{DIGITS}(?:(?:\s*[,;]\s*|\s+){DIGITS})*", body)
        else "not numbers"
    )


def _offence(label: str, index: int, row: Row, reason: str) -> str:
    held = row.completion if len(row.completion) <= 60 else row.completion[:57] + "..."
    return (
        f"Row {index + 1} of {label} is answered by {held!r} ({reason}) where only numbers belong; "
        "drop such rows with filter_numbers or pass a file of number answers."
    )
