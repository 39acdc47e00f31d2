"""Shared initialisation and the lemma on the digits organism: who must start where for its auxiliary logits to teach.

transfer(cell) = accuracy of the student of the teacher's auxiliary logits − that of the student of the untrained
teacher's, both over the same noise from the same start. coverage(cell) = cos(g_T − g_0, d), g the first step −∇L on
the logits of the teacher and of the untrained network, d = θ_T − θ_0, in the coordinates of the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.figures import points
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement
from interp.organisms.digit_data import CLASSES, DigitImages, load_digits
from interp.organisms.digit_networks import (
    EMBEDDED,
    MNIST,
    DigitsRecipe,
    Networks,
    Student,
    accuracy_of,
    distil,
    initial_networks,
    noise_batches,
    random_source,
    train_teachers,
)
from interp.stats.ranks import spearman
from interp.stats.tests import half_width
from interp.studies.first_step import centred
from interp.studies.frozen import frozen_claims
from interp.studies.lemma import SHARES
from interp.studies.mean_shifts import vector_cosine
from interp.studies.shared_initialisation import draw_cells

if TYPE_CHECKING:
    import pandas as pd

AUX = slice(CLASSES, None)
SIGMA = 0.1  # of the spread of an untrained weight
CELLS = ("same", "perturbed", "permuted", "shared head", "shared body", "foreign")
UNIT = "share of test images"

H3 = frozen_claims("digits_shared_initialisation")

H1 = frozen_claims("digits_lemma")


@dataclass(frozen=True)
class DigitSubject:
    """One seed of the organism; `data` None is scikit-learn's digits, otherwise an .npz file or IDX folder."""

    seed: int
    data: str | Path | None = None
    quick: bool = False

    @property
    def images(self) -> DigitImages:
        return load_digits(self.data)

    @property
    def recipe(self) -> DigitsRecipe:
        full = EMBEDDED if self.data is None else MNIST
        small: dict[str, Any] = {"hidden": (32, 32), "teacher_epochs": 2, "student_epochs": 1}
        return replace(full, **small, noise_images=500) if self.quick else full

    def start(self, kind: str = "own", *, perturbation: float = 0.0) -> Networks:
        """An untrained network of this seed."""
        given = {"seeds": [self.seed], "kind": kind, "perturbation": perturbation}
        return initial_networks(self.recipe, self.images.pixels, **given)

    def teacher(self, start: Networks, images: DigitImages) -> Networks:
        return train_teachers(start, images, self.recipe, seeds=[self.seed])

    def noise(self) -> Float[Tensor, "1 image pixel"]:
        """The first batch of a student's noise."""
        return next(noise_batches(self.images, self.recipe, seeds=[self.seed]))


def initialisations(subject: DigitSubject) -> Measurement:
    """Transfer and coverage in every cell of the init matrix of one seed."""
    images, own, cross = subject.images, subject.start(), subject.start("foreign")
    teacher, orders = subject.teacher(own, images), _orders(subject)
    starts = {
        "same": own,
        "perturbed": subject.start(perturbation=SIGMA),
        "permuted": own.permuted(orders),
        "shared head": cross.with_head(own),
        "shared body": own.with_head(cross),
        "foreign": cross,
    }
    accuracy = _accuracies(subject, starts, {"teacher": teacher, "untrained": own})
    direction = teacher.flat - own.flat
    rows = []
    for cell, start in starts.items():
        step = first_step(start, teacher, subject.noise()) - first_step(start, own, subject.noise())
        back = start.like(step).permuted(orders, back=True).flat if cell == "permuted" else step
        rows.append(
            {
                "cell": cell,
                "accuracy": accuracy[cell, "teacher"],
                "neutral": accuracy[cell, "untrained"],
                "transfer": accuracy[cell, "teacher"] - accuracy[cell, "untrained"],
                "coverage": vector_cosine(back, direction),
                "raw coverage": vector_cosine(step, direction),
            }
        )
    return Measurement(_initialisation_values(rows), {"cells": rows})


def _initialisation_values(rows: list[dict[str, Any]]) -> dict[str, float]:
    cell = {row["cell"]: row for row in rows}
    transfers, coverages = (np.array([row[name] for row in rows]) for name in ("transfer", "coverage"))
    return {
        "initialisation-matters": cell["same"]["transfer"] - cell["foreign"]["transfer"],
        "foreign-learns-nothing": cell["foreign"]["transfer"],
        "function-not-coordinates": cell["permuted"]["transfer"] - cell["same"]["transfer"],
        "permuted-coverage": cell["permuted"]["coverage"] - cell["same"]["coverage"],
        "shared-head-suffices": cell["shared head"]["transfer"],
        "coverage-ranks-transfer": float(spearman(coverages[None], transfers)[0]),
    }


def _accuracies(
    subject: DigitSubject, starts: Mapping[str, Networks], teachers: Mapping[str, Networks]
) -> dict[tuple[str, str], float]:
    """Accuracy of the student of every start on the auxiliary logits of every teacher."""
    images, recipe, seeds = subject.images, subject.recipe, [subject.seed]
    pairs = [(cell, name) for cell in starts for name in teachers]
    students = {" | ".join(pair): Student(starts[pair[0]], teachers[pair[1]], AUX) for pair in pairs}
    trained = distil(students, noise_batches(images, recipe, seeds=seeds), recipe, seeds=seeds)
    return {pair: accuracy_of(trained[" | ".join(pair)], images)[0] for pair in pairs}


def first_step(
    start: Networks, teacher: Networks, x: Float[Tensor, "1 image pixel"]
) -> Float[Tensor, "weight"]:
    """−∇ of the mean cross-entropy to the teacher's auxiliary logits, in fp64, all tensors in one vector."""
    student = start.each(Tensor.double).copy(train=True)
    wanted = teacher.each(Tensor.double).logits(x.double())[..., AUX].softmax(-1)
    logp = student.logits(x.double())[..., AUX].log_softmax(-1)
    gradients = torch.autograd.grad((wanted * logp).sum() / x.shape[1], student.tensors)
    return torch.cat([gradient.flatten() for gradient in gradients])


def lemma(subject: DigitSubject) -> Measurement:
    """A(ε) against Q over ε, and A of the real teacher and of its controls, for one seed."""
    images, own = subject.images, subject.start().each(Tensor.double)
    other_images = _relabelled(images, subject.seed)
    teacher, other = (
        subject.teacher(subject.start(), each).each(Tensor.double) for each in (images, other_images)
    )
    base = subject.start("foreign").each(Tensor.double)
    away = subject.teacher(subject.start("foreign"), images).each(Tensor.double)
    update = teacher.flat - own.flat
    x = subject.noise().double()
    sweep = [
        {
            "epsilon": share * float(update.norm()),
            **lean(own, own.like(own.flat + share * update), own, update, x),
        }
        for share in SHARES
    ]
    controls = [
        {"teacher": name, **lean(start, one, before, along, x)}
        for name, start, one, before, along in (
            ("matched", own, teacher, own, update),
            ("mismatched", own, other, own, update),
            ("foreign", base, teacher, own, away.flat - base.flat),
        )
    ]
    A = {row["teacher"]: row["A"] for row in controls}
    values = {
        "digits-lemma-ratio": sweep[-1]["R"] - 1,
        "digits-lemma-mismatched": A["matched"] - A["mismatched"],
        "digits-lemma-foreign": A["matched"] - A["foreign"],
    }
    return Measurement(values, {"sweep": sweep, "controls": controls})


def lean(
    start: Networks,
    teacher: Networks,
    untrained: Networks,
    direction: Float[Tensor, "weight"],
    x: Float[Tensor, "1 image pixel"],
) -> dict[str, float]:
    """A = <first step on the teacher's labels less that on the untrained's, v> / ε, Q = Var_{p_0}[JVP_v z], and A / Q.

    v is `direction` at unit length and ε = |θ_teacher − θ_untrained|; means over images.
    """
    unit = direction / direction.norm()
    found: Any = torch.func.jvp(lambda flat: start.like(flat).logits(x)[..., AUX], (start.flat,), (unit,))
    logits, moves = found
    p, q, before = (
        z.softmax(-1) for z in (logits, teacher.logits(x)[..., AUX], untrained.logits(x)[..., AUX])
    )
    epsilon = float((teacher.flat - untrained.flat).norm())
    A = float(((q - before) * moves).sum(-1).mean()) / epsilon
    Q = float((p * centred(moves, p).square()).sum(-1).mean())
    return {"A": A, "Q": Q, "R": A / Q}


def _relabelled(images: DigitImages, seed: int) -> DigitImages:
    """The same images with the digits' names permuted, none keeping its own."""
    order = torch.randperm(CLASSES, generator=random_source("relabelled", seed))
    names = torch.empty_like(order)
    names[order] = order.roll(1)
    return replace(images, y_train=names[images.y_train])


def _orders(subject: DigitSubject) -> list[Int[Tensor, "_hidden"]]:
    source = random_source("permuted", subject.seed)
    return [torch.randperm(width, generator=source) for width in subject.recipe.hidden]


def _draw_cells(tables: Mapping[str, pd.DataFrame]) -> Any:
    """Transfer in every cell, one point per seed; below, means of transfer and coverage with their intervals."""
    return draw_cells(tables["cells"], title="Transfer by initialisation of the student", unit=UNIT)


def _draw_controls(tables: Mapping[str, pd.DataFrame]) -> Any:
    """A of the teacher and its controls, one point per seed."""
    title, frame = "Lean of the first step toward a teacher", tables["controls"]
    half = frame.groupby("teacher", sort=False)["A"].transform(half_width)
    unit = H1[1].unit
    return points(frame.assign(half=half), x="teacher", y="A", interval="half", title=title, unit=unit)


FAMILIES = {
    "shared-initialisation": Family("shared-initialisation", H3, initialisations, draw=_draw_cells),
    "lemma": Family("lemma", H1, lemma, draw=_draw_controls),
}
