"""Alignment over a student's training: cos(θ_t − θ_0, v) after every step, beside the same for null directions.

The update so far is that of the effective weights, low-rank for a LoRA student. A cosine against 1/√d means nothing
(gradients share a few directions), so the band is that of directions from the family the claim is about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from interp.core.doors import door
from interp.core.runs import InputError
from interp.figures import Result, captioned, lines
from interp.gradients.ledger.recording import TrainingRecord, recorded_student, trained_from
from interp.models.parameters import ParameterDirection
from interp.models.precision import exactly
from interp.models.updates import adapter_factors
from interp.prompts.notes import noting

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.language import LanguageModel
    from interp.models.lineage import Lineage

NULL = "null"  # the group that holds mean and half-width of the null directions


@door
@noting
@exactly
def alignment_course(
    lineage: Lineage,
    student: str = "student",
    *,
    direction: ParameterDirection | Sequence[ParameterDirection],
    null: Sequence[ParameterDirection],
    record: TrainingRecord | None = None,
) -> Result:
    """Measure the cosine of the student's update so far with each direction, after every step of its training.

    `null` are directions of the same family that the training has no reason to follow, such as the other traits'
    gradients or `random_pair_directions`; their mean and two standard deviations make the band. Without `record` the
    training is repeated from its recipe and cached. Raises InputError for fewer than two null directions, and where
    `recorded_student` does.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> update, others = lineage.update("teacher"), [lineage.update("control_teacher"), lineage.update("teacher_eagle")]
    >>> course = alignment_course(lineage, direction=update, null=others)
    >>> int(course.frame["step"].min())
    1
    """
    if len(null) < 2:
        raise InputError(f"{len(null)} null directions have no spread; pass at least two of the same family")
    start = trained_from(lineage, student)
    claimed = [direction] if isinstance(direction, ParameterDirection) else list(direction)
    for each in (*claimed, *null):
        each.check(start, transfer=True)
    record = recorded_student(lineage, student) if record is None else record
    rows = [line for step, update in updates(record, start) for line in _lines(step, update, claimed, null)]
    return Result(
        f"{student} of {lineage.name}: alignment over training",
        pd.DataFrame(rows),
        "cosine",
        (f"band: mean ± 2 sd of {len(null)} null directions",),
        draw=_draw,
    )


def updates(record: TrainingRecord, start: LanguageModel) -> Iterator[tuple[int, ParameterDirection]]:
    """Steps taken and θ_t − θ_0 of the effective weights after each; steps that moved nothing are left out."""
    network, adapted = record.network(start)
    began = record.chunk(0).start
    for index, steps in enumerate(record.chunks):
        for step, weights in zip(steps, record.chunk(index).weights()[1:], strict=True):
            record.put(network, weights)
            tensors = dict(record.views(weights - began)) if adapted is None else adapter_factors(network)[0]
            update = ParameterDirection(dict(tensors), "update", start.fingerprint, start.fingerprint)
            if update.norm() > 0:
                yield step + 1, update


def _lines(
    step: int,
    update: ParameterDirection,
    claimed: Sequence[ParameterDirection],
    null: Sequence[ParameterDirection],
) -> list[dict]:
    size = update.norm()
    spread = pd.Series([update.dot(each) / (size * each.norm()) for each in null])
    band = {"step": step, "direction": NULL, "cosine": spread.mean(), "half_width": 2 * spread.std()}
    own = [
        {"step": step, "direction": each.label, "cosine": update.dot(each) / (size * each.norm())}
        for each in claimed
    ]
    return [*({**line, "half_width": 0.0} for line in own), band]


def _draw(result: Result) -> go.Figure:
    figure = lines(
        result.frame,
        x="step",
        y="cosine",
        group="direction",
        band="half_width",
        title=result.label,
        unit="",
        x_unit="of the optimizer",
    )
    figure.update_yaxes(title={"text": "cosine with the direction"})
    return captioned(figure, *result.notes)
