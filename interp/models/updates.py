"""What training did to a model's weights: Δθ = θ(member) − θ(start), in fp32, as factors where it is an adapter.

A LoRA layer adds scaling · B A to its weight (arXiv 2106.09685); stored transposed, as a Conv1D is, that is
scaling · Aᵀ Bᵀ. Several active adapters stand side by side: [s₁ B₁, s₂ B₂] [A₁; A₂].
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.models.backbone import adapted_layers
from interp.models.low_rank import Entry, LowRank
from interp.models.parameters import ParameterDirection
from interp.models.precision import exactly
from interp.models.seam import lineage_root
from interp.runs import InputError

if TYPE_CHECKING:
    from interp.models.seam import Model


@exactly
def weight_update(member: Model) -> ParameterDirection:
    """The member's effective weights minus those of its start, in fp32; weights that did not move are left out.

    Live LoRA adapters on the start's own weights give low-rank tensors; DoRA, embeddings and other kinds of adapters
    give dense ones. Raises InputError for a member without a start and for one that did not move.
    """
    if member.start is None:
        raise InputError(f"{member.name} has no start and so no update; pass a member of a lineage")
    factors, whole = _live_factors(member)
    tensors: dict[str, Entry] = dict(factors)
    if not whole:
        tensors |= _differences(member, member.start, without=factors)
    if not tensors:
        raise InputError(
            f"{member.name} and {member.start.name} have equal weights, so no update; pass a member that was trained"
        )
    label = f"{member.name} \N{MINUS SIGN} {member.start.name}"
    return ParameterDirection(tensors, label, member.start.fingerprint, lineage_root(member))


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


def is_transposed(layer: Any) -> bool:
    """Whether an adapted layer stores its weight as [input, output], as a Conv1D does."""
    return bool(layer.fan_in_fan_out)


def is_plain_lora(layer: Any) -> bool:
    """Whether the layer adds scaling · B A to its weight and does nothing else."""
    from peft.tuners.lora.layer import Linear

    active = layer.active_adapters
    return (
        type(layer) is Linear
        and not layer.disable_adapters
        and not any(layer.lora_bias.get(adapter) or adapter in layer.lora_variant for adapter in active)
    )


def _pair(layer: Any, adapter: str) -> tuple[Tensor, Tensor] | None:
    """Left and right factor in the orientation in which the weight is stored; None for an adapter not on the layer."""
    if adapter not in layer.lora_A:
        return None
    A, B = (part[adapter].weight.detach().float() for part in (layer.lora_A, layer.lora_B))
    scaled = layer.scaling[adapter] * B
    return (A.T, scaled.T) if is_transposed(layer) else (scaled, A)


def _live_factors(member: Model) -> tuple[dict[str, LowRank], bool]:
    """Factors of the adapters live on the weights the member started from, and whether they are the whole update."""
    backbone: Any = getattr(member, "backbone", None)
    start = member.start
    if backbone is None or backbone.peft is None or start is None:
        return {}, False
    if backbone.plain.fingerprint != start.fingerprint:
        return {}, False
    factors, whole = adapter_factors(backbone.hf)
    return {
        name: factor for name, factor in factors.items() if factor.left.any() and factor.right.any()
    }, whole


def _differences(member: Model, start: Model, *, without: Collection[str]) -> dict[str, Tensor]:
    """Weights that differ from those of the start, in full."""
    before = start.parameters()
    tied = next(iter(before.values()))  # an adapted output matrix that its start shares with the embedding
    found = {
        name: weight.float() - before.get(name, tied).float()
        for name, weight in member.parameters().items()
        if name not in without
    }
    return {name: change for name, change in found.items() if change.any()}
