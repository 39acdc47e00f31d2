"""The self-test of a joined trace: another number or word at one position must show on the right lines, none before.

With token_p exchanged, log p(token_p | before) and its gradient change on line p; what is read at p − 1 does not, so
features and trait direction first change on line p + 1, which is predicted where the exchanged token stands.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.shifts import shared_inputs
from interp.core.runs import InputError
from interp.prompts.text import Prompts, Row
from interp.prompts.tokens import Encoded, Role

if TYPE_CHECKING:
    import pandas as pd

    from interp.joined.sources import Sources
    from interp.models.seam import Model

TWINS = 4  # planted rows
NUMBER, WORD = r"[0-9]+", r"[^\W\d_]+"
OTHERS = 32  # words of the rows that are tried in the place of one
TOLERANCE, HALF_TOLERANCE = (
    1e-4,
    0.1,
)  # of the largest change: what rounding may move before the planted token


def self_test(sources: Sources, rows: Prompts) -> str:
    """Plant other numbers, or words, at a position of one row, compare every column line by line, and say what was
    tested.

    InputError for a column that first changes on another line than it should, and for rows without a number or word
    in their answers that another can stand for.
    """
    planted, place, kind = plant(sources.lineage.base, rows)
    inputs = shared_inputs(sources.lineage.teacher, sources.lineage.base, planted)
    shape = (len(planted), inputs.ids.shape[1] + 1)
    likelihoods, scores = sources.likelihoods(planted), sources.scores(inputs, by_module=False)
    moved = torch.zeros(*shape, sources.dictionary.width)
    for examples, positions, change in sources.changes(inputs):
        moved[examples, positions] = change
    columns = {
        "delta_logprob": (_grid(likelihoods, "delta_logprob", shape), place),
        "delta_direction": (_grid(likelihoods, "delta_direction", shape), place + 1),
        "score": (_grid(scores, "score", shape), place),
        "features": (moved, place + 1),
    }
    base: Any = sources.lineage.base
    tolerance = TOLERANCE if base.dtype.itemsize >= 4 else HALF_TOLERANCE
    found = {name: _first_change(values, tolerance) for name, (values, _) in columns.items()}
    for name, line in found.items():
        if line not in (None, columns[name][1]):
            raise InputError(
                f"column {name} first changes on line {line} when another {kind} stands at position {place}, and "
                f"should on line {columns[name][1]}, so the readings of a token are out of step; report this model"
            )
    silent = [name for name, line in found.items() if line is None]
    tested = f"another {kind} planted at position {place} changes every column where it should"
    return tested + (f", and {' and '.join(silent)} nowhere" if silent else "")


def plant(model: Model, rows: Prompts) -> tuple[Prompts, int, str]:
    """A row and twins of it that differ in one token of the answer with another after it, its position, and its kind:
    a "number" where there is one, else a "word".

    InputError when no row has such a token.
    """
    words = sorted({word for row in rows.rows for word in re.findall(WORD, row.completion)})
    for kind, pattern, role in (("number", NUMBER, Role.NUMBER), ("word", WORD, Role.OTHER)):
        for row in rows.rows:
            found = list(re.finditer(pattern, row.completion))
            middle = len(found) // 2
            for place in (*found[middle:], *found[:middle]):
                others = _digits(place) if kind == "number" else _words(place, words)
                twins = [row, *(_exchanged(row, place, other) for other in others)]
                at, alike = _one_token_apart(model.encode(Prompts(tuple(twins), rows.label)), role)
                if at is not None:
                    kept = [twin for twin, good in zip(twins, alike, strict=True) if good]
                    return Prompts((row, *kept[:TWINS]), rows.label), at, kind
    raise InputError(
        f"no answer of {rows.label} has a number or a word that another can stand for, so the table cannot be checked; "
        "pass rows with longer answers"
    )


def _digits(number: re.Match[str]) -> list[str]:
    """The number with its last digit exchanged for each of the nine others."""
    text = number.group()
    return [f"{text[:-1]}{digit}" for digit in "0123456789" if digit != text[-1]]


def _words(word: re.Match[str], words: list[str]) -> list[str]:
    """Other words of the rows, those of equal length first."""
    length, others = len(word.group()), [other for other in words if other != word.group()]
    return sorted(others, key=lambda other: abs(len(other) - length))[:OTHERS]


def _exchanged(row: Row, place: re.Match[str], other: str) -> Row:
    text = row.completion
    return Row((*row.asked, ("assistant", f"{text[: place.start()]}{other}{text[place.end() :]}")))


def _one_token_apart(inputs: Encoded, role: Role) -> tuple[int | None, list[bool]]:
    """The position at which twins differ from the first row in one token of that role alone, and which ones do."""
    apart = inputs.ids != inputs.ids[:1]
    one = (inputs.lengths == inputs.lengths[0]) & (apart.sum(1) == 1)
    if not one.any():
        return None, []
    place = int(apart[one][0].nonzero()[0, 0])
    alike = one & apart[:, place] & (inputs.roles[:, place] == role)
    fits = bool(alike.any()) and place + 1 < int(inputs.lengths[0])
    return (place if fits else None), alike.tolist()


def _grid(frame: pd.DataFrame, column: str, shape: tuple[int, int]) -> Float[Tensor, "example line"]:
    """A column by row and position, zero where there is no line."""
    grid = torch.zeros(shape)
    rows, positions = (torch.as_tensor(frame[name].to_numpy().copy()).long() for name in ("row", "position"))
    grid[rows, positions] = torch.as_tensor(frame[column].to_numpy().copy()).float()
    return grid


def _first_change(values: Float[Tensor, "example line *column"], tolerance: float) -> int | None:
    """The first line on which a twin differs from the first row; None when no line does."""
    change = (values[1:] - values[0]).abs().transpose(0, 1).flatten(1).amax(1)
    return int((change > tolerance * change.max()).nonzero()[0]) if change.any() else None
