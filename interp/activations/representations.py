"""The representation of a trait at a hook: where a model is when it prefers the target rather than another candidate.

u(a) = s(a) − mean over candidates b of s(b), the trait's target and foils; s(a) is the mean shift of the last position
of the trait's questions by the system line "you love the a", or in a teacher of a. What all lines or teachers do
cancels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.arrays import Direction
from interp.activations.recording import record
from interp.activations.shifts import shift
from interp.core.content import digest
from interp.core.doors import door
from interp.core.errors import InputError, nearest
from interp.models.precision import exactly
from interp.models.seam import lineage_root
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.prompts.traits import Trait, matched_control

if TYPE_CHECKING:
    from interp.models.seam import Model


@door
@exactly
def trait_representations(
    base: Model, trait: AnyTrait, *, hook: str, teachers: Mapping[str, Model] | None = None
) -> dict[str, Direction]:
    """Make the direction at a hook along which each candidate of a trait stands out among all, the target's first.

    They are read at the last position of the trait's questions, in units of the residual stream: from the base's own
    system lines of target and foils, or from `teachers`, fine-tunes of the base by the candidate each prefers. The
    target's is the trait's, the others are its nulls. A single teacher's mean shift is taken as it is. Raises
    InputError for a system line that does not name the target, for teachers without the target's, of no candidate or of
    another base, and where `record` or `shift` do.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> interp.activations.trait_representations(lineage.base, "owl", hook="blocks.1.hook_resid_post")["owl"].label
    'owl representation (10 system lines)'
    """
    trait = find_trait(trait)
    if teachers is None:
        shifts = {each.target: system_shift(base, each, hook=hook) for each in _candidates(trait)}
        source = f"{len(shifts)} system lines"
    else:
        shifts = _teacher_shifts(base, trait, teachers, hook)
        source = f"{len(shifts)} teachers" if len(shifts) > 1 else "its teacher"
    common = torch.stack(list(shifts.values())).mean(0) if len(shifts) > 1 else 0.0
    read_from = digest(base.fingerprint, *(each.fingerprint for each in (teachers or {}).values()))
    return {
        name: Direction(
            moved - common, hook, f"{name} representation ({source})", read_from, lineage_root(base)
        )
        for name, moved in shifts.items()
    }


def system_shift(base: Model, trait: Trait, *, hook: str) -> Float[Tensor, "d_model"]:
    """Mean over the trait's questions of h(last | system line, question) − h(last | question) at a hook."""
    questions = trait.prompts()
    with_line, without = (
        record(base, rows, hooks=[hook], positions="last").mean(hook).flatten()
        for rows in (questions.with_system(trait.system), questions)
    )
    return with_line - without


def _candidates(trait: Trait) -> list[Trait]:
    """The trait, and each of its foils in its place."""
    if trait.target.casefold() not in trait.system.casefold():
        raise InputError(
            f"the system line of {trait.name} does not name {trait.target!r}: {trait.system[:60]!r}, so no foil can "
            "take its place; pass teachers= instead"
        )
    return [trait, *(matched_control(replace(trait, control=foil)) for foil in trait.foils)]


def _teacher_shifts(
    base: Model, trait: Trait, teachers: Mapping[str, Model], hook: str
) -> dict[str, Float[Tensor, "d_model"]]:
    """Every teacher's mean shift at the last position of the trait's questions."""
    if trait.target not in teachers:
        raise InputError(
            f"{trait.target!r} is none of the teachers {', '.join(teachers) or 'given'}; add its own"
        )
    for name, teacher in teachers.items():
        if name not in (trait.target, *trait.foils):
            raise InputError(
                f"teacher {nearest(name, (trait.target, *trait.foils))}; name teachers by candidates"
            )
        if teacher.start is None or teacher.start.fingerprint != base.fingerprint:
            raise InputError(
                f"the teacher of {name!r} does not start from {base.name}; pass teachers of the same base, "
                "as members of a lineage"
            )
    names = sorted(teachers, key=lambda name: name != trait.target)
    return {
        name: shift(teachers[name], trait.prompts(), positions="last", hooks=[hook]).direction(hook).vector
        for name in names
    }
