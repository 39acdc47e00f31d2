"""Count, mean and summed squared deviations of rows that are seen a block at a time (Chan, Golub, LeVeque 1983).

With δ = mean_b − mean_a: mean = mean_a + δ n_b / n, S = S_a + S_b + (δ ∘ δ) n_a n_b / n. What ∘ is, `spread` says:
`entries` for variances, `products` for covariances, `total` for one sum over all entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float


def entries(apart: Any) -> Any:
    """Sum over rows of the squares of every entry."""
    return (apart * apart).sum(0)


def products(apart: Any) -> Any:
    """Sum over rows of the products of every two entries."""
    return apart.T @ apart


def total(apart: Any) -> float:
    """Sum of all squares."""
    return float((apart * apart).sum())


@dataclass(frozen=True, eq=False)
class Running:
    """Moments of the rows seen so far, as arrays or tensors; `squares` is what `spread` makes of the deviations."""

    count: int = 0
    mean: Any = 0.0
    squares: Any = 0.0
    spread: Callable[[Any], Any] = entries

    @classmethod
    def of(cls, rows: Any, spread: Callable[[Any], Any] = entries) -> Running:
        """The moments of one block [row, ...]."""
        mean = rows.mean(0)
        return cls(len(rows), mean, spread(rows - mean), spread)

    def __add__(self, other: Running) -> Running:
        """The moments of both blocks."""
        if not self.count:
            return other
        count, apart = self.count + other.count, other.mean - self.mean
        between = self.spread(apart[None]) * (self.count * other.count / count)
        mean = self.mean + apart * other.count / count
        return replace(self, count=count, mean=mean, squares=self.squares + other.squares + between)

    def add(self, row: Any) -> Running:
        """The same with one more row."""
        return self + Running(1, row, row * 0, self.spread)

    def sd(self) -> Float[np.ndarray, "..."]:
        """Sample standard deviation of every entry; NaN for one row."""
        return (
            np.sqrt(self.squares / (self.count - 1)) if self.count > 1 else np.full_like(self.squares, np.nan)
        )

    def error(self) -> Float[np.ndarray, "..."]:
        """Standard error of the mean."""
        return self.sd() / np.sqrt(self.count)

    def t(self) -> Float[np.ndarray, "..."]:
        """t of the mean against zero; 0 where nothing moved in any row, infinite where all rows moved alike."""
        mean, error = self.mean, self.error()
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((mean == 0) & (error == 0), 0.0, mean / error)

    def p(self) -> Float[np.ndarray, "..."]:
        """Two-sided p of that t with count − 1 degrees of freedom."""
        from scipy.special import stdtr

        return 2 * stdtr(max(self.count - 1, 1), -np.abs(self.t()))
