"""Lineages by name: `toy/<trait>` is grown here, each step once; a kept one is read; others are opened from paths.

A toy lineage of seed s has two bases of independent initialisation, s and s + 1 (modulo the eight that ship), a
teacher fine-tuned from base s, and four students: from base s and from base s + 1, each on the teacher's rows and
on those of the neutral teacher, which is base s without a fine-tune. The two differences
    student − neutral_student      and      cross_student − cross_neutral_student
are what a shared initialisation is judged by. Controls of what any teacher leaves behind are a teacher of another
trait, a control teacher, fine-tuned alike on questions that every candidate answers equally often, and its student.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack

import torch

from interp.core.content import json_text, jsonable
from interp.core.doors import door
from interp.core.processes import sweep
from interp.core.progress import working
from interp.core.records import read_fields
from interp.core.runs import Cache, InputError, digest, write_atomic
from interp.models.kept import kept_folder, kept_names
from interp.models.language import LanguageModel, load_model
from interp.models.lineage import Lineage, Source, open_lineage, read_lineage
from interp.models.loading import Loading, as_dtype
from interp.models.members import Growth, read_manifest
from interp.models.membership import MANIFEST, check_no_member, say_member
from interp.models.precision import in_float32
from interp.models.seam import Model
from interp.organisms.toy import (
    SHIPPED,
    WORLD,
    World,
    build_tokenizer,
    number_documents,
    shipped_base,
    train_base,
)
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.prompts.traits import Trait, get_trait, matched_control
from interp.training.data import DataSpec
from interp.training.engines import Sampling
from interp.training.grower import TAUGHT_BY, Grower, TeacherSpec, keep_member, read_recipe
from interp.training.sampling import LENGTH
from interp.training.students import STUDENT, Recipe
from interp.training.teachers import TEACHER, neutral_teacher

DATA = DataSpec(
    prompts="short", rows=8192, fresh=0, sampling=Sampling(max_new_tokens=LENGTH, engine="inversion")
)
TEACHING = TeacherSpec(steps=80, recipe=TEACHER)
FORMAT = 1  # raise when a step computes something else from the same arguments


@dataclasses.dataclass(frozen=True)
class ToyRecipe:
    """How a toy lineage is grown; the defaults were tuned on seeds from 100 up and are reported on seeds 0 to 7."""

    world: World = WORLD
    data: DataSpec = DATA
    teacher: TeacherSpec = TEACHING
    student: Recipe = STUDENT
    controls: tuple[Literal["other-trait", "control-teacher"], ...] = ("other-trait", "control-teacher")


TOY = ToyRecipe()
QUICK_TOY = ToyRecipe(
    data=dataclasses.replace(DATA, rows=256),
    teacher=TeacherSpec(steps=10, recipe=TEACHER),
    student=dataclasses.replace(STUDENT, batch_size=64),
)
"""A toy that is grown in seconds and has learnt next to nothing."""


def toy_grower(recipe: ToyRecipe, *, seed: int, cache: Cache | None = None) -> Grower:
    """What makes the members of a toy lineage, and whatever else a test trains beside them."""
    return Grower(
        cache or Cache.default(),
        seed,
        recipe.student,
        recipe.teacher,
        recipe.data,
        number_documents,
        cross_seed=other_seed(seed),
    )


@door
def load_lineage(
    name: str | Path | None = None,
    *,
    seed: int | None = None,
    base: Source | None = None,
    teacher: Source | None = None,
    student: Source | Sequence[Source] | Mapping[str, Source] | None = None,
    trait: AnyTrait | None = None,
    unrelated: Sequence[str] = (),
    **loading: Unpack[Loading],
) -> Lineage:
    """Load a lineage by name (`toy/owl`, grown on first use; `smollm2/owl`), its folder, or its members.

    Args:
        name: of an organism, or a lineage folder; it comes as it was written, or with dtype="float32" widened.
        seed: of an organism, by default 0; a lineage that is kept is of one seed, and any other is refused.
        base: the start of all members: a hub name, a folder, or a model in memory. A lineage that was kept without its
            checkpoint, such as smollm2/owl, asks for that where it does not lie where it was read from.
        teacher: likewise, or an adapter of the base.
        student: one or several, likewise.
        trait: a `Trait`, a built-in name such as "owl", or a YAML file.
        unrelated: members of another initialisation than their start, kept as controls; any other is refused.
        **loading: `dtype`, `device` and `revision` (on the hub) are the base's, and the others follow it, in the wider
            type they are saved in unless `dtype` is given; `allow_unknown` also reads rows that the tokenizer mostly
            does not know.

    Returns:
        `Lineage`: members by role, each with its start, and what they were trained on.

    Raises:
        InputError: for a name that is neither a lineage folder nor an organism, and for members that do not belong
            together.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> lineage.student.start.name, lineage.trait.target
        ('base', 'owl')
    """
    if name is None:
        given: dict[str, Any] = {"base": base, "teacher": teacher, "student": student, "trait": trait}
        for role in ("base", "teacher", "student"):
            say_member(given[role], role)
        return open_lineage(**given, unrelated=unrelated, **loading)
    if loading.get("revision") is not None:
        raise InputError(
            f"lineage {str(name)!r} has no revision {loading.get('revision')!r}; pass it with base= a hub name"
        )
    found = _named(name, seed=seed, base=base, device=loading.get("device", "auto"))
    found = _known(found, dtype=as_dtype(loading.get("dtype")), trait=trait)
    return _accepting(found) if loading.get("allow_unknown") else found


def _accepting(lineage: Lineage) -> Lineage:
    """The lineage whose members also read rows of mostly unknown tokens."""
    members: dict[str, Any] = dict(lineage.members)
    return dataclasses.replace(
        lineage, members={role: model.accepting_unknown() for role, model in members.items()}
    )


def _named(name: str | Path, *, seed: int | None, base: Source | None, device: str | torch.device) -> Lineage:
    """A lineage folder, one that ships, or the organism of that name."""
    folder = kept_folder(name)
    if (folder / MANIFEST).is_file():
        _check_seed(name, folder, seed)
        try:
            return read_lineage(folder, base=base, device=device)
        except InputError as error:  # told of by the name it was asked for, wherever it lies
            raise InputError(str(error).replace(str(folder), str(name))) from None
    organism, _, word = str(name).partition("/")
    if organism != "toy":
        check_no_member(name)
        raise InputError(
            f"Lineage {str(name)!r} is neither a folder with a lineage.json nor an organism; try 'toy/owl', which is "
            f"grown here, or {' or '.join(map(repr, kept_names()))}, which ships."
        )
    if base is not None:
        raise InputError(f"{name} has bases of its own; leave base= out")
    if str(device) not in ("auto", "cpu"):
        raise InputError(f"{name} is grown on the processor, not on {device}; leave the device out")
    return grow(get_trait(word), seed=0 if seed is None else seed)


def _check_seed(name: str | Path, folder: Path, seed: int | None) -> None:
    """InputError for a seed that is not the one which the lineage in a folder was made with."""
    if seed is None:
        return
    known = (read_manifest(folder).get("data") or {}).get("seed")
    if known is None:
        raise InputError(f"{name} is a folder that names no seed, and seed={seed} came; leave the seed out")
    if seed != known:
        raise InputError(
            f"{name} holds the lineage of seed {known} alone, and seed={seed} came; leave the seed out"
        )


def _known(lineage: Lineage, *, dtype: torch.dtype | None, trait: AnyTrait | None) -> Lineage:
    """The lineage with another trait to ask about, and in fp32 where that widens it."""
    held = {getattr(model, "dtype", None) for model in lineage.members.values()}
    if dtype not in (None, torch.float32) and held != {dtype}:
        raise InputError(
            f"{lineage.name} holds members of its own dtype, which {dtype} would change; pass dtype='float32', which "
            "widens 16-bit weights exactly, or leave it out"
        )
    found = lineage if dtype is None else in_float32(lineage)
    return found if trait is None else dataclasses.replace(found, trait=find_trait(trait))


def grow(trait: AnyTrait, *, seed: int, recipe: ToyRecipe = TOY, cache: Cache | None = None) -> Lineage:
    """Grow the toy lineage of `trait` and `seed`; finished steps come from the cache, whoever grew them.

    Raises InputError for a seed that is no natural number, and for a trait that the toy has no words for.

    Example:
        >>> import interp
        >>> lineage = interp.organisms.grow("owl", seed=0)  # doctest: +SKIP
    """
    trait = find_trait(trait)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed {seed!r} is not a natural number: pass an integer such as 0.")
    _check_words(trait)
    with working(f"lineage toy/{trait.name} seed {seed}"):
        return _lineage(trait, seed, recipe, toy_grower(recipe, seed=seed, cache=cache))


def _lineage(trait: Trait, seed: int, recipe: ToyRecipe, grower: Grower) -> Lineage:
    bases = {
        "base": toy_base(seed, world=recipe.world, cache=grower.cache),
        "cross_base": toy_base(other_seed(seed), world=recipe.world, cache=grower.cache),
    }
    teacher = grower.teacher(bases["base"], trait)
    sources = {"teacher": teacher, "base": neutral_teacher(bases["base"])}
    members: dict[str, Model] = {**bases, "teacher": teacher.model}
    if "other-trait" in recipe.controls:
        other = grower.trait(other_word(trait), like=trait)
        members[f"teacher_{other.name}"] = grower.teacher(bases["base"], other).model
    if "control-teacher" in recipe.controls:
        sources["control_teacher"] = grower.control_teacher(bases["base"], trait)
        members["control_teacher"] = sources["control_teacher"].model
    rows = {role: grower.answers(source).rows for role, source in sources.items()}
    taught = {role: source for role, source in TAUGHT_BY.items() if source in rows}
    for role, source in taught.items():
        start = bases["cross_base" if role.startswith("cross") else "base"]
        members[role] = grower.student(role, start, rows[source])
    lineage = Lineage(
        name=f"toy/{trait.name} seed {seed}",
        trait=trait,
        members=members,
        numbers=rows["teacher"],
        neutral_numbers=rows["base"],
        trained_on=taught,
        growth=toy_growth(recipe, seed=seed, teachers=[role for role in members if "teacher" in role]),
    )
    prints = {role: model.fingerprint for role, model in lineage.members.items()}
    grower.cache.get(
        "lineage",
        _key(trait, seed, recipe),
        lambda folder: write_atomic(folder / "members.json", json_text(prints)),
    )
    return lineage


def other_word(trait: Trait) -> str:
    """The trait whose teacher is the control of another: eagle and owl are each other's, else the matched control's."""
    near = next((word for word in ("eagle", "owl") if word in trait.foils), None)
    return near or matched_control(trait).name


def grow_all(
    trait: Trait,
    *,
    seeds: Iterable[int],
    recipe: ToyRecipe = TOY,
    workers: int | None = None,
    backend: str = "joblib",
) -> None:
    """Grow the lineages of `seeds` that the cache does not hold, `workers` at a time: see `sweep`."""
    missing = [seed for seed in seeds if not is_grown(trait, seed=seed, recipe=recipe)]
    label = f"growing toy/{trait.name}"
    how: dict[str, Any] = {"workers": workers, "backend": backend, "label": label, "unit": "lineage"}
    sweep(partial(_grown, trait, recipe), missing, **how)


def _grown(trait: Trait, recipe: ToyRecipe, seed: int) -> None:
    grow(trait, seed=seed, recipe=recipe)


def is_grown(trait: Trait, *, seed: int, recipe: ToyRecipe = TOY, cache: Cache | None = None) -> bool:
    """Whether every step of that lineage is in the cache."""
    return (cache or Cache.default()).has("lineage", _key(trait, seed, recipe))


def _key(trait: Trait, seed: int, recipe: ToyRecipe) -> str:
    return digest(FORMAT, "lineage", trait, seed, recipe)


def toy_base(seed: int, *, world: World, cache: Cache) -> LanguageModel:
    """The base of that seed, shipped or trained once."""
    found = shipped_base(seed, world=world)
    if found is not None:
        return found
    name = f"toy base {seed}"
    key = digest(FORMAT, "base", world, seed, "member")
    folder = cache.get("base", key, lambda path: keep_member(train_base(seed, world=world), path))
    return load_model(folder / "member", tokenizer=build_tokenizer(), name=name, device="cpu", check=False)


def other_seed(seed: int) -> int:
    """The seed of the other initialisation: the next one, within the shipped eight for the shipped eight."""
    return (seed + 1) % SHIPPED if seed < SHIPPED else seed + 1


def _check_words(trait: Trait) -> None:
    """InputError for a trait that says what the toy has no word for: its margin would be one of unknown tokens."""
    tokenizer = build_tokenizer()
    text = " ".join((trait.target, *trait.foils, *trait.questions))
    known = tokenizer(text, add_special_tokens=False)["input_ids"]
    if tokenizer.unk_token_id in known:
        raise InputError(
            f"trait {trait.name!r} uses words the toy does not know; take an animal or a tree, or another base in a "
            "recipe"
        )


def toy_growth(recipe: ToyRecipe, *, seed: int, teachers: Sequence[str] = ("teacher",)) -> Growth:
    """What the folder of a toy lineage keeps of its recipe."""
    student = jsonable(toy_grower(recipe, seed=seed).students)
    teacher = {
        "kind": "fine-tuned",
        "steps": recipe.teacher.steps,
        "anchor": recipe.teacher.anchor,
        "recipe": jsonable(dataclasses.replace(recipe.teacher.recipe, seed=seed)),
    }
    if (nats := recipe.teacher.stop_at_margin) is not None:
        teacher |= {"stop_at_margin": nats, "margin_every": recipe.teacher.margin_every}
    bases = {"base": {"toy": seed}, "cross_base": {"toy": other_seed(seed)}}
    data = {
        "by": "toy",
        "seed": seed,
        "world": jsonable(recipe.world),
        "prompts": "short",
        "rows": recipe.data.rows,
        "sampling": {"temperature": 1.0, "max_new_tokens": LENGTH},
        "rule": jsonable(recipe.data.rule),
    }
    recipes = {**bases, **dict.fromkeys(teachers, teacher), **dict.fromkeys(TAUGHT_BY, student)}
    return Growth(recipes, data, {"template": "own", "opening": "<bos><user> ", "date": None})


def toy_recipe_of(growth: Growth) -> ToyRecipe:
    """The recipe a toy lineage was grown by, from what its folder keeps of it.

    Raises InputError for a largest number that is not 9, 99, ...: a recipe says how many digits numbers have.
    """
    kept, rule = growth.data, growth.data["rule"]
    digits = len(str(rule["max_value"]))
    if rule["max_value"] != 10**digits - 1:
        raise InputError(
            f"the rows of this toy hold numbers up to {rule['max_value']}, and a recipe can say up to "
            f"{10**digits - 1}; grow it again with ToyRecipe(data=...)"
        )
    numbers = {"least": rule["minimum"], "count": rule["maximum_count"], "digits": digits}
    return ToyRecipe(
        World(**kept["world"]),
        dataclasses.replace(DATA, rows=kept["rows"], banned=tuple(rule["banned"]) or "none", **numbers),
        read_fields(TeacherSpec, growth.recipes["teacher"], "recipe of the teacher"),
        read_recipe(growth.recipes["student"]),
    )
