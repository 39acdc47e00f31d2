"""What training did to a model's weights: Δθ = θ(member) − θ(start), in fp32, as factors where it is an adapter.

A LoRA layer adds scaling · B A to its weight (arXiv 2106.09685); stored transposed, as a Conv1D is, that is
scaling · Aᵀ Bᵀ. Several active adapters stand side by side: [s₁ B₁, s₂ B₂] [A₁; A₂].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.core.errors import InputError
from interp.models import low_rank
from interp.models.identity import weights_print
from interp.models.low_rank import Entry, LowRank
from interp.models.parameters import ParameterDirection
from interp.models.seam import check_shapes, lineage_root
from interp.models.views import adapted_layers, is_plain_lora, is_transposed

if TYPE_CHECKING:
    from interp.models.seam import Model


def weight_update(member: Model, *, minus: Model | None = None) -> ParameterDirection:
    """Subtract the start's effective weights from the member's, in fp32; weights that did not move are left out.

    Live LoRA adapters on the start's own weights give low-rank tensors; DoRA, embeddings and other kinds of adapters
    give dense ones. Where the start ties two weights and the member does not, both names stand in the update and
    `apart` says so. With `minus`, a member of the same start, its update is taken off: what is left is member − minus.
    Raises InputError for a member without a start, for one of other shapes, such as a grown vocabulary, for one that
    did not move, and for a `minus` that started from other weights.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> weight_update(lineage.student).label
    'student − base'
    """
    if minus is not None:
        apart = weight_update(member) - weight_update(minus)
        return replace(apart, label=f"{member.name} \N{MINUS SIGN} {minus.name}")
    if member.start is None:
        raise InputError(f"{member.name} has no start and so no update; pass a member of a lineage")
    check_shapes(member, member.start)
    tensors = {name: change for name, change in _changes(member, member.start) if _moves(change)}
    if not tensors:
        raise InputError(
            f"{member.name} and {member.start.name} have equal weights, so no update; pass a member that was trained"
        )
    label = f"{member.name} \N{MINUS SIGN} {member.start.name}"
    fingerprint, root = weights_print(member.start), lineage_root(member)
    return ParameterDirection(tensors, label, fingerprint, root, apart=_apart(member, member.start))


def _changes(member: Model, start: Model) -> Iterator[tuple[str, Entry]]:
    """Every weight of either with the member's minus the start's, as factors where a live adapter is just that."""
    factors = _live_factors(member, start)
    ours = _weights(member, factors)
    theirs, ties = start.parameters(), getattr(start, "ties", {})
    own = getattr(member, "ties", {})
    for name in dict.fromkeys([*ours, *theirs, *factors]):
        before = theirs[ties.get(name, name)]
        if name in factors:
            yield name, factors[name]
        elif not _is_same(after := ours[own.get(name, name)], before):
            yield name, low_rank.wide(after) - low_rank.wide(before)


def _weights(member: Any, factors: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """The member's weights, with live adapters merged in fp32; those beneath where factors say all that adapters do."""
    backbone = getattr(member, "backbone", None)
    if backbone is None or backbone.peft is None:
        return member.parameters()
    whole = {f"{name}.weight" for name, _ in adapted_layers(backbone.hf)} == factors.keys()
    return backbone.plain.weights() if whole else backbone.weights(wide=True)


def _live_factors(member: Model, start: Model) -> dict[str, LowRank]:
    """Factors of the plain LoRA layers whose weights beneath are the start's own."""
    backbone: Any = getattr(member, "backbone", None)
    if backbone is None or backbone.peft is None:
        return {}
    beneath, below, theirs = backbone.plain.weights(), backbone.plain.ties, start.parameters()
    ties = getattr(start, "ties", {})
    return {
        name: factor
        for name, factor in adapter_factors(backbone.hf)[0].items()
        if _is_same(beneath[below.get(name, name)], theirs[ties.get(name, name)])
    }


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same values; views of one storage are not read."""
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)


def _moves(change: Entry) -> bool:
    if isinstance(change, LowRank):
        return bool(change.left.any() and change.right.any())
    return bool(change.any())


def _apart(member: Model, start: Model) -> dict[str, str]:
    """Aliases that the start ties to another weight and the member does not: their two ends moved apart."""
    own = getattr(member, "ties", {})
    return {alias: first for alias, first in getattr(start, "ties", {}).items() if alias not in own}


def adapter_factors(network: nn.Module) -> tuple[dict[str, LowRank], bool]:
    """Change of every weight under a live plain LoRA layer, copied, and whether that is all the adapters do."""
    factors: dict[str, LowRank] = {}
    whole = True
    for name, layer in adapted_layers(network):
        if not is_plain_lora(layer):
            whole = False
        elif pairs := [pair for adapter in layer.active_adapters if (pair := _pair(layer, adapter))]:
            lefts, rights = zip(*pairs, strict=True)
            factors[f"{name}.weight"] = LowRank(torch.cat(lefts, 1), torch.cat(rights))
    return factors, whole


def _pair(layer: Any, adapter: str) -> tuple[Tensor, Tensor] | None:
    """Left and right factor in the orientation in which the weight is stored; None for an adapter not on the layer."""
    if adapter not in layer.lora_A:
        return None
    A, B = (part[adapter].weight.detach().float() for part in (layer.lora_A, layer.lora_B))
    scaled = layer.scaling[adapter] * B
    return (A.T, scaled.T) if is_transposed(layer) else (scaled, A)
