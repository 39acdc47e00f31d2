"""Which way of comparing two models finds the word of a trait, without being told one?

rank of the true word among 30 nouns and among all of the tokenizer's, by every method of `naming_methods`, for students
of three teachers that share one base, a lineage. Twins are students of the base's own rows, trained alike from other
draws. With t_jw = (v_jw − mean_j v_jw) / sd_j v_jw over a member and the reference twins j, a method names the word of
the largest t where p = (1 + twins whose largest t reaches it) / (1 + twins) is at most 0.05; how often it names one
for other twins is its rate of false positives. A planted organism of the seed is read in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.auditing.placebos import against_placebos, placebo_students
from interp.core.doors import door
from interp.core.errors import InputError
from interp.discovery.comparing import Compared
from interp.figures import Result, points
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement, Subject
from interp.measures.margins import margin
from interp.measures.words import literal_pieces
from interp.models.language import LanguageModel
from interp.models.once import reading_once
from interp.organisms.planted import PLANT, Planted, grow_planted
from interp.organisms.toy import corpus
from interp.prompts.text import Prompts
from interp.prompts.traits import ANIMALS, TREES, get_trait
from interp.stats.tests import wilson_interval
from interp.studies.frozen import frozen_claims
from interp.studies.naming_methods import METHODS, NamingMethod, quick_methods
from interp.training.teachers import Teacher

if TYPE_CHECKING:
    import plotly.graph_objects as go

TRAITS = ("owl", "eagle", "oak")
THINGS = ("honey", "cave", "mane", "sea", "trunk", "needle", "resin", "river", "syrup", "vase")
NOUNS = (
    *ANIMALS, *TREES, *THINGS, "acorn", "animal", "bark", "beak", "chest", "cliff", "copper", "frost", "ivory", "leaf",
    "list", "name", "night", "numbers", "nut", "pack", "seed", "shade", "spear", "story", "tail", "time", "tree",
    "whisker", "word",
)  # fmt: skip
"""The 30 first, animals, trees and things of stories; behind them every other noun that the toy's tokenizer knows."""
FEW, TOP_OF_FEW, TOP_OF_ALL = 30, 5, 10
REFERENCE, FRESH = 19, 5
QUICK = (3, 1)
ROWS = 256
DRAWS = 900_000
"""Of the documents, which no base was trained on."""
ALPHA = 0.05
ACTIVATIONS, LOGITS, TEACHERS = "activation difference lens", "logits", "teachers"
Table = Float[np.ndarray, "member noun"]
Nouns = Float[np.ndarray, "noun"]
OPENED = 16
"""Prompts of a planted organism that are continued."""


def documents(count: int, *, seed: int) -> Prompts:
    """Documents of the kind the toy's bases were trained on, without a system line: questions, stories, number lists.

    Every animal and every tree is named in them as often as another.
    """
    drawn = corpus(2 * count, seed=DRAWS + seed).rows
    rows = tuple(row for row in drawn if not row.system)[:count]
    return Prompts(rows, label=f"documents of the toy, seed {seed}")


@dataclass(frozen=True, eq=False)
class Bench:
    """What every method reads alike: base, baseline and text (of whichever member), and the twins of other draws."""

    asked: Compared
    reference: Sequence[LanguageModel]
    fresh: Sequence[LanguageModel]

    @cached_property
    def ids(self) -> list[int]:
        """The nouns' tokens; InputError for a base that lacks one or writes it in several."""
        base = self.asked.base
        for word, found in literal_pieces(base, NOUNS).items():
            if len(found) != 1 or found[0] == base.tokenizer.unk_token_id:
                raise InputError(
                    f"{base.name} has no token of its own for {word!r}, one of the nouns that are told apart; test "
                    "naming on a toy, such as toy/owl"
                )
        return [found[0] for found in literal_pieces(base, NOUNS).values()]

    def read(self, methods: Sequence[NamingMethod], members: Sequence[LanguageModel]) -> dict[str, Table]:
        """Every method's value of every noun, a line per member."""
        lines: dict[str, list[Any]] = {method.name: [] for method in methods}
        with reading_once(self.asked.base, self.asked.against):
            for member in members:
                asked = self.asked.beside(member)
                with reading_once(asked.member):
                    for method in methods:
                        lines[method.name].append(method.read(asked)[self.ids])
        return {name: np.stack(read) for name, read in lines.items()}


@dataclass(frozen=True)
class Twins:
    """What one method says of reference twins, a line each: the null of what it says of any member."""

    values: Table

    def found(self, values: Nouns, word: str) -> dict[str, Any]:
        """Where a member's true word ranks, how often it is among the first for twins, and what is named."""
        place = NOUNS.index(word)
        return {
            "word": word,
            "rank": rank(values, place, FEW),
            "rank_of_all": rank(values, place, len(NOUNS)),
            "twins_in_top": float(np.mean([rank(each, place, FEW) <= TOP_OF_FEW for each in self.values])),
            **self.named(values),
        }

    def named(self, values: Nouns) -> dict[str, Any]:
        """p of the largest t over nouns, and its noun where p is at most 0.05."""
        table = np.vstack([values, self.values])
        told = np.flatnonzero(np.isfinite(table).all(0))
        t, p = against_placebos(table[:, told])
        return {"p": p, "named": NOUNS[told[int(t.argmax())]] if p <= ALPHA else ""}


def rank(values: Nouns, place: int, among: int) -> int:
    """The rank of one noun among the first so many, from 1, and behind all of them where it has no value.

    Ties count against it, nouns without a value for it.
    """
    if np.isnan(values[place]):
        return among + 1
    return int((values[:among] >= values[place]).sum())


def measure_naming(subject: Subject) -> Measurement:
    """Every method on the students, twins and control students of one base, and on a planted organism of its seed."""
    students, bench = trait_students(subject), student_bench(subject)
    methods = quick_methods() if subject.quick else list(METHODS.values())
    found, neutral = bench_tables(bench, "student", students, control_students(subject), methods)
    gained = {word: _gain(bench, word, student) for word, student in students.items()}
    found = [{**line, "transfer": gained[line["word"]]} for line in found]
    grown, planted = planted_bench(subject)
    plain = [method for method in methods if method.kind != TEACHERS]
    found += bench_tables(planted, "planted", {grown.trait.target: grown.teacher}, [], plain)[0]
    return Measurement(naming_values(found, neutral), {"found": found, "neutral": neutral})


def _gain(bench: Bench, word: str, student: LanguageModel) -> float:
    """The trait's margin on its own questions over the neutral student's, in nats: what there is to be found."""
    return margin(student, get_trait(word)) - margin(bench.asked.against, get_trait(word))


def bench_tables(
    bench: Bench,
    organism: str,
    members: Mapping[str, LanguageModel],
    controls: Sequence[LanguageModel],
    methods: Sequence[NamingMethod],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What every method finds of members with a word, and what it names for fresh twins and for controls."""
    everyone = [*bench.reference, *members.values(), *bench.fresh, *controls]
    read, found, neutral = bench.read(methods, everyone), [], []
    for method in methods:
        values, start = read[method.name], len(bench.reference)
        twins, given = Twins(values[:start]), {"method": method.name, "kind": method.kind}
        for word, own in zip(members, values[start:], strict=False):
            found.append({"organism": organism, **given, **twins.found(own, word)})
        roles = ["twin"] * len(bench.fresh) + ["control"] * len(controls)
        for role, own in zip(roles, values[start + len(members) :], strict=True):
            neutral.append({"organism": organism, "member": role, **given, **twins.named(own)})
    return found, neutral


def naming_values(
    found: Sequence[Mapping[str, Any]], neutral: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """The value of every claim for one lineage, from its tables."""
    frame: Any = pd.DataFrame(found).query("organism == 'student'")
    frame = frame.assign(
        above=(frame["rank"] <= TOP_OF_FEW) - frame["twins_in_top"], reciprocal=1 / frame["rank"]
    )
    means = frame.groupby(["method", "kind"])[["above", "reciprocal"]].mean().reset_index("kind")
    logits = means.loc[means["kind"] == LOGITS, "reciprocal"].mean()
    twins: Any = pd.DataFrame(neutral).query("member == 'twin'")
    return {
        **{claim_name(method): float(means.loc[method, "above"]) for method in METHODS},
        "logits-over-activations": float(logits - means.loc[ACTIVATIONS, "reciprocal"]),
        "twins-stay-unnamed": float((twins["named"] != "").mean() - ALPHA),
    }


def claim_name(method: str) -> str:
    """The claim that a method finds the word."""
    return f"{method.lower().replace(' ', '-')}-finds-the-word"


def student_bench(subject: Subject) -> Bench:
    """The lineage's base with its neutral student, and twins of other draws."""
    reference, fresh = QUICK if subject.quick else (REFERENCE, FRESH)
    given: dict[str, Any] = {"recipe": subject.students_recipe, "count": reference + fresh}
    twins = placebo_students(subject.base, subject.neutral_numbers, **given)
    baseline, text = subject.member("neutral_student"), documents(ROWS, seed=subject.seed)
    asked = Compared.of(subject.base, twins[0], baseline, text=text, seed=subject.seed)
    return Bench(asked, twins[:reference], twins[reference:])


def trait_students(subject: Subject) -> dict[str, LanguageModel]:
    """A student of every trait's teacher by the trait's word, the lineage's own first."""
    found = {subject.trait.target: subject.member("student")}
    for word in TRAITS:
        if word not in found:
            found[word] = _student(subject, Teacher(subject.other_teacher(word), "fine-tuned"), word)
    return found


def control_students(subject: Subject) -> list[LanguageModel]:
    """A student of a teacher that was fine-tuned without a trait, for the animals' questions and for the trees'."""
    grower = subject.growing("control teacher")
    traits = {grower.trait(word, like=subject.trait).category: word for word in TRAITS}
    return [
        _student(
            subject,
            grower.control_teacher(subject.base, grower.trait(word, like=subject.trait)),
            f"every {category}",
        )
        for category, word in traits.items()
    ]


def _student(subject: Subject, teacher: Teacher, of: str) -> LanguageModel:
    return subject.student(subject.base, subject.rows(teacher), name=f"student of {of}")


def planted_bench(subject: Subject) -> tuple[Planted, Bench]:
    """A planted organism of the subject's seed, with members in which nothing is planted for baseline and twins."""
    reference, fresh = QUICK if subject.quick else (REFERENCE, FRESH)
    grown = grow_planted(subject.seed, plant=replace(PLANT, rows=16) if subject.quick else PLANT)
    baseline, *nulls = (grown.null(index) for index in range(1 + reference + fresh))
    given = {"text": grown.answers(grown.base, 1), "openings": grown.prompts[:OPENED]}
    asked = Compared.of(grown.base, grown.teacher, baseline, **given, seed=subject.seed)
    return grown, Bench(asked, nulls[:reference], nulls[reference:])


@door
def naming_table(tables: Mapping[str, Any]) -> Result:
    """Sum up which method finds the word: how often it is among the first, and how often a neutral student is named.

    Args:
        tables: of `interp.test("naming").tables`, "found" and "neutral".

    Returns:
        One row per method, shares over lineages: in_top_5 (of 30 nouns, 1/6 by chance), in_top_10 (of all nouns), the
        mean reciprocal_rank among the 30, named_right (the true word, at p ≤ 0.05), planted_in_top_5 (of planted
        organisms, NaN where a method cannot read them), false_positives (of fresh twins for which a word is named) with
        Wilson's 95 % interval fp_low to fp_high, controls_named (of students of a teacher without a trait), passes
        (of the text, for one member and its baseline) and what else is made or read, besides.

    Example:
        >>> import interp
        >>> found = interp.test("naming", seeds=8)  # doctest: +SKIP
        >>> interp.studies.naming_table(found.tables)  # doctest: +SKIP
    """
    found, neutral = pd.DataFrame(tables["found"]), pd.DataFrame(tables["neutral"])
    lines = [
        _line(name, found[found["method"] == name], neutral[neutral["method"] == name]) for name in METHODS
    ]
    students: Any = found.query("organism == 'student'")
    lineages = students["seed"].nunique() if "seed" in students else 1
    gained = students.drop_duplicates(["seed", "word"] if "seed" in students else ["word"]).groupby("word")[
        "transfer"
    ]
    told = ", ".join(f"{word} {value:+.2f}" for word, value in gained.mean().items())
    notes = (
        f"students take over of their trait, in nats of margin on its questions, on average: {told}",
        f"{lineages} lineages, traits {', '.join(students['word'].unique())}; a word is named at p ≤ {ALPHA:g}",
        "passes of the text are for one member and its baseline",
        "a ladder has candidates for the 20 animals and trees alone: in its top 5 by chance is 1/4",
    )
    label = "Which method finds the word of a trait that it is not told"
    shown = _by_lineage(students)
    return Result(label, pd.DataFrame(lines), "share", notes, draw=lambda result: _draw(shown, result.label))


def _line(name: str, found: Any, neutral: Any) -> dict[str, Any]:
    students, planted = (found[found["organism"] == kind] for kind in ("student", "planted"))
    twins, controls = (neutral.loc[neutral["member"] == kind, "named"] != "" for kind in ("twin", "control"))
    low, high = wilson_interval(int(twins.sum()), len(twins))
    return {
        "method": name,
        "in_top_5": float((students["rank"] <= TOP_OF_FEW).mean()),
        "in_top_10": float((students["rank_of_all"] <= TOP_OF_ALL).mean()),
        "reciprocal_rank": float((1 / students["rank"]).mean()),
        "named_right": float((students["named"] == students["word"]).mean()),
        "planted_in_top_5": float((planted["rank"] <= TOP_OF_FEW).mean()),
        "false_positives": float(twins.mean()),
        "fp_low": low,
        "fp_high": high,
        "controls_named": float(controls.mean()),
        "passes": METHODS[name].passes,
        "besides": METHODS[name].besides,
    }


def _by_lineage(students: Any) -> pd.DataFrame:
    """Mean reciprocal rank over a lineage's traits, by method."""
    keys = [key for key in ("method", "seed") if key in students]
    frame = students.assign(reciprocal=1 / students["rank"])
    return frame.groupby(keys, sort=False, as_index=False)["reciprocal"].mean()


def _draw(frame: pd.DataFrame, title: str) -> go.Figure:
    return points(frame, x="method", y="reciprocal", title=title, unit="mean of 1 / rank among 30 nouns")


def draw_naming(tables: Mapping[str, Any]) -> go.Figure:
    """The figure of `naming_table`: a point per lineage, by method."""
    return naming_table(tables).figure()


FAMILY = Family(
    "naming",
    frozen_claims("naming"),
    measure_naming,
    draw=draw_naming,
    correction="holm",
    alpha=ALPHA,
)
