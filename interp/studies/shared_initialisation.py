"""What must a student share with its teacher? τ = transfer / transfer from θ_0, κ = cos(Δθ_S − Δθ_N, θ_T − θ_0).

transfer = margin(student of the teacher's numbers) − margin(student of the neutral teacher's), both from one start and
by the lineage's recipe; Δθ is their first gradient step on soft number labels. Where a start is θ_0 in other
coordinates the teacher is written there as well before the cosine is taken: permuted, κ must come back to what it is
at θ_0. No student shares its teacher's adapter or order; every start but "same" and "foreign" draws yet others, and
"other order" is what the permuted start is compared with. Coverage is the name of κ in
Madl (arXiv 2606.22019), a shared head under another body the case of Brockers et al. (2605.23645), foreign starts
that of Cloud et al. (2507.14805).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp.core.doors import door
from interp.core.runs import InputError, nearest
from interp.figures import Result, bars, interval_maps, points
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement, Subject, foreign_doubts
from interp.joined.places import AT_NUMBERS, chosen_words, places
from interp.measures.losses import answer_loss
from interp.measures.margins import margin, margin_and_mass
from interp.models.language import LanguageModel
from interp.models.starts import perturbed
from interp.prompts.text import Prompts
from interp.stats.ranks import spearman
from interp.stats.tests import t_interval
from interp.studies.first_step import soft_gradient
from interp.studies.frozen import frozen_claims
from interp.studies.initialisations import Carry, carried, joined, permutation, rotation
from interp.training.students import Recipe

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

UNIT = "nats of trait margin"
ROWS = 256  # on which first steps are taken and starts are looked at
QUICK_ROWS, QUICK_BATCH = 256, 64
ANOTHER = 1_000_000  # added to a seed: the other order of data, and the draws of noise, orders and turns
DECIMALS = 5  # to which coverages are ranked: those that are equal by theory tie
ABOVE: dict[str, Any] = {"margin": 0.0, "alpha": 0.01, "kind": "difference"}

H3 = frozen_claims("shared_initialisation")


@dataclass(frozen=True, eq=False)
class StartCell:
    """Where the students of a cell start, and how the base's weights are written there.

    `members` are the lineage's own students of this start, of the lineage's seed, which are not trained again; without
    them rows come in another order and the adapter is another draw.
    """

    start: LanguageModel
    carry: Carry = dict
    members: tuple[str, str] | None = None


def _same(subject: Subject) -> StartCell:
    return StartCell(subject.base, members=("student", "neutral_student"))


def _other_order(subject: Subject) -> StartCell:
    return StartCell(subject.base)


def _noise(subject: Subject) -> StartCell:
    return StartCell(perturbed(subject.base, seed=subject.seed + ANOTHER, name="base with noise"))


def _permuted(subject: Subject) -> StartCell:
    carry = permutation(subject.base, seed=subject.seed + ANOTHER)
    return StartCell(carried(subject.base, carry, name="permuted base"), carry)


def _rotated(subject: Subject) -> StartCell:
    carry = rotation(subject.base, seed=subject.seed + ANOTHER)
    return StartCell(carried(subject.base, carry, name="rotated base"), carry)


def _shared_head(subject: Subject) -> StartCell:
    return StartCell(
        joined(head=subject.base, body=subject.member("cross_base"), name="base's head, other body")
    )


def _new_head(subject: Subject) -> StartCell:
    return StartCell(
        joined(head=subject.member("cross_base"), body=subject.base, name="base's body, other head")
    )


def _foreign(subject: Subject) -> StartCell:
    return StartCell(subject.member("cross_base"), members=("cross_student", "cross_neutral_student"))


CELLS: dict[str, Callable[[Subject], StartCell]] = {
    "same": _same,
    "other order": _other_order,
    "noise": _noise,
    "permuted": _permuted,
    "rotated": _rotated,
    "shared head": _shared_head,
    "new head": _new_head,
    "foreign": _foreign,
}


NEEDS: dict[str, tuple[str, ...]] = {
    "same-over-foreign": ("foreign",),
    "foreign-transfers-nothing": ("foreign",),
    "other-order-transfers": ("other order",),
    "permuted-transfers-alike": ("permuted", "other order"),
    "permuted-coverage-returns": ("permuted",),
    "rotated-over-foreign": ("rotated", "foreign"),
    "shared-head-transfers": ("shared head",),
    "coverage-ranks-transfer": tuple(cell for cell in CELLS if cell != "same"),
    "agreement-ranks-transfer": tuple(cell for cell in CELLS if cell != "same"),
}
"""The cells that each claim is made of; the same start is always there."""
DENIED = ("same-over-foreign", "foreign-transfers-nothing", "rotated-over-foreign")
"""Claims that rest on the foreign start not showing a transfer."""


@door
def init_matrix(subject: Subject, cells: Sequence[str] = tuple(CELLS)) -> Result:
    """Measure what a student takes over from every start, one line per cell.

    `transfer` in nats of margin and `tau` its share of that in "same"; `coverage` κ with the teacher written in the
    cell's coordinates and `raw_coverage` with it as it is; `trained_coverage` the cosine of the trained student less
    its neutral twin instead of the first step; `agreement` r of the same difference with the teacher less the base, in
    logits of words that no row contains, where numbers are predicted. `loss` is the start's own on the teacher's
    numbers (nats per answer token, end token counted) and `apart` its largest change of a log-probability from the
    base: a mixed start may speak badly, and only differences to its neutral twin count. `candidates` is the probability
    that the trait's answers hold together at the start (`evaluation.instrument`). Cosines are over the weights the
    teacher moved. The lineage's own students serve "same" and "foreign". Raises InputError for an unknown cell, and for
    a cell that needs a member the lineage lacks or an architecture that it is not made for.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> subject = interp.hypotheses.Subject(lineage, recipe=interp.Recipe(batch_size=64))
        >>> interp.studies.init_matrix(subject, ["same"]).frame.columns[:4].tolist()
        ['cell', 'transfer', 'tau', 'coverage']
    """
    import pandas as pd

    for cell in cells:
        if cell not in CELLS:
            raise InputError(f"cell {nearest(cell, CELLS)}; pass some of {', '.join(CELLS)}")
    if not cells:
        raise InputError(f"no cell was asked for, so nothing is trained; pass some of {', '.join(CELLS)}")
    made = {cell: CELLS[cell](subject) for cell in dict.fromkeys(("same", *cells))}
    found = {cell: {"cell": cell, **_line(subject, cell, where)} for cell, where in made.items()}
    frame = pd.DataFrame([found[cell] for cell in dict.fromkeys(cells)])
    frame.insert(2, "tau", frame["transfer"] / found["same"]["transfer"])
    note = f"the same start transfers {found['same']['transfer']:+.3f} nats, to which tau is relative"
    return Result(f"Starts of students in {subject.lineage.name}", frame, UNIT, (note,), draw=_draw_cells)


def _line(subject: Subject, name: str, cell: StartCell) -> dict[str, float]:
    """Transfer, coverages and validity of one cell."""
    ours, theirs = _pair(subject, name, cell)
    update = _difference(cell.carry(subject.teacher.parameters()), cell.carry(subject.base.parameters()))
    raw = _difference(subject.teacher.parameters(), subject.base.parameters())
    (there,) = places(subject.lineage, [AT_NUMBERS], subject.neutral_numbers[:ROWS])
    unseen = chosen_words(subject.lineage, "unseen")
    step, trained = _first_step(subject, cell.start), _difference(ours.parameters(), theirs.parameters())
    margins = [margin(model, subject.trait) for model in (ours, theirs)]
    start, mass = margin_and_mass(cell.start, subject.trait)
    return {
        "transfer": margins[0] - margins[1],
        "coverage": update_cosine(step, update),
        "agreement": there.correlation((ours, theirs), (subject.teacher, subject.base), entries=unseen),
        "raw_coverage": update_cosine(step, raw),
        "trained_coverage": update_cosine(trained, update),
        "loss": answer_loss(cell.start, cell.start.encode(subject.numbers[:ROWS])),
        "apart": _apart(cell.start, subject.base, subject.neutral_numbers[:64]),
        "margin": margins[0],
        "neutral_margin": margins[1],
        "start_margin": start,
        "candidates": mass,
    }


def _pair(subject: Subject, name: str, cell: StartCell) -> tuple[LanguageModel, LanguageModel]:
    """The student of the teacher's numbers and its neutral twin, from the lineage or trained by its recipe."""
    if cell.members and not subject.quick and all(role in subject.lineage.members for role in cell.members):
        return subject.member(cell.members[0]), subject.member(cell.members[1])
    recipe, count = _size(subject)
    if not cell.members:
        recipe = dataclasses.replace(recipe, seed=recipe.seed + ANOTHER)
    rows = {"student": subject.numbers, "neutral student": subject.neutral_numbers}
    ours, theirs = (
        subject.student(cell.start, each[:count], name=f"{name} {role}", recipe=recipe)
        for role, each in rows.items()
    )
    return ours, theirs


def _size(subject: Subject) -> tuple[Recipe, int | None]:
    """The recipe and how many rows: all of them, or a few steps when quick (then in every cell)."""
    recipe = subject.students_recipe
    if not subject.quick:
        return recipe, None
    return dataclasses.replace(recipe, batch_size=min(QUICK_BATCH, recipe.batch_size)), QUICK_ROWS


def _first_step(subject: Subject, start: LanguageModel) -> dict[str, Tensor]:
    """−∇ at `start` on the teacher's soft number labels, less that on the base's, exact in fp64."""
    rows = start.encode(subject.neutral_numbers[: 64 if subject.quick else ROWS])
    toward, neutral = (
        soft_gradient(start, model, rows, dtype=torch.float64) for model in (subject.teacher, subject.base)
    )
    return {name: neutral[name] - slope for name, slope in toward.items()}


def _difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that differ, in fp64."""
    found = {name: weight.double() - theirs[name].double() for name, weight in ours.items()}
    return {name: change for name, change in found.items() if change.any()}


def update_cosine(step: Mapping[str, Tensor], update: Mapping[str, Tensor]) -> float:
    """cos over the weights of `update`, of all its tensors together; a weight that `step` lacks did not move.

    Zero when nothing of these weights moved. Raises InputError for an update that is empty.
    """
    if not update:
        raise InputError(
            "the teacher has the base's weights, so nothing can cover its update; pass a fine-tuned teacher"
        )
    pairs = [(step[name].double(), change.double()) for name, change in update.items() if name in step]
    inner = sum(float((one * other).sum()) for one, other in pairs)
    size = float(np.hypot.reduce([0.0, *(float(one.norm()) for one, _ in pairs)]))
    full = float(np.hypot.reduce([float(change.double().norm()) for change in update.values()]))
    return inner / (size * full) if size else 0.0


def _apart(model: LanguageModel, base: LanguageModel, rows: Prompts) -> float:
    """Largest difference of a next-token log-probability at a token that is not padding."""
    batch = next(base.batches(rows, len(rows)))
    ours, theirs = (each.logits(batch)[batch.mask].double().log_softmax(-1) for each in (model, base))
    return float((ours - theirs).abs().max())


def measure_starts(subject: Subject) -> Measurement:
    """All cells of one lineage that are not left out, and what it contributes to every claim that needs no other.

    Claims that something is absent from the foreign start are doubted where that start could not have shown it.
    """
    frame = init_matrix(subject, [cell for cell in CELLS if cell not in subject.without]).frame
    return Measurement(
        claim_values(frame), {"cells": frame.to_dict("records")}, foreign_doubts(subject, DENIED)
    )


def claim_values(frame: pd.DataFrame) -> dict[str, float]:
    """The value of one lineage for every claim of H3 whose cells are in the frame."""
    lines = frame.set_index("cell")
    transfer: dict[str, float] = lines["transfer"].to_dict()
    coverage: dict[str, float] = lines["coverage"].to_dict()
    rounded = lines["coverage"].round(DECIMALS).to_numpy()
    values: dict[str, Callable[[], float]] = {
        "same-over-foreign": lambda: transfer["same"] - transfer["foreign"],
        "foreign-transfers-nothing": lambda: transfer["foreign"],
        "other-order-transfers": lambda: transfer["other order"],
        "permuted-transfers-alike": lambda: transfer["permuted"] - transfer["other order"],
        "permuted-coverage-returns": lambda: coverage["permuted"] - coverage["same"],
        "rotated-over-foreign": lambda: transfer["rotated"] - transfer["foreign"],
        "shared-head-transfers": lambda: transfer["shared head"],
        "coverage-ranks-transfer": lambda: float(spearman(rounded[None], lines["transfer"].to_numpy())[0]),
        "agreement-ranks-transfer": lambda: float(
            spearman(lines["agreement"].to_numpy()[None], lines["transfer"].to_numpy())[0]
        ),
    }
    return {claim: value() for claim, value in values.items() if set(NEEDS[claim]) <= set(transfer)}


def draw_starts(tables: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Transfer of every lineage by cell; below, means of transfer and coverage with their 95 % t-intervals."""
    return draw_cells(tables["cells"], title="What a student takes over, by where it starts", unit=UNIT)


def draw_cells(frame: pd.DataFrame, *, title: str, unit: str) -> go.Figure:
    """A point per run and start above, a map of means and intervals below; columns seed, cell, transfer, coverage."""
    import pandas as pd

    means = pd.DataFrame(
        [
            {"cell": cell, "measure": measure, "mean": part.to_numpy().mean()} | _ends(part.to_numpy())
            for measure in ("transfer", "coverage")
            for cell, part in frame.groupby("cell", sort=False)[measure]
        ]
    )
    ends = means.loc[means["measure"] == "transfer"].set_index("cell")
    half = frame["cell"].map((ends["high"] - ends["low"]) / 2)
    role = np.where(frame["cell"] == "foreign", "cross_student", "student")
    return interval_maps(
        means,
        x="cell",
        units={"transfer": unit, "coverage": "cosine"},
        title=title,
        interval=f"95 % t-interval over n = {frame['seed'].nunique()} runs",
        above=points(
            frame.assign(half=half, role=role),
            x="cell",
            y="transfer",
            colour="role",
            interval="half",
            title="",
            unit=unit,
        ),
    )


def _ends(values: np.ndarray) -> dict[str, float]:
    low, high = t_interval(values) if len(values) > 1 else (np.nan, np.nan)
    return {"low": low, "high": high}


def _draw_cells(result: Result) -> go.Figure:
    return bars(result.frame, x="transfer", y="cell", title=result.label, unit=UNIT)


FAMILY = Family(
    "shared-initialisation",
    claims=H3,
    measure=measure_starts,
    draw=draw_starts,
    needs=NEEDS,
)
