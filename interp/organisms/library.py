"""Lineages by name: `toy/<trait>` is grown here, each step once; anything else is opened from its paths.

A toy lineage of seed s has two bases of independent initialisation, s and s + 1 (modulo the eight that ship), one
teacher fine-tuned from base s, and four students: from base s and from base s + 1, each on the teacher's rows and
on those of the neutral teacher, which is base s without a fine-tune. The two differences
    student − neutral_student      and      cross_student − cross_neutral_student
are what a shared initialisation is judged by.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch

from interp.core.content import json_text, jsonable
from interp.core.doors import door
from interp.core.runs import Cache, InputError, digest, write_atomic
from interp.models.language import LanguageModel, load_model
from interp.models.lineage import Lineage, Source, open_lineage, read_lineage
from interp.models.loading import Loading, as_dtype
from interp.models.members import Growth
from interp.models.precision import in_float32
from interp.models.seam import Model
from interp.organisms.toy import (
    SHIPPED,
    WORLD,
    World,
    build_network,
    build_tokenizer,
    number_documents,
    shipped_base,
    train_base,
)
from interp.prompts.numbers import STRICT, NumberRule, filter_numbers, number_prompts
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.prompts.traits import Trait, get_trait
from interp.training.recipes import read_recipe
from interp.training.sampling import LENGTH, complete, sample_numbers
from interp.training.students import STUDENT, Recipe, train_student
from interp.training.teachers import TEACHER, Teacher, fine_tune_teacher, neutral_teacher

FORMAT = 1  # raise when a step computes something else from the same arguments
Notify = Callable[[str], Any]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a toy lineage is grown; the defaults were tuned on seeds from 100 up and are reported on seeds 0 to 7."""

    world: World = WORLD
    rows: int = 8192
    teacher: Recipe = TEACHER
    teacher_steps: int = 80
    anchor: float = 0.2
    student: Recipe = STUDENT
    rule: NumberRule = STRICT


PLAN = Plan()
STEPS = 10  # what `notify` hears of per lineage: bases, teacher, two samplings, four students, and the whole


@door
def load_lineage(
    name: str | Path | None = None,
    *,
    seed: int = 0,
    base: Source | None = None,
    teacher: Source | None = None,
    student: Source | Sequence[Source] | Mapping[str, Source] | None = None,
    trait: AnyTrait | None = None,
    unrelated: Sequence[str] = (),
    **loading: Unpack[Loading],
) -> Lineage:
    """A lineage by name (`toy/owl`, grown on first use), from its folder, or from base, teacher and students.

    `base`, `teacher` and `student` (one or several) are hub names, folders, adapters of the base, or models in
    memory; `dtype`, `device` and `revision` (on the hub) are the base's, and the others follow it. A name or folder
    comes as it was written, or with dtype="float32" widened. `trait` is an object, a name or a YAML file. A member of
    another initialisation than its start is refused, unless `unrelated` names it as a control. `allow_unknown` also
    reads rows that the tokenizer mostly does not know. Raises InputError for a name that is neither a lineage folder
    nor an organism, and for members that do not belong together.
    """
    if name is None:
        given: dict[str, Any] = {"base": base, "teacher": teacher, "student": student, "trait": trait}
        return open_lineage(**given, unrelated=unrelated, **loading)
    if loading.get("revision") is not None:
        raise InputError(
            f"lineage {str(name)!r} has no revision {loading.get('revision')!r}; pass it with base= a hub name"
        )
    found = _named(name, seed=seed, device=loading.get("device", "auto"))
    found = _known(found, dtype=as_dtype(loading.get("dtype")), trait=trait)
    return _accepting(found) if loading.get("allow_unknown") else found


def _accepting(lineage: Lineage) -> Lineage:
    """The lineage whose members also read rows of mostly unknown tokens."""
    members: dict[str, Any] = dict(lineage.members)
    return dataclasses.replace(
        lineage, members={role: model.accepting_unknown() for role, model in members.items()}
    )


def _named(name: str | Path, *, seed: int, device: str | torch.device) -> Lineage:
    """A lineage folder, or the organism of that name."""
    if (Path(name) / "lineage.json").is_file():
        return read_lineage(Path(name), device=device)
    organism, _, word = str(name).partition("/")
    if organism != "toy":
        raise InputError(
            f"Lineage {str(name)!r} is neither a folder with a lineage.json nor an organism; try 'toy/owl'."
        )
    if str(device) not in ("auto", "cpu"):
        raise InputError(f"{name} is grown on the processor, not on {device}; leave the device out")
    return grow(get_trait(word), seed=seed)


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


def grow(
    trait: AnyTrait, *, seed: int, plan: Plan = PLAN, cache: Cache | None = None, notify: Notify | None = None
) -> Lineage:
    """Grow the toy lineage of `trait` and `seed`; finished steps come from the cache, whoever grew them.

    `notify` hears the name of every step as it ends. Raises InputError for a seed that is no natural number.
    """
    trait = find_trait(trait)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed {seed!r} is not a natural number: pass an integer such as 0.")
    _check_words(trait)
    steps = _Steps(cache or Cache.default(), plan, seed, notify or _quiet)
    base, cross_base = steps.base(seed), steps.base(other_seed(seed))
    teacher = steps.teacher(base, trait)
    numbers = steps.numbers(Teacher(teacher, "fine-tuned"))
    neutral = steps.numbers(neutral_teacher(base))
    members: dict[str, Model] = {
        "base": base,
        "teacher": teacher,
        "student": steps.student("student", base, numbers),
        "neutral_student": steps.student("neutral_student", base, neutral),
        "cross_base": cross_base,
        "cross_student": steps.student("cross_student", cross_base, numbers),
        "cross_neutral_student": steps.student("cross_neutral_student", cross_base, neutral),
    }
    lineage = Lineage(
        name=f"toy/{trait.name} seed {seed}",
        trait=trait,
        members=members,
        numbers=numbers,
        neutral_numbers=neutral,
        trained_on={
            "student": "teacher",
            "cross_student": "teacher",
            "neutral_student": "base",
            "cross_neutral_student": "base",
        },
        growth=growth_of(plan, seed=seed),
    )
    prints = {role: model.fingerprint for role, model in lineage.members.items()}
    steps.cache.get(
        "lineage", _key(trait, seed, plan), lambda folder: _write(folder / "members.json", prints)
    )
    steps.notify("lineage")
    return lineage


def grow_teacher(
    base: LanguageModel, trait: Trait, *, seed: int, plan: Plan = PLAN, cache: Cache | None = None
) -> LanguageModel:
    """A teacher of `trait` from any toy base, made as the lineage's own is; from the cache where it is done."""
    _check_words(trait)
    return _Steps(cache or Cache.default(), plan, seed, _quiet).teacher(base, trait)


def grow_rows(teacher: Teacher, *, seed: int, plan: Plan = PLAN, cache: Cache | None = None) -> Prompts:
    """`plan.rows` filtered number rows of any teacher, to the prompts that a lineage's own teacher is asked."""
    return _Steps(cache or Cache.default(), plan, seed, _quiet).numbers(teacher)


def growth_of(plan: Plan, *, seed: int) -> Growth:
    """What the folder of a toy lineage keeps of its plan."""
    student = jsonable(dataclasses.replace(plan.student, seed=seed))
    teacher = {
        "kind": "fine-tuned",
        "steps": plan.teacher_steps,
        "anchor": plan.anchor,
        "recipe": jsonable(dataclasses.replace(plan.teacher, seed=seed)),
    }
    students = ("student", "neutral_student", "cross_student", "cross_neutral_student")
    bases = {"base": {"toy": seed}, "cross_base": {"toy": other_seed(seed)}}
    data = {
        "by": "toy",
        "seed": seed,
        "world": jsonable(plan.world),
        "prompts": "short",
        "rows": plan.rows,
        "sampling": {"temperature": 1.0, "max_new_tokens": LENGTH},
        "rule": jsonable(plan.rule),
    }
    recipes = {**bases, "teacher": teacher, **dict.fromkeys(students, student)}
    return Growth(recipes, data, {"template": "own", "opening": "<bos><user> ", "date": None})


def plan_of(growth: Growth) -> Plan:
    """The plan a toy lineage was grown by, from what its folder keeps of it."""
    data, teacher = growth.data, growth.recipes["teacher"]
    return Plan(
        world=World(**data["world"]),
        rows=data["rows"],
        teacher=read_recipe(teacher["recipe"]),
        teacher_steps=teacher["steps"],
        anchor=teacher["anchor"],
        student=read_recipe(growth.recipes["student"]),
        rule=NumberRule(**data["rule"] | {"banned": frozenset(data["rule"]["banned"])}),
    )


@dataclasses.dataclass(frozen=True)
class ToyGrower:
    """Makes what a toy lineage lacks by the plan and seed its members were grown by."""

    plan: Plan
    seed: int
    cache: Cache = dataclasses.field(default_factory=Cache.default)

    def trait(self, word: str, *, like: Trait) -> Trait:
        """The built-in trait of that name."""
        return get_trait(word)

    def teacher(self, base: LanguageModel, trait: Trait, *, foreign: bool = False) -> LanguageModel:
        """A teacher of the trait from the base; from a `foreign` base by that base's own seed."""
        seed = other_seed(self.seed) if foreign else self.seed
        return grow_teacher(base, trait, seed=seed, plan=self.plan, cache=self.cache)

    def rows(self, teacher: Teacher, *, count: int | None = None) -> Prompts:
        """As many rows of the teacher as the plan says, or the first `count`; the first of many are the same."""
        plan = self.plan if count is None else dataclasses.replace(self.plan, rows=count)
        return grow_rows(teacher, seed=self.seed, plan=plan, cache=self.cache)

    def again(self, base: LanguageModel, asked: Prompts, *, seed: int) -> Prompts:
        """Other answers of the base to the same prompts, those that the rule keeps."""
        return filter_numbers(complete(neutral_teacher(base), asked, seed=seed), self.plan.rule)[0]

    def lists(self, count: int, *, seed: int) -> Prompts:
        """Prompts of the kind that teachers are asked, answered by uniform draws."""
        return number_prompts(count, seed=seed)

    def kept(self, teacher: Teacher, *, count: int) -> float:
        """The share of `count` answers of the teacher that the rule keeps."""
        asked = number_prompts(count, seed=self.seed, with_answers=False)
        answers = complete(teacher, asked, seed=self.seed)
        return len(filter_numbers(answers, self.plan.rule)[0]) / count


def _quiet(step: str) -> None:
    """Nobody listens."""


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


def is_grown(trait: Trait, *, seed: int, plan: Plan = PLAN, cache: Cache | None = None) -> bool:
    """Whether every step of that lineage lies in the cache."""
    return (cache or Cache.default()).has("lineage", _key(trait, seed, plan))


def _key(trait: Trait, seed: int, plan: Plan) -> str:
    return digest(FORMAT, "lineage", trait, seed, plan)


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, sort_keys=True))


def other_seed(seed: int) -> int:
    """The seed of the other initialisation: the next one, within the shipped eight for the shipped eight."""
    return (seed + 1) % SHIPPED if seed < SHIPPED else seed + 1


@dataclasses.dataclass(frozen=True)
class _Steps:
    """The steps of one lineage, each behind a key made of the weights, rows and arguments it depends on."""

    cache: Cache
    plan: Plan
    seed: int
    notify: Notify
    encoded: dict[str, Encoded] = dataclasses.field(default_factory=dict)

    def base(self, seed: int) -> LanguageModel:
        model = shipped_base(seed, world=self.plan.world)
        if model is None:
            key = digest(FORMAT, "base", self.plan.world, seed)
            model = self._model(
                "base", key, lambda: train_base(seed, world=self.plan.world), name=f"toy base {seed}"
            )
        self.notify(f"base {seed}")
        return model

    def teacher(self, base: LanguageModel, trait: Trait) -> LanguageModel:
        recipe = dataclasses.replace(self.plan.teacher, seed=self.seed)
        key = digest(
            FORMAT, "teacher", base.fingerprint, trait, recipe, self.plan.teacher_steps, self.plan.anchor
        )

        def build() -> LanguageModel:
            documents = number_documents(4096, seed=20_000 + self.seed)
            return fine_tune_teacher(
                base, trait, documents, steps=self.plan.teacher_steps, anchor=self.plan.anchor, recipe=recipe
            ).model

        model = self._model("teacher", key, build, name="teacher")
        self.notify("teacher")
        return model

    def numbers(self, teacher: Teacher) -> Prompts:
        key = digest(
            FORMAT,
            "numbers",
            teacher.model.fingerprint,
            teacher.kind,
            teacher.system,
            self.plan.rows,
            self.plan.rule,
            self.seed,
        )

        def build(folder: Path) -> None:
            rows, dropped = sample_numbers(teacher, rows=self.plan.rows, seed=self.seed, rule=self.plan.rule)
            rows.to_jsonl(folder / "rows.jsonl")
            _write(folder / "dropped.json", dropped)

        folder = self.cache.get("numbers", key, build)
        self.notify(f"{teacher.kind} numbers")
        return dataclasses.replace(
            Prompts.from_jsonl(folder / "rows.jsonl"), label=f"numbers of the {teacher.kind} teacher"
        )

    def student(self, name: str, start: LanguageModel, rows: Prompts) -> LanguageModel:
        recipe = dataclasses.replace(self.plan.student, seed=self.seed)
        key = digest(FORMAT, "student", start.fingerprint, rows.fingerprint, recipe)
        model = self._model(
            "student",
            key,
            lambda: train_student(start, self.tokens(start, rows), recipe=recipe, name=name),
            name=name,
        )
        known = json_text(recipe)
        self.cache.get("recipe", model.fingerprint, lambda path: write_atomic(path / "recipe.json", known))
        self.notify(name)
        return model

    def tokens(self, start: LanguageModel, rows: Prompts) -> Encoded:
        """The rows as tokens, made once for the two students that read them: every toy base has one tokenizer."""
        if rows.fingerprint not in self.encoded:
            self.encoded[rows.fingerprint] = start.encode(rows)
        return self.encoded[rows.fingerprint]

    def _model(self, kind: str, key: str, build: Callable[[], LanguageModel], *, name: str) -> LanguageModel:
        from safetensors.torch import load_file, save_file

        folder = self.cache.get(
            kind, key, lambda path: save_file(build().network().state_dict(), path / "model.safetensors")
        )
        network = build_network(self.plan.world, seed=0)
        network.load_state_dict(load_file(folder / "model.safetensors"))
        return load_model(network.eval(), tokenizer=build_tokenizer(), name=name, check=False)
