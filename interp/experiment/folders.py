"""Lineage folders as training runs: which folders are meant, what they say of their making, and growing likewise.

A folder is one training. What a test trains besides is trained by the recipes that the folder's own members were
trained by, on rows asked for, sampled and filtered as its own, and by nothing else; a folder that does not say how is
refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.core.content import jsonable
from interp.core.provenance import template_date
from interp.core.runs import Cache, InputError, digest
from interp.experiment.bases import number_rows, requests
from interp.experiment.cells import Cells, asked_about, changed, row_rule
from interp.experiment.recipe import (
    BaseSpec,
    DataSpec,
    EvaluationSpec,
    Experiment,
    StudentSpec,
    TeacherSpec,
    read,
)
from interp.hypotheses.subject import Grower, Subject, training_line
from interp.models.language import LanguageModel
from interp.models.lineage import Lineage, read_lineage
from interp.models.members import MANIFEST, Growth, read_manifest
from interp.organisms.library import ToyGrower, plan_of
from interp.prompts.rules import filter_rows, match_prompts
from interp.prompts.shuffles import mixed
from interp.prompts.templates import apply_template, habits
from interp.prompts.text import Prompts
from interp.prompts.traits import Trait, get_trait, matched_control, trait_names
from interp.training.generation import write_answers
from interp.training.recipes import read_recipe as read_training
from interp.training.students import Recipe
from interp.training.teachers import Teacher, neutral_teacher

STUDENTS = ("student", "neutral_student", "cross_student", "cross_neutral_student")
"""Members that a test compares with students of its own, all of which must have been trained alike."""
MARK = "QUESTION"  # stands for what a user says


@dataclass(frozen=True)
class Training:
    """One lineage folder, the seed it was grown with, and what tells its trainings from others."""

    folder: Path
    seed: int
    trait: str
    prints: str


def chat_context(tokenizer: Any, *, template: str) -> dict[str, Any]:
    """What a conversation is written by: the template's name, what it writes before a user's words, and the date.

    The date is the one that a template which writes dates sees, else None.
    """
    if not getattr(tokenizer, "chat_template", None):
        return {"template": template, "opening": "", "date": None}
    (said,) = apply_template(tokenizer, [(("user", MARK),)], label="a probe of the chat template")
    date = template_date() if habits(tokenizer).dated else None
    return {"template": template, "opening": said.rpartition(MARK)[0], "date": date}


def growth_of(experiment: Experiment, members: Mapping[str, Any], *, seed: int) -> Growth:
    """What the folder of one lineage keeps of the experiment it was grown in."""
    student = jsonable(dataclasses.replace(experiment.student.recipe, seed=seed))
    taught = dataclasses.replace(experiment.teacher.recipe, seed=seed)
    teacher = jsonable(dataclasses.replace(experiment.teacher, recipe=taught))
    recipes: dict[str, Any] = {
        role: None if model.start is None else student for role, model in members.items()
    }
    for role, spec in (("base", experiment.base), ("cross_base", experiment.cross_base)):
        if spec is not None and (spec.format or spec.reinitialise is not None):
            recipes[role] = jsonable({"format": spec.format, "reinitialise": spec.reinitialise})
    data = {"by": "recipe", "seed": seed, "questions": experiment.evaluation.questions}
    (recipes if "teacher" in members else data)["teacher"] = teacher
    chat = chat_context(members["base"].tokenizer, template=experiment.base.template)
    return Growth(recipes, {**data, **jsonable(experiment.data)}, chat)


def find_trainings(organism: str | Path | Sequence[str | Path]) -> list[Training]:
    """The lineage folders that are meant: folders, the folder or run folder they lie in, or patterns such as owl-*.

    Raises InputError for what is no such folder, for one that does not say how it was made, for folders of several
    traits, and for one training given twice.
    """
    named = [organism] if isinstance(organism, (str, Path)) else list(organism)
    folders = list(dict.fromkeys(folder for name in named for folder in _folders(Path(name).expanduser())))
    found = sorted((_training(folder) for folder in folders), key=lambda each: (each.trait, each.seed))
    traits = dict.fromkeys(each.trait for each in found)
    if len(traits) > 1:
        counts = ", ".join(f"{trait} {sum(each.trait == trait for each in found)}" for trait in traits)
        first = found[0].folder
        raise InputError(
            f"these folders hold lineages of several traits ({counts}), which share bases and neutral students and so "
            f"are no independent trainings; pass those of one trait, such as '{first.parent}/{found[0].trait}-*'"
        )
    seen: dict[str, Training] = {}
    for each in found:
        twin = seen.setdefault(each.prints, each)
        if twin is not each:
            raise InputError(
                f"{each.folder} and {twin.folder} hold the same training, which counts once; leave one of them out"
            )
    return found


def _folders(path: Path) -> list[Path]:
    """The lineage folders at a path: itself, those in it, those of a run in it, or those that match it."""
    if (path / MANIFEST).is_file():
        return [path]
    inside = path / "lineages" if (path / "lineages").is_dir() else path
    if inside.is_dir():
        found = sorted(each.parent for each in inside.glob(f"*/{MANIFEST}"))
    else:
        found = sorted(each for each in path.parent.glob(path.name) if (each / MANIFEST).is_file())
    if not found:
        raise InputError(
            f"{path} is neither an organism nor a lineage folder ({MANIFEST}), nor does it hold any; pass toy/owl, "
            "digits, a folder that `interp run` or `interp organism` wrote, or the folder such folders lie in"
        )
    return found


def _training(folder: Path) -> Training:
    manifest = read_manifest(folder)
    data = manifest.get("data") or {}
    lacking = [
        name
        for name, there in (
            ("data", data),
            ("members.student.recipe", _recipe(manifest, "student")),
            ("members.teacher.recipe", _recipe(manifest, "teacher") or data.get("teacher")),
        )
        if not there
    ]
    if lacking:
        raise InputError(
            f"{folder / MANIFEST} does not say how its members were trained (no {', '.join(lacking)}), so nothing that "
            "a test trains could be compared with them; write the folder again with `interp run` or `interp organism`, "
            "or add these keys as such a folder has them"
        )
    trained = {role: entry["fingerprint"] for role, entry in manifest["members"].items() if entry["start"]}
    trait = manifest["trait"] or {"name": "no trait"}
    return Training(folder, int(data.get("seed", 0)), trait["name"], digest(trained))


def _recipe(manifest: Mapping[str, Any], role: str) -> Any:
    return manifest["members"].get(role, {}).get("recipe")


def open_subject(
    folder: Path, *, cache: Cache | None = None, quick: bool = False, without: Sequence[str] = ()
) -> Subject:
    """A lineage folder as what claims are measured on, with its neutral rows and students, grown where it has none.

    Raises InputError for members that were not trained alike, for what of its making cannot be read, and for a chat
    template that today writes something else than it wrote for the members.
    """
    lineage, cache = read_lineage(folder), cache or Cache.default()
    growth = lineage.growth
    if growth is None:
        raise InputError(f"{folder / MANIFEST} does not say how its rows were made; write the folder again")
    place = folder / MANIFEST
    try:
        recipe = _alike(lineage, growth, place)
        _check_chat(lineage, growth, place)
        grower = grower_of(lineage, growth, cache=cache)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{place} holds a recipe that cannot be read ({type(error).__name__}: {error}); write the folder again, or "
            "correct that key as a folder of `interp run` has it"
        ) from error
    seed = int(growth.data["seed"])
    given: dict[str, Any] = {"seed": seed, "recipe": recipe, "cache": cache, "grower": grower}
    subject = Subject(lineage, **given, quick=quick, without=tuple(without))
    return _completed(subject)


def _completed(subject: Subject) -> Subject:
    """The subject with neutral rows, a student and a neutral student, which most claims are differences to."""
    lineage = subject.lineage
    rows = {"student": subject.numbers, "neutral_student": subject.neutral_numbers}
    lacking = [role for role in rows if role not in lineage.members]
    members = {role: subject.student(subject.base, rows[role], name=role) for role in lacking}
    whole = dataclasses.replace(
        lineage,
        members={**lineage.members, **members},
        numbers=rows["student"],
        neutral_numbers=rows["neutral_student"],
    )
    return dataclasses.replace(subject, lineage=whole)


def own_trainings(lineage: Lineage) -> list[dict[str, Any]]:
    """A line for each student that the folder brought, as `Subject.trainings` has one for each that a test trained."""
    recipes = {} if lineage.growth is None else lineage.growth.recipes
    rows = {"teacher": lineage.numbers, "base": lineage.neutral_numbers}
    lines = []
    for role in STUDENTS:
        if recipes.get(role) and role in lineage.members:
            known = rows.get(lineage.trained_on.get(role, ""))
            count = None if known is None else len(known)
            lines.append(training_line(role, recipes[role], by="the folder", rows=count))
    return lines


def _alike(lineage: Lineage, growth: Growth, place: Path) -> Recipe:
    """The recipe that trained every student of the folder; InputError naming two that differ."""
    known = {role: growth.recipes.get(role) for role in STUDENTS if role in lineage.members}
    recipes = {
        role: read(Recipe, recipe, f"{place}: recipe of {role}") for role, recipe in known.items() if recipe
    }
    if unsaid := [role for role in known if role not in recipes]:
        raise InputError(
            f"{place} does not say how {unsaid[0]} was trained; add members.{unsaid[0]}.recipe as student has it"
        )
    if not recipes:
        recipes = {"student": read(Recipe, growth.recipes["student"], f"{place}: recipe of student")}
    first, recipe = next(iter(recipes.items()))
    for role, other in recipes.items():
        differing = [
            field.name
            for field in dataclasses.fields(Recipe)
            if getattr(recipe, field.name) != getattr(other, field.name)
        ]
        if differing:
            told = ", ".join(
                f"{name} {getattr(recipe, name)} and {getattr(other, name)}" for name in differing
            )
            raise InputError(
                f"{place}: {first} and {role} were trained by different recipes ({told}), so one is no control of the "
                "other; train them alike and write the folder again"
            )
    return recipe


def _check_chat(lineage: Lineage, growth: Growth, place: Path) -> None:
    model: Any = lineage.base
    then = growth.chat.get("opening")
    now = chat_context(model.tokenizer, template=str(growth.chat.get("template")))["opening"]
    if then is not None and then != now:
        raise InputError(
            f"{place}: its members read chats that open with {then!r} and the template now writes {now!r}; set "
            f"{_day(growth.chat.get('date'))}, or write the folder again"
        )


def _day(date: str | None) -> str:
    return f"INTERP_TEMPLATE_DATE={date}, its date" if date else "the template that it was written by"


def grower_of(lineage: Lineage, growth: Growth, *, cache: Cache) -> Grower:
    """What grows the missing members of a folder as its own were grown."""
    if growth.data["by"] == "toy":
        return ToyGrower(plan_of(growth), growth.data["seed"], cache)
    taught = growth.recipes.get("teacher") or growth.data["teacher"]
    own = ("by", "seed", "questions", "teacher")
    fields = {name: value for name, value in growth.data.items() if name not in own}
    evaluation = dataclasses.replace(EvaluationSpec(), questions=growth.data["questions"])
    experiment = Experiment(
        name=lineage.name,
        base=BaseSpec(model="the folder's"),
        traits=(),
        teacher=read(TeacherSpec, taught, "recipe of the teacher"),
        data=read(DataSpec, fields, "data"),
        student=StudentSpec(recipe=read_training(growth.recipes["student"])),
        seeds=(growth.data["seed"],),
        evaluation=evaluation,
    )
    ready: Any = {role: lineage[role] for role in ("base", "cross_base") if role in lineage.members}
    return RecipeGrower(Cells(experiment, cache, ready=ready), growth.data["seed"])


@dataclass(frozen=True)
class RecipeGrower:
    """Makes what a lineage of `interp run` lacks by the recipe it was grown by; `cells` holds its bases."""

    cells: Cells
    seed: int

    @property
    def data(self) -> DataSpec:
        """How rows are asked for, sampled and filtered."""
        return self.cells.experiment.data

    def trait(self, word: str, *, like: Trait) -> Trait:
        """The built-in trait of that name, asked the recipe's kind of question; else a foil in the target's place."""
        if word not in trait_names():
            return matched_control(dataclasses.replace(like, control=word))
        return asked_about(get_trait(word), many=self.cells.experiment.evaluation.questions == "one-word")

    def teacher(self, base: LanguageModel, trait: Trait, *, foreign: bool = False) -> LanguageModel:
        """A teacher of the trait, fine-tuned as the lineage's own was.

        Raises InputError where that one was not fine-tuned, or on rows of its trait, which no other trait has.
        """
        spec = self.cells.experiment.teacher
        if spec.kind != "fine-tuned":
            raise InputError(
                f"the teacher of {self.cells.experiment.name} is {spec.kind} and has no weights of its own, so no "
                f"teacher of {trait.name} has either; run a recipe with teacher.kind fine-tuned"
            )
        if spec.rows is not None and not foreign:
            raise InputError(
                f"the teacher of {self.cells.experiment.name} was taught the rows of {spec.rows}, and there are none "
                f"of {trait.name}; add a member teacher_{trait.name} to the folder, or run one without teacher.rows"
            )
        return self.cells.teacher(trait, seed=self.seed, base="cross_base" if foreign else "base").model

    def rows(self, teacher: Teacher, *, count: int | None = None) -> Prompts:
        """All rows the recipe asks of a teacher, matched with and mixed with the neutral ones where it says so.

        They are sampled whole, as the lineage's own were, and come from the cache where a run sampled them.
        """
        found = self.cells.answers(teacher, seed=self.seed).rows
        if teacher.kind == "neutral" or not (self.data.mix or self.data.match):
            return found
        neutral = self.cells.answers(neutral_teacher(self.cells.start("base")), seed=self.seed).rows
        if self.data.mix:
            found = mixed(found, neutral, share=self.data.mix, seed=self.seed)
        return match_prompts(found, neutral)[0] if self.data.match else found

    def again(self, base: LanguageModel, asked: Prompts, *, seed: int) -> Prompts:
        """Other answers of the base to the same prompts, filtered and changed as the recipe says."""
        answers = write_answers(neutral_teacher(base), asked, seed=seed, sampling=self.data.sampling)
        kept, _ = filter_rows(answers, row_rule(self.data))
        return changed(kept, self.data.change, seed=seed)

    def lists(self, count: int, *, seed: int) -> Prompts:
        """Prompts of the recipe's kind, answered by uniform draws; InputError for code and reasoning."""
        if self.data.prompts in ("code", "reasoning"):
            raise InputError(
                f"data.prompts is {self.data.prompts}, and this family reads lists of numbers; test it on a lineage of "
                "short prompts or requests"
            )
        return number_rows(self.data, count, seed=seed)

    def kept(self, teacher: Teacher, *, count: int) -> float:
        """The share of `count` answers of the teacher that the rule keeps."""
        asked = requests(self.data, count, seed=self.seed)
        answers = write_answers(teacher, asked, seed=self.seed, sampling=self.data.sampling)
        return len(filter_rows(answers, row_rule(self.data))[0]) / count
