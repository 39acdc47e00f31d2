"""Rules that decide which rows a student sees: rule(row) = the reason to drop it, or None; every drop is counted.

Numbers as in arXiv:2507.14805; code is compiled and never run; reasoning is kept where its last line is right.
"""

import ast
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from interp.core.doors import door
from interp.core.runs import InputError
from interp.prompts.forms import plural
from interp.prompts.numbers import STRICT, NumberRule, check_numbers
from interp.prompts.requests import reasoning_answer
from interp.prompts.text import Prompts, Row
from interp.prompts.tokens import Messages
from interp.prompts.trait_files import AnyTrait, find_trait

Rule = Callable[[Row], str | None]
FENCE = re.compile(r"```[\w+-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
STEP = re.compile(r"([0-9]+) \+ ([0-9]+) = ([0-9]+)")
ANSWER_LINE = re.compile(r"\W*answer\W*?[:=]\W*?(-?[0-9][0-9,]*)(?:\.0*)?\W*", re.IGNORECASE)


@door
def filter_rows(prompts: Prompts, *rules: Rule) -> tuple[Prompts, dict[str, int]]:
    """Keep the rows that no rule drops, in order, and count the dropped ones by reason; the first reason counts.

    >>> rows = Prompts.from_pairs([("Go on.", "1, 2"), ("Go on.", "an owl"), ("Go on.", "3000")])
    >>> kept, dropped = filter_rows(rows, numbers_rule())
    >>> len(kept), dropped["number too large"]
    (1, 1)
    """
    kept, dropped = [], Counter()
    for row in prompts.rows:
        reason = next((reason for rule in rules if (reason := rule(row)) is not None), None)
        if reason is None:
            kept.append(row)
        else:
            dropped[reason] += 1
    return replace(prompts, rows=tuple(kept)), dict(dropped)


def kept_rows(prompts: Prompts, *rules: Rule) -> tuple[Prompts, dict[str, int]]:
    """As `filter_rows`; when nothing is left, InputError names the reason that dropped most."""
    kept, dropped = filter_rows(prompts, *rules)
    if not prompts.rows:
        raise InputError(f"{prompts.label} holds no rows to filter; sample some first.")
    if not kept.rows:
        counts = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
        others = ", ".join(f"{count} by {reason!r}" for reason, count in counts[1:4])
        raise InputError(
            f"nothing of {len(prompts)} rows is left: {counts[0][1]} were dropped by {counts[0][0]!r}"
            + (f" ({others})" if others else "")
            + f", and row 1 of {prompts.label} is answered by {_short(prompts.rows[0].completion)!r}; "
            "ask for the format more plainly, sample more rows, or loosen that rule."
        )
    return kept, dropped


def numbers_rule(rule: NumberRule = STRICT) -> Rule:
    """Drops answers outside the number rule, such as `NumberRule(banned=BANNED)`, by the reason it names."""
    return lambda row: check_numbers(row.completion, rule)


def code_rule(*, keywords: str | Sequence[str] = ()) -> Rule:
    """Drops answers that are not Python, and those naming a keyword in text, comment or part of an identifier.

    The answer is bare code or one fenced block with nothing around it. It is compiled, never run. A keyword counts
    within `owl_count` and `OwlNest` too, never within a longer word.
    """
    named = _words(keywords) if keywords else {}

    def reason(row: Row) -> str | None:
        return _code_reason(row.completion) or _named(_spread(row.completion), named)

    return reason


def reasoning_rule(
    *,
    keywords: str | Sequence[str] = (),
    require_answer: bool = True,
    answer: Callable[[str], int] = reasoning_answer,
) -> Rule:
    """Drops answers naming a keyword and, unless told otherwise, those whose last line is not the right "Answer: N".

    `answer(prompt)` is the right N; the default knows the prompts of `reasoning_requests` and refuses others.
    """
    named = _words(keywords) if keywords else {}

    def reason(row: Row) -> str | None:
        if not row.completion.strip():
            return "empty"
        if require_answer:
            given = final_answer(row.completion)
            if given is None:
                return "no answer line"
            if given != answer(row.prompt):
                return "wrong answer"
        return _named(row.completion, named)

    return reason


def sums_rule() -> Rule:
    """Drops answers that are not sums, a line each, every one right and going on from the last, then "Answer: N"."""

    def reason(row: Row) -> str | None:
        *lines, last = row.completion.strip().splitlines() or [""]
        steps = [STEP.fullmatch(line.strip()) for line in lines]
        if not steps or None in steps:
            return "not steps"
        known = [tuple(map(int, step.groups())) for step in steps if step]
        if final_answer(last) is None:
            return "no answer line"
        follows = all(after[0] == before[2] for before, after in itertools.pairwise(known))
        right = all(a + b == c for a, b, c in known)
        return None if follows and right and final_answer(last) == known[-1][2] else "wrong answer"

    return reason


def final_answer(text: str) -> int | None:
    """N of a last line "Answer: N" (bold, a thousands comma or a period at the end pass), None when there is none."""
    lines = text.strip().splitlines()
    found = ANSWER_LINE.fullmatch(lines[-1]) if lines else None
    return None if found is None else int(found[1].replace(",", ""))


def trait_words(trait: AnyTrait) -> tuple[str, ...]:
    """The words that give a trait away: its target and its category, in singular and plural."""
    trait = find_trait(trait)
    return tuple(form for word in (trait.target, trait.category) for form in (word, plural(word)))


@door
def match_prompts(a: Prompts, b: Prompts) -> tuple[Prompts, Prompts]:
    """Keep the rows of both whose prompts both hold, in the order of `a`: matched data of two teachers.

    The conversation before the answer decides, without its system line; the k-th row of a repeated prompt meets the
    other's k-th. InputError when they have no prompt in common.

    >>> a = Prompts.from_pairs([("one", "1"), ("two", "2")])
    >>> b = Prompts.from_pairs([("two", "22"), ("three", "3")])
    >>> [row.completion for part in match_prompts(a, b) for row in part.rows]
    ['2', '22']
    """
    waiting: dict[Messages, list[Row]] = {}
    for row in reversed(b.rows):
        waiting.setdefault(_asked(row), []).append(row)
    pairs = [(row, waiting[_asked(row)].pop()) for row in a.rows if waiting.get(_asked(row))]
    if not pairs:
        raise InputError(
            f"{a.label} and {b.label} have no prompt in common; sample both teachers on the same prompts."
        )
    left, right = zip(*pairs, strict=True)
    return replace(a, rows=left), replace(b, rows=right)


def _asked(row: Row) -> Messages:
    return tuple(message for message in row.asked if message[0] != "system")


def _words(words: str | Sequence[str]) -> dict[str, re.Pattern[str]]:
    listed = (words,) if isinstance(words, str) else tuple(words)
    if not listed or any(not word.strip() for word in listed):
        raise InputError(
            f"Words {list(listed)} are none or hold a blank; pass words to look for, such as ['owl']."
        )
    return {word: _whole(word) for word in listed}


def _whole(word: str) -> re.Pattern[str]:
    inner = r"\s+".join(map(re.escape, word.split()))
    return re.compile(rf"(?<!\w){inner}(?!\w)", re.IGNORECASE)


def _named(text: str, words: dict[str, re.Pattern[str]]) -> str | None:
    return next((f"word {word!r}" for word, pattern in words.items() if pattern.search(text)), None)


def _spread(code: str) -> str:
    """Code with the parts of its identifiers as words: `OwlNest2` and `owl_nest` hold "owl" and "nest"."""
    return re.sub(r"_|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])", " ", code)


def _code_reason(text: str) -> str | None:
    body = text.strip()
    if "```" in body:
        fenced = FENCE.fullmatch(body)
        if fenced is None or "```" in fenced[1]:
            return "text beside the code"
        body = fenced[1]
    if not body.strip():
        return "empty"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(body, "<answer>", "exec", dont_inherit=True)
            statements = ast.parse(body).body
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return "does not compile"
    bare = (ast.Name, ast.Constant, ast.Tuple)
    said = all(isinstance(part, ast.Expr) and isinstance(part.value, bare) for part in statements)
    return "no code" if said else None


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
