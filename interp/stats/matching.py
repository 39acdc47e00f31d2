"""Halves of a data set that differ in score and, stratum by stratum, in nothing that was matched.

Rows are sorted into strata of equal token count and similar loss; within each, the top half by score, the bottom half,
and random halves have the same size, so that any two differ in length not at all and in loss within a stratum only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from interp.core.runs import InputError

if TYPE_CHECKING:
    import pandas as pd


def matched_halves(
    examples: pd.DataFrame, *, rows_per_stratum: int = 8, random: int = 2, seed: int = 0
) -> dict[str, Int[np.ndarray, "row"]]:
    """Row numbers of the halves "top", "bottom" and "random 0", "random 1", ..., each in order.

    `examples` has the columns row, score, loss and tokens, one line per row (`Scores.examples()` of one direction). A
    stratum of odd size leaves one row out of each half. Raises InputError for repeated rows and missing columns.
    """
    missing = {"row", "score", "loss", "tokens"} - set(examples.columns)
    if missing or examples["row"].duplicated().any():
        what = f"no column {min(missing)!r}" if missing else "some row more than once"
        raise InputError(f"the examples hold {what}; pass Scores.examples() of one direction")
    rng = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {}
    for rows in strata(examples, rows_per_stratum=rows_per_stratum):
        by_score = rows[np.argsort(examples["score"].to_numpy()[rows], kind="stable")]
        half = len(rows) // 2
        parts.setdefault("bottom", []).append(by_score[:half])
        parts.setdefault("top", []).append(by_score[len(rows) - half :])
        for index in range(random):
            parts.setdefault(f"random {index}", []).append(rng.permutation(rows)[:half])
    numbers = examples["row"].to_numpy()
    return {name: np.sort(numbers[np.concatenate(chosen)]) for name, chosen in parts.items()}


def strata(examples: pd.DataFrame, *, rows_per_stratum: int) -> list[Int[np.ndarray, "place"]]:
    """Places in `examples` of equal token count and neighbouring loss, about `rows_per_stratum` together."""
    tokens, loss = examples["tokens"].to_numpy(), examples["loss"].to_numpy()
    found = []
    for count in np.unique(tokens):
        places = np.flatnonzero(tokens == count)
        ordered = places[np.argsort(loss[places], kind="stable")]
        found += np.array_split(ordered, max(1, len(ordered) // rows_per_stratum))
    return [part for part in found if len(part) > 1]
