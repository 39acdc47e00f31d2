"""What a model computes on some rows, computed once while several verbs read it.

Inside `reading_once` a model keeps, row by row, what its output matrix reads and the residual stream after every layer,
as far as `memory` reaches. Rows it has read before take their logits from there, through the output matrix alone, and
their residual stream as it is; padding, and the rows beside them, change neither. Beginnings that `prefix_logits` went
through are rows too. What several verbs make of the same rows is kept as well (`made_once`). At the end all of it is
dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.content import digest
from interp.models.bridge import FAST, at_layer, residual_run
from interp.models.head import has_plain_head, own_logits

if TYPE_CHECKING:
    from interp.models.backbone import Backbone
    from interp.prompts.tokens import Encoded

MEMORY = 2**29  # bytes a model keeps
T = TypeVar("T")


@contextmanager
def reading_once(*models: Any, memory: int = MEMORY) -> Iterator[None]:
    """While open, `logits` and the residual stream of rows that one of the models has read are not computed again.

    For models whose weights and torch hooks stay as they are meanwhile. Each keeps at most `memory` bytes; rows beyond
    that are computed as ever. What has no plain network, such as a classifier, is left alone.
    """
    opened = [
        backbone
        for backbone in dict.fromkeys(model.backbone for model in models if hasattr(model, "backbone"))
        if kept_of(backbone) is None
    ]
    for backbone in opened:
        vars(backbone)["kept"] = Kept(backbone, memory)
    try:
        yield
    finally:
        for backbone in opened:
            del vars(backbone)["kept"]


def kept_of(backbone: Backbone) -> Kept | None:
    """What is kept of a network inside `reading_once`, None outside."""
    return vars(backbone).get("kept")


def _kept_by(model: Any) -> Kept | None:
    """What is kept of a model's network, None for one with open hooks."""
    return kept_of(model.backbone) if hasattr(model, "backbone") and not model._edits else None


def made_once(model: Any, what: str, make: Callable[[], T], *rests_on: Any) -> T:
    """What `make` gives, once for everything that it rests on beside the model, inside `reading_once`.

    A model with open hooks is asked every time.
    """
    kept = _kept_by(model)
    if kept is None:
        return make()
    key = what, digest(*rests_on)
    if key not in kept.made:
        kept.made[key] = make()
    return kept.made[key]


def plain_logits(
    backbone: Backbone, ids: Int[Tensor, "example pos"], mask: Int[Tensor, "example pos"]
) -> Float[Tensor, "example pos vocab"]:
    """Logits of the plain network, from what is kept where these rows were read."""
    kept = kept_of(backbone)
    lengths = None if kept is None else kept.fitting(ids, mask)
    if kept is None or lengths is None:
        return backbone.hf(input_ids=ids, attention_mask=mask, use_cache=False).logits
    if kept.unread(ids, lengths):
        with kept.listening() as found:
            logits = backbone.hf(input_ids=ids, attention_mask=mask, use_cache=False).logits
        kept.take(ids, lengths, found)
        return logits
    return own_logits(backbone.hf, kept.padded(ids, lengths, slice(-1, None))[0])


@torch.no_grad()
def marked_logits(
    model: Any, batch: Encoded, where: Bool[Tensor, "example pos"]
) -> Float[Tensor, "token vocab"]:
    """A model's logits at the marked positions, its open hooks acting.

    No others are made where no hook is open and the network does no more than scale and cap what its output matrix
    gives.
    """
    kept = _kept_by(model)
    if kept is not None:
        ids, mask = batch.ids.to(model.device), batch.mask.to(model.device).long()
        lengths = kept.fitting(ids, mask)
        if lengths is not None and kept.reads(ids, mask, lengths):
            hidden = kept.padded(ids, lengths, slice(-1, None))[0]
            return own_logits(kept.backbone.hf, hidden[where.to(hidden.device)])
    elif hasattr(model, "backbone") and not model._edits and has_plain_head(model.backbone.hf):
        network, marks = model.backbone.hf, where.to(model.device)
        ids, mask = batch.ids.to(model.device), batch.mask.to(model.device).long()
        return own_logits(
            network, network.base_model(input_ids=ids, attention_mask=mask, use_cache=False)[0][marks]
        )
    logits = model.logits(batch)
    return logits[where.to(logits.device)]


def plain_stream(
    backbone: Backbone,
    hooks: Sequence[str],
    ids: Int[Tensor, "example pos"],
    mask: Int[Tensor, "example pos"],
) -> dict[str, Float[Tensor, "example pos d_model"]]:
    """The residual stream of the plain network at some hooks, from what is kept where these rows were read."""
    kept, places = kept_of(backbone), [FAST.fullmatch(name) for name in hooks]
    lengths = None if kept is None else kept.fitting(ids, mask)
    after = all(place and place[2] == "post" for place in places)
    if kept is None or lengths is None or not after or not kept.reads(ids, mask, lengths):
        return residual_run(backbone.hf, backbone.layers, hooks, ids, mask)
    stream = kept.padded(ids, lengths)
    return {place[0]: stream[int(place[1])] for place in places if place}


class Kept:
    """Rows by their tokens: the residual stream after every layer, and last what the output matrix reads."""

    def __init__(self, backbone: Backbone, memory: int) -> None:
        self.backbone, self.memory, self.used = backbone, memory, 0
        self.rows: dict[bytes, Float[Tensor, "place pos d_model"]] = {}
        self.made: dict[tuple[str, str], Any] = {}

    def fitting(self, ids: Tensor, mask: Tensor) -> list[int] | None:
        """Lengths of the rows, where they are padded on the right alone and there is room for those not yet kept."""
        lengths = mask.sum(1)
        if not torch.equal(mask.bool(), torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]):
            return None
        found = lengths.tolist()
        new = sum(n for row, n in zip(ids, found, strict=True) if _named(row[:n]) not in self.rows)
        return found if self._has_room(new) else None

    def _has_room(self, tokens: int) -> bool:
        network = self.backbone.hf
        each = (len(self.backbone.layers) + 1) * self.backbone.config.hidden_size * network.dtype.itemsize
        return self.used + tokens * each <= self.memory

    def unread(self, ids: Tensor, lengths: Sequence[int]) -> list[int]:
        """Which of the rows were not read."""
        return [row for row, n in enumerate(lengths) if _named(ids[row, :n]) not in self.rows]

    def reads(self, ids: Tensor, mask: Tensor, lengths: Sequence[int]) -> bool:
        """Read the rows that were not read, without their logits; False for a network that `take` leaves out."""
        new = self.unread(ids, lengths)
        if not new:
            return True
        with self.listening() as found:
            self.backbone.hf.base_model(input_ids=ids[new], attention_mask=mask[new], use_cache=False)
        return self.take(ids[new], [lengths[row] for row in new], found)

    def take(self, ids: Tensor, lengths: Sequence[int], found: Sequence[Tensor]) -> bool:
        """Keep rows as `listening` found them; False for a network whose rows have another shape than is kept."""
        if len(found) != len(self.backbone.layers) + 1 or any(each.shape != found[0].shape for each in found):
            self.memory = self.used  # nothing is kept again
            return False
        for index, (row, n) in enumerate(zip(ids, lengths, strict=True)):
            self._keep(row[:n], torch.stack([each[index, :n] for each in found]))
        return True

    @contextmanager
    def listening(self) -> Iterator[list[Tensor]]:
        """While open, a pass leaves here the residual stream after every layer and what the output matrix reads."""
        found: list[Tensor] = []
        handles = [at_layer(layer, "post", found.append) for layer in self.backbone.layers]
        body = self.backbone.hf.base_model
        handles.append(body.register_forward_hook(lambda *given: found.append(given[2][0])))
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()

    def put(self, rows: Sequence[Sequence[int]], parts: Sequence[list[Tensor]]) -> None:
        """Keep rows of one length, each part what `listening` found for some of their tokens, in their order.

        A part of one row stands in front of all. What does not fit is left out.
        """
        shapes = {(len(part), each.shape) for part in parts for each in part}
        if len(shapes) != len(parts) or not self._has_room(len(rows) * len(rows[0])):
            return
        whole = torch.cat([torch.stack(part).expand(-1, len(rows), -1, -1) for part in parts], dim=2)
        for index, row in enumerate(rows):
            self._keep(torch.tensor(row), whole[:, index].clone())

    def padded(
        self, ids: Tensor, lengths: Sequence[int], places: slice = slice(None)
    ) -> Float[Tensor, "place example pos d_model"]:
        """The rows side by side, zero at the padding."""
        rows = [self.rows[_named(row[:n])][places] for row, n in zip(ids, lengths, strict=True)]
        whole = rows[0].new_zeros(len(rows[0]), *ids.shape, rows[0].shape[-1])
        for index, row in enumerate(rows):
            whole[:, index, : row.shape[1]] = row
        return whole

    def _keep(self, tokens: Int[Tensor, "pos"], row: Tensor) -> None:
        name = _named(tokens)
        if name not in self.rows:
            self.rows[name] = row
            self.used += row.nbytes


def heard(kept: Kept | None) -> Any:
    """`listening` where something is kept; else a list that stays empty."""
    return nullcontext([]) if kept is None else kept.listening()


def _named(row: Int[Tensor, "pos"]) -> bytes:
    return row.cpu().numpy().tobytes()
