"""Whether a training fits into memory, said before its first step.

bytes = trained parameters · (4 of the gradient + 8 of AdamW's moments + 4 of the copy that a listener is given)
      + what autograd keeps of one pass

The last is measured: one row goes forward, what it leaves is counted, and scaled by tokens. What a pass needs beside
that (gradients of activations and logits, the workspace of a product) is left out, so that the estimate is a lower one:
of a peak measured with 49 152 entries it was 0.74 (8 layers of 256, all weights), 0.47 (the same, adapters) and 0.61
(134 M parameters, adapters).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.core.errors import memory_enough
from interp.models.memory import check_memory, saved_bytes
from interp.prompts.tokens import Encoded

if TYPE_CHECKING:
    from interp.training.students import Recipe


@contextmanager
def room_to_train(
    network: Any,
    batches: Iterator[Any],
    *,
    loss: Callable[[Any, Any], Tensor],
    recipe: Recipe,
    name: str,
    listening: bool,
) -> Iterator[Iterator[Any]]:
    """The same batches, where a training on them may fit; InputError where not, and where memory runs out in it."""
    rows = recipe.batch_size // recipe.accumulate
    advice = (
        f"raise accumulate (now {recipe.accumulate}), which leaves the steps as they are, or lower batch_size "
        f"{recipe.batch_size}"
    )
    more = "" if recipe.trainable == "lora" else ", or train adapters with trainable='lora'"
    first = next(batches, None)
    needed = trained_bytes(network, recipe, listening=listening)
    if isinstance(first, Encoded):
        needed += pass_bytes(network, first, loss=loss, recipe=recipe)
    check_memory(needed, f"training {name}", device=network.device, advice=advice + more)
    with memory_enough(f"training {name} ran out of memory with {rows} rows in a pass: {advice}"):
        yield batches if first is None else chain([first], batches)


def trained_bytes(network: Any, recipe: Recipe, *, listening: bool) -> int:
    """Bytes that gradients, the optimiser and the copies for a listener take."""
    moments = 2 if recipe.optimizer == "adamw" else 0
    own = [weight for weight in network.parameters() if weight.requires_grad]
    return (1 + moments + listening) * sum(weight.nbytes for weight in own)


def pass_bytes(network: Any, batch: Encoded, *, loss: Callable[[Any, Any], Tensor], recipe: Recipe) -> int:
    """Bytes that autograd keeps of one pass, a part of the batch, by what one row of it leaves per token."""
    row = next(batch[[0]].batches(1))
    half = recipe.precision == "bfloat16"
    with (
        torch.random.fork_rng(enabled=network.device.type == "cpu"),
        torch.autocast(network.device.type, torch.bfloat16, enabled=half),
    ):
        found = saved_bytes(network, lambda: loss(network, row))
    rows = -(-len(batch) // recipe.accumulate)
    return found * rows * batch.ids.shape[1] // row.ids.shape[1]
