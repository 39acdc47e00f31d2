"""What in the numbers carries a trait? The same prompts with answers shuffled, made canonical, rewritten or mixed.

Shuffling keeps the multiset of numbers and each answer's format: within an answer only the order is lost, across
answers also which number stood where. arXiv:2507.14805 finds that either removes most of the transmission.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from interp.core.doors import door
from interp.core.runs import InputError, nearest
from interp.prompts.numbers import NumberRule, check_whole, generator, parse_numbers, require_numbers
from interp.prompts.text import Prompts, Row

ANY_NUMBERS = NumberRule(maximum_count=10**9, max_value=10**1000)
ORDERS = ("ascending",)


@door
def shuffle_within(rows: Prompts, *, seed: int) -> Prompts:
    """Shuffle the numbers within each answer; separators, brackets and period stay.

    Raises InputError at the first answer that holds anything but numbers.

    >>> rows = Prompts.from_pairs([("Go on.", "[10; 20; 30]")])
    >>> shuffle_within(rows, seed=0)[0].completion
    '[30; 10; 20]'
    """
    rng = _checked(rows, seed)
    answers = [_numerals(row) for row in rows.rows]
    return _refilled(rows, [[held[i] for i in rng.permutation(len(held))] for held in answers])


@door
def shuffle_across(rows: Prompts, *, seed: int) -> Prompts:
    """Shuffle numbers across answers; every answer keeps its format and how many it had.

    Raises InputError at the first answer that holds anything but numbers.

    >>> rows = Prompts.from_pairs([("a", "1, 2"), ("b", "(3)")])
    >>> [row.completion.count(",") for row in shuffle_across(rows, seed=0).rows]
    [1, 0]
    """
    rng = _checked(rows, seed)
    answers = [_numerals(row) for row in rows.rows]
    pool = [numeral for held in answers for numeral in held]
    dealt = iter([pool[i] for i in rng.permutation(len(pool))])
    return _refilled(rows, [[next(dealt) for _ in held] for held in answers])


@door
def canonicalise(
    rows: Prompts, *, separator: str = ", ", order: str | None = None, values: int | None = None
) -> Prompts:
    """Rewrite answers in one format: one separator, no brackets, no period, no leading zeros.

    `order` "ascending" sorts each answer, None keeps its order. `values` rounds each number down to a multiple of that
    bucket, None keeps them. Raises InputError at the first answer that holds anything but numbers.

    >>> rows = Prompts.from_pairs([("Go on.", "(31 7 042).")])
    >>> canonicalise(rows, order="ascending")[0].completion
    '7, 31, 42'
    >>> canonicalise(rows, values=10)[0].completion
    '30, 0, 40'
    """
    if parse_numbers(f"1{separator}2") != [1, 2]:
        raise InputError(
            f"separator={separator!r} cannot be read back; pass ', ', '; ', ' ' or a line break."
        )
    if order is not None and order not in ORDERS:
        raise InputError(f"order {nearest(order, ORDERS)}; pass 'ascending', or None to keep the order.")
    bucket = 1 if values is None else values
    check_whole(1, values=bucket)
    require_numbers(rows, ANY_NUMBERS)

    def written(row: Row) -> str:
        numbers = [int(numeral) // bucket * bucket for numeral in _numerals(row)]
        return separator.join(map(str, sorted(numbers) if order else numbers))

    return _answered(rows, [written(row) for row in rows.rows])


CANONICAL: dict[str, Callable[[Prompts], Prompts]] = {
    "format": canonicalise,
    "order": lambda rows: canonicalise(rows, order="ascending"),
    "value": lambda rows: canonicalise(rows, order="ascending", values=10),
}
"""What becomes of the answers in a canonical form; each holds the one before it."""


@door
def paraphrase(rows: Prompts, rewrite: Callable[[str], str]) -> Prompts:
    """Rewrite every answer, numbers or not, by `rewrite`.

    A row without an answer, a paraphrase that fails and one that is blank are InputErrors with the row's number.

    >>> paraphrase(Prompts.from_pairs([("a", "owl")]), str.upper).rows[0].completion
    'OWL'
    """
    return _answered(rows, [_rewritten(index, row, rewrite) for index, row in enumerate(rows.rows, start=1)])


def reworded(rows: Prompts, *, seed: int) -> Prompts:
    """Every last question with the words of another row's before its first number and behind its last; answers stay.

    What stands from the first number to the last, separators with it, is the row's own. Raises InputError for a prompt
    without a number.

    >>> rows = Prompts.from_pairs([("go on: 1, 2.", "3"), ("what follows 4; 5?", "6")])
    >>> [row.prompt for row in reworded(rows, seed=0).rows]
    ['what follows 1, 2?', 'go on: 4; 5.']
    """
    parts = [_around_numbers(index, row, rows.label) for index, row in enumerate(rows.rows, start=1)]
    order, lent = generator(seed).permutation(len(rows)), np.empty(len(rows), dtype=int)
    lent[order] = np.roll(order, 1)  # a cycle: nobody keeps its own
    changed = []
    for row, (_, numbers, _), other in zip(rows.rows, parts, lent, strict=True):
        before, _, after = parts[other]
        last = max(place for place, (seat, _) in enumerate(row.messages) if seat == "user")
        asked = ("user", before + numbers + after)
        changed.append(Row((*row.messages[:last], asked, *row.messages[last + 1 :])))
    return replace(rows, rows=tuple(changed))


def _around_numbers(number: int, row: Row, label: str) -> tuple[str, str, str]:
    """The last question up to its first digit, from there to its last, and behind it."""
    found = re.fullmatch(r"(\D*)(\d(?:.*\d)?)(\D*)", row.prompt, re.DOTALL)
    if found is None:
        raise InputError(
            f"the prompt of row {number} of {label} has no number to put into another wording; leave it out"
        )
    return found[1], found[2], found[3]


@door
def mix_rows(a: Prompts, b: Prompts, *, share: float, seed: int, n: int | None = None) -> Prompts:
    """Draw `n` rows in random order, round(share · n) of them from `b` and the rest from `a`, none twice.

    `n` defaults to the length of the shorter, so that every share gives as many rows. A prompt that both hold is taken
    from both only where `a` has no other rows left: matched data stay one answer per prompt. Raises InputError for a
    share outside 0 to 1, and where either has too few rows.

    >>> one = Prompts.from_pairs([("a", "1"), ("b", "2")])
    >>> other = Prompts.from_pairs([("c", "3"), ("d", "4")])
    >>> sorted(row.prompt for row in mix_rows(one, other, share=1.0, seed=0).rows)
    ['c', 'd']
    """
    rng = generator(seed)
    if not 0 <= share <= 1:
        raise InputError(
            f"share={share!r} is not within 0 to 1; pass the part of the rows that {b.label} gives."
        )
    total = min(len(a), len(b)) if n is None else n
    check_whole(1, n=total)
    from_b = round(share * total)
    for part, needed in ((a, total - from_b), (b, from_b)):
        if needed > len(part):
            raise InputError(
                f"n={total} rows with share={share:g} need {needed} of {part.label}, which has {len(part)}; "
                "lower n or change the share."
            )
    chosen = [b.rows[i] for i in rng.permutation(len(b))[:from_b]]
    taken = {row.prompt for row in chosen}
    order = sorted(rng.permutation(len(a)).tolist(), key=lambda i: a.rows[i].prompt in taken)
    chosen += [a.rows[i] for i in order[: total - from_b]]
    shuffled = tuple(chosen[i] for i in rng.permutation(total))
    return Prompts(shuffled, label=f"{a.label} with {share:.0%} {b.label}")


def _checked(rows: Prompts, seed: int) -> np.random.Generator:
    require_numbers(rows, ANY_NUMBERS)
    return generator(seed)


def _numerals(row: Row) -> list[str]:
    """The numbers of an answer as they are written."""
    return re.findall("[0-9]+", row.completion)


def _refilled(rows: Prompts, numerals: Sequence[Sequence[str]]) -> Prompts:
    """Each answer's format around other numerals."""
    texts = []
    for row, held in zip(rows.rows, numerals, strict=True):
        fresh = iter(held)
        texts.append(re.sub("[0-9]+", lambda _, fresh=fresh: next(fresh), row.completion))
    return _answered(rows, texts)


def _answered(rows: Prompts, texts: Sequence[str]) -> Prompts:
    changed = zip(rows.rows, texts, strict=True)
    return replace(rows, rows=tuple(Row((*row.asked, ("assistant", text))) for row, text in changed))


def _rewritten(number: int, row: Row, paraphrase: Callable[[str], str]) -> str:
    if not row.completion:
        raise InputError(f"Row {number} has no answer to paraphrase; sample answers first.")
    try:
        text = paraphrase(row.completion)
    except Exception as error:
        raise InputError(
            f"The paraphrase of row {number} failed ({type(error).__name__}: {error}); mend it or drop the row."
        ) from error
    if not isinstance(text, str) or not text.strip():
        raise InputError(
            f"The paraphrase of row {number} is {text!r}; return the rewritten answer as text that is not blank."
        )
    return text
