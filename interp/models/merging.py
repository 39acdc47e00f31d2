"""A LoRA adapter merged into a checkpoint, to the same bits on every machine.

W + (alpha / r) Σ_j b_j a_jᵀ (arXiv 2106.09685), j by j in fp64 and rounded once: a product of two fp32 is exact there,
and no order of a matrix product enters. So a lineage whose base is a checkpoint and a small adapter can be kept without
the checkpoint, and whoever has that one has every bit of its base.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from interp.core.errors import InputError
from interp.models.adapter_folders import PLAIN_STARTS, PREFIX, AdapterFolder
from interp.models.starts import with_weights

if TYPE_CHECKING:
    from interp.models.language import LanguageModel

FACTORS = (".lora_A.weight", ".lora_B.weight")
ROWS = 256
MORE = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save")


@dataclass(frozen=True)
class Merged:
    """What a model was merged from: the checkpoint's fingerprint and the place it was read from, and the adapter."""

    checkpoint: str
    source: str
    adapter: Path


def merge_adapter(model: LanguageModel, folder: str | Path, *, name: str) -> LanguageModel:
    """The checkpoint with a plain LoRA adapter in its weights: a base of its own, which knows what it was merged from.

    Raises InputError for an adapter that is not plain LoRA on matrices of the checkpoint.
    """
    adapter = AdapterFolder(Path(folder))
    adapter.check()
    if adapter.seal and adapter.seal["base"] != (weights := model.backbone.fingerprint):
        raise InputError(
            f"{adapter} was trained on weights {adapter.seal['base']} and {model.name} has {weights}; merge it into "
            "its own checkpoint"
        )
    scale = _scale(adapter)
    changed = {
        target: turned(_merged(turned(weight), a, b, scale=scale))
        for target, weight, turned, a, b in _targets(adapter, model)
    }
    made = with_weights(model, changed, name=name)
    origin = Merged(model.backbone.fingerprint, model.source, adapter.path)
    return dataclasses.replace(made, origin=model.origin, merged_from=origin)


def _merged(
    weight: Float[Tensor, "out in"],
    a: Float[Tensor, "rank in"],
    b: Float[Tensor, "out rank"],
    *,
    scale: float,
) -> Float[Tensor, "out in"]:
    """The sum, one rank after the other, a block of rows at a time."""
    made, right = torch.empty_like(weight), a.to(weight.device, torch.float64)
    for own, block, left in zip(made.split(ROWS), weight.detach().split(ROWS), b.split(ROWS), strict=True):
        total = block.to(torch.float64, copy=True)
        for column, row in zip(left.to(total).T, right, strict=True):
            total += torch.outer(column, row).mul_(scale)
        own.copy_(total)
    return made


def _scale(adapter: AdapterFolder) -> float:
    """alpha / r; InputError for an adapter that does more than that."""
    config = adapter.config
    more = [key for key in MORE if config.get(key)]
    if (start := str(config.get("init_lora_weights", True)).lower()) not in PLAIN_STARTS:
        more.append(f"init_lora_weights {start!r}, which changes the weights beneath it")
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or more:
        what = more[0] if more else f"{config.get('peft_type')} with bias {config.get('bias', 'none')!r}"
        raise InputError(
            f"{adapter} is no plain LoRA ({what}); merge it with peft and pass the model that this gives"
        )
    return config["lora_alpha"] / config["r"]


def _targets(
    adapter: AdapterFolder, model: LanguageModel
) -> Iterator[tuple[str, Tensor, Callable[[Tensor], Tensor], Tensor, Tensor]]:
    """Name and value of every weight that the adapter changes, what turns it to [out, in] and back, and A and B.

    Raises InputError where the checkpoint has no such matrix.
    """
    network = model.backbone.flat
    weights, found = dict(network.named_parameters()), {}
    for key, tensor in adapter.tensors.items():
        end = next((end for end in FACTORS if key.endswith(end)), None)
        target = key.removeprefix(PREFIX).removesuffix(end or "") + ".weight"
        if end is None or target not in weights:
            raise InputError(
                f"{adapter} holds {key}, and {model.name} has no matrix for it; pass the adapter of this checkpoint"
            )
        found.setdefault(target, {})[end] = tensor
    for target, pair in found.items():
        module = network.get_submodule(target.rpartition(".")[0])
        turned = torch.t if isinstance(module, Conv1D) else torch.Tensor.detach  # GPT-2 holds [in, out]
        shapes = [tuple(pair[end].shape) for end in FACTORS if end in pair]
        rows, columns = turned(weights[target]).shape
        if len(shapes) < 2 or (shapes[1][0], shapes[0][1]) != (rows, columns):
            raise InputError(
                f"{adapter} has factors {shapes} for {target}, which is {rows} × {columns} in {model.name}; pass the "
                "adapter of this checkpoint"
            )
        yield target, weights[target], turned, *(pair[end] for end in FACTORS)
