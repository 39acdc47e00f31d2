"""Activations to train on: an endless shuffled stream in bounded memory, cut into equal batches.

Rows in an order drawn from (seed, epoch) are read a chunk at a time, and the activations of a chunk are shuffled by
(seed, epoch, chunk). Batch b holds activations b B to (b + 1) B of the stream: it follows from the seed and b alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.recording import Selection, record
from interp.core.runs import InputError
from interp.models.seam import check_hooks
from interp.prompts.tokens import Encoded

if TYPE_CHECKING:
    from interp.models.seam import Model
    from interp.prompts.text import Prompts

BUFFER = 2**26  # bytes of activations held at a time
Reader = Callable[[Encoded], Tensor]  # rows -> activations [token d_in], row after row


@dataclass(frozen=True, eq=False)
class Stream:
    """What `read` gives for `inputs`, `counts` activations per row, at most `capacity` of them held at a time.

    What fits altogether is read once and kept.
    """

    read: Reader
    inputs: Encoded
    counts: Int[Tensor, "row"]
    batch_size: int
    capacity: int
    seed: int = 0

    @property
    def size(self) -> int:
        """Activations in an epoch."""
        return int(self.counts.sum())

    def batches(self, start: int = 0) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Batch `start` and those after it, without end."""
        held: list[Tensor] = []
        for chunk in self._chunks(start * self.batch_size):
            held.append(chunk)
            ready = torch.cat(held)
            whole = len(ready) // self.batch_size * self.batch_size
            if whole:
                yield from ready[:whole].split(self.batch_size)
            held = [ready[whole:]]

    def _chunks(self, offset: int) -> Iterator[Float[Tensor, "token d_in"]]:
        """The stream from its activation `offset` on, a shuffled chunk at a time."""
        epoch, skipped = divmod(offset, self.size)
        while True:
            for index, rows in enumerate(self._row_chunks(epoch)):
                count = int(self.counts[rows].sum())
                if skipped < count:
                    yield self._shuffled(rows, epoch, index)[skipped:]
                skipped = max(0, skipped - count)
            epoch, skipped = epoch + 1, 0

    def _row_chunks(self, epoch: int) -> list[Int[Tensor, "row"]]:
        """The rows of an epoch in its order, cut where a chunk is full; all of them when they fit together."""
        if self.size <= self.capacity:
            return [torch.arange(len(self.counts))]
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.counts))
        starts, held = [0], 0
        for place, count in enumerate(self.counts.numpy()[order]):
            if held and held + count > self.capacity:
                starts.append(place)
                held = 0
            held += int(count)
        return [torch.from_numpy(part) for part in np.split(order, starts[1:])]

    def _shuffled(self, rows: Tensor, epoch: int, index: int) -> Float[Tensor, "token d_in"]:
        values = self._everything if self.size <= self.capacity else self.read(self.inputs[rows])
        order = np.random.default_rng([self.seed, epoch, index, 1]).permutation(len(values))
        return values[torch.from_numpy(order)]

    @cached_property
    def _everything(self) -> Float[Tensor, "token d_in"]:
        return self.read(self.inputs)


def activation_stream(
    model: Model,
    prompts: Prompts | Encoded,
    *,
    hook: str,
    positions: str = "all",
    batch_size: int,
    seed: int = 0,
    buffer: int = BUFFER,
) -> Stream:
    """The activations of `model` at `hook`, heads flattened, at the tokens named `positions`, in fp32 on CPU.

    InputError for a hook the model does not have or that holds no vector per token, rows without such a token, and
    fewer activations than a batch.
    """
    check_hooks(model, (hook,))
    width = token_width(model, hook)

    def read(rows: Encoded) -> Tensor:
        return record(model, rows, hooks=hook, positions=positions).flat(hook).flatten(1)

    selection = Selection.of(model, prompts, positions)
    return selected_stream(read, selection, width=width, batch_size=batch_size, seed=seed, buffer=buffer)


def selected_stream(
    read: Reader, selection: Selection, *, width: int, batch_size: int, seed: int = 0, buffer: int = BUFFER
) -> Stream:
    """`read` of the rows that have a chosen token, `width` numbers per token; InputError for fewer than a batch."""
    kept = selection.chosen.any(1)
    counts = selection.chosen.sum(1)[kept]
    if int(counts.sum()) < batch_size:
        raise InputError(
            f"{int(counts.sum())} activations at {selection.name!r} of {selection.inputs.label} are fewer than one "
            f"batch of {batch_size}; give more rows or a recipe with a smaller batch_size"
        )
    inputs = selection.inputs[kept.nonzero()[:, 0]]
    return Stream(read, inputs, counts, batch_size, max(batch_size, buffer // (4 * width)), seed)


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
