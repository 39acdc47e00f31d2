"""What one training run brings to a claim: its lineage, how its students are trained, and what else can be grown.

subject = (lineage, seed, recipe). Whatever a claim trains besides is kept in the cache under
digest(weights it starts from, rows, recipe, what is done to its steps), so that no claim trains what another has.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.hypotheses.first_step import text_member
from interp.models.language import LanguageModel, load_model
from interp.models.lineage import Lineage
from interp.models.loading import is_adapter
from interp.models.members import write_member
from interp.organisms.library import PLAN, Plan, grow_rows, grow_teacher, other_seed
from interp.organisms.teachers import Teacher, neutral_teacher
from interp.organisms.training import OnStep, Recipe, train_student
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.prompts.traits import Trait, get_trait
from interp.runs import Cache, InputError, digest

FORMAT = 1  # raise when a student is trained otherwise from the same arguments
COMMANDS = {
    "student": "interp train BASE NUMBERS --out FOLDER",
    "neutral_student": "interp generate BASE --out NEUTRAL and interp train BASE NEUTRAL --out FOLDER",
    "cross_base": "another base of the same shapes",
    "teacher": "interp run RECIPE",
}


@dataclass(frozen=True)
class Measured:
    """What one training run contributes: a value for every claim by name, and the tables behind them as records."""

    values: dict[str, float]
    tables: dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, eq=False)
class Subject:
    """One lineage that claims are measured on; `plan` is how a toy is grown, None for a lineage that was opened.

    `quick` asks every measurement for its smallest form. `recipe` trains every student that a claim asks for.
    """

    lineage: Lineage
    seed: int = 0
    recipe: Recipe = PLAN.student
    cache: Cache = dataclasses.field(default_factory=Cache.default)
    plan: Plan | None = None
    quick: bool = False

    @property
    def trait(self) -> Trait:
        """The trait; InputError for a lineage without one."""
        if self.lineage.trait is None:
            raise InputError(
                f"{self.lineage.name} has no trait to ask about; open it with load_lineage(trait=get_trait(...))"
            )
        return self.lineage.trait

    @property
    def base(self) -> LanguageModel:
        """The weights that students of this subject start from."""
        return self.member("base")

    @property
    def teacher(self) -> LanguageModel:
        """The member with the trait."""
        return self.member("teacher")

    def member(self, role: str) -> LanguageModel:
        """The member of that role; InputError naming it and the command that makes it."""
        if role not in self.lineage.members:
            made = COMMANDS.get(role, "interp run RECIPE")
            raise InputError(
                f"{self.lineage.name} has no {role}, which this claim needs; make it with `{made}` and add it as "
                f"load_lineage(student={{{role!r}: FOLDER}})"
            )
        return text_member(self.lineage, role)

    @property
    def numbers(self) -> Prompts:
        """The teacher's rows, sampled from it where the lineage brings none."""
        return self.lineage.numbers or self.rows(Teacher(self.teacher, "fine-tuned"))

    @property
    def neutral_numbers(self) -> Prompts:
        """The rows of the untrained base, sampled where the lineage brings none."""
        return self.lineage.neutral_numbers or self.rows(neutral_teacher(self.base))

    def rows(self, teacher: Teacher) -> Prompts:
        """Filtered number rows of any teacher, as many as this subject's own, to the same prompts."""
        plan = self.plan or dataclasses.replace(PLAN, rows=len(self.lineage.numbers or ()) or PLAN.rows)
        return grow_rows(teacher, seed=self.seed, plan=plan, cache=self.cache)

    def other_teacher(self, word: str) -> LanguageModel:
        """A teacher of another trait from the same base: a toy's is grown, another lineage's is `teacher_<trait>`."""
        if self.plan is None:
            return self.member(f"teacher_{word}")
        return grow_teacher(self.base, get_trait(word), seed=self.seed, plan=self.plan, cache=self.cache)

    def foreign(self) -> Lineage:
        """The other initialisation and a teacher of the same trait from there: `cross_base` and `cross_teacher`."""
        base = self.member("cross_base")
        if self.plan is None:
            teacher = self.member("cross_teacher")
        else:
            seed = other_seed(self.seed)
            teacher = grow_teacher(base, self.trait, seed=seed, plan=self.plan, cache=self.cache)
        return Lineage(f"{self.lineage.name}, other base", self.trait, {"base": base, "teacher": teacher})

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
        """A student of `start` on `rows`, from the cache where it is done. What `on_step` does is named by `key`.

        Raises InputError for a listener without a key, whose work the cache could not tell apart.
        """
        if (on_step is None) != (key is None):
            raise InputError(
                f"{name} has a listener or a key and not both; a key names what the listener does"
            )
        recipe = dataclasses.replace(recipe or self.recipe, seed=self.seed)
        made = digest(FORMAT, "claim student", start.fingerprint, rows.fingerprint, recipe, key)

        def build(folder: Path) -> None:
            model = train_student(start, rows, recipe=recipe, name=name, on_step=on_step)
            write_member(model, folder / "member", hosts={start.fingerprint: "start"})

        folder = self.cache.get("claim-student", made, build) / "member"
        if is_adapter(folder):
            return start.with_adapter(folder, name=name, check=False)
        kept: dict[str, Any] = {"dtype": start.dtype, "device": start.device}
        model = load_model(folder, tokenizer=start.tokenizer, name=name, check=False, **kept)
        return dataclasses.replace(model, start=start)
