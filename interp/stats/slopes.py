"""A slope within groups whose errors are shared across them, such as credit at tokens of rows that repeat labels.

b = Σ x̃ ỹ / Σ x̃², x̃ and ỹ less their group's mean; var b = G / (G − 1) Σ_g (Σ_{i in g} x̃_i e_i)² / (Σ x̃²)² over G
clusters of residuals e (Liang and Zeger 1986), and b / √var b is held against t with G − 1 degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.core.runs import InputError
from interp.stats.columns import cluster_totals, ratio

Numbers = Sequence[float | int | bool] | np.ndarray


@dataclass(frozen=True)
class Slope:
    """A slope within groups, its standard error over clusters, and the one-sided p of H0: slope <= 0."""

    value: float
    standard_error: float
    p: float
    clusters: int


def within_slope(y: Numbers, x: Numbers, *, groups: Numbers, clusters: Numbers) -> Slope:
    """Return how much larger y is where x is, within `groups`, with the error of items that share a cluster.

    For credit y at tokens of which x says whether they diverge: groups are rows, clusters the labels, which repeat
    across rows. Raises InputError for sides of unequal length, fewer than two clusters, and an x that varies in no
    group.

    >>> slope = within_slope([1, 2, 3, 5], [0, 1, 0, 2], groups=[0, 0, 1, 1], clusters=[0, 1, 0, 1])
    >>> round(slope.value, 3)  # 1 in either group
    1.0
    """
    sides = {"y": y, "x": x, "groups": groups, "clusters": clusters}
    lengths = {name: len(values) for name, values in sides.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{count} of {name}" for name, count in lengths.items())
        raise InputError(f"a slope was given {told}; give as many of each")
    over, up = (_centred(values, groups) for values in (x, y))
    size = float(over @ over)
    if not size > 0:
        raise InputError(
            f"x does not vary within any of {len(np.unique(groups))} groups; give some that hold both"
        )
    value = float(over @ up) / size
    totals, _ = cluster_totals((over * (up - value * over))[:, None], list(clusters))
    count = len(totals)
    if count < 2:
        raise InputError(
            f"{count} cluster of {len(over)} items has no error; give labels of at least two clusters"
        )
    error = float(np.sqrt(count / (count - 1) * np.square(totals).sum())) / size
    return Slope(value, error, _above(ratio(value, error), count - 1), count)


def _above(t: float, freedom: int) -> float:
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))


def _centred(values: Numbers, groups: Numbers) -> Float[np.ndarray, "item"]:
    """Values less the mean of their group."""
    array = np.asarray(values, dtype=float)
    totals, sizes = cluster_totals(array[:, None], list(groups))
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    return array - (totals[:, 0] / sizes)[index]
