"""What one training run brings to a claim: its lineage, how its students are trained, and what else can be grown.

subject = (lineage, seed, recipe, grower). Whatever a claim trains besides is kept in the cache under
digest(weights it starts from, rows, recipe, what is done to its steps), so that no claim trains what another has, and
noted in `trainings`, so that a page can show that every student was trained alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp.core.content import jsonable
from interp.core.doors import door
from interp.core.runs import Cache, InputError
from interp.evaluation.instrument import SAMPLE, shortcoming
from interp.measures.margins import margin_and_mass
from interp.models.language import LanguageModel
from interp.models.lineage import Lineage
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.prompts.traits import Trait
from interp.training.grower import Grower
from interp.training.students import OnStep, Recipe, train_student
from interp.training.teachers import Teacher, neutral_teacher

ADVICE = {
    "teacher": "run a recipe whose teacher.kind is fine-tuned (`interp run RECIPE --set teacher.kind=fine-tuned`): a "
    "teacher under a system line has no weights of its own",
    "cross_base": "run a recipe with a cross_base (`interp run RECIPE --set cross_base.model=MODEL`), or leave out "
    "what needs one, `--without foreign` (and for shared-initialisation --without 'shared head' --without 'new head')",
}
"""What to do about a member that cannot be grown from the others."""
GROWN = "write the lineage by `interp run` or `interp organism`, whose folders say how to grow it, or add a member"


@dataclass(frozen=True)
class Measurement:
    """What one training run contributes: a value for every claim by name, and the tables behind them as records.

    `doubts` says of a claim, by name, why its control could not have shown what the claim is about.
    """

    values: dict[str, float]
    tables: dict[str, list[dict[str, Any]]]
    doubts: Mapping[str, str] = dataclasses.field(default_factory=dict)


@door
@dataclass(frozen=True, eq=False)
class Subject:
    """One lineage that claims are measured on; `grower` makes what it lacks, None for one that must hold everything.

    `quick` asks every measurement for its smallest form, `without` leaves parts of it out. `recipe`, its seed
    included, trains every student that a claim asks for; `trainings` is filled with a line for each.
    """

    lineage: Lineage
    seed: int = 0
    recipe: Recipe | None = None
    cache: Cache = dataclasses.field(default_factory=Cache.default)
    grower: Grower | None = None
    quick: bool = False
    without: tuple[str, ...] = ()
    trainings: list[dict[str, Any]] = dataclasses.field(default_factory=list, repr=False)

    @property
    def trait(self) -> Trait:
        """The trait; InputError for a lineage without one."""
        if self.lineage.trait is None:
            raise InputError(
                f"{self.lineage.name} has no trait to ask about; open it with load_lineage(trait=get_trait(...))"
            )
        return self.lineage.trait

    @property
    def students_recipe(self) -> Recipe:
        """What trains its students; InputError where nobody said."""
        if self.recipe is None:
            raise InputError(
                f"{self.lineage.name} does not say how its students were trained, and one that is trained otherwise "
                "compares with none of them; pass Subject(recipe=...)"
            )
        return self.recipe

    @property
    def base(self) -> LanguageModel:
        """The weights that students of this subject start from."""
        return self.member("base")

    @property
    def teacher(self) -> LanguageModel:
        """The member with the trait."""
        return self.member("teacher")

    def member(self, role: str) -> LanguageModel:
        """The member of that role; InputError naming it and what makes it."""
        if role not in self.lineage.members:
            raise InputError(
                f"{self.lineage.name} has no {role}, which this claim needs; {ADVICE.get(role, GROWN)}"
            )
        return self.lineage.text(role)

    @property
    def numbers(self) -> Prompts:
        """The teacher's rows, sampled from it where the lineage brings none."""
        return self.lineage.numbers or self.rows(Teacher(self.teacher, "fine-tuned"))

    @property
    def neutral_numbers(self) -> Prompts:
        """The rows of the untrained base, sampled where the lineage brings none."""
        return self.lineage.neutral_numbers or self.rows(neutral_teacher(self.base))

    def rows(self, teacher: Teacher, *, count: int | None = None) -> Prompts:
        """Filtered rows of any teacher, to the same prompts as this subject's own; the first `count` of them."""
        grower = self.growing(f"rows of its {teacher.kind} teacher")
        return grower.rows(teacher, base=self.base, count=count)[:count]

    def growing(self, what: str) -> Grower:
        """The grower; InputError naming what would have to be grown where nothing says how."""
        if self.grower is None:
            raise InputError(f"{self.lineage.name} has no {what}, which this claim needs; {GROWN}")
        return self.grower

    def lists(self, count: int, *, seed: int) -> Prompts:
        """Number prompts of the kind its teacher was asked, answered by uniform draws."""
        if self.grower is None:
            return number_prompts(count, seed=seed)
        return self.grower.data.lists(count, seed=seed)

    def other_teacher(self, word: str) -> LanguageModel:
        """A teacher of another trait from the same base: the member `teacher_<trait>`, else grown as its own was."""
        role = f"teacher_{word}"
        if role in self.lineage.members:
            return self.member(role)
        return self._taught(self.base, self.growing(role).trait(word, like=self.trait))

    def cross(self) -> Lineage:
        """The other initialisation and a teacher of the same trait from there: `cross_base` and `cross_teacher`."""
        base = self.member("cross_base")
        if "cross_teacher" in self.lineage.members:
            teacher = self.member("cross_teacher")
        else:
            teacher = self._taught(base, self.trait, cross=True)
        return Lineage(f"{self.lineage.name}, other base", self.trait, {"base": base, "teacher": teacher})

    def _taught(self, start: LanguageModel, trait: Trait, *, cross: bool = False) -> LanguageModel:
        """A teacher of the trait, fine-tuned as the lineage's own was.

        Raises InputError where that one was not fine-tuned, or on rows of its trait, which no other trait has.
        """
        grower = self.growing("cross_teacher" if cross else f"teacher_{trait.name}")
        if grower.teaching.kind != "fine-tuned":
            raise InputError(
                f"the teacher of {self.lineage.name} is {grower.teaching.kind} and has no weights of its own, so no "
                f"teacher of {trait.name} has either; run a recipe with teacher.kind fine-tuned"
            )
        if grower.teaching.rows is not None and not cross:
            raise InputError(
                f"the teacher of {self.lineage.name} was taught the rows of {grower.teaching.rows}, and there are none "
                f"of {trait.name}; add a member teacher_{trait.name} to the folder, or run one without teacher.rows"
            )
        return grower.teacher(start, trait, cross=cross).model

    def student(
        self,
        start: LanguageModel,
        rows: Prompts | Encoded,
        *,
        name: str,
        recipe: Recipe | None = None,
        on_step: OnStep | None = None,
        key: str | None = None,
    ) -> LanguageModel:
        """Train a student of `start` on `rows`, or load it from the cache; `key` must identify what `on_step` changes.

        Raises InputError for a listener without a key, whose work the cache could not tell apart.
        """
        if (on_step is None) != (key is None):
            raise InputError(
                f"{name} has a listener or a key and not both; a key names what the listener does"
            )
        recipe = recipe or self.students_recipe
        self.note(name, recipe, rows)
        grower = Grower(self.cache, self.seed, recipe)
        if on_step is None:
            return grower.student(name, start, rows, recipe=recipe)

        def train(recipe: Recipe, *_: Any) -> LanguageModel:
            return train_student(start, rows, recipe=recipe, name=name, on_step=on_step)

        return grower.student(name, start, rows, recipe=recipe, key=(key,), train=train)

    def note(self, name: str, recipe: Recipe, rows: Prompts | Encoded) -> None:
        """Write down how a student of this test was trained, once."""
        line = training_line(name, jsonable(recipe), by="this test", rows=len(rows))
        if line not in self.trainings:
            self.trainings.append(line)


def foreign_doubts(subject: Subject, claims: Sequence[str]) -> dict[str, str]:
    """Why `cross_base` could not have shown an effect, for each of the claims that rest on its not showing any.

    It is asked whether the trait's answers hold probability there and, where the subject can sample, whether the rule
    keeps what it writes (`evaluation.instrument`); nothing where the foreign start is left out.
    """
    if "foreign" in subject.without or subject.lineage.trait is None:
        return {}
    found = []
    for role in ("cross_base", "base"):
        model = subject.member(role)
        shares = {"candidates": margin_and_mass(model, subject.trait)[1]}
        if subject.grower is not None:
            shares["kept"] = subject.grower.kept(neutral_teacher(model), count=SAMPLE)
        found.append(shares)
    why = shortcoming(*found, who="cross_base", against="base")
    return {} if why is None else dict.fromkeys(claims, why)


def training_line(
    name: str, recipe: Mapping[str, Any], *, by: str, rows: int | None = None
) -> dict[str, Any]:
    """How one student was trained: its name, who trained it, on how many rows, and every value of its recipe."""
    plain = {
        key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in recipe.items()
    }
    drawn = plain.pop("seed", None)
    return {"student": name, "trained by": by, "rows": rows, **plain, "drawn by seed": drawn}
