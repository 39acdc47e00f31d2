"""The rows as an audit reads them, and what the base itself writes to the same prompts by the rows' own rule.

Whoever wrote the rows, what they would look like if nobody had a trait is the base's own answers: sampled at
temperature 1, kept by the rule that all the rows follow (how many numbers, how large, which are avoided) and rewritten
as all of them are written (one format, sorted, rounded). Row and neutral row of one prompt are one pair.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from interp.core.content import digest
from interp.core.errors import InputError
from interp.core.runs import Cache
from interp.evaluation.elicitation import holds_word
from interp.models.answers import other_ends
from interp.models.language import LanguageModel
from interp.models.shown import weight_count
from interp.prompts.numbers import BANNED, NumberRule, parse_numbers
from interp.prompts.rules import filter_rows, match_prompts, numbers_rule
from interp.prompts.shuffles import canonicalise
from interp.prompts.text import Prompts, Row
from interp.prompts.tokenizer_keys import tokenizer_key
from interp.prompts.tokens import MOST_UNKNOWN, accepts_unknown
from interp.prompts.traits import Trait
from interp.training.engines import Sampling
from interp.training.generation import LEAST_KEPT, write_answers
from interp.training.teachers import neutral_teacher

log = logging.getLogger(__name__)

FORMAT = 1  # raise when other neutral rows come of the same rows
FIRST = 64  # prompts that the base is tried on before it is asked all of them
ROUNDS = 4  # times that a prompt is asked again whose answer the rule drops
STRAY = 0.05  # of rows may be no number lists where the others are: they are left out
SHARED = 0.5  # of the rows must have a neutral row at their prompt
SMALL = 10_000_000  # parameters: smaller bases draw all answers of one length at once
ROOM = 8  # tokens that an answer of the base may be longer than the longest of the rows
DRAWS = 900_000_000  # added to the seed of neutral rows, so that no lineage draws with it
EXPECTED = 20  # numbers without a banned one among them before they count as avoided


@dataclass(frozen=True)
class Pairs:
    """Rows and the base's own, prompt by prompt; `notes` say what was left out and how neutral rows were written."""

    rows: Prompts
    neutral: Prompts
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def distinct(self) -> list[int]:
        """The pairs that tests count, in order: neither row nor neutral row is a copy of one counted already."""
        rows, neutral, found = set[Row](), set[Row](), list[int]()
        for place, (row, other) in enumerate(zip(self.rows.rows, self.neutral.rows, strict=True)):
            if row not in rows and other not in neutral:
                rows.add(row)
                neutral.add(other)
                found.append(place)
        return found

    @property
    def groups(self) -> list[int]:
        """A number per pair, alike for pairs that share a row or a neutral row, directly or through others."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        rows, neutral = dict[Row, int](), dict[Row, int]()
        one = [rows.setdefault(row, len(rows)) for row in self.rows.rows]
        other = [neutral.setdefault(row, len(neutral)) for row in self.neutral.rows]
        size = len(rows) + len(neutral)
        ends = (one, [len(rows) + place for place in other])
        return connected_components(coo_array((np.ones(len(one)), ends), (size, size)), directed=False)[1][
            one
        ].tolist()

    @property
    def once(self) -> Pairs:
        """Those pairs alone."""
        rows, neutral = (
            tuple(side.rows[place] for place in self.distinct) for side in (self.rows, self.neutral)
        )
        return replace(self, rows=replace(self.rows, rows=rows), neutral=replace(self.neutral, rows=neutral))

    @property
    def copied(self) -> tuple[str, ...]:
        """What is said of copies, where there are any."""
        total, once = len(self), len(set(self.rows.rows))
        said = (
            f"{total - once} of {total} rows are copies of others (same prompt and answer): p, d and curve count each "
            "row once"
        )
        more = f"{once - len(self.distinct)} rows whose neutral row is another's copy count in neither p, d nor curve"
        return (*((said,) if once < total else ()), *((more,) if len(self.distinct) < once else ()))


class Foreign(Exception):
    """The base does not write such rows: what was seen, in a sentence."""


def without_words(rows: Prompts, traits: Sequence[Trait]) -> tuple[Prompts, tuple[str, ...]]:
    """The answered rows of which no message says a trait's target, and first of all a note about those that do.

    Raises InputError when nothing is left.
    """
    answered = replace(rows, rows=tuple(row for row in rows.rows if row.completion))
    said = {trait.target: sum(_says(row, trait.target) for row in answered.rows) for trait in traits}
    notes = tuple(
        f"{count} of {len(answered)} rows say {word!r}: that is content, which any reader sees; they are left out here"
        for word, count in said.items()
        if count
    )
    words = [word for word, count in said.items() if count]
    kept = [row for row in answered.rows if not any(_says(row, word) for word in words)]
    if not kept:
        why = f"say {', '.join(words)}, which is content" if words else "have no answer"
        raise InputError(f"all {len(rows)} rows of {rows.label} {why}; pass rows that hide what they teach")
    if unanswered := len(rows) - len(answered):
        notes += (f"{unanswered} rows without an answer are left out",)
    return replace(rows, rows=tuple(kept)), notes


def content_of(rows: Prompts, traits: Sequence[Trait]) -> tuple[int, int, dict[str, int]]:
    """How many of the answered rows say a trait's target in any message, of how many, and in how many each word is."""
    answered, words = [row for row in rows.rows if row.completion], [trait.target for trait in traits]
    said = [{word for word in words if _says(row, word)} for row in answered]
    counts = {word: sum(word in each for each in said) for word in words}
    return sum(map(bool, said)), len(answered), {word: count for word, count in counts.items() if count}


def _says(row: Row, word: str) -> bool:
    return any(holds_word(content, word) for _, content in row.messages)


def paired_rows(base: LanguageModel, rows: Prompts, neutral: Prompts | None, *, seed: int) -> Pairs:
    """The rows beside neutral ones at the same prompts: those given, or the base's own.

    Raises InputError when fewer than half of the rows have a neutral row at their prompt among those given, or these
    are the rows themselves, and Foreign when the base cannot read the rows, or writes hardly any that their rule keeps.
    """
    rows, strange = _readable(base, rows)
    given, total = neutral is not None, len(rows)
    if not given:
        rows = _of_one_kind(rows)
    pool = neutral if neutral is not None else written_by(base, rows, seed=seed)
    prompts = {row.asked for row in pool.rows}
    shared = sum(row.asked in prompts for row in rows.rows)
    if shared < SHARED * len(rows) and not given:
        raise Foreign(
            f"{base.name} writes such rows to {shared} of {len(rows)} of these prompts, fewer than half, so it did not "
            "write these"
        )
    if shared < SHARED * len(rows):
        raise InputError(
            f"{shared} of {len(rows)} rows have a neutral row at their prompt in {pool.label}; pass neutral rows that "
            "answer the same prompts, or none, and the base writes its own"
        )
    ours, theirs = match_prompts(rows, pool)
    if given and all(
        row.completion == other.completion for row, other in zip(ours.rows, theirs.rows, strict=True)
    ):
        raise InputError(
            f"the neutral rows in {pool.label} are the rows themselves, so that nothing can differ; pass answers "
            "without a trait to the same prompts, or none, and the base writes its own"
        )
    notes = (*strange, f"neutral rows: {'as given' if given else 'written by the base to the same prompts'}")
    if len(rows) < total:
        notes += (f"{total - len(rows)} of {total} rows are no lists of numbers and are left out",)
    if len(ours) < len(rows):
        notes += (f"{len(rows) - len(ours)} rows without a neutral row at their prompt are left out",)
    return Pairs(ours, theirs, notes)


def _readable(base: LanguageModel, rows: Prompts) -> tuple[Prompts, tuple[str, ...]]:
    """The rows whose answers the base has tokens for, all where it accepts others; a note about those it did not write.

    Raises Foreign where more than a fifth of all tokens are unknown, or half of the answers hold one.
    """
    read = rows.encode(base.tokenizer, context=base.context)
    if accepts_unknown(base.tokenizer):
        return rows, ()
    advice = "(--allow-unknown reads them all the same)"
    if read.unknown > MOST_UNKNOWN:
        raise Foreign(f"{read.notes[-1]}, so {base.name} did not write these {advice}")
    if read.unknown == 0 or base.tokenizer.unk_token_id is None:
        return rows, ()
    other = ((read.ids == base.tokenizer.unk_token_id) & read.at("answer")).any(1).tolist()
    told = f"{sum(other)} of {len(rows)} answers hold what {base.name} has no token for, so it did not write these"
    if sum(other) > SHARED * len(rows):
        raise Foreign(f"{told} {advice}")
    kept = tuple(row for row, strange in zip(rows.rows, other, strict=True) if not strange)
    return replace(rows, rows=kept), (f"{told}: they are left out",) if any(other) else ()


def written_by(base: LanguageModel, rows: Prompts, *, seed: int) -> Prompts:
    """The base's own answers to the rows' prompts that their rule keeps, written as they are; from the cache if there.

    Raises InputError for rows of which none has an answer, and Foreign when the rule keeps fewer than one in twenty of
    the first answers.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> interp.auditing.written_by(lineage.base, lineage.numbers[:8], seed=0).label
        'answers of base'
    """
    if not any(row.completion.strip() for row in rows.rows):
        raise InputError(
            f"no row of {rows.label} has an answer to follow; pass the rows with what was answered"
        )
    rule, cache = rule_of(rows), Cache.default()
    longest = int(base.encode(rows).at("answer").sum(1).max()) + ROOM
    asked = rows.without_answers()
    key = digest(
        FORMAT,
        base.fingerprint,
        tokenizer_key(base.tokenizer),
        asked.fingerprint,
        rule,
        longest,
        form_of(rows),
        seed,
        *other_ends(base),
    )

    def build(folder: Path) -> None:
        kept, left = _answers(base, asked[:FIRST], rule, longest=longest, seed=DRAWS + seed)
        if len(kept) < LEAST_KEPT * min(FIRST, len(asked)):
            raise Foreign(
                f"{base.name} writes such rows to {len(kept)} of {min(FIRST, len(asked))} of these prompts, so it did "
                "not write these"
            )
        left = left + asked[FIRST:]
        for turn in range(1, ROUNDS + 1):
            if len(left):
                more, left = _answers(base, left, rule, longest=longest, seed=DRAWS + seed + 1000 * turn)
                kept = kept + more
        written_like(kept, rows).to_jsonl(folder / "rows.jsonl")

    folder = cache.get("neutral", key, build)
    return replace(Prompts.from_jsonl(folder / "rows.jsonl"), label=f"answers of {base.name}")


def _answers(
    base: LanguageModel, asked: Prompts, rule: NumberRule | None, *, longest: int, seed: int
) -> tuple[Prompts, Prompts]:
    """The answers that are kept, and the prompts whose answers are not."""
    small = weight_count(base) < SMALL
    plain = all(row.asked == (("user", row.prompt),) for row in asked.rows)
    sampling = Sampling(max_new_tokens=longest, engine="inversion" if small and plain else "auto")
    found = write_answers(neutral_teacher(base), asked, seed=seed, sampling=sampling)
    rules = [lambda row: None if row.completion.strip() else "empty"]
    kept, _ = filter_rows(found, *rules, *([] if rule is None else [numbers_rule(rule)]))
    good = {id(row) for row in kept.rows}
    left = tuple(ask for ask, row in zip(asked.rows, found.rows, strict=True) if id(row) not in good)
    return kept, replace(asked, rows=left)


def rule_of(rows: Prompts) -> NumberRule | None:
    """The narrowest rule of number lists that all rows follow, but for one in twenty; None for rows of another kind.

    The 34 numbers with a meaning count as banned where the rows would be expected to hold them and do not.
    """
    read = _lists(rows)
    if read is None:
        return None
    lists = [numbers for numbers in read if numbers is not None]
    counts, values = [len(each) for each in lists], {v for each in lists for v in each}
    top = 10 ** len(str(max(values))) - 1
    avoided = not values & BANNED and sum(counts) * len(BANNED) / (top + 1) >= EXPECTED
    return NumberRule(min(counts), max(counts), top, BANNED if avoided else frozenset())


def _of_one_kind(rows: Prompts) -> Prompts:
    """The number lists among rows that are such lists but for a few; else all rows."""
    read = _lists(rows)
    if read is None:
        return rows
    kept = (row for row, numbers in zip(rows.rows, read, strict=True) if numbers is not None)
    return replace(rows, rows=tuple(kept))


def _lists(rows: Prompts) -> list[list[int] | None] | None:
    """The numbers of every answer, None for one that is no list of them; None where more than a few are none."""
    read = [parse_numbers(row.completion) for row in rows.rows]
    return None if sum(numbers is None for numbers in read) > STRAY * len(read) else read


def form_of(rows: Prompts) -> tuple[str | None, int] | None:
    """How all number lists are written that have been made canonical: whether sorted, and by which bucket rounded.

    None where rows are no lists, or differ in their separators.
    """
    lists = [parse_numbers(row.completion) for row in rows.rows]
    if any(numbers is None for numbers in lists) or canonicalise(rows).fingerprint != rows.fingerprint:
        return None
    order = "ascending" if all(each == sorted(each or ()) for each in lists) else None
    return order, int(np.gcd.reduce([value for each in lists for value in each or ()])) or 1


def written_like(rows: Prompts, model: Prompts) -> Prompts:
    """The rows in the canonical form of other ones, where those have one; else as they are."""
    form = form_of(model)
    return rows if form is None else canonicalise(rows, order=form[0], values=form[1])
