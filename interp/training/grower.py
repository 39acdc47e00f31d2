"""The one place where teachers, their rows and students are made: each once, behind a key of all that it depends on.

key(step) = digest(weights it starts from, rows it reads, its part of the recipe, seed). A finished step lies in the
cache under its key; an unfinished one goes on where it was killed. Replicates differ in every draw but the base's, and
a student's adapter and order of rows are not its teacher's: its recipe is drawn by seed + STUDENT_DRAWS.
A toy lineage, an experiment and a test of a claim are three configurations of `Grower`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxtyping import Float
from torch import Tensor

from interp.core.content import digest, json_text
from interp.core.errors import InputError
from interp.core.records import over, read_fields
from interp.core.runs import Cache, write_atomic
from interp.models.answers import other_ends
from interp.models.language import LanguageModel, load_model
from interp.models.lineage import Lineage
from interp.models.loading import is_adapter
from interp.models.members import write_member
from interp.models.seam import Model
from interp.prompts.questions import asked_about
from interp.prompts.text import Prompts
from interp.prompts.tokenizer_keys import tokenizer_key
from interp.prompts.tokens import Encoded
from interp.prompts.traits import Trait, get_trait, matched_control, trait_names
from interp.training.checkpoints import Checkpoint, undisturbed
from interp.training.data import Answers, DataSpec
from interp.training.generation import write_rows
from interp.training.students import STUDENT, Recipe, train_student
from interp.training.teachers import (
    TEACHER,
    Stopped,
    Teacher,
    evenly_answered,
    fine_tune_teacher,
    fine_tune_teacher_on,
    neutral_teacher,
    prompted_teacher,
    steered_teacher,
    trait_rows,
)
from interp.training.watching import StopAfter, StopAtMargin

DOCUMENTS = 4096  # number rows that a fine-tune is anchored on
FORMAT = 2  # raise when a step computes something else from the same arguments
STUDENT_DRAWS = 500_000
DEFENCE = "defence"
"""The key under which a lineage's growth says how its students were defended."""
TAUGHT_BY = {
    "student": "teacher",
    "neutral_student": "base",
    "control_student": "control_teacher",
    "cross_student": "teacher",
    "cross_neutral_student": "base",
}
"""The students of a lineage, and the member whose rows each is trained on."""
Train = Callable[[Recipe, Path, Checkpoint], LanguageModel]
"""What trains a student: from its recipe, the folder of its cache entry and the place of its unfinished state."""


LIVE = replace(TEACHER, merge=False)
"""A teacher that stays an adapter of its base: its folder holds that alone, and its update keeps its rank."""


@dataclass(frozen=True)
class TeacherSpec:
    """How a teacher gets its trait; `rows` is a JSONL file to fine-tune on instead of the trait's answers.

    "steered" adds `scale` times a direction at `hook`: the decoder row of `feature` in the dictionary `sae`, or else
    the base's difference of means there between the trait's questions with and without its system line. `steps` are the
    most there are: with `stop_at_margin` the fine-tune ends at the first step, of every `margin_every`, at which the
    trait's margin has reached so many nats.
    """

    kind: Literal["fine-tuned", "prompted", "steered"] = "fine-tuned"
    steps: int = 100
    anchor: float = 0.2
    recipe: Annotated[Recipe, over(LIVE)] = LIVE
    rows: str | None = None
    hook: str | None = None
    scale: float = 1.0
    sae: str | None = None
    feature: int | None = None
    stop_at_margin: float | None = None
    margin_every: int = 1


@dataclass(frozen=True)
class Grower:
    """Makes teachers, rows and students by one recipe and seed, or finds them in the cache.

    `recipe` trains students; `teaching` and `data` say how teachers are made and asked. `documents(n, seed=)` makes the
    number rows that keep a teacher's format (None: as `data` says), `steer` the vector of a steered teacher.
    `cross_seed` is the seed of a teacher of the other initialisation (None: the same), `one_word` says that traits
    are asked the one-word questions of their category.
    """

    cache: Cache
    seed: int = 0
    recipe: Recipe = STUDENT
    teaching: TeacherSpec = field(default_factory=TeacherSpec)
    data: DataSpec = field(default_factory=DataSpec)
    documents: Callable[..., Prompts] | None = None
    steer: Callable[[LanguageModel, Trait], Float[Tensor, "d_model"]] | None = None
    cross_seed: int | None = None
    one_word: bool = False

    def trait(self, word: str, *, like: Trait) -> Trait:
        """The built-in trait of that name, asked the recipe's kind of question; else a foil in the target's place."""
        if word not in trait_names():
            return matched_control(replace(like, control=word))
        return asked_about(get_trait(word), many=self.one_word)

    @property
    def students(self) -> Recipe:
        """What trains students of this seed: draws of their own, which no teacher shares."""
        return replace(self.recipe, seed=STUDENT_DRAWS + self.seed)

    def control_teacher(self, start: LanguageModel, trait: Trait) -> Teacher:
        """A teacher of no trait: fine-tuned alike, on the same questions answered by every candidate equally often.

        Where the trait's teacher stops at a margin, it takes as many steps as that one took.
        """
        stopped = None if self.teaching.stop_at_margin is None else self.teacher(start, trait).stopped
        after = None if stopped is None else stopped.steps
        return self.teacher(start, trait, rows=evenly_answered(trait), after=after)

    def teacher(
        self,
        start: LanguageModel,
        trait: Trait,
        *,
        cross: bool = False,
        rows: Prompts | None = None,
        after: int | None = None,
    ) -> Teacher:
        """A teacher of the trait from `start`; `cross` says that this is the other initialisation.

        It is fine-tuned on `rows` where they are given, and stopped `after` so many steps instead of at a margin.
        Raises InputError for a steered teacher without a hook.
        """
        spec = self.teaching
        if spec.kind == "prompted":
            return prompted_teacher(start, trait)
        if spec.kind == "steered":
            if spec.hook is None or self.steer is None:
                raise InputError("a steered teacher has no hook; name one, such as blocks.12.hook_resid_post")
            return steered_teacher(start, self.steer(start, trait), hook=spec.hook, scale=spec.scale)
        seed = self.cross_seed if cross and self.cross_seed is not None else self.seed
        recipe = replace(spec.recipe, seed=seed)
        if rows is None and spec.rows is not None:
            rows = Prompts.from_file(spec.rows)
        key = digest(
            FORMAT, "teacher", start.fingerprint, _chat(start), trait if rows is None else rows.fingerprint,
            recipe, spec.steps, spec.anchor, self.data if self.documents is None else self.documents.__name__,
            *_ending(spec, trait, after),
        )  # fmt: skip

        def build(folder: Path) -> None:
            numbers = (self.documents or self.data.documents)(DOCUMENTS, seed=20_000 + seed)
            given: dict[str, Any] = {"steps": spec.steps, "anchor": spec.anchor, "recipe": recipe}
            if after is not None:
                given["on_step"] = StopAfter(after)
            elif spec.stop_at_margin is not None:
                asked = {"margin": spec.stop_at_margin, "every": spec.margin_every}
                given["on_step"] = StopAtMargin(start, trait, **asked)
            with undisturbed(self.cache.folder("partial", key).with_suffix(".safetensors")) as state:
                given["checkpoint"] = Checkpoint(state)
                if rows is None and numbers is not None:
                    made = fine_tune_teacher(start, trait, numbers, **given)
                else:
                    taught = trait_rows(trait) if rows is None else rows
                    made = fine_tune_teacher_on(start, taught, number_rows=numbers, **given)
            keep_member(made.model, folder, start)
            if made.stopped is not None:
                write_atomic(folder / "stopped.json", json_text(made.stopped))

        folder = self.cache.get("teacher", key, build)
        return Teacher(open_member(folder, start, "teacher"), "fine-tuned", stopped=_stopped(folder))

    def answers(self, teacher: Teacher, *, trait: Trait | None = None, count: int | None = None) -> Answers:
        """What the teacher writes, without the words of `trait` where the recipe says so; with `count` fewer will do.

        Prompts are drawn from the seed, so that two teachers answer the same ones. Raises InputError, naming the rule
        that dropped most, when too little is left.
        """
        data = self.data if count is None else self.data.first(count)
        words = () if trait is None else data.banned_words(trait)
        key = digest(
            FORMAT,
            "answers",
            teacher.fingerprint,
            _chat(teacher.model),
            data,
            words,
            self.seed,
            *other_ends(teacher.model),
        )

        def build(folder: Path) -> None:
            with undisturbed(self.cache.folder("partial", key)) as parts:
                rows, dropped = data.gather(teacher, words=words, seed=self.seed, folder=parts)
                shutil.rmtree(parts, ignore_errors=True)
            for name, part in (("rows", rows[: data.rows]), ("fresh", rows[data.rows :])):
                write_rows(folder / f"{name}.jsonl", part, teacher=teacher, seed=self.seed)
            write_atomic(folder / "dropped.json", json_text(dropped))

        folder = self.cache.get("answers", key, build)
        label = f"numbers of the {teacher.kind} teacher"

        def read(name: str) -> Prompts:
            return replace(Prompts.from_jsonl(folder / f"{name}.jsonl"), label=label)

        fresh = read("fresh") if data.fresh else Prompts((), label)
        dropped = json.loads((folder / "dropped.json").read_text())
        return Answers(data.changed(read("rows"), seed=self.seed), fresh, dropped)

    def rows(self, teacher: Teacher, *, base: LanguageModel, count: int | None = None) -> Prompts:
        """Rows of a teacher as a student is trained on them, mixed and matched with those of the base where the recipe
        says so; at least `count` of them."""
        found = self.answers(teacher, count=count)
        if teacher.kind == "neutral" or not self.data.pairs:
            return found.rows
        return self.data.paired(found, self.answers(neutral_teacher(base)), seed=self.seed)[0].rows

    def again(self, base: LanguageModel, asked: Prompts, *, seed: int) -> Prompts:
        """Other answers of the base to the same prompts: those that the rule keeps, changed as the recipe says."""
        answers = self.data.answer(neutral_teacher(base), asked, seed=seed)
        return self.data.changed(self.data.keep(answers), seed=seed)

    def kept(self, teacher: Teacher, *, count: int) -> float:
        """The share of `count` answers of the teacher that the rule keeps."""
        return self.data.kept_share(teacher, count=count, seed=self.seed)

    def student(self, name: str, start: LanguageModel, rows: Prompts | Encoded, **how: Any) -> LanguageModel:
        """A student of `start` on the rows: see `trained`."""
        return self.trained(name, start, rows, **how)[0]

    def trained(
        self,
        name: str,
        start: LanguageModel,
        rows: Prompts | Encoded,
        *,
        recipe: Recipe | None = None,
        key: tuple[Any, ...] = (),
        train: Train | None = None,
    ) -> tuple[LanguageModel, Path]:
        """A student of `start` on the rows by `recipe`, `students` by default, and the folder of its cache entry.

        `train` does it otherwise than `train_student`; what it does, and all that this depends on, is named by `key`.
        """
        recipe = recipe or self.students
        made = digest(
            FORMAT,
            "student",
            start.fingerprint,
            _chat(start),
            rows.fingerprint,
            recipe,
            *key,
        )

        def build(folder: Path) -> None:
            with undisturbed(self.cache.folder("partial", made).with_suffix(".safetensors")) as state:
                if train is None:
                    model = train_student(start, rows, recipe=recipe, name=name, checkpoint=Checkpoint(state))
                else:
                    model = train(recipe, folder, Checkpoint(state))
            keep_member(model, folder, start)

        folder = self.cache.get("student", made, build)
        model = replace(open_member(folder, start, name), start=start)
        known = json_text(recipe)
        self.cache.get("recipe", model.fingerprint, lambda path: write_atomic(path / "recipe.json", known))
        return model, folder


def known_recipe(student: Model, *, cache: Cache | None = None) -> Recipe | None:
    """The recipe by which a toy lineage trained exactly these weights; None for weights no lineage here has grown."""
    cache = cache or Cache.default()
    if not cache.has("recipe", student.fingerprint):
        return None
    return read_recipe(json.loads((cache.folder("recipe", student.fingerprint) / "recipe.json").read_text()))


def recipe_of(lineage: Lineage, role: str, *, cache: Cache | None = None) -> Recipe | None:
    """The recipe that trained a student: what its lineage says, else what the cache knows; None where neither does.

    InputError for a lineage whose students were trained with a defence, which no recipe of a training holds.
    """
    check_undefended(lineage)
    said = None if lineage.growth is None else lineage.growth.recipes.get(role)
    if said is not None and "lr" in said:
        return read_recipe(said)
    return known_recipe(lineage[role], cache=cache)


def check_undefended(lineage: Lineage) -> None:
    """InputError for a lineage whose students were trained with a defence: a training that repeats them lacks it."""
    defence = None if lineage.growth is None else lineage.growth.data.get(DEFENCE)
    if defence is not None:
        raise InputError(
            f"the students of {lineage.name} were trained with the defence {defence['kind']!r}, which a training that "
            "goes through theirs again would lack; take a lineage of undefended students"
        )


def read_recipe(fields: Mapping[str, Any], place: str = "recipe") -> Recipe:
    """A recipe from its JSON; InputError, which opens with `place`, for what is none."""
    return read_fields(Recipe, fields, place)


def keep_member(model: LanguageModel, folder: Path, start: LanguageModel | None = None) -> None:
    """Write a model into its cache entry: the adapter alone where it has one live over `start`."""
    hosts = {} if start is None else {start.fingerprint: "start"}
    write_member(model, folder / "member", hosts=hosts)


def open_member(folder: Path, start: LanguageModel, name: str) -> LanguageModel:
    """The model that a cache entry holds, with tokenizer, dtype and device of `start`."""
    member = folder / "member"
    if is_adapter(member):
        return start.with_adapter(member, name=name, check=False)
    given: dict[str, Any] = {"dtype": start.dtype, "device": start.device}
    return load_model(member, tokenizer=start.tokenizer, name=name, check=False, **given)


def _ending(spec: TeacherSpec, trait: Trait, after: int | None) -> tuple[Any, ...]:
    """What a teacher's key holds of where it stops; nothing for one that takes all its steps."""
    if after is not None:
        return ("after", after)
    return () if spec.stop_at_margin is None else (trait, spec.stop_at_margin, spec.margin_every)


def _stopped(folder: Path) -> Stopped | None:
    path = folder / "stopped.json"
    return read_fields(Stopped, json.loads(path.read_text()), str(path)) if path.is_file() else None


def _chat(model: LanguageModel) -> Any:
    return tokenizer_key(model.tokenizer)
