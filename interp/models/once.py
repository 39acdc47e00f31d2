"""What a model computes on some rows, computed once while several verbs read it.

Inside `reading_once` a model keeps, row by row, what its output matrix reads and the residual stream after every layer,
as far as `memory` reaches. Rows it has read before take their logits from there, through the output matrix alone, and
their residual stream as it is; padding, and the rows beside them, change neither. At the end all of it is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.bridge import FAST, at_layer, residual_run
from interp.models.head import own_logits

if TYPE_CHECKING:
    from interp.models.backbone import Backbone

MEMORY = 2**29  # bytes a model keeps


@contextmanager
def reading_once(*models: Any, memory: int = MEMORY) -> Iterator[None]:
    """While open, `logits` and the residual stream of rows that one of the models has read are not computed again.

    For models whose weights and torch hooks stay as they are meanwhile. Each keeps at most `memory` bytes; rows beyond
    that are computed as ever. What has no plain network, such as a classifier, is left alone.
    """
    opened = [
        vars(backbone)
        for backbone in dict.fromkeys(model.backbone for model in models if hasattr(model, "backbone"))
        if "kept" not in vars(backbone)
    ]
    for held in opened:
        held["kept"] = Kept(memory)
    try:
        yield
    finally:
        for held in opened:
            del held["kept"]


def plain_logits(
    backbone: Backbone, ids: Int[Tensor, "example pos"], mask: Int[Tensor, "example pos"]
) -> Float[Tensor, "example pos vocab"]:
    """Logits of the plain network, from what is kept where these rows were read."""
    kept: Kept | None = vars(backbone).get("kept")
    lengths = None if kept is None else kept.fitting(backbone, ids, mask)
    if kept is None or lengths is None:
        return backbone.hf(input_ids=ids, attention_mask=mask, use_cache=False).logits
    if not kept.has(ids, lengths):
        return kept.read(backbone, ids, mask, lengths)
    return own_logits(backbone.hf, kept.padded(ids, lengths)[-1])


def plain_stream(
    backbone: Backbone,
    hooks: Sequence[str],
    ids: Int[Tensor, "example pos"],
    mask: Int[Tensor, "example pos"],
) -> dict[str, Float[Tensor, "example pos d_model"]]:
    """The residual stream of the plain network at some hooks, from what is kept where these rows were read."""
    kept: Kept | None = vars(backbone).get("kept")
    places = [FAST.fullmatch(name) for name in hooks]
    lengths = None if kept is None else kept.fitting(backbone, ids, mask)
    if kept is None or lengths is None or not all(place and place[2] == "post" for place in places):
        return residual_run(backbone.hf, backbone.layers, hooks, ids, mask)
    if not kept.has(ids, lengths):
        kept.read(backbone, ids, mask, lengths)
    stream = kept.padded(ids, lengths)
    return {place[0]: stream[int(place[1])] for place in places if place}


class Kept:
    """Rows by their tokens: the residual stream after every layer, and last what the output matrix reads."""

    def __init__(self, memory: int) -> None:
        self.memory, self.used = memory, 0
        self.rows: dict[bytes, Float[Tensor, "place pos d_model"]] = {}

    def fitting(self, backbone: Backbone, ids: Tensor, mask: Tensor) -> list[int] | None:
        """Lengths of the rows, where they are padded on the right alone and there is room for those not yet kept."""
        lengths = mask.sum(1)
        if not torch.equal(mask.bool(), torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]):
            return None
        found = lengths.tolist()
        new = sum(n for row, n in zip(ids, found, strict=True) if _named(row[:n]) not in self.rows)
        each = (len(backbone.layers) + 1) * backbone.config.hidden_size * backbone.hf.dtype.itemsize
        return found if self.used + new * each <= self.memory else None

    def has(self, ids: Tensor, lengths: Sequence[int]) -> bool:
        """Whether all these rows were read."""
        return all(_named(row[:n]) in self.rows for row, n in zip(ids, lengths, strict=True))

    def read(self, backbone: Backbone, ids: Tensor, mask: Tensor, lengths: Sequence[int]) -> Tensor:
        """The network's own logits; what lies on the way is kept."""
        found: list[Tensor] = []
        handles = [at_layer(layer, "post", found.append) for layer in backbone.layers]
        matrix = backbone.hf.get_output_embeddings()
        handles.append(matrix.register_forward_pre_hook(lambda _, args: found.append(args[0])))
        try:
            logits = backbone.hf(input_ids=ids, attention_mask=mask, use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()
        if len(found) == len(handles) and all(each.shape == found[0].shape for each in found):
            for index, (row, n) in enumerate(zip(ids, lengths, strict=True)):
                self._keep(_named(row[:n]), torch.stack([each[index, :n] for each in found]))
        else:  # of another shape than is kept here: nothing is kept again
            self.memory = self.used
        return logits

    def padded(self, ids: Tensor, lengths: Sequence[int]) -> Float[Tensor, "place example pos d_model"]:
        """The rows side by side, zero at the padding."""
        rows = [self.rows[_named(row[:n])] for row, n in zip(ids, lengths, strict=True)]
        whole = rows[0].new_zeros(len(rows[0]), *ids.shape, rows[0].shape[-1])
        for index, row in enumerate(rows):
            whole[:, index, : row.shape[1]] = row
        return whole

    def _keep(self, name: bytes, row: Tensor) -> None:
        if name not in self.rows:
            self.rows[name] = row
            self.used += row.nbytes


def _named(row: Int[Tensor, "pos"]) -> bytes:
    return row.cpu().numpy().tobytes()
