"""One shard of scores: rows in order of length, a batch at a time, into a table and three columns of totals.

Of a batch only its scores are kept. Before the first shard a row is scored alone and in a batch: the two scores must
agree, and their difference is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InputError
from interp.gradients.scores.engine import (
    Contributions,
    Reader,
    contributions,
    positions,
    whole_examples,
)
from interp.gradients.scores.forward_mode import token_contributions
from interp.gradients.scores.heads import by_head, head_layout
from interp.gradients.scores.norms import NormMeter
from interp.gradients.scores.plan import RoutePlan
from interp.gradients.scores.sites import Site
from interp.gradients.scores.tables import ScoredBatch, write_block
from interp.models.parameters import ParameterDirection
from interp.prompts.tokens import Encoded

log = logging.getLogger(__name__)

# of the root mean square score, between two companies; RMS norms work in fp32 whatever the weights are
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
HALF_TOLERANCE = 0.2


@dataclass(frozen=True)
class Work:
    """Everything that stays the same from batch to batch."""

    network: Any
    sites: Sequence[Site]
    directions: tuple[ParameterDirection, ...]
    by: tuple[str, ...]
    plan: RoutePlan
    cosine: bool = False

    def write(self, folder: Path, rows: Encoded, start: int, batch_size: int) -> None:
        """Score the rows of a shard, the first of which is row `start`, into the folder."""
        blocks = list(self.blocks(rows, start=start, batch_size=batch_size))
        write_block(blocks, folder, labels=[direction.label for direction in self.directions], by=self.by)

    def blocks(self, rows: Encoded, *, start: int, batch_size: int) -> Iterator[ScoredBatch]:
        """Scores by batch; rows of similar length go together."""
        order = rows.lengths.argsort(stable=True)
        for first in range(0, len(order), batch_size):
            index = order[first : first + batch_size]
            batch = next(rows[index].batches(len(index)))
            yield self.block(batch, index + start)

    def block(self, batch: Encoded, index: Int[Tensor, "example"]) -> ScoredBatch:
        """Scores of one batch whose rows have these numbers."""
        if self.plan.route == "forward-mode":
            found = token_contributions(self.network, batch, sites=self.sites, numbers=index.tolist())
            cosine = None
        else:
            meter = NormMeter.of(self.sites)
            reader = meter.beside(self.reader) if self.cosine else self.reader
            found = contributions(
                self.network, batch, sites=self.sites, reader=reader, numbers=index.tolist()
            )
            cosine = self._cosine(found, meter) if self.cosine else None
        _check_finite(found, batch, index)
        return ScoredBatch(found, batch, index.cpu(), cosine)

    @property
    def reader(self) -> Reader:
        """How this route splits a module's contributions by key."""
        if "head" in self.by:
            layouts = {
                site.name: head_layout(site, self.network.config.get_text_config()) for site in self.sites
            }
            return partial(_read_heads, layouts=layouts, keep="position" in self.by)
        if "position" in self.by or self.plan.route != "gradient-first":
            return positions if "position" in self.by else _summed
        return whole_examples

    def _cosine(self, found: Contributions, meter: NormMeter) -> Float[Tensor, "direction example"]:
        lengths = torch.tensor([direction.norm() for direction in self.directions], dtype=torch.float64)
        return found.totals().cpu() / (lengths[:, None] * meter.norms().cpu())


def _check_finite(found: Contributions, batch: Encoded, index: Tensor) -> None:
    """InputError that names the first row whose gradient overflowed, counting from 1."""
    broken = ~torch.isfinite(found.totals()).all(0)
    if broken.any():
        row = int(index[int(broken.nonzero()[0])]) + 1
        raise InputError(
            f"row {row} of {batch.label} has a gradient that is not finite; load the model with dtype='float32' or "
            "drop the row"
        )


def _summed(site: Site, a: Tensor, g: Tensor) -> dict[tuple[str, int], Tensor]:
    return {place: values.sum(-1) for place, values in positions(site, a, g).items()}


def _read_heads(
    site: Site, a: Tensor, g: Tensor, *, layouts: Any, keep: bool
) -> dict[tuple[str, int], Tensor]:
    found = by_head(site, a, g, layout=layouts[site.name])
    return {place: values if keep else values.sum(-1) for place, values in found.items()}


def check_padding(work: Work, rows: Encoded, *, batch_size: int) -> float:
    """Largest change of a row's score between being alone and being in a batch, over the root mean square score.

    The shortest row is taken, which the batch pads most. Raises InputError when it is more than the dtype allows.
    """
    count = min(len(rows), batch_size, 16)
    order = rows.lengths.argsort(stable=True)
    picked = order[torch.linspace(0, len(order) - 1, count).long()]
    together = work.block(next(rows[picked].batches(count)), picked).found.totals()
    alone = work.block(next(rows[picked[:1]].batches(1)), picked[:1]).found.totals()
    scale = together.square().mean(1).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    apart = float(((together[:, 0] - alone[:, 0]).abs() / scale).max())
    dtype = work.network.dtype
    allowed = TOLERANCE.get(dtype, HALF_TOLERANCE)
    log.info("%s: a row alone and among %d others differs by %.1e of the typical score (tolerance %.0e)",
             rows.label, count - 1, apart, allowed)  # fmt: skip
    if not apart <= allowed:
        raise InputError(
            f"{rows.label}: a row's score changes by {apart:.1e} of the typical score with the rows beside it, more "
            f"than {allowed:.0e}; load the model with dtype='float32' or attn_implementation='eager'"
        )
    return apart
