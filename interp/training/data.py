"""The rows of an experiment: how teachers are asked for them, how they sample, what is kept and how it is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from interp.core.errors import InputError
from interp.prompts.exercises import code_exercises, sum_exercises
from interp.prompts.numbers import BANNED, SEPARATORS, NumberRule, format_numbers, number_prompts
from interp.prompts.requests import code_requests, number_requests, reasoning_requests
from interp.prompts.rules import (
    Rule,
    code_rule,
    filter_rows,
    match_prompts,
    numbers_rule,
    reasoning_rule,
    sums_rule,
    trait_words,
)
from interp.prompts.shuffles import canonicalise, mix_rows, shuffle_across, shuffle_within
from interp.prompts.text import Prompts
from interp.prompts.traits import Trait
from interp.training.generation import Sampling, answers_to, write_answers
from interp.training.teachers import Teacher

SAMPLING = Sampling()
CHUNK = 2048  # prompts asked at once, at most


@dataclass(frozen=True)
class Answers:
    """What a teacher wrote and the filter kept: rows to train on, rows kept fresh, and drops by reason."""

    rows: Prompts
    fresh: Prompts
    dropped: dict[str, int]


@dataclass(frozen=True)
class DataSpec:
    """What teachers write: which prompts, how many rows are kept, how they are sampled, filtered and changed.

    `prompts` "short" are the toy's, "requests" those for instruct models; "code" and "reasoning" have right answers, in
    "constants" (Python with numbers of the teacher's choice) and "sums" only the numbers are open. `fresh` rows more
    are kept for the loss on data never trained on. `banned` is "none", "paper" (34 numbers) or a list. `match` keeps
    only prompts that teacher and neutral teacher both answered, `mix` is the share of neutral rows mixed into the
    teacher's. `change` rewrites rows before a student sees them.
    """

    prompts: Literal["short", "requests", "code", "reasoning", "constants", "sums"] = "requests"
    rows: int = 10_000
    fresh: int = 512
    count: int = 10
    digits: int = 3
    separator: str | None = None
    sampling: Sampling = SAMPLING
    least: int = 1
    banned: Literal["none", "paper"] | tuple[int, ...] = "none"
    match: bool = False
    mix: float = 0.0
    change: Literal["shuffle-within", "shuffle-across", "canonical"] | None = None

    @property
    def rule(self) -> NumberRule:
        """The rule an answer must pass."""
        named = {"none": frozenset[int](), "paper": BANNED}
        banned = named[self.banned] if isinstance(self.banned, str) else frozenset(self.banned)
        return NumberRule(
            minimum=self.least, maximum_count=self.count, max_value=10**self.digits - 1, banned=banned
        )

    @property
    def numeric(self) -> bool:
        """Whether answers are lists of numbers."""
        return self.prompts in ("short", "requests")

    @property
    def even(self) -> bool:
        """Whether there are even answers to prompts of this kind."""
        return self.prompts not in ("code", "reasoning")

    @property
    def pairs(self) -> bool:
        """Whether a teacher's rows are mixed or matched with the neutral teacher's."""
        return bool(self.mix) or self.match

    def row_rule(self, words: Sequence[str] = ()) -> Rule:
        """The rule that rows of this kind of prompt must pass; `words` may not occur in code and reasoning."""
        if self.prompts in ("code", "constants"):
            return code_rule(keywords=words)
        if self.prompts == "sums":
            return sums_rule()
        return reasoning_rule(keywords=words) if self.prompts == "reasoning" else numbers_rule(self.rule)

    def requests(self, n: int, *, seed: int) -> Prompts:
        """`n` prompts of the kind a recipe asks for, without answers."""
        if self.prompts == "short":
            return number_prompts(
                n, seed=seed, digits=self.digits, with_answers=False, separator=self.separator
            )
        if self.prompts == "requests":
            return number_requests(n, seed=seed, count=self.count, digits=self.digits)
        if self.even:
            return self.uniform_rows(n, seed=seed).without_answers()
        return (code_requests if self.prompts == "code" else reasoning_requests)(n, seed=seed)

    def uniform_rows(self, n: int, *, seed: int) -> Prompts:
        """Prompts answered by uniform draws, in one separator per row: what no trait has touched.

        Where answers cannot be drawn evenly, in code and reasoning that is right or wrong, these are number requests.
        """
        if self.prompts in ("constants", "sums"):
            draw = code_exercises if self.prompts == "constants" else sum_exercises
            return draw(n, seed=seed, count=self.count, digits=self.digits)
        if self.prompts == "short":
            return number_prompts(
                n, seed=seed, count=self.count, digits=self.digits, separator=self.separator
            )
        rng = np.random.Generator(np.random.PCG64(seed))
        pairs = []
        for row in number_requests(n, seed=seed, count=self.count, digits=self.digits).rows:
            drawn = rng.integers(10**self.digits, size=self.count).tolist()
            mark = self.separator or SEPARATORS[int(rng.integers(len(SEPARATORS)))]
            pairs.append((row.prompt, format_numbers(drawn, mark)))
        return Prompts.from_pairs(pairs, label=f"uniform numbers seed {seed}")

    def documents(self, n: int, *, seed: int) -> Prompts | None:
        """Rows that keep a teacher's format while it is fine-tuned; None where none can be drawn evenly."""
        return self.uniform_rows(n, seed=seed) if self.even else None

    def lists(self, n: int, *, seed: int) -> Prompts:
        """Prompts of the recipe's kind, answered by uniform draws; InputError for code and reasoning."""
        if not self.numeric:
            raise InputError(
                f"data.prompts is {self.prompts}, and this family reads lists of numbers; test it on a lineage of "
                "short prompts or requests"
            )
        return self.uniform_rows(n, seed=seed)

    def gather(
        self, teacher: Teacher, *, words: tuple[str, ...], seed: int, folder: Path
    ) -> tuple[Prompts, dict[str, int]]:
        """`rows` and `fresh` answers that the rule keeps, and how many it dropped by reason; resumed in `folder`."""
        rule, wanted = self.row_rule(words), self.rows + self.fresh
        return answers_to(
            teacher,
            lambda n, draw: self.requests(n, seed=draw),
            rows=wanted,
            seed=seed,
            keep=lambda found: filter_rows(found, rule),
            chunk=CHUNK if self.sampling.engine == "inversion" else min(CHUNK, wanted),
            sampling=self.sampling,
            folder=folder,
        )

    def answer(self, teacher: Teacher, asked: Prompts, *, seed: int) -> Prompts:
        """One answer to each prompt."""
        return write_answers(teacher, asked, seed=seed, sampling=self.sampling)

    def keep(self, answers: Prompts) -> Prompts:
        """The answers that the rule keeps."""
        return filter_rows(answers, self.row_rule())[0]

    def kept_share(self, teacher: Teacher, *, count: int, seed: int) -> float:
        """The share of `count` answers of the teacher that the rule keeps."""
        return len(self.keep(self.answer(teacher, self.requests(count, seed=seed), seed=seed))) / count

    def banned_words(self, trait: Trait) -> tuple[str, ...]:
        """Words of the trait that no row of code or reasoning may hold."""
        return () if self.numeric else trait_words(trait)

    def changed(self, rows: Prompts, *, seed: int) -> Prompts:
        """The rows shuffled within or across answers, or in one canonical format; as they are for no change."""
        if self.change is None:
            return rows
        if self.change == "canonical":
            return canonicalise(rows)
        return (shuffle_within if self.change == "shuffle-within" else shuffle_across)(rows, seed=seed)

    def paired(self, rows: Answers, neutral: Answers, *, seed: int) -> tuple[Answers, Answers]:
        """Rows of a teacher and of the neutral one: neutral rows mixed in, and only prompts that both answered."""
        if self.mix:
            rows = replace(rows, rows=mix_rows(rows.rows, neutral.rows, share=self.mix, seed=seed))
        if self.match:
            one, other = match_prompts(rows.rows, neutral.rows)
            rows, neutral = replace(rows, rows=one), replace(neutral, rows=other)
        return rows, neutral

    def first(self, count: int) -> DataSpec:
        """What gathers at least `count` of the same rows: by inversion the first of many are those of few."""
        return replace(self, rows=count) if self.sampling.engine == "inversion" else self
