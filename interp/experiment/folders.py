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
from interp.core.records import read_fields
from interp.core.runs import Cache, InputError, digest
from interp.experiment.recipe import Experiment
from interp.hypotheses.subject import Subject, training_line
from interp.models.lineage import Lineage, read_lineage
from interp.models.members import MANIFEST, Growth, read_manifest
from interp.organisms.library import toy_grower, toy_recipe_of
from interp.prompts.chat import chat_difference, chat_opening, chat_written
from interp.prompts.templates import habits
from interp.training.data import DataSpec
from interp.training.grower import (
    DEFENCE,
    STUDENT_DRAWS,
    TAUGHT_BY,
    Grower,
    TeacherSpec,
    check_undefended,
    read_recipe,
)
from interp.training.students import Recipe
from interp.training.teachers import Stopped


@dataclass(frozen=True)
class Training:
    """One lineage folder, the seed it was grown with, and what tells its trainings from others."""

    folder: Path
    seed: int
    trait: str
    prints: str


def chat_context(tokenizer: Any, *, template: str) -> dict[str, Any]:
    """What a conversation is written by: the template's name, what it writes, and the date.

    `opening` is what stands before a user's words, `written` a question with its answer. The date is the one that a
    template which writes dates sees, else None.
    """
    chats = bool(getattr(tokenizer, "chat_template", None))
    date = template_date() if chats and habits(tokenizer).dated else None
    said = {"opening": chat_opening(tokenizer), "written": chat_written(tokenizer)}
    return {"template": template, **said, "date": date}


def experiment_growth(
    experiment: Experiment, members: Mapping[str, Any], *, seed: int, stopped: Stopped | None = None
) -> Growth:
    """What the folder of one lineage keeps of the experiment it was grown in; `stopped` says where its teacher was."""
    student = jsonable(dataclasses.replace(experiment.student.recipe, seed=STUDENT_DRAWS + seed))
    taught = dataclasses.replace(experiment.teacher.recipe, seed=seed)
    teacher = jsonable(dataclasses.replace(experiment.teacher, recipe=taught))
    recipes: dict[str, Any] = {
        role: None if model.start is None else student for role, model in members.items()
    }
    for role, spec in (("base", experiment.base), ("cross_base", experiment.cross_base)):
        if spec is not None and (spec.format or spec.reinitialise is not None):
            recipes[role] = jsonable({"format": spec.format, "reinitialise": spec.reinitialise})
    data = {"by": "recipe", "seed": seed, "questions": experiment.evaluation.questions}
    data |= {} if stopped is None else {"stopped": jsonable(stopped)}
    defence = experiment.student.defence
    data |= {} if defence is None else {DEFENCE: jsonable(defence)}
    (recipes if "teacher" in members else data)["teacher"] = teacher
    chat = chat_context(members["base"].tokenizer, template=experiment.base.template)
    return Growth(recipes, {**data, **jsonable(experiment.data)}, chat)


def find_trainings(organism: str | Path | Sequence[str | Path]) -> list[Training]:
    """Find lineage folders, given as folders, as the folder or run folder they are in, or as patterns such as owl-*.

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
    check_undefended(lineage)
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
    for role in TAUGHT_BY:
        if recipes.get(role) and role in lineage.members:
            known = rows.get(lineage.trained_on.get(role, ""))
            count = None if known is None else len(known)
            lines.append(training_line(role, recipes[role], by="the folder", rows=count))
    return lines


def _alike(lineage: Lineage, growth: Growth, place: Path) -> Recipe:
    """The recipe that trained every student of the folder; InputError naming two that differ."""
    known = {role: growth.recipes.get(role) for role in TAUGHT_BY if role in lineage.members}
    recipes = {
        role: read_recipe(recipe, f"{place}: recipe of {role}") for role, recipe in known.items() if recipe
    }
    if unsaid := [role for role in known if role not in recipes]:
        raise InputError(
            f"{place} does not say how {unsaid[0]} was trained; add members.{unsaid[0]}.recipe as student has it"
        )
    if not recipes:
        recipes = {"student": read_recipe(growth.recipes["student"], f"{place}: recipe of student")}
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
    if (differ := chat_difference(model.tokenizer, growth.chat)) is not None:
        then, now = differ
        raise InputError(
            f"{place}: its members read chats written as {then!r} and the template now writes {now!r}; set "
            f"{_day(growth.chat.get('date'))}, or write the folder again"
        )


def _day(date: str | None) -> str:
    return f"INTERP_TEMPLATE_DATE={date}, its date" if date else "the template that it was written by"


def grower_of(lineage: Lineage, growth: Growth, *, cache: Cache) -> Grower:
    """What grows the missing members of a folder as its own were grown."""
    seed = growth.data["seed"]
    if growth.data["by"] == "toy":
        return toy_grower(toy_recipe_of(growth), seed=seed, cache=cache)
    taught = growth.recipes.get("teacher") or growth.data["teacher"]
    own = ("by", "seed", "questions", "teacher", "stopped")
    return Grower(
        cache,
        seed,
        read_recipe(growth.recipes["student"]),
        read_fields(TeacherSpec, taught, "recipe of the teacher"),
        read_fields(DataSpec, {name: each for name, each in growth.data.items() if name not in own}, "data"),
        one_word=growth.data["questions"] == "one-word",
    )
