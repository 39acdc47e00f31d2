"""Activations to train on: an endless shuffled stream in bounded memory, cut into equal batches.

Rows in an order drawn from (seed, epoch) are read a chunk at a time, and the activations of a chunk are shuffled by
(seed, epoch, chunk). Batch b holds activations b B to (b + 1) B of the stream: it follows from the seed and b alone.
Of several models a token's activations stay together, one model after the other. Tokens that stand out in norm in one
of them are left out (`interp.activations.outliers`), for which what does not fit into memory is read once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.activations.outliers import Outliers, norm_limit
from interp.activations.recording import Selection, record
from interp.core.runs import InputError
from interp.models.seam import check_hooks
from interp.prompts.tokens import KEEPING, Encoded

if TYPE_CHECKING:
    from interp.models.seam import Model
    from interp.prompts.text import Prompts

BUFFER = 2**26  # bytes of activations held at a time
Reader = Callable[[Encoded], Tensor]  # rows -> activations [token model_d_in], row after row


@dataclass(frozen=True, eq=False)
class Stream:
    """What `read` gives for `inputs`, `counts` tokens per row, at most `capacity` of them held at a time.

    What fits altogether is read once and kept. A batch is `batch_size` tokens in each of `models` models. `chosen` are
    the tokens that are read; with them, those that stand out in norm are left out.
    """

    read: Reader
    inputs: Encoded
    counts: Int[Tensor, "row"]
    batch_size: int
    capacity: int
    seed: int = 0
    models: int = 1
    chosen: Bool[Tensor, "row pos"] | None = None
    tokenizer: Any = None

    @property
    def size(self) -> int:
        """Tokens read in an epoch."""
        return int(self.counts.sum())

    @cached_property
    def norms(self) -> Float[Tensor, "token"]:
        """The largest of each token's norms in the models, row after row."""
        rows = self._cut(np.arange(len(self.counts)))
        whole = self.size <= self.capacity
        parts = [self._everything] if whole else (self.read(self.inputs[part]) for part in rows)
        return torch.cat([part.unflatten(1, (self.models, -1)).norm(dim=2).amax(1) for part in parts])

    @cached_property
    def limit(self) -> float:
        """The norm beyond which a token is left out; infinite without `chosen`."""
        return math.inf if self.chosen is None else norm_limit(self.norms)

    def told(self, hook: str) -> str:
        """Which tokens are left out, empty where none is."""
        if self.chosen is None or not bool((self.norms > self.limit).any()):
            return ""
        norms = torch.full(self.chosen.shape, torch.nan)
        norms[self.chosen] = self.norms
        return Outliers(self.inputs, norms, self.limit, hook).told(self.tokenizer)

    @cached_property
    def _kept(self) -> list[Bool[Tensor, "_"]]:
        """Of each row's tokens, which are trained on."""
        if self.chosen is None:
            return [torch.ones(int(count), dtype=torch.bool) for count in self.counts]
        return list((self.norms <= self.limit).split(self.counts.tolist()))

    def batches(self, start: int = 0) -> Iterator[Float[Tensor, "row d_in"]]:
        """Batch `start` and those after it, without end."""
        held: list[Tensor] = []
        for chunk in self._chunks(start * self.batch_size):
            held.append(chunk)
            ready = torch.cat(held)
            whole = len(ready) // self.batch_size * self.batch_size
            if whole:
                shape = (self.models, -1)
                yield from (
                    part.unflatten(1, shape).flatten(0, 1) for part in ready[:whole].split(self.batch_size)
                )
            held = [ready[whole:]]

    def _chunks(self, offset: int) -> Iterator[Float[Tensor, "token model_d_in"]]:
        """The stream from its activation `offset` on, a shuffled chunk at a time."""
        counts = torch.tensor([int(kept.sum()) for kept in self._kept])
        epoch, skipped = divmod(offset, int(counts.sum()))
        while True:
            for index, rows in enumerate(self._row_chunks(epoch)):
                count = int(counts[rows].sum())
                if skipped < count:
                    yield self._shuffled(rows, epoch, index)[skipped:]
                skipped = max(0, skipped - count)
            epoch, skipped = epoch + 1, 0

    def _row_chunks(self, epoch: int) -> list[Int[Tensor, "row"]]:
        """The rows of an epoch in its order, cut where a chunk is full; all of them when they fit together."""
        if self.size <= self.capacity:
            return [torch.arange(len(self.counts))]
        return self._cut(np.random.default_rng([self.seed, epoch]).permutation(len(self.counts)))

    def _cut(self, order: Int[np.ndarray, "row"]) -> list[Int[Tensor, "_"]]:
        """Rows in that order, cut where a chunk is full."""
        starts, held = [0], 0
        for place, count in enumerate(self.counts.numpy()[order]):
            if held and held + count > self.capacity:
                starts.append(place)
                held = 0
            held += int(count)
        return [torch.from_numpy(part) for part in np.split(order, starts[1:])]

    def _shuffled(self, rows: Tensor, epoch: int, index: int) -> Float[Tensor, "token model_d_in"]:
        values = self._everything if self.size <= self.capacity else self.read(self.inputs[rows])
        if self.chosen is not None:
            values = values[torch.cat([self._kept[row] for row in rows.tolist()])]
        order = np.random.default_rng([self.seed, epoch, index, 1]).permutation(len(values))
        return values[torch.from_numpy(order)]

    @cached_property
    def _everything(self) -> Float[Tensor, "token model_d_in"]:
        return self.read(self.inputs)


def activation_stream(
    models: Sequence[Model],
    prompts: Prompts | Encoded,
    *,
    hook: str,
    positions: str = "all",
    batch_size: int,
    seed: int = 0,
    buffer: int = BUFFER,
) -> Stream:
    """The activations of `models` at `hook`, heads flattened, at the tokens named `positions`, in fp32 on CPU.

    Tokens that stand out in norm are left out, but for a position "X with outliers".

    InputError for a hook a model does not have or that holds no vector per token, rows without such a token, and
    fewer activations than a batch, which is shared among the models.
    """
    for model in models:
        check_hooks(model, (hook,))
    width = len(models) * token_width(models[0], hook)

    def read(rows: Encoded) -> Tensor:
        return torch.cat([_read(model, rows, hook, positions) for model in models], dim=1)

    selection = Selection.of(models[0], prompts, positions)
    kept = selection.chosen.any(1)
    counts, tokens = selection.chosen.sum(1)[kept], batch_size // len(models)
    if tokens < 1:
        raise InputError(
            f"a batch of {batch_size} activations holds no token in each of {len(models)} models; raise the recipe's "
            "batch_size"
        )
    if int(counts.sum()) < tokens:
        raise InputError(
            f"{int(counts.sum()) * len(models)} activations at {selection.name!r} of {selection.inputs.label} are "
            f"fewer than one batch of {batch_size}; give more rows or a recipe with a smaller batch_size"
        )
    inputs = selection.inputs[kept.nonzero()[:, 0]]
    capacity = max(tokens, buffer // (4 * width))
    chosen = None if positions.endswith(KEEPING) else selection.chosen[kept]
    return Stream(read, inputs, counts, tokens, capacity, seed, len(models), chosen, models[0].tokenizer)


def _read(model: Model, rows: Encoded, hook: str, positions: str) -> Float[Tensor, "token d_in"]:
    return record(model, rows, hooks=hook, positions=positions).flat(hook).flatten(1)


def token_width(model: Model, hook: str) -> int:
    """Values at one token of a hook, heads flattened; InputError for a hook that holds no vector per token."""
    ids = torch.zeros(2, 5, dtype=torch.long)
    mask = torch.ones_like(ids, dtype=torch.bool)
    shape = model.run(Encoded(ids, mask, mask.long()), hooks=(hook,))[hook].shape
    if shape[:2] != ids.shape or shape[2:].numel() < 2:
        raise InputError(
            f"{hook} of {model.name} holds {list(shape)} values for 2 rows of 5 tokens, and a dictionary reads a "
            "vector at every token; choose a hook such as blocks.0.hook_resid_post"
        )
    return shape[2:].numel()
