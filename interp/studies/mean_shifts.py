"""Where a lineage's members moved on average, v = mean(h_member − h_base), and what such vectors do to the trait.

necessity = Δm − Δm(both students with v projected out), Δm = m(student) − m(neutral student); sufficiency =
m(base + v) − m(base); m is the trait margin in nats. A projection is x − <x, v> v / |v|² and holds at every token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations import ablate, moments, shift, steer
from interp.activations.shifts import residual_hooks
from interp.core.runs import InputError
from interp.measures.losses import answer_loss
from interp.measures.margins import margin
from interp.models.language import LanguageModel
from interp.models.lineage import Lineage
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.prompts.traits import Trait

Site = tuple[str, str]
"""The positions over which a shift is averaged, and the hook at which it is read and put to use."""
ROLES = ("teacher", "student", "neutral_student")


@dataclass(frozen=True, eq=False)
class MeanShifts:
    """Mean shifts by member and site; `teacher` and `other` from the `first` half of the prompts, students' not."""

    sites: tuple[Site, ...]
    vectors: dict[str, dict[Site, Float[Tensor, "d_model"]]]
    first: Prompts

    def __call__(self, member: str, site: Site) -> Float[Tensor, "d_model"]:
        return self.vectors[member][site]

    def similarity(self, student: str, teacher: str, site: Site) -> float:
        """Cosine of two members' mean shifts."""
        return vector_cosine(self(student, site), self(teacher, site))


@dataclass(frozen=True, eq=False)
class ShiftEffects:
    """What vectors at one hook do to a lineage's margins on `questions` (nats) and to the loss of its numbers."""

    lineage: Lineage
    questions: Trait
    hook: str
    margins: dict[str, float]
    rows: Encoded
    loss_before: float = field(default=0.0)

    @classmethod
    def of(cls, lineage: Lineage, questions: Trait, hook: str) -> ShiftEffects:
        """The untouched members' margins and the student's loss; InputError for a lineage without rows."""
        if not len(lineage.numbers or ()):
            raise InputError(
                f"{lineage.name} has no numbers whose likelihood could change; open it with its teacher's rows"
            )
        student = lineage.text("student")
        rows = student.encode(lineage.numbers)  # pyright: ignore[reportArgumentType]
        return cls(
            lineage, questions, hook, margins_by_role(lineage, questions), rows, answer_loss(student, rows)
        )

    def necessity(self, vector: Float[Tensor, "d_model"]) -> float:
        """Δm less what is left of it when `vector` is projected out of both students."""
        left = {}
        for role in ("student", "neutral_student"):
            model = self.lineage.text(role)
            with ablate(model, hook=self.hook, direction=vector):
                left[role] = margin(model, self.questions)
        gained = self.margins["student"] - self.margins["neutral_student"]
        return gained - (left["student"] - left["neutral_student"])

    def sufficiency(self, vector: Float[Tensor, "d_model"]) -> float:
        """What the base's margin gains when `vector` is added at every token."""
        return steered_gain(self.lineage.text("base"), self.questions, hook=self.hook, vector=vector)

    def loss(self, vector: Float[Tensor, "d_model"]) -> float:
        """Change of the student's loss when `vector` is projected out, in nats per answer token, end token counted."""
        student = self.lineage.text("student")
        with ablate(student, hook=self.hook, direction=vector):
            return answer_loss(student, self.rows) - self.loss_before


def steered_gain(
    base: LanguageModel, questions: Trait, *, hook: str, vector: Float[Tensor, "d_model"]
) -> float:
    """What the base's margin gains, in nats, when `vector` is added at every token."""
    with steer(base, hook=hook, vector=vector):
        gained = margin(base, questions)
    return gained - margin(base, questions)


def mean_shifts(
    lineage: Lineage, prompts: Prompts, *, other: LanguageModel | None, positions: Sequence[str]
) -> MeanShifts:
    """Every member's mean shift over each of `positions` after every layer: teachers on every second prompt from the
    first on, students on the rest. `other` is a teacher of another trait from the same base.

    Raises InputError for fewer than four prompts, a member that is missing or has the base's weights, and another base.
    """
    if len(prompts) < 4:
        raise InputError(
            f"{prompts.label!r} holds {len(prompts)} prompts, and two halves need two each; pass at least 4"
        )
    halves = [dataclasses.replace(prompts, rows=prompts.rows[start::2]) for start in (0, 1)]
    members = {name: lineage.text(name) for name in ROLES}
    if other is not None:
        pair = Lineage(lineage.name, None, {"base": lineage.base, "teacher": other})
        members["other"] = pair.text("teacher")
    hooks = residual_hooks(members["teacher"])
    vectors: dict[str, dict[Site, Tensor]] = {name: {} for name in members}
    for name, member in members.items():
        for each in positions:
            moved = shift(member, halves["student" in name], positions=each, hooks=hooks)
            vectors[name] |= {(each, hook): moved.direction(hook).vector for hook in hooks}
    sites = tuple((each, hook) for each in positions for hook in hooks)
    return MeanShifts(sites, vectors, halves[0])


def like_activations(
    base: LanguageModel, shifts: MeanShifts, site: Site, *, count: int, seed: int
) -> list[Float[Tensor, "d_model"]]:
    """Gaussian vectors with the covariance of the base's activations where shifts are read."""
    positions, hook = site
    return random_vectors(base, shifts.first, hook=hook, positions=positions, count=count, seed=seed)


def random_vectors(
    base: LanguageModel, prompts: Prompts, *, hook: str, positions: str, count: int, seed: int
) -> list[Float[Tensor, "d_model"]]:
    """Gaussian vectors with the covariance of the base's activations at these positions of the prompts."""
    covariance = moments(base, prompts, hooks=hook, positions=positions)[hook].covariance.double()
    values, axes = torch.linalg.eigh(covariance)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, len(values), dtype=torch.float64, generator=generator)
    return list(((noise * values.clamp_min(0).sqrt()) @ axes.T).float())


def margins_by_role(lineage: Lineage, questions: Trait) -> dict[str, float]:
    """Trait margin of every member in nats."""
    return {role: margin(lineage.text(role), questions) for role in ("base", *ROLES)}


def vector_cosine(one: Float[Tensor, "entry"], other: Float[Tensor, "entry"]) -> float:
    """Cosine in double precision."""
    return float(torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=0))
