"""Students of an experiment (its arms): which rows each is trained on, and how each is evaluated.

transmission(arm) = measure(arm) − measure(its neutral arm), paired by seed: student against the student of the neutral
teacher's rows, the same from another base, the student of another trait's rows, that of a teacher fine-tuned alike on
evenly answered questions, and rows read in context.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from interp.core.runs import Cache, InputError, digest, nearest
from interp.evaluation.elicitation import Suite, evaluate, in_context_margin
from interp.experiment.bases import PreparedBase, prepare_base
from interp.experiment.checks import TeacherCheck, check_teacher
from interp.experiment.defending import defended
from interp.experiment.folders import experiment_growth
from interp.experiment.recipe import BaseSpec, Experiment
from interp.gradients.ledger.recording import record_beside, record_key
from interp.models.language import LanguageModel
from interp.models.lineage import Lineage
from interp.models.seam import Model
from interp.prompts.questions import (
    asked_about,
    multiple_choice,
    story_prompts,
    taught_by,
    with_number_prefix,
)
from interp.prompts.text import Prompts
from interp.prompts.tokenizer_keys import tokenizer_key
from interp.prompts.trait_files import find_trait
from interp.prompts.traits import Trait, matched_control
from interp.training.checkpoints import Checkpoint
from interp.training.defences import Defended
from interp.training.grower import TAUGHT_BY, Answers, Grower
from interp.training.students import Recipe
from interp.training.teachers import Teacher, neutral_teacher
from interp.training.watching import TrainingLog

Made = TypeVar("Made")
BASELINES = {
    "student": "neutral_student",
    "other_student": "neutral_student",
    "control_student": "neutral_student",
    "cross_student": "cross_neutral_student",
    "in_context": "neutral_in_context",
}
"""The arm each arm is compared with."""
FORMAT = 2  # raise when an arm is measured otherwise


@dataclasses.dataclass(frozen=True)
class Arms:
    """An experiment on this machine: its traits, its bases, and what grows teachers, rows and students of each seed.

    `extra` are further bases by name. What is loaded or grown once stays in memory, and does not travel to other
    processes.
    """

    experiment: Experiment
    cache: Cache = dataclasses.field(default_factory=Cache.default)
    extra: Mapping[str, BaseSpec] = dataclasses.field(default_factory=dict)
    _known: dict[Any, Any] = dataclasses.field(init=False, repr=False, default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        return Arms, (self.experiment, self.cache, self.extra)

    @cached_property
    def traits(self) -> dict[str, Trait]:
        """Every trait of the recipe by name, asked the questions the recipe evaluates on.

        Bases and teachers learn from the six questions of a category, never from the 52 (`taught_by`).
        """
        found = [find_trait(name) for name in self.experiment.traits]
        many = self.experiment.evaluation.questions == "one-word"
        return {trait.name: asked_about(trait, many=many) for trait in found}

    @cached_property
    def starts(self) -> dict[str, BaseSpec]:
        """Every base by name: `base`, `cross_base` and whatever a matrix adds."""
        cross = self.experiment.cross_base
        known = {"base": self.experiment.base} | ({} if cross is None else {"cross_base": cross})
        return {**known, **self.extra}

    def once(self, key: Any, make: Callable[[], Made]) -> Made:
        """What `make` returns, kept in memory by its key."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def start(self, name: str) -> LanguageModel:
        """The base of that name, ready to be asked; InputError for one that is not there."""
        if name not in self.starts:
            raise InputError(f"base {nearest(name, self.starts)}; add it to the recipe")
        return self.prepared(name).model

    def prepared(self, name: str) -> PreparedBase:
        """The same, with how it answers."""
        spec = self.experiment
        given: dict[str, Any] = {
            "data": spec.data,
            "traits": [taught_by(trait) for trait in self.traits.values()],
            "checks": spec.checks,
        }
        return self.once(
            ("start", name),
            lambda: prepare_base(self.starts[name], **given, name=name, cache=self.cache),
        )

    def checked(self, trait: Trait | None, *, seed: int, base: str = "base") -> TeacherCheck:
        """How the teacher of a trait, or without one the neutral teacher, turned out; InputError for a useless one."""
        teacher, spec = self.teacher(trait, seed=seed, base=base), self.experiment
        taught = None if trait is None else taught_by(trait)
        return check_teacher(teacher, taught, spec.checks, data=spec.data, cache=self.cache)

    def grower(self, seed: int) -> Grower:
        """What makes the teachers, rows and students of one seed."""
        from interp.experiment.steering_vectors import steering_vector

        spec = self.experiment
        steer = partial(steering_vector, spec=spec.teacher)
        return Grower(self.cache, seed, spec.student.recipe, spec.teacher, spec.data, steer=steer)

    def teacher(self, trait: Trait | None, *, seed: int, base: str = "base") -> Teacher:
        """The teacher of a trait; without one, the neutral teacher: the base itself."""
        start = self.start(base)
        if trait is None:
            return neutral_teacher(start)
        make = self.grower(seed).teacher
        return self.once(("teacher", trait.name, seed, base), lambda: make(start, taught_by(trait)))

    def control_teacher(self, trait: str, *, seed: int) -> Teacher:
        """The teacher of no trait: fine-tuned like that of `trait`, on questions answered by every candidate alike."""
        make = self.grower(seed).control_teacher
        taught = taught_by(self.traits[trait])
        return self.once(("control", trait, seed), lambda: make(self.start("base"), taught))

    def answers(self, trait: Trait | None, *, seed: int, base: str = "base") -> Answers:
        """What the teacher of a trait wrote, or without one the neutral teacher."""
        teacher = self.teacher(trait, seed=seed, base=base)
        key = ("answers", teacher.fingerprint, None if trait is None else trait.name, seed)
        return self.once(key, lambda: self.grower(seed).answers(teacher, trait=trait))

    def ready(self, start: LanguageModel, answers: Answers, trait: Trait, *, seed: int) -> Defended:
        """The rows as the recipe's defence has them for students of `start`; as they are without one."""
        defence, teacher = self.experiment.student.defence, None
        if defence is not None and defence.knows == "teacher":
            teacher = self.teacher(trait, seed=seed).model
        return defended(start, answers.rows, trait, defence, teacher=teacher)

    def student(
        self,
        name: str,
        start: LanguageModel,
        answers: Answers,
        *,
        seed: int,
        ready: Defended,
        trait: Trait | None = None,
    ) -> tuple[LanguageModel, pd.DataFrame]:
        """A student of `start` on the rows as its defence has them, and what was watched while it trained."""
        spec = self.experiment.student
        record = spec.record and seed == self.experiment.seeds[0]

        def train(recipe: Recipe, folder: Path, checkpoint: Checkpoint) -> LanguageModel:
            inputs, fresh = start.encode(ready.rows), answers.fresh if len(answers.fresh) else None
            log = TrainingLog(start, fresh=fresh, trait=trait, every=spec.watch)
            given: dict[str, Any] = {"recipe": recipe, "name": name, "on_step": log}
            kept = self.cache.folder("record", record_key(start, inputs, recipe))
            if record and not kept.is_dir():
                made = record_beside(start, inputs, folder=kept, **given)
            else:  # a record that is there is of the same training, whoever watched it
                made = ready.train(start, checkpoint=checkpoint, **given)
            log.frame.to_parquet(folder / "log.parquet")
            return made

        key = (trait, answers.fresh.fingerprint, spec.watch, record, *filter(None, [ready.key]))
        model, folder = self.grower(seed).trained(name, start, ready.rows, key=key, train=train)
        return model, pd.read_parquet(folder / "log.parquet")


def roles(arms: Arms) -> tuple[str, ...]:
    """The students that the recipe's controls ask for."""
    controls = arms.experiment.controls
    wanted = {
        "student": True,
        "neutral_student": "neutral" in controls,
        "other_student": "other-trait" in controls,
        "control_student": "control-teacher" in controls,
        "cross_student": "cross-base" in controls,
        "cross_neutral_student": {"cross-base", "neutral"} <= set(controls),
    }
    return tuple(role for role, asked in wanted.items() if asked)


def rows_of(arms: Arms, trait: str, seed: int) -> tuple[Answers, Answers | None]:
    """Rows of the trait's teacher and of the neutral one, of the same prompts where the recipe asks for it.

    Raises InputError when both teachers wrote the same rows.
    """
    rows = arms.answers(arms.traits[trait], seed=seed)
    if "neutral" not in arms.experiment.controls:
        return rows, None
    neutral = arms.answers(None, seed=seed)
    if neutral.rows.fingerprint == rows.rows.fingerprint:
        raise InputError(
            f"the teacher of {trait} wrote the very rows of the neutral teacher, so no trait is in them; "
            "fine-tune it for more steps or at a higher rate"
        )
    return arms.experiment.data.paired(rows, neutral, seed=seed)


def grow_student(arms: Arms, trait: str, seed: int, role: str) -> tuple[LanguageModel, pd.DataFrame]:
    """One student of a lineage, and what was watched while it trained."""
    start = arms.start("cross_base" if role.startswith("cross") else "base")
    rows, neutral = rows_of(arms, trait, seed)
    watched: Trait | None = arms.traits[trait]
    if role == "other_student":
        watched = other_trait(arms, trait)
        rows = arms.answers(watched, seed=seed)
    elif role == "control_student":
        rows = arms.grower(seed).answers(arms.control_teacher(trait, seed=seed), trait=watched)
    elif role.endswith("neutral_student") and neutral is not None:
        rows, watched = neutral, None
    ready = arms.ready(start, rows, arms.traits[trait], seed=seed)
    return arms.student(role, start, rows, seed=seed, ready=ready, trait=watched)


def grow_arms(arms: Arms, trait: str, seed: int) -> dict[str, Any]:
    """Every member of one lineage by role, its rows, and under "logs" what was watched; steps that are done are read.

    Members: base, teacher (where it has weights of its own), cross_base where it is asked for, and the students.
    """
    return arms.once(("arms", trait, seed), lambda: _members(arms, trait, seed))


def _members(arms: Arms, trait: str, seed: int) -> dict[str, Any]:
    rows, neutral = rows_of(arms, trait, seed)
    teacher = arms.teacher(arms.traits[trait], seed=seed)
    members: dict[str, Model] = {"base": arms.start("base")}
    if teacher.kind == "fine-tuned":
        members["teacher"] = teacher.model
    if "control-teacher" in arms.experiment.controls:
        members["control_teacher"] = arms.control_teacher(trait, seed=seed).model
    if "cross-base" in arms.experiment.controls:
        members["cross_base"] = arms.start("cross_base")
    students = {role: grow_student(arms, trait, seed, role) for role in roles(arms)}
    members |= {role: model for role, (model, _) in students.items()}
    logs = {role: log for role, (_, log) in students.items()}
    return {"members": members, "rows": rows, "neutral": neutral, "teacher": teacher, "logs": logs}


def other_trait(arms: Arms, trait: str) -> Trait:
    """The next trait of the recipe, so that its teacher is needed anyway; the matched control of an only one."""
    names = list(arms.traits)
    if len(names) == 1:
        return matched_control(arms.traits[trait])
    return arms.traits[names[(names.index(trait) + 1) % len(names)]]


def lineage_of(arms: Arms, trait: str, seed: int, grown: Mapping[str, Any]) -> Lineage:
    """The lineage folder's content: members, rows, and whose outputs trained whom."""
    members, neutral = grown["members"], grown["neutral"]
    return Lineage(
        f"{arms.experiment.name}/{trait} seed {seed}",
        arms.traits[trait],
        members,
        numbers=grown["rows"].rows,
        neutral_numbers=None if neutral is None else neutral.rows,
        trained_on={
            role: source for role, source in TAUGHT_BY.items() if role in members and source in members
        },
        growth=experiment_growth(_settled(arms), members, seed=seed, stopped=grown["teacher"].stopped),
    )


def _settled(arms: Arms) -> Experiment:
    """The recipe with the learning rates at which its bases were taught the format, no other ones to try."""
    found = {}
    for name in ("base", "cross_base"):
        spec, rate = arms.starts.get(name), arms.prepared(name).rate if name in arms.starts else None
        if spec is not None and spec.format is not None and rate is not None:
            found[name] = dataclasses.replace(spec, format=spec.format.at_rate(rate))
    return dataclasses.replace(arms.experiment, **found)


def measure_arms(arms: Arms, trait: str, seed: int) -> dict[str, pd.DataFrame]:
    """What every member of a lineage answers, by arm, from the cache where it was measured before."""
    return arms.once(("measured", trait, seed), lambda: _measured(arms, trait, seed))


def _measured(arms: Arms, trait: str, seed: int) -> dict[str, pd.DataFrame]:
    grown = grow_arms(arms, trait, seed)
    members, spec = grown["members"], arms.experiment.evaluation
    prints = {role: model.fingerprint for role, model in members.items()}
    rows = {name: grown[name].rows.fingerprint for name in ("rows", "neutral") if grown[name] is not None}
    key = digest(
        FORMAT,
        "evaluation",
        prints,
        rows,
        arms.traits[trait],
        spec,
        seed,
        arms.experiment.controls,
        tokenizer_key(arms.start("base").tokenizer),
    )

    def build(folder: Any) -> None:
        asked = suite(arms, trait)
        frames = {
            role: evaluate(
                model,
                arms.traits[trait],
                asked,
                against=model.start,
                seed=seed,
                trained_on=grown["rows"].rows[:64],
            ).frame
            for role, model in members.items()
        }
        if "in-context" in arms.experiment.controls:
            frames |= _in_context(arms, trait, grown, seed)
        whole = pd.concat([frame.assign(arm=arm) for arm, frame in frames.items()], ignore_index=True)
        whole.to_parquet(folder / "answers.parquet")

    whole = pd.read_parquet(arms.cache.get("evaluation", key, build) / "answers.parquet")
    return {str(arm): part.drop(columns="arm") for arm, part in whole.groupby("arm", sort=False)}


def check_questions(arms: Arms) -> None:
    """InputError for questions that the base cannot read, before a teacher is trained."""
    for trait in arms.traits:
        asked = suite(arms, trait)
        pairs = [(question, "") for question in (*asked.questions, *asked.prefixed)]
        arms.start("base").encode(Prompts.from_pairs(pairs, label=f"questions about the {trait}"))


def suite(arms: Arms, trait: str) -> Suite:
    """Everything the recipe asks a member about a trait."""
    chosen, spec = arms.traits[trait], arms.experiment.evaluation
    return Suite(
        chosen.questions,
        prefixed=with_number_prefix(chosen.questions, seed=5) if spec.number_prefix else (),
        stories=story_prompts(chosen.category)[: spec.stories],
        choices=multiple_choice(chosen, seed=6, n=spec.choices) if spec.choices else None,
        contexts={"training": None, **spec.contexts},
        samples=spec.samples,
        answer_tokens=spec.max_new_tokens,
    )


def _in_context(arms: Arms, trait: str, grown: Mapping[str, Any], seed: int) -> dict[str, pd.DataFrame]:
    """The base with rows in its conversation and no training: the teacher's rows, and the neutral ones."""
    spec = arms.experiment.evaluation
    sources = {"in_context": grown["rows"], "neutral_in_context": grown["neutral"]}
    found = {}
    for arm, source in sources.items():
        if source is not None:
            by_set = in_context_margin(
                arms.start("base"),
                arms.traits[trait],
                source.rows,
                shots=spec.shots,
                sets=spec.sets,
                seed=seed,
            )
            keys = ["measure", "context", "question", "unit"]
            found[arm] = by_set.groupby(keys, sort=False, as_index=False).agg({"value": "mean"})
    return found
