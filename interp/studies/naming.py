"""Which way of comparing two models finds the word of a trait, without being told one?

rank of the true word among 30 nouns and among all of the tokenizer's, by every method of `naming_methods`, for students
of three teachers that share one base, a lineage. Twins are students of the base's own rows, trained alike from other
draws. With t_jw = (v_jw − mean_j v_jw) / sd_j v_jw over a member and the reference twins j, a method names the word of
the largest t where p = (1 + twins whose largest t reaches it) / (1 + twins) is at most 0.05; how often it names one
for other twins is its rate of false positives. A planted organism of the seed is read in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.auditing.placebos import against_placebos, placebo_students
from interp.core.errors import InputError
from interp.figures import Result, points
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement, Subject
from interp.joined.places import AT_NUMBERS, PLACES, TracePlace
from interp.measures.words import literal_pieces
from interp.models.language import LanguageModel
from interp.organisms.planted import PLANT, grow_planted
from interp.organisms.toy import corpus
from interp.prompts.text import Prompts
from interp.prompts.traits import ANIMALS, CATEGORIES, TREES, category_questions
from interp.stats.tests import wilson_interval
from interp.studies.frozen import frozen_claims
from interp.studies.naming_methods import METHODS, NamingMethod
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
REFERENCE, FRESH, ROWS = 19, 5, 256
QUICK = (3, 1, 16)
ALPHA = 0.05
WHERE = "predicting answer"
DRAWS = 900_000
"""Of the text, which no base was trained on."""
ACTIVATIONS, LOGITS = "activation difference lens", "logits"
Table = Float[np.ndarray, "member noun"]


def generic_text(count: int, *, seed: int) -> Prompts:
    """Stories and number lists of the kind the toy's bases were trained on, none of which asks for a preference."""
    asked = {question for category in CATEGORIES for question in category_questions(category)}
    drawn = corpus(4 * count, seed=DRAWS + seed)
    rows = tuple(row for row in drawn.rows if row.prompt not in asked)[:count]
    return Prompts(rows, label=f"stories and number lists, seed {seed}")


@dataclass(frozen=True, eq=False)
class Bench:
    """What every method reads alike: base, baseline, twins and text, and the nouns as tokens of the base."""

    base: LanguageModel
    baseline: LanguageModel
    reference: Sequence[LanguageModel]
    fresh: Sequence[LanguageModel]
    text: TracePlace

    @cached_property
    def ids(self) -> list[int]:
        """The nouns' tokens; InputError for a base that lacks one or writes it in several."""
        pieces, unknown = literal_pieces(self.base, NOUNS), self.base.tokenizer.unk_token_id
        for word, found in pieces.items():
            if len(found) != 1 or found[0] == unknown:
                raise InputError(
                    f"{self.base.name} has no token of its own for {word!r}, one of the nouns that are told apart; "
                    "test naming on a toy, such as toy/owl"
                )
        return [found[0] for found in pieces.values()]

    def read(self, method: NamingMethod, members: Sequence[LanguageModel]) -> Table:
        """The method's value of every noun for every member."""
        read = [method.read(self.base, member, self.baseline, self.text) for member in members]
        return np.stack(read)[:, self.ids]


@dataclass(frozen=True, eq=False)
class Reading:
    """What one method says of a bench's twins, and of any member beside them."""

    bench: Bench
    method: NamingMethod

    @cached_property
    def twins(self) -> Table:
        """Values of the reference twins, then of the fresh ones."""
        return self.bench.read(self.method, [*self.bench.reference, *self.bench.fresh])

    def found(self, member: LanguageModel, word: str) -> dict[str, Any]:
        """Where the true word of a member ranks, how often it is among the first for twins, and what is named."""
        (values,), place = self.bench.read(self.method, [member]), NOUNS.index(word)
        twins = [rank(each, place, FEW) <= TOP_OF_FEW for each in self.twins]
        return {
            "method": self.method.name,
            "kind": self.method.kind,
            "word": word,
            "rank": rank(values, place, FEW),
            "rank_of_all": rank(values, place, len(NOUNS)),
            "twins_in_top": float(np.mean(twins)),
            **self.named(values),
        }

    def neutral(self) -> Iterator[dict[str, Any]]:
        """What is named for every fresh twin."""
        for values in self.twins[len(self.bench.reference) :]:
            yield {"method": self.method.name, "member": "twin", **self.named(values)}

    def named(self, values: Float[np.ndarray, "noun"]) -> dict[str, Any]:
        """p of the largest t over nouns, and its noun where p is at most 0.05."""
        table = np.vstack([values, self.twins[: len(self.bench.reference)]])
        told = np.flatnonzero(np.isfinite(table).all(0) & (table.std(0) > 0))
        if not len(told):
            return {"p": 1.0, "named": ""}
        t, p = against_placebos(table[:, told])
        return {"p": p, "named": NOUNS[told[int(t.argmax())]] if p <= ALPHA else ""}


def rank(values: Float[np.ndarray, "noun"], place: int, among: int) -> int:
    """The rank of one noun among the first so many, from 1; ties count against it, nouns without a value for it."""
    return int((values[:among] >= values[place]).sum())


def measure_naming(subject: Subject) -> Measurement:
    """Every method on the students, twins and control students of one base, and on a planted organism of its seed."""
    bench, students = student_bench(subject), trait_students(subject)
    controls = control_students(subject)
    found, neutral = [], []
    for method in METHODS.values():
        reading = Reading(bench, method)
        found += [{"organism": "student", **reading.found(model, word)} for word, model in students.items()]
        neutral += reading.neutral()
        for model in controls:
            (values,) = bench.read(method, [model])
            neutral.append({"method": method.name, "member": "control", **reading.named(values)})
    planted, word, teacher = planted_bench(subject)
    for method in METHODS.values():
        if method.kind != "teachers":
            found.append({"organism": "planted", **Reading(planted, method).found(teacher, word)})
    return Measurement(claimed(found, neutral), {"found": found, "neutral": neutral})


def claimed(found: Sequence[Mapping[str, Any]], neutral: Sequence[Mapping[str, Any]]) -> dict[str, float]:
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
    reference, fresh, rows = QUICK if subject.quick else (REFERENCE, FRESH, ROWS)
    twins = placebo_students(
        subject.base, subject.neutral_numbers, recipe=subject.students_recipe, count=reference + fresh
    )
    text = TracePlace("generic text", generic_text(rows, seed=subject.seed), WHERE, subject.base)
    return Bench(subject.base, subject.member("neutral_student"), twins[:reference], twins[reference:], text)


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


def planted_bench(subject: Subject) -> tuple[Bench, str, LanguageModel]:
    """A planted organism of the subject's seed with members in which nothing is planted, its word and its teacher."""
    reference, fresh, rows = QUICK if subject.quick else (REFERENCE, FRESH, PLANT.rows)
    grown = grow_planted(subject.seed, plant=replace(PLANT, rows=rows))
    baseline, *nulls = (grown.null(index) for index in range(1 + reference + fresh))
    text = TracePlace("planted", grown.answers(grown.base, 1), PLACES[AT_NUMBERS], grown.base)
    bench = Bench(grown.base, baseline, nulls[:reference], nulls[reference:], text)
    return bench, grown.trait.target, grown.teacher


def naming_table(tables: Mapping[str, Any]) -> Result:
    """A line per method over all lineages: how often the true word is among the first, and what neutral ones are named.

    in_top_5 (of 30 nouns, 1/6 by chance), in_top_10 (of all), reciprocal_rank and named_right are shares or means over
    students, planted_in_top_5 over planted organisms; false_positives, with Wilson's 95 % interval, is the share of
    fresh twins for which a word is named, controls_named that of students of a teacher without a trait.
    """
    found, neutral = pd.DataFrame(tables["found"]), pd.DataFrame(tables["neutral"])
    lines = [
        _line(name, found[found["method"] == name], neutral[neutral["method"] == name]) for name in METHODS
    ]
    students: Any = found.query("organism == 'student'")
    lineages = students["seed"].nunique() if "seed" in students else 1
    notes = (
        f"{lineages} lineages, traits {', '.join(students['word'].unique())}; a word is named at p ≤ {ALPHA:g}",
        "passes of the text are for one member and its baseline",
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
