"""Which rows a joined trace shows, and what each did to the student's trait margin.

share_i is the row's line of the ledger (`interp.gradients.ledger.ledgers`), in nats; the shares of all rows add up to
what the
ledger attributes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from interp.core.runs import InputError, nearest
from interp.gradients.ledger.ledgers import Ledger, trait_ledger
from interp.gradients.ledger.recording import training_rows
from interp.models.lineage import Lineage
from interp.prompts.text import Prompts


@dataclass(frozen=True)
class Chosen:
    """The rows of a table, what it calls them, and what each adds to the student's margin, NaN where unknown."""

    prompts: Prompts
    labels: tuple[int, ...]
    shares: tuple[float, ...]
    training: Prompts | None
    notes: tuple[str, ...]


def choose(
    lineage: Lineage, rows: int | Sequence[int] | Prompts, *, student: str | None, ledger: Ledger | None
) -> Chosen:
    """Find the rows, their numbers in the training and their shares; InputError for rows that are not there."""
    training = _training(lineage, student)
    shares, notes = _shares(lineage, student, training, ledger)
    if isinstance(rows, Prompts):
        places = {row: place for place, row in reversed(list(enumerate(training.rows if training else ())))}
        found = [places.get(row) for row in rows.rows]
        missing = found.count(None) if shares else 0
        if missing:
            notes = (
                *notes,
                f"{missing} of {len(rows)} rows were not in the student's training: no row_share",
            )
        known = tuple(math.nan if place is None else shares.get(place, math.nan) for place in found)
        return Chosen(rows, tuple(range(len(rows))), known, training, notes)
    if training is None:
        raise InputError(
            f"rows {rows!r} are counted among the training rows of {lineage.name!r}, which are unknown; pass Prompts"
        )
    labels = (
        _extremes(shares, rows, len(training)) if isinstance(rows, int) else _indices(rows, len(training))
    )
    known = tuple(shares.get(place, math.nan) for place in labels)
    return Chosen(training[labels], tuple(labels), known, training, notes)


def _training(lineage: Lineage, student: str | None) -> Prompts | None:
    """The rows that were trained on, the teacher's numbers when no student is named; None when unknown."""
    if student is None:
        return lineage.numbers
    if student not in lineage.members:
        raise InputError(
            f"member {nearest(student, lineage.members)}; pass a student of {lineage.name!r}, or student=None for a "
            "table without row_share"
        )
    try:
        found = training_rows(lineage, student)
    except InputError:
        return None
    return found if isinstance(found, Prompts) else None


def _shares(
    lineage: Lineage, student: str | None, training: Prompts | None, ledger: Ledger | None
) -> tuple[dict[int, float], tuple[str, ...]]:
    """Nats of margin by training row, and why there are none."""
    if ledger is None and student is None:
        return {}, ("no row_share: no student was named",)
    if ledger is None and training is None:
        return {}, (f"no row_share: the rows {student} was trained on are unknown",)
    if ledger is None:
        try:
            ledger = trait_ledger(lineage, student or "student")
        except InputError as error:
            return {}, (f"no row_share: {error}",)
    by_row: Any = ledger.by_row()
    note = f"row_share: {ledger!r}"
    return dict(zip(by_row["row"].tolist(), by_row["attributed"].tolist(), strict=True)), (note,)


def _extremes(shares: dict[int, float], count: int, total: int) -> list[int]:
    """`count` rows, the larger half those of largest share; the first rows when shares are unknown."""
    if isinstance(count, bool) or not 1 <= count <= total:
        raise InputError(f"rows={count} of {total} training rows cannot be shown; pass 1 to {total}")
    if not shares:
        return list(range(count))
    order = sorted(shares, key=lambda row: -shares[row])
    top = order[: -(-count // 2)]
    return [*top, *order[len(top) :][len(order) - count :]]


def _indices(rows: Sequence[int], total: int) -> list[int]:
    found = list(dict.fromkeys(int(row) for row in rows))
    if not found:
        raise InputError("rows holds no index; pass at least one, or a number of rows to choose")
    for row in found:
        if not 0 <= row < total:
            raise InputError(f"there is no training row {row}; they are 0 to {total - 1}")
    return found
