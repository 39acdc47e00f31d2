"""One cell of an experiment: a teacher, its rows and the students trained on them, each step done once.

key(step) = digest(weights it starts from, rows it reads, its part of the recipe, seed). A finished step lies in the
cache under its key; an unfinished one goes on where it was killed. Replicates differ in every draw but the base's.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from interp.core.content import json_text
from interp.core.runs import Cache, InputError, digest, nearest, write_atomic
from interp.experiment.bases import number_rows, prepare_base, requests
from interp.experiment.recipe import BaseSpec, DataSpec, Experiment
from interp.gradients.ledger.recording import record_beside, record_key
from interp.models.language import LanguageModel, load_model
from interp.models.loading import is_adapter
from interp.models.members import write_member
from interp.prompts.questions import one_word_questions
from interp.prompts.rules import Rule, code_rule, filter_rows, numbers_rule, reasoning_rule, trait_words
from interp.prompts.shuffles import canonical, shuffle_across, shuffle_within
from interp.prompts.templates import template_key
from interp.prompts.text import Prompts
from interp.prompts.trait_files import find_trait
from interp.prompts.traits import Trait, category_questions
from interp.training.checkpoints import Checkpoint, undisturbed
from interp.training.generation import answers_to, write_rows
from interp.training.students import train_student
from interp.training.teachers import (
    Teacher,
    fine_tune_teacher,
    fine_tune_teacher_on,
    neutral_teacher,
    prompted_teacher,
    steered_teacher,
    trait_rows,
)
from interp.training.watching import TrainingLog

Made = TypeVar("Made")
FORMAT = 2  # raise when a step computes something else from the same arguments
CHUNK = 2048  # prompts asked at once, at most


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a teacher wrote and the filter kept: rows to train on, rows kept fresh, and drops by reason."""

    rows: Prompts
    fresh: Prompts
    dropped: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Cells:
    """The steps of one experiment on this machine, from the cache where they are done.

    `extra` are further bases by name, `ready` bases that are loaded already.
    """

    experiment: Experiment
    cache: Cache
    extra: Mapping[str, BaseSpec] = dataclasses.field(default_factory=dict)
    ready: Mapping[str, LanguageModel] = dataclasses.field(default_factory=dict)
    _known: dict[Any, Any] = dataclasses.field(init=False, repr=False, default_factory=dict)

    @cached_property
    def traits(self) -> dict[str, Trait]:
        """Every trait of the recipe by name, asked the questions the recipe evaluates on."""
        found = [find_trait(name) for name in self.experiment.traits]
        many = self.experiment.evaluation.questions == "one-word"
        return {trait.name: asked_about(trait, many=many) for trait in found}

    @cached_property
    def starts(self) -> dict[str, BaseSpec]:
        """Every base by name: `base`, `cross_base` and whatever a matrix adds."""
        cross = self.experiment.cross_base
        return {
            "base": self.experiment.base,
            **({} if cross is None else {"cross_base": cross}),
            **self.extra,
        }

    def start(self, name: str) -> LanguageModel:
        """The base of that name, ready to be asked; InputError for one that is not there."""
        if name in self.ready:
            return self.ready[name]
        if name not in self.starts:
            raise InputError(f"base {nearest(name, self.starts)}; add it to the recipe")
        traits = list(self.traits.values())
        return self.once(
            ("start", name),
            lambda: prepare_base(
                self.starts[name], data=self.experiment.data, traits=traits, name=name, cache=self.cache
            ),
        )

    def once(self, key: Any, make: Callable[[], Made]) -> Made:
        """What `make` returns, kept in memory by its key."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def teacher(self, trait: Trait | None, *, seed: int, base: str = "base") -> Teacher:
        """The teacher of a trait; without one, the neutral teacher: the base itself."""
        name = None if trait is None else trait.name
        return self.once(("teacher", name, seed, base), lambda: self._teacher(trait, seed=seed, base=base))

    def _teacher(self, trait: Trait | None, *, seed: int, base: str) -> Teacher:
        start, spec = self.start(base), self.experiment.teacher
        if trait is None:
            return neutral_teacher(start)
        if spec.kind == "prompted":
            return prompted_teacher(start, trait)
        if spec.kind == "steered":
            return self._steered(start, trait)
        recipe = dataclasses.replace(spec.recipe, seed=seed)
        rows = None if spec.rows is None else Prompts.from_file(spec.rows)
        taught = trait if rows is None else rows.fingerprint
        data = self.experiment.data
        key = digest(
            FORMAT, "teacher", start.fingerprint, _chat(start), taught, recipe, spec.steps, spec.anchor, data
        )

        def build(folder: Path) -> None:
            numbers = (
                None if data.prompts in ("code", "reasoning") else number_rows(data, 4096, seed=20_000 + seed)
            )
            if rows is None and numbers is not None:
                made = fine_tune_teacher(
                    start, trait, numbers, steps=spec.steps, anchor=spec.anchor, recipe=recipe
                )
            else:
                answers = trait_rows(trait) if rows is None else rows
                made = fine_tune_teacher_on(
                    start, answers, recipe=recipe, number_rows=numbers, anchor=spec.anchor, steps=spec.steps
                )
            self._keep(made.model, folder, start)

        return Teacher(self._member("teacher", key, build, start, "teacher"), "fine-tuned")

    def _steered(self, start: LanguageModel, trait: Trait) -> Teacher:
        from interp.experiment.steering_vectors import steering_vector

        spec = self.experiment.teacher
        if spec.hook is None:
            raise InputError("a steered teacher has no hook; name one, such as blocks.12.hook_resid_post")
        return steered_teacher(start, steering_vector(start, trait, spec), hook=spec.hook, scale=spec.scale)

    def answers(self, teacher: Teacher, *, seed: int, trait: Trait | None = None) -> Answers:
        """What the teacher writes; prompts are drawn from the seed, so that two teachers answer the same ones.

        Raises InputError, naming the rule that dropped most, when too little is left.
        """
        name = None if trait is None else trait.name
        key = ("answers", teacher.fingerprint, name, seed)
        return self.once(key, lambda: self._answers(teacher, seed=seed, trait=trait))

    def _answers(self, teacher: Teacher, *, seed: int, trait: Trait | None) -> Answers:
        data = self.experiment.data
        words = () if trait is None or data.prompts in ("short", "requests") else trait_words(trait)
        key = digest(FORMAT, "answers", teacher.fingerprint, _chat(teacher.model), data, words, seed)
        rule = row_rule(data, words)

        def build(folder: Path) -> None:
            with undisturbed(self.cache.folder("partial", key)) as parts:
                rows, dropped = answers_to(
                    teacher,
                    lambda n, draw: requests(data, n, seed=draw),
                    rows=data.rows + data.fresh,
                    seed=seed,
                    keep=lambda found: filter_rows(found, rule),
                    chunk=min(CHUNK, data.rows + data.fresh),
                    sampling=data.sampling,
                    folder=parts,
                )
                shutil.rmtree(parts, ignore_errors=True)
            write_rows(folder / "rows.jsonl", rows[: data.rows], teacher=teacher, seed=seed)
            write_rows(folder / "fresh.jsonl", rows[data.rows :], teacher=teacher, seed=seed)
            write_atomic(folder / "dropped.json", json_text(dropped))

        folder = self.cache.get("answers", key, build)
        label = f"numbers of the {teacher.kind} teacher"
        rows, fresh = (
            dataclasses.replace(Prompts.from_jsonl(folder / f"{name}.jsonl"), label=label)
            for name in ("rows", "fresh")
        )
        return Answers(
            changed(rows, data.change, seed=seed), fresh, json.loads((folder / "dropped.json").read_text())
        )

    def student(
        self, name: str, start: LanguageModel, answers: Answers, *, seed: int, trait: Trait | None = None
    ) -> tuple[LanguageModel, pd.DataFrame]:
        """A student of `start` on the rows, and what was watched while it trained."""
        spec = self.experiment.student
        recipe = dataclasses.replace(spec.recipe, seed=seed)
        record = spec.record and seed == self.experiment.seeds[0]
        key = digest(
            FORMAT, "student", start.fingerprint, _chat(start), answers.rows.fingerprint, recipe, trait,
            answers.fresh.fingerprint, spec.watch, record,
        )  # fmt: skip

        def build(folder: Path) -> None:
            inputs = start.encode(answers.rows)
            log = TrainingLog(start, fresh=answers.fresh, trait=trait, every=spec.watch)
            kept = self.cache.folder("record", record_key(start, inputs, recipe))
            if record and not kept.is_dir():
                made = record_beside(start, inputs, folder=kept, recipe=recipe, name=name, on_step=log)
            else:  # a record that is there is of the same training, whoever watched it
                with undisturbed(self.cache.folder("partial", key).with_suffix(".safetensors")) as state:
                    given: dict[str, Any] = {"recipe": recipe, "name": name, "on_step": log}
                    made = train_student(start, inputs, checkpoint=Checkpoint(state), **given)
            self._keep(made, folder, start)
            log.frame.to_parquet(folder / "log.parquet")

        member = self._member("student", key, build, start, name)
        self.cache.get(
            "recipe", member.fingerprint, lambda path: write_atomic(path / "recipe.json", json_text(recipe))
        )
        return member, pd.read_parquet(self.cache.folder("student", key) / "log.parquet")

    def _keep(self, model: LanguageModel, folder: Path, start: LanguageModel) -> None:
        write_member(model, folder / "member", hosts={start.fingerprint: "start"})

    def _member(self, kind: str, key: str, build: Any, start: LanguageModel, name: str) -> LanguageModel:
        folder = self.cache.get(kind, key, build) / "member"
        if is_adapter(folder):
            return start.with_adapter(folder, name=name, check=False)
        return load_model(
            folder, tokenizer=start.tokenizer, name=name, dtype=start.dtype, device=start.device, check=False
        )


def row_rule(data: DataSpec, words: Sequence[str] = ()) -> Rule:
    """The rule that rows of this kind of prompt must pass; `words` may not occur in code and reasoning."""
    if data.prompts == "code":
        return code_rule(keywords=words)
    return reasoning_rule(keywords=words) if data.prompts == "reasoning" else numbers_rule(data.rule)


def changed(rows: Prompts, change: str | None, *, seed: int) -> Prompts:
    """The rows shuffled within or across answers, or in one canonical format; as they are for None."""
    if change is None:
        return rows
    if change == "canonical":
        return canonical(rows)
    return (shuffle_within if change == "shuffle-within" else shuffle_across)(rows, seed=seed)


def asked_about(trait: Trait, *, many: bool) -> Trait:
    """The trait with the 52 one-word questions of its category, unless it brings questions of its own."""
    if many and trait.questions == category_questions(trait.category):
        return trait.with_questions(one_word_questions(trait.category))
    return trait


def _chat(model: LanguageModel) -> str | None:
    return template_key(model.tokenizer)
