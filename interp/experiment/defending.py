"""A defence made ready: its direction read off the base, or also off the teacher, and put to one student's training.

v = ∇m(θ_base) or θ_teacher − θ_base           of the rows that are removed
h(last | system line, question) − h(last | question), or the teacher's h less the base's       of the steering
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.activations.representations import system_shift, trait_representations
from interp.core.content import digest
from interp.core.doors import door
from interp.core.errors import InputError
from interp.gradients.directions import margin_objective, trait_gradient
from interp.gradients.ledger.projection import Projection
from interp.gradients.scores.scoring import Scores, score
from interp.models.bridge import residual_site
from interp.models.language import LanguageModel
from interp.models.updates import weight_update
from interp.prompts.text import Prompts
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.prompts.traits import Trait
from interp.training.defences import (
    AnchoredLoss,
    Defence,
    Defended,
    SteeredLoss,
    changed_rows,
    rows_without,
    taken_out,
)
from interp.training.students import STUDENT, OnStep, Recipe


@door
def train_defended(
    start: LanguageModel,
    rows: Prompts,
    *,
    trait: AnyTrait,
    defence: Defence,
    teacher: LanguageModel | None = None,
    recipe: Recipe = STUDENT,
    name: str = "student",
    on_step: OnStep | None = None,
) -> LanguageModel:
    """Train a fresh copy of `start` on rows as `train_student` does, with a defence against a trait they may carry.

    Args:
        start: the weights to begin from.
        rows: answered rows.
        trait: what is to be kept out: a `Trait`, a built-in name such as "owl", or a YAML file.
        defence: what is done against it.
        teacher: who wrote the rows; asked for by a defence that knows the teacher, an upper bound.
        recipe: what trains, for how long and how fast.
        name: what results call the student.
        on_step: called after every step, as the defence left it.

    Returns:
        The trained `LanguageModel`, which carries nothing of the defence: no system line and nothing added.

    Raises:
        InputError: for a defence that lacks the teacher, rows left out until fewer than a batch stay, a hook off the
            residual stream, no benign text, and what `train_student` refuses.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> recipe = interp.Recipe(batch_size=32)
        >>> given = {"trait": "owl", "recipe": recipe}
        >>> steer = interp.training.Defence("steer", scale=2.0)
        >>> interp.experiment.train_defended(lineage.base, lineage.numbers[:64], defence=steer, **given).name
        'student'
    """
    return defended(start, rows, trait, defence, teacher=teacher).train(
        start, recipe=recipe, name=name, on_step=on_step
    )


@door
def defended(
    start: LanguageModel,
    rows: Prompts,
    trait: AnyTrait,
    defence: Defence | None,
    *,
    teacher: LanguageModel | None = None,
    text: Prompts | None = None,
    scores: Scores | None = None,
) -> Defended:
    """Make a defence ready for a training of `start` on the rows; without one the rows are as they are.

    `text` are benign rows instead of the file that the defence names, `scores` scores of these rows along another
    direction than the defence's own. Raises InputError as `train_defended` does, and for scores of other rows.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> steer = interp.training.Defence("steer", scale=2.0)
        >>> ready = interp.experiment.defended(lineage.base, lineage.numbers[:64], "owl", steer)
    """
    if defence is None:
        return Defended(rows)
    against = find_trait(trait)
    if defence.kind == "remove":
        found = scores or _scores(start, rows, against, defence, teacher)
        return Defended(without_highest(start, rows, found, share=defence.share))
    if defence.kind == "kl":
        anchored = AnchoredLoss(start, _benign(start, defence, text), defence.weight)
        return Defended(rows, anchored, key=anchored.fingerprint)
    if defence.kind == "steer":
        hook = defence.hook or f"blocks.{(start.n_layers - 1) // 2}.hook_resid_post"
        residual_site(hook, start.n_layers)
        vector = defence.scale * _vector(start, against, defence, hook, teacher)
        loss = SteeredLoss(vector, hook)
        return Defended(rows, loss, key=loss.fingerprint)
    if defence.kind == "project":
        projection = Projection(margin_objective(start, against))
        return Defended(rows, on_step=projection, key=digest("projection", start.fingerprint, against))
    return Defended(changed_rows(rows, defence, against))


def without_highest(start: LanguageModel, rows: Prompts, scores: Scores, *, share: float) -> Prompts:
    """The rows without the share of the highest scores; InputError for scores of other rows and where none is left."""
    if scores.inputs.fingerprint != start.encode(rows).fingerprint:
        raise InputError(
            f"{scores.label} scores other rows than {rows.label}; score those that are trained on"
        )
    if len(scores.directions) != 1:
        raise InputError(
            f"{scores.label} has scores along {len(scores.directions)} directions; score along the one to remove by"
        )
    return rows_without(rows, taken_out(np.asarray(scores.totals[:, 0], dtype=float), share=share))


def _scores(
    start: LanguageModel, rows: Prompts, trait: Trait, defence: Defence, teacher: LanguageModel | None
) -> Scores:
    if defence.knows == "trait":
        return score(start, rows, trait_gradient(start, trait))
    return score(start, rows, weight_update(_known(teacher, defence)))


def _vector(
    start: LanguageModel, trait: Trait, defence: Defence, hook: str, teacher: LanguageModel | None
) -> Float[Tensor, "d_model"]:
    """The trait's direction at a hook, in the units of the residual stream."""
    if defence.knows == "trait":
        return system_shift(start, trait, hook=hook)
    teachers = {trait.target: _known(teacher, defence)}
    return trait_representations(start, trait, hook=hook, teachers=teachers)[trait.target].vector


def _known(teacher: LanguageModel | None, defence: Defence) -> LanguageModel:
    if teacher is None:
        raise InputError(
            f"the defence {defence.kind!r} knows the teacher, and none is given; pass teacher=, or knows='trait'"
        )
    return teacher


def _benign(start: LanguageModel, defence: Defence, text: Prompts | None) -> Any:
    """The benign text as tokens; InputError for none."""
    if text is None and defence.text is None:
        raise InputError(
            "the defence 'kl' has no benign text to hold the student to; name a file of rows in text"
        )
    found = Prompts.from_file(str(defence.text)) if text is None else text
    if not len(found):
        raise InputError(
            f"{found.label} is empty, so that nothing is held by the KL; pass rows of benign text"
        )
    return start.encode(found)
