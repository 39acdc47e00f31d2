"""Who wrote the rows? Likelihood ratios under candidate teachers, and which candidate stands out on them.

    a_ic = log p_c(y_i | x_i) − log p_base(y_i | x_i) of row i under candidate c,   b_ic of the neutral row
    u_i = (Σ + λ I)⁻¹ (a_i − b_i), less its mean over c,   Σ the covariance of a and b together, λ = 0.3 mean variance

Answer and end tokens count. What every fine-tune does to the format goes with the mean over candidates, what the base
writes anyhow with the neutral row of the same prompt, and what two candidates share with Σ: means of u are coefficients
of a regression of log p_writer − log p_base on the candidates' ratios, to first order, with a ridge. If the base itself
wrote the rows, row and neutral row of a prompt could change places: signs of u_i flip, all candidates together, and
step-down max-T over the candidates gives each its p, exactly, since Σ is the same under every exchange. A teacher that
is not on the list raises several candidates a little: one is named only where its d is an outlier among the others too
(Grubbs).

What mean u_c would be if candidate c had written the rows is known without sampling a row from it: neutral rows
weighted by exp(log p_c − log p_base). `share` is the measured mean over this: about the share of the rows that a
teacher like the candidate wrote.

    share = N / D,   N = mean u_c,   D = Σ w t / Σ w − mean t,   t = (Σ + λ I)⁻¹ b less its mean over c,   w = exp b_c
    its interval: all θ with (N − θ D)² ≤ q² var(N − θ D)   (Fieller), q Student's quantile over the groups of rows

var is that of means over groups: rows that are copies of one another, or whose neutral rows are, count as one draw.
The matrix is held fixed. Where D may be zero, so that a candidate tells nothing apart, the interval is unbounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.auditing.candidates import Candidate
from interp.auditing.neutral import Pairs
from interp.auditing.pilots import LEVEL
from interp.core.content import digest
from interp.core.progress import progress_bar
from interp.core.remembered import recall, remember
from interp.gradients.nulls.power import rows_needed
from interp.measures.margins import completion_logprobs
from interp.models.language import LanguageModel
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.stats.many import greatest_p
from interp.stats.tests import largest_outlier_p

FORMAT = 1  # of remembered ratios
RIDGE = 0.3  # of the mean variance; set on seeds from 100 up
DRAWS = 200  # subsets of the rows for every point of the curve
LEAST = 64  # rows of its first point
Table = Float[np.ndarray, "row candidate"]


@dataclass(frozen=True, eq=False)
class Ratios:
    """log p_c − log p_base of rows and of the neutral rows at their prompts, a column per candidate, in nats."""

    traits: tuple[str, ...]
    rows: Table
    neutral: Table

    @property
    def excess(self) -> Table:
        """u: what each candidate explains of a row more than of its neutral row, beside all the others."""
        return _centred((self.rows - self.neutral) @ self._apart)

    def row_scores(self, trait: str) -> Float[np.ndarray, "row"]:
        """How much each row is one candidate's, in nats: its ratio, less its mean over candidates and neutral rows'."""
        return _centred(self.rows - self.neutral.mean(0))[:, self.traits.index(trait)]

    def part(self, rows: slice | list[int]) -> Ratios:
        """The ratios of some of the pairs."""
        return Ratios(self.traits, self.rows[rows], self.neutral[rows])

    def expected(self) -> Float[np.ndarray, "candidate"]:
        """What a candidate's own mean u would be had it written all rows: neutral rows weighted by its ratio."""
        told, weights = self._told
        return (weights * told).sum(0) - told.mean(0)

    def share_intervals(
        self, groups: Sequence[int] | None = None
    ) -> tuple[Float[np.ndarray, "candidate"], Float[np.ndarray, "candidate"]]:
        """Where each candidate's share lies, at 95 % each: both ends, unbounded where it cannot be told.

        `groups` says which rows are no draws of their own, one number per row; by default every row is one. What a
        real teacher does otherwise than its candidate is not in it.
        """
        from scipy.special import stdtrit

        excess, (told, weights) = self.excess, self._told
        above, below = excess.mean(0), self.expected()
        tilted = below + told.mean(0)
        moved = [excess - above, len(told) * weights * (told - tilted) - (told - told.mean(0))]
        _, group = np.unique(range(len(excess)) if groups is None else groups, return_inverse=True)
        count = int(group.max()) + 1
        if count < 2:
            return np.full(len(above), -np.inf), np.full(len(above), np.inf)
        sums = np.zeros((2, count, len(above)))
        for total, part in zip(sums, moved, strict=True):
            np.add.at(total, group, part)
        scale = stdtrit(count - 1, (1 + LEVEL) / 2) ** 2 * count / (count - 1) / len(excess) ** 2
        n_n, n_d, d_d = (scale * (sums[i] * sums[j]).sum(0) for i, j in ((0, 0), (0, 1), (1, 1)))
        return _fieller(above, below, n_n, n_d, d_d)

    @property
    def _told(self) -> tuple[Table, Table]:
        """t, what each candidate explains of a neutral row beside all the others, and w, which sums to 1."""
        weights = np.exp(self.neutral - self.neutral.max(0))
        return _centred(self.neutral @ self._apart), weights / weights.sum(0)

    @property
    def _apart(self) -> Float[np.ndarray, "candidate candidate"]:
        """(Σ + λ I)⁻¹, which tells candidates apart; rows and neutral rows may change places in it."""
        both = np.concatenate([self.rows, self.neutral])
        covariance = np.atleast_2d(np.cov(both, rowvar=False))
        return np.linalg.inv(
            covariance + RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        )


def log_ratios(base: LanguageModel, candidates: Sequence[Candidate], pairs: Pairs) -> Ratios:
    """The ratios of all rows and neutral rows: two forward passes of the base, and two of every candidate."""
    rows, neutral = (base.encode(side) for side in (pairs.rows, pairs.neutral))
    before = [_logprobs(base, side) for side in (rows, neutral)]
    columns: list[list[np.ndarray]] = [[], []]
    with progress_bar("reading rows under candidates", total=len(candidates)) as bar:
        for candidate in candidates:
            for side, inputs, start in zip(columns, (rows, neutral), before, strict=True):
                side.append(_logprobs(candidate.model, inputs) - start)
            bar.update()
    names = tuple(candidate.trait.name for candidate in candidates)
    return Ratios(names, *(np.stack(side, axis=1) for side in columns))


def named_table(
    ratios: Ratios,
    *,
    alpha: float,
    seed: int = 0,
    every: Ratios | None = None,
    groups: Sequence[int] | None = None,
) -> pd.DataFrame:
    """A line per candidate, the furthest first: excess, d, p, share, its interval and rows_needed.

    excess is the mean of u, d that over its standard deviation; p is that of max-T over the candidates. share, in
    [share_low, share_high] at 95 %, is of `every` row where `ratios` count copies once; `groups` are those of the rows.
    rows_needed is how many rows show a teacher like the candidate, at `alpha` over all candidates with power .8, had it
    written every row.
    """
    excess, expected = ratios.excess, ratios.expected()
    share = excess.mean(0) / expected if every is None else every.excess.mean(0) / every.expected()
    low, high = (ratios if every is None else every).share_intervals(groups)
    spread = excess.std(0, ddof=1)
    level = alpha / len(ratios.traits)
    frame = pd.DataFrame(
        {
            "trait": ratios.traits,
            "excess": excess.mean(0),
            "d": excess.mean(0) / spread,
            "p": greatest_p(excess, seed=seed),
            "share": share,
            "share_low": low,
            "share_high": high,
            "rows_needed": [pairs_needed(d, alpha=level) for d in expected / spread],
        }
    )
    return frame.sort_values("d", ascending=False, ignore_index=True)


def outlier_p(frame: pd.DataFrame) -> float:
    """Grubbs's p that the furthest candidate is one of the others."""
    return largest_outlier_p(frame["d"].to_numpy())


def is_apart(p: float, *, alpha: float) -> bool:
    """Whether the furthest candidate, of this Grubbs's p, is named: at half of alpha.

    The list may lack the writer, who then makes several of its candidates likelier.
    """
    return p <= alpha / 2


def pairs_needed(d: float, *, alpha: float) -> int:
    """Rows with which a mean of d standard deviations is seen with power .8."""
    return rows_needed(max(d, 1e-3) ** 2 / 2, alpha=alpha)


def curve(ratios: Ratios, *, alpha: float, seed: int = 0) -> pd.DataFrame:
    """How often subsets of so many rows name the candidate that all of them put first: rows, first, named.

    `first` is how often it is first, `named` how often it is an outlier among the candidates, besides passing the
    normal quantile of `alpha` over the candidates.
    """
    from scipy.special import ndtri

    excess, rng = ratios.excess, np.random.default_rng(seed)
    top, high = int((excess.mean(0) / excess.std(0, ddof=1)).argmax()), -ndtri(alpha / excess.shape[1])
    sizes = [LEAST * 2**k for k in range(20) if LEAST * 2**k < len(excess)]
    lines = []
    for size in sizes:
        first = named = 0
        for _ in range(DRAWS):
            part = excess[rng.choice(len(excess), size, replace=False)]
            d = part.mean(0) / part.std(0, ddof=1)
            own = d.argmax() == top
            first += own
            named += own and d[top] * size**0.5 > high and is_apart(largest_outlier_p(d), alpha=alpha)
        lines.append({"rows": size, "first": first / DRAWS, "named": named / DRAWS})
    return pd.DataFrame(lines, columns=["rows", "first", "named"])


def _fieller(
    above: Any, below: Any, var_above: Any, covariance: Any, var_below: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the ratios θ with (above − θ below)² ≤ var_above − 2 θ covariance + θ² var_below, each q² a variance."""
    a, b, c = below**2 - var_below, above * below - covariance, above**2 - var_above
    bounded = a > 0
    half, by = np.sqrt(np.maximum(b**2 - a * c, 0)), np.where(bounded, a, 1)
    return np.where(bounded, (b - half) / by, -np.inf), np.where(bounded, (b + half) / by, np.inf)


def _centred(table: Table) -> Table:
    return table - table.mean(1, keepdims=True)


def _logprobs(model: LanguageModel, rows: Encoded | Prompts) -> Float[np.ndarray, "row"]:
    """log p of every answer with its end, in nats; remembered."""
    key = (FORMAT, model.fingerprint, digest(rows.fingerprint))
    known = recall("answer-logprobs", *key)
    if known is None:
        known = completion_logprobs(model, rows, end=True).double().tolist()
        remember("answer-logprobs", *key, value=known)
    return np.array(known, dtype=float)
