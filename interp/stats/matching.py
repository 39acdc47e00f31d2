"""Who is compared with whom: strata of rows that are alike, halves that are matched, nearest partners.

Strata are cut by rank, by equal keys and neighbouring values, or where a cut leaves the least variance; distances are
Euclidean with every column in its standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from interp.core.runs import InputError
from interp.stats.columns import ratio

if TYPE_CHECKING:
    import pandas as pd

CALIPER = 0.25
NEIGHBOURS = 64
STRATUM, LEAST_STRATUM = 12, 5  # items of a group that is cut in two, and of each part at least


def matched_halves(
    examples: pd.DataFrame, *, rows_per_stratum: int = 8, random: int = 2, seed: int = 0
) -> dict[str, Int[np.ndarray, "row"]]:
    """Row numbers of the halves "top", "bottom" and "random 0", "random 1", ..., each in order.

    Rows are sorted into strata of equal token count and similar loss; within each, the top half by score, the bottom
    half, and random halves have the same size, so that any two differ in length not at all and in loss within a
    stratum only. `examples` has the columns row, score, loss and tokens, one line per row (`Scores.examples()` of one
    direction). A stratum of odd size leaves one row out of each half. Raises InputError for repeated rows and missing
    columns.

    >>> import pandas as pd
    >>> rows = pd.DataFrame({"row": range(4), "score": [4, 1, 3, 2], "loss": 1.0, "tokens": 9})
    >>> matched_halves(rows, random=0)["top"].tolist()
    [0, 2]
    """
    missing = {"row", "score", "loss", "tokens"} - set(examples.columns)
    if missing or examples["row"].duplicated().any():
        what = f"no column {min(missing)!r}" if missing else "some row more than once"
        raise InputError(f"the examples hold {what}; pass Scores.examples() of one direction")
    rng = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {}
    tokens, loss, score = (examples[name].to_numpy() for name in ("tokens", "loss", "score"))
    for rows in neighbours(tokens, loss, size=rows_per_stratum):
        by_score = rows[np.argsort(score[rows], kind="stable")]
        half = len(rows) // 2
        parts.setdefault("bottom", []).append(by_score[:half])
        parts.setdefault("top", []).append(by_score[len(rows) - half :])
        for index in range(random):
            parts.setdefault(f"random {index}", []).append(rng.permutation(rows)[:half])
    numbers = examples["row"].to_numpy()
    return {name: np.sort(numbers[np.concatenate(chosen)]) for name, chosen in parts.items()}


def neighbours(
    keys: Int[np.ndarray, "row"], values: Float[np.ndarray, "row"], *, size: int
) -> list[Int[np.ndarray, "place"]]:
    """Places of equal key and neighbouring value, about `size` together; a place alone is left out."""
    found = []
    for key in np.unique(keys):
        places = np.flatnonzero(keys == key)
        ordered = places[np.argsort(values[places], kind="stable")]
        found += np.array_split(ordered, max(1, len(ordered) // size))
    return [part for part in found if len(part) > 1]


def quantile_groups(values: Float[np.ndarray, "item"], count: int) -> Int[np.ndarray, "item"]:
    """A group number for every item: `count` groups of equal size by rank, of at least two each; ties stay in order.

    Raises InputError for a count below one.
    """
    if count < 1:
        raise InputError(f"strata {count} leaves no bin; give at least 1.")
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return order * min(count, max(1, len(values) // 2)) // len(values)


def cut_groups(values: Float[np.ndarray, "item column"]) -> Int[np.ndarray, "item"]:
    """A group number for every item: cut in two along one of the standardised columns, again and again.

    Every cut is where it leaves the least variance within the two parts, of at least five items each; a group of
    fewer than twelve is not cut.
    """
    values = values / spreads(values)
    groups, waiting, count = np.zeros(len(values), dtype=int), [np.arange(len(values))], 0
    while waiting:
        members = waiting.pop()
        if len(members) < STRATUM:
            groups[members], count = count, count + 1
            continue
        axis, size = _cut(values[members])
        order = members[np.argsort(values[members, axis], kind="stable")]
        waiting += [order[:size], order[size:]]
    return groups


def _cut(values: Float[np.ndarray, "member column"]) -> tuple[int, int]:
    """The axis to order the members by and how many of the first to part from the others."""
    count = len(values)
    ordered = np.sort(values, axis=0)
    sizes = np.arange(LEAST_STRATUM, count - LEAST_STRATUM + 1)
    sums = np.cumsum(ordered, axis=0)[sizes - 1]
    apart = sums / sizes[:, None] - (ordered.sum(0) - sums) / (count - sizes)[:, None]
    between = (sizes * (count - sizes))[:, None] * apart**2
    place, axis = np.unravel_index(int(between.argmax()), between.shape)
    return int(axis), int(sizes[place])


def spreads(values: Float[np.ndarray, "item column"]) -> Float[np.ndarray, "column"]:
    """Standard deviation of every column; 1 for a column that does not vary."""
    found = values.std(axis=0)
    return np.where(found > 0, found, 1.0)


@dataclass(frozen=True, eq=False)
class Partners:
    """Lines of two frames, one to one: `chosen[i]` of the first is paired with `control[i]` of the second."""

    chosen: Int[np.ndarray, "pair"]
    control: Int[np.ndarray, "pair"]

    def __len__(self) -> int:
        return len(self.chosen)


def nearest_partners(
    chosen: pd.DataFrame, pool: pd.DataFrame, *, on: Sequence[str], caliper: float = CALIPER
) -> Partners:
    """For each line of `chosen` at most one of `pool`, nearest first, none twice, both in order of place.

    Distance is Euclidean over the columns `on`, each in standard deviations over both frames; a line whose free
    neighbours (of its 64 nearest) are all farther than `caliper` stays without one. Raises InputError for a frame
    without lines, a column either lacks, and when nothing matches.
    """
    from scipy.spatial import KDTree

    a, b = _standardised(chosen, pool, on)
    tree = KDTree(b)
    apart, near = tree.query(a, k=min(NEIGHBOURS, len(b)), distance_upper_bound=caliper)
    apart, near = apart.reshape(len(a), -1), near.reshape(len(a), -1)
    line, place = np.nonzero(np.isfinite(apart))
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for k in np.argsort(apart[line, place], kind="stable"):
        own, other = int(line[k]), int(near[line[k], place[k]])
        if own not in partner and other not in taken:
            partner[own] = other
            taken.add(other)
    if not partner:
        raise InputError(
            f"none of {len(a)} tokens has a match among {len(b)} within {caliper} standard deviations of "
            f"{', '.join(on)}; pass more rows or a wider caliper"
        )
    lines = sorted(partner)
    return Partners(np.array(lines), np.array([partner[line] for line in lines]))


def _standardised(
    chosen: pd.DataFrame, pool: pd.DataFrame, on: Sequence[str]
) -> tuple[Float[np.ndarray, "chosen covariate"], Float[np.ndarray, "pool covariate"]]:
    for frame, name in ((chosen, "chosen tokens"), (pool, "pool")):
        missing = [column for column in on if column not in frame.columns]
        if missing or not len(frame):
            what = f"no column {missing[0]!r}" if missing else "no lines"
            raise InputError(f"the {name} have {what}; pass lines of divergence_tokens(...).frame")
    a, b = (frame[list(on)].to_numpy(dtype=float) for frame in (chosen, pool))
    scale = spreads(np.concatenate([a, b]))
    return a / scale, b / scale


def balance(chosen: pd.DataFrame, control: pd.DataFrame, *, on: Sequence[str]) -> dict[str, float]:
    """Standardised differences: (mean chosen − mean control) / √((var chosen + var control) / 2), 0 where none vary."""
    sides = ((frame[name].to_numpy(dtype=float) for frame in (chosen, control)) for name in on)
    return {name: standardised_difference(*side) for name, side in zip(on, sides, strict=True)}


def standardised_difference(a: Float[np.ndarray, "a"], b: Float[np.ndarray, "b"]) -> float:
    """(mean a − mean b) over the root of the mean of their variances; 0 where neither varies and the means agree."""
    return float(ratio(a.mean() - b.mean(), np.sqrt((a.var() + b.var()) / 2)))
