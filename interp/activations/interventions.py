"""Edits that hold while a `with` block is open: add a vector, take something out, put other values in.

With v the vector and d = v/|v|: steer, x + scale v; ablate along d, x - <x, d> d, and with value="mean" the
component is set to its mean m over given rows instead, x - <x - m, d> d; patch, x <- source at the source's
tokens. Nothing outlives the block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.arrays import Activations, Direction, check_lineage
from interp.activations.recording import moments
from interp.core.doors import door
from interp.core.errors import InputError
from interp.models.seam import check_hooks, lineage_root

if TYPE_CHECKING:
    from interp.models.seam import Model
    from interp.prompts.text import Prompts
    from interp.prompts.tokens import Encoded

D_MODEL_HOOKS = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "hook_embed",
)


@door
@contextmanager
def steer(
    model: Model,
    *,
    hook: str,
    vector: Direction | Float[Tensor, "..."],
    scale: float = 1.0,
    positions: Bool[Tensor, "example pos"] | None = None,
) -> Iterator[Model]:
    """Add `scale * vector` to an activation while the `with` block is open.

    Args:
        model: the model to change; as it was once the block is closed.
        hook: which activation, of `model.hook_names`.
        vector: a `Direction`, or a tensor of the activation's shape after [example, pos].
        scale: factor of the vector; negative steers the other way.
        positions: mask [example, pos] of where to add it, rows as in the batch to come; everywhere by default.

    Returns:
        A context manager that gives the changed model.

    Raises:
        InputError: for a vector of another width or lineage, and a mask of another shape than the batch.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> before = interp.margin(lineage.base, "owl")
        >>> direction = interp.shift(lineage.teacher, lineage.numbers[:8]).direction("blocks.0.hook_resid_post")
        >>> with interp.steer(lineage.base, hook=direction.hook, vector=direction, scale=4.0) as steered:
        ...     interp.margin(steered, "owl") == before
        False
    """
    added = scale * _vector(model, vector, hook)

    def edit(x: Tensor) -> Tensor:
        steered = x + _fit(added, x, hook)
        return steered if positions is None else torch.where(_where(positions, x, hook), steered, x)

    with model.hooks({hook: edit}):
        yield model


@door
@contextmanager
def ablate(
    model: Model,
    *,
    hook: str,
    direction: Direction | Float[Tensor, "..."] | None = None,
    heads: Sequence[int] | None = None,
    value: str = "zero",
    over: Prompts | Encoded | None = None,
) -> Iterator[Model]:
    """Remove a direction, some heads or a whole activation while the `with` block is open.

    Args:
        model: the model to change; as it was once the block is closed.
        hook: which activation, of `model.hook_names`.
        direction: take out the component along it; a `Direction`, or a tensor of the activation's width.
        heads: take out these heads, counted from 0, of a `blocks.<layer>.attn.hook_z`. Without both, all of `hook`.
        value: what takes its place: "zero", or "mean", read over every token of `over` before the block opens.
        over: the rows of that mean of `model` at `hook`.

    Returns:
        A context manager that gives the changed model.

    Raises:
        InputError: for a direction and heads at once, heads or a width that the hook does not have, a direction of
            another lineage or of norm 0.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> before = interp.margin(lineage.student, "owl")
        >>> with interp.ablate(lineage.student, hook="blocks.0.attn.hook_z", heads=[0, 1]) as ablated:
        ...     interp.margin(ablated, "owl") == before
        False
    """
    check_hooks(model, (hook,))
    if direction is not None and heads is not None:
        raise InputError("ablate takes a direction or heads, not both; open two blocks")
    reference = _reference(model, hook, value, over)
    if direction is not None:
        edit = _without(_vector(model, direction, hook), reference, hook)
    elif heads is not None:
        edit = _without_heads(tuple(heads), reference, hook)
    else:
        edit = _replaced(reference)
    with model.hooks({hook: edit}):
        yield model


@door
@contextmanager
def patch(model: Model, *, hook: str, source: Activations) -> Iterator[Model]:
    """Replace an activation by recorded values while the `with` block is open.

    Args:
        model: the model to change; as it was once the block is closed.
        hook: which activation, of `model.hook_names`.
        source: what `record` gave at that hook; its values go to the tokens they were recorded from, row i into row i
            of the batch, a source of one row into every row.

    Returns:
        A context manager that gives the changed model.

    Raises:
        InputError: when the batch has other rows, fewer tokens or another width than the source.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> row, hook = lineage.numbers[:1], "blocks.1.hook_resid_post"
        >>> source = interp.record(lineage.teacher, row, hooks=hook, positions="all")
        >>> with interp.patch(lineage.base, hook=hook, source=source) as patched:
        ...     (interp.record(patched, row, hooks=hook, positions="all")[hook] == source[hook]).all().item()
        True
    """
    check_hooks(model, (hook,))
    values = source[hook]

    def edit(x: Tensor) -> Tensor:
        _check_source(source, x, hook)
        patched = x.clone()
        rows, places = source.mask.nonzero(as_tuple=True)
        columns, new = source.where[rows, places].to(x.device), values[rows, places].to(x)
        if len(source) == 1:
            patched[:, columns] = new
        else:
            patched[rows.to(x.device), columns] = new
        return patched

    with model.hooks({hook: edit}):
        yield model


def _without(vector: Tensor, reference: Tensor | None, hook: str) -> Callable[[Tensor], Tensor]:
    norm = vector.norm()
    if norm == 0 or not torch.isfinite(norm):
        raise InputError(f"the direction to ablate at {hook} has norm {float(norm)}; give a non-zero vector")
    unit = vector / norm
    axes = tuple(range(-unit.ndim, 0))

    def edit(x: Tensor) -> Tensor:
        d = _fit(unit, x, hook)
        excess = x if reference is None else x - reference.to(x).reshape(x.shape[2:])
        return x - (excess * d).sum(axes, keepdim=True) * d

    return edit


def _without_heads(heads: tuple[int, ...], reference: Tensor | None, hook: str) -> Callable[[Tensor], Tensor]:
    if not hook.endswith("attn.hook_z"):
        raise InputError(f"heads are ablated at blocks.<layer>.attn.hook_z, not at {hook}")

    def edit(x: Tensor) -> Tensor:
        outside = [head for head in heads if not 0 <= head < x.shape[2]]
        if outside:
            raise InputError(f"{hook} has heads 0 to {x.shape[2] - 1}, not {outside[0]}")
        ablated = x.clone()
        ablated[:, :, list(heads)] = _fill(reference, x)[list(heads)]
        return ablated

    return edit


def _replaced(reference: Tensor | None) -> Callable[[Tensor], Tensor]:
    return lambda x: _fill(reference, x).expand_as(x).clone()


def _fill(reference: Tensor | None, x: Tensor) -> Tensor:
    """What takes the place of an activation: zeros or the mean, in its shape after [example, pos]."""
    return x.new_zeros(x.shape[2:]) if reference is None else reference.to(x).reshape(x.shape[2:])


def _reference(model: Model, hook: str, value: str, over: Prompts | Encoded | None) -> Tensor | None:
    if value not in ("zero", "mean"):
        raise InputError(f"an ablation's value is 'zero' or 'mean', not {value!r}")
    if value == "zero":
        return None
    if over is None:
        raise InputError("a mean ablation needs the rows to average over; pass over=prompts")
    return moments(model, over, hooks=hook, positions="all")[hook].mean


def _vector(model: Model, vector: Direction | Tensor, hook: str) -> Tensor:
    check_hooks(model, (hook,))
    if isinstance(vector, Direction):
        check_lineage(vector, lineage_root(model), model.name)
        vector = vector.vector
    if hook.endswith(D_MODEL_HOOKS) and tuple(vector.shape) != (model.d_model,):
        raise InputError(
            f"a vector of shape {tuple(vector.shape)} does not fit {hook} of width {model.d_model}; "
            "take one from the same model"
        )
    return vector.detach()


def _fit(vector: Tensor, x: Tensor, hook: str) -> Tensor:
    """The vector on the activation's device and dtype; InputError unless its shape is the activation's last
    axes.
    """
    if vector.ndim == 0 or vector.ndim > x.ndim - 2 or tuple(x.shape[-vector.ndim :]) != tuple(vector.shape):
        raise InputError(
            f"a vector of shape {tuple(vector.shape)} does not fit {hook}, "
            f"whose values are {list(x.shape[2:])} per token"
        )
    return vector.to(x)


def _where(positions: Bool[Tensor, "example pos"], x: Tensor, hook: str) -> Tensor:
    """The mask over the batch's tokens, an axis added for each further one; trimmed columns must be False."""
    width = x.shape[1]
    if len(positions) != len(x) or positions.shape[1] < width or positions[:, width:].any():
        raise InputError(
            f"positions {list(positions.shape)} do not match the batch {list(x.shape[:2])} at {hook}; "
            "give the mask of exactly these rows"
        )
    return positions[:, :width].to(x.device)[(..., *[None] * (x.ndim - 2))]


def _check_source(source: Activations, x: Tensor, hook: str) -> None:
    if len(source) not in (1, len(x)):
        raise InputError(
            f"{source.label} holds {len(source)} rows and the batch {len(x)}; "
            "patch the rows that were recorded"
        )
    last = int(source.where.max())
    if last >= x.shape[1] or source[hook].shape[2:] != x.shape[2:]:
        raise InputError(
            f"{source.label} has values {list(source[hook].shape[2:])} up to token {last}, the batch at "
            f"{hook} {list(x.shape[2:])} and {x.shape[1]} tokens; patch the rows that were recorded"
        )
