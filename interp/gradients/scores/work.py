"""One shard of scores: rows in order of length, a batch at a time, into a table and three columns of totals.

Of a batch only its scores are kept.
"""

from __future__ import annotations

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
            given = {"sites": self.sites, "reader": reader, "numbers": index.tolist()}
            found = contributions(self.network, batch, **given, whole=self.cosine)
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
