"""Recording: run a model over prompts and keep named activations at named positions, or only their moments.

Rows are read in order of length, a batch at a time; of each batch only the chosen positions survive, on CPU
in fp32. Means and covariances = M2 / (n - 1) are merged batch by batch (`interp.stats.moments`).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.activations.arrays import Activations
from interp.core import storage
from interp.core.content import digest
from interp.core.doors import door
from interp.core.errors import InputError
from interp.core.progress import progress
from interp.core.ranks import Ranks
from interp.models.bridge import FAST
from interp.models.precision import exactly
from interp.models.seam import check_hooks, lineage_root
from interp.prompts.tokens import Encoded
from interp.stats.moments import Running, products

if TYPE_CHECKING:
    from interp.models.seam import Model
    from interp.prompts.text import Prompts

BATCH_SIZE = 64
MEMORY = 2**28  # bytes of recorded values held before they go to disk

_Placed = tuple[Int[Tensor, "row"], Bool[Tensor, "row pos"], Encoded]


@dataclass(frozen=True)
class Moments:
    """Mean, covariance (n - 1 in the denominator) and count of the positions read; further axes are
    flattened.
    """

    mean: Float[Tensor, "d_model"]
    covariance: Float[Tensor, "d_model d_model"]
    count: int


@dataclass(frozen=True)
class Recorded:
    """What one batch contributes: which rows it held, which of their tokens were chosen, the values there."""

    rows: Int[Tensor, "row"]
    chosen: Bool[Tensor, "row pos"]
    values: dict[str, Float[Tensor, "chosen ..."]]


@dataclass(frozen=True)
class Selection:
    """Encoded rows and the tokens to read in them; `name` says which."""

    inputs: Encoded
    chosen: Bool[Tensor, "example pos"]
    name: str

    @classmethod
    def of(cls, model: Model, prompts: Prompts | Encoded, positions: str) -> Selection:
        """The tokens named `positions`; InputError when no row has one."""
        inputs = model.encode(prompts)
        chosen = inputs.at(positions).bool().cpu()
        if not chosen.any():
            raise InputError(
                f"no row of {inputs.label!r} has a position {positions!r}; give prompts that have one (answers need a "
                "completion), or pass positions='last' for where an answer would begin"
            )
        return cls(inputs, chosen, positions)

    @property
    def where(self) -> Int[Tensor, "example pos"]:
        """Column of the k-th chosen token of each row, -1 beyond the last."""
        counts = self.chosen.sum(1)
        where = torch.full((len(self.chosen), int(counts.max())), -1)
        where[packed_mask(counts)] = self.chosen.nonzero()[:, 1]
        return where

    def header(self, *, label: str, fingerprint: str, lineage: str) -> Activations:
        """The recording to come, still without values."""
        where = self.where
        inputs = digest(self.inputs.fingerprint, self.name)
        return Activations({}, where >= 0, label, fingerprint, inputs, where=where, lineage=lineage)


@door
@exactly
def record(
    model: Model,
    prompts: Prompts | Encoded,
    *,
    hooks: str | Sequence[str],
    positions: str = "last",
    batch_size: int = BATCH_SIZE,
    memory: int = MEMORY,
    folder: str | Path | None = None,
) -> Activations:
    """Record the activations of `model` at some hooks and tokens.

    Args:
        model: the model to read.
        prompts: rows of text or chats, or their tokens.
        hooks: one or several of `model.hook_names`; the model stops after the deepest.
        positions: which tokens are kept, a name of `Encoded.at`: "last" (of the prompt), "answer.numbers", "all", ...
        batch_size: rows per forward pass.
        memory: bytes; values of more go to safetensors shards, one per hook, and are mapped from there.
        folder: where the shards go, a temporary one by default.

    Returns:
        `Activations` [example, pos, ...] by hook name, on CPU in fp32. Under torchrun the ranks share the batches and
        each ends with the whole, the same bytes as one process's.

    Raises:
        InputError: for an unknown hook or position, a hook without values by position such as hook_pattern, rows
            without such a token, and values that are not finite.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> activations = interp.record(lineage.student, lineage.numbers[:8], hooks="blocks.1.hook_resid_post")
        >>> tuple(activations["blocks.1.hook_resid_post"].shape)
        (8, 1, 48)
    """
    selection = Selection.of(model, prompts, positions)
    header = selection.header(label=model.name, fingerprint=model.fingerprint, lineage=lineage_root(model))
    blocks = stream(model, selection, hooks=hooks, batch_size=batch_size)
    return keep(blocks, header, memory=memory, folder=folder)


@door
@exactly
def moments(
    model: Model,
    prompts: Prompts | Encoded,
    *,
    hooks: str | Sequence[str],
    positions: str = "all",
    batch_size: int = BATCH_SIZE,
) -> dict[str, Moments]:
    """Mean and covariance per hook over every position named; no activation outlives its batch.

    The running sums are d x d in float64 per hook, whatever the number of rows. InputError with fewer than
    two positions.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> hook = "blocks.0.hook_resid_post"
    >>> tuple(moments(lineage.base, lineage.numbers[:8], hooks=hook)[hook].covariance.shape)
    (48, 48)
    """
    selection = Selection.of(model, prompts, positions)
    running: dict[str, Running] = {}
    for block in stream(model, selection, hooks=hooks, batch_size=batch_size):
        for hook, values in block.values.items():
            part = Running.of(values.flatten(1).double(), products)
            running[hook] = running[hook] + part if hook in running else part
    return {hook: _finished(state, selection) for hook, state in running.items()}


def stream(
    model: Model, selection: Selection, *, hooks: str | Sequence[str], batch_size: int = BATCH_SIZE
) -> Iterator[Recorded]:
    """Blocks of chosen values, rows in order of length; InputError when a value is not finite.

    Under torchrun every rank makes the same call, reads every size-th batch and yields all blocks.
    """
    hooks = (hooks,) if isinstance(hooks, str) else tuple(hooks)
    check_hooks(model, hooks)
    _check_placed(model, hooks)
    wanted = selection.chosen.any(1).nonzero()[:, 0]
    order = wanted[selection.inputs.lengths.cpu()[wanted].argsort(stable=True)]
    batches = _placed(model.batches(selection.inputs[order], batch_size), order, selection)
    found = Ranks.here().share(batches, partial(_read, model, hooks))
    shown = progress(found, f"reading {model.name}", total=len(order), size=lambda item: len(item[0][0]))
    for (rows, chosen, _), values in shown:
        yield Recorded(rows, chosen, values)


def _check_placed(model: Model, hooks: Sequence[str]) -> None:
    """InputError for a hook whose values are not [example, position, ...], whatever the length of the rows."""
    backbone = getattr(model, "backbone", None)
    if backbone is None or all(FAST.fullmatch(hook) for hook in hooks):
        return
    odd = {hook: backbone.odd_hooks[hook] for hook in hooks if hook in backbone.odd_hooks}
    for hook, shape in odd.items():
        attention = hook.endswith(("hook_pattern", "hook_attn_scores"))
        why = (
            "the head stands before the position"
            if attention
            else "rows and positions are no axes of their own"
        )
        block = hook.partition(".hook")[0].rpartition(".")[0]
        near = [
            name for name in (f"{block}.attn.hook_z", f"{block}.hook_resid_post") if name in model.hook_names
        ]
        advice = f"name a hook such as {near[0]}" if near else "name a hook of the residual stream"
        raise InputError(
            f"{hook} of {model.name} has no values by position ({why}: two rows of three tokens give {list(shape)}); "
            f"{advice}, or read it whole with model.bridge.run_with_cache"
        )


def _placed(batches: Iterable[Encoded], order: Tensor, selection: Selection) -> Iterator[_Placed]:
    """Rows, chosen tokens and tokens of every batch."""
    start = 0
    for batch in batches:
        rows = order[start : start + len(batch)]
        yield rows, selection.chosen[rows, : batch.ids.shape[1]], batch
        start += len(batch)


def keep(
    blocks: Iterable[Recorded], header: Activations, *, memory: int = MEMORY, folder: str | Path | None = None
) -> Activations:
    """Pack streamed blocks into `header`, rows in the given order; on disk when above `memory` bytes."""
    blocks = iter(blocks)
    first = next(blocks)
    shapes = {hook: (*header.mask.shape, *values.shape[1:]) for hook, values in first.values.items()}
    if 4 * sum(math.prod(shape) for shape in shapes.values()) > memory:
        return _keep_on_disk(_chain(first, blocks), header, shapes, folder)
    if torch.equal(first.rows, torch.arange(len(header.mask))):  # one batch holds all: it is kept, not copied
        width = header.mask.shape[1]
        return replace(header, values=_owned({hook: _packed(first, hook, width) for hook in first.values}))
    values = {hook: torch.empty(shape) for hook, shape in shapes.items()}
    for tensor in values.values():
        tensor[~header.mask.any(1)] = 0  # rows without a chosen token are in no block
    for block in _chain(first, blocks):
        for hook in values:
            values[hook].index_copy_(0, block.rows, _packed(block, hook, header.mask.shape[1]))
    return replace(header, values=values)


def _owned(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each of the values in memory of its own, as it is where it has it."""
    found: dict[str, Tensor] = {}
    for hook, value in values.items():
        shared = any(value.data_ptr() == other.data_ptr() for other in found.values())
        whole = value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes
        found[hook] = value if whole and not shared else value.clone(memory_format=torch.contiguous_format)
    return found


def packed_mask(counts: Int[Tensor, "example"]) -> Bool[Tensor, "example pos"]:
    """True at the first `counts[i]` places of row i."""
    return torch.arange(int(counts.max()))[None, :] < counts[:, None]


def _chain(first: Recorded, blocks: Iterator[Recorded]) -> Iterator[Recorded]:
    yield first
    yield from blocks


def _read(model: Model, hooks: tuple[str, ...], placed: _Placed) -> dict[str, Float[Tensor, "chosen ..."]]:
    _, chosen, batch = placed
    values, everywhere = {}, bool(chosen.all())
    for hook, full in model.run(batch, hooks=hooks).items():
        full = full.detach()
        picked = full.flatten(0, 1) if everywhere else full[chosen.to(full.device)]
        values[hook] = picked.float().cpu()
        if not torch.isfinite(values[hook].sum()):  # one pass; a NaN or inf anywhere survives the sum
            raise InputError(
                f"{model.name} gives NaN or inf at {hook}; check its weights or load it with dtype float32"
            )
    return values


def _packed(block: Recorded, hook: str, width: int) -> Float[Tensor, "row pos ..."]:
    values = block.values[hook]
    if block.chosen.shape[1] == width and bool(block.chosen.all()):
        return values.unflatten(0, (len(block.rows), width))
    packed = values.new_zeros(len(block.rows), width, *values.shape[1:])
    places = torch.arange(width)[None, :] < block.chosen.sum(1, keepdim=True)
    packed[places] = values
    return packed


def _keep_on_disk(
    blocks: Iterable[Recorded],
    header: Activations,
    shapes: dict[str, tuple[int, ...]],
    folder: str | Path | None,
) -> Activations:
    """One shard per hook. Without a folder the shards are unlinked once mapped and live as the values do."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="interp-", ignore_cleanup_errors=True) as temporary:
            return _keep_on_disk(blocks, header, shapes, temporary)
    key = _key(header)
    shards: dict[str, storage.RowFile] = {}
    try:
        for hook, shape in shapes.items():
            shards[hook] = header.shard(Path(folder) / f"{hook}.{key}.safetensors", hook, shape)
        for block in blocks:
            for hook, shard in shards.items():
                values = _packed(block, hook, shapes[hook][1])
                for row, packed in zip(block.rows.tolist(), values, strict=True):
                    shard.put(hook, row, packed)
        paths = {hook: shard.finish() for hook, shard in shards.items()}
    except BaseException:
        for shard in shards.values():
            shard.discard()
        raise
    return replace(header, values={hook: storage.read_tensors(path)[0][hook] for hook, path in paths.items()})


def clear(recorded: Activations, folder: str | Path | None) -> None:
    """Take the files of a recording out of the folder it was kept in, if there are any."""
    for path in () if folder is None else Path(folder).glob(f"*.{_key(recorded)}.safetensors"):
        path.unlink()


def _key(header: Activations) -> str:
    return digest(header.label, header.fingerprint, header.inputs)


def _finished(found: Running, selection: Selection) -> Moments:
    if found.count < 2:
        raise InputError(
            f"{selection.inputs.label!r} has one position {selection.name!r}; a covariance needs at least two"
        )
    return Moments(found.mean.float(), (found.squares / (found.count - 1)).float(), found.count)
