"""Directions in weight space as safetensors files: what a weight moves by, under the weight's own name.

A low-rank weight is stored as its factors `name:left` and `name:right`, a virtual bias as `bias:hook`; label and
fingerprints are in the header. Plain tensors under weight names, without that header, are a user's own direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from interp.core.errors import InputError
from interp.core.runs import write_atomic
from interp.models.low_rank import Entry, LowRank

FORMAT = "interp.direction/1"
FIELDS = ("label", "fingerprint", "lineage")


def write_direction(
    path: Path, tensors: Mapping[str, Entry], biases: Mapping[str, Tensor], *, fields: Mapping[str, str]
) -> Path:
    """Write one file, whole or not at all."""
    from safetensors.torch import save

    packed = pack(tensors, biases)
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in packed.items()}
    if len({tensor.data_ptr() for tensor in own.values()}) < len(own):  # one tensor under two names
        own = {name: tensor.clone() for name, tensor in own.items()}
    write_atomic(path, save(own, metadata={"format": FORMAT, **fields}))
    return path


def is_direction(metadata: Mapping[str, str]) -> bool:
    """Whether `write_direction` wrote the file this header is of."""
    return metadata.get("format") == FORMAT and set(FIELDS) <= metadata.keys()


def pack(tensors: Mapping[str, Entry], biases: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every stored tensor by its name in the file."""
    packed = {f"bias:{hook}": vector for hook, vector in biases.items()}
    for name, entry in tensors.items():
        if isinstance(entry, LowRank):
            packed |= {f"{name}:left": entry.left, f"{name}:right": entry.right}
        else:
            packed[name] = entry
    return packed


def unpack(packed: Mapping[str, Tensor]) -> tuple[dict[str, Entry], dict[str, Tensor]]:
    """Tensors by weight name and virtual biases by hook name: the inverse of `pack`.

    Raises InputError for a factor without its other.
    """
    tensors: dict[str, Entry] = {}
    biases: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        stem, _, side = name.rpartition(":")
        if stem == "bias":
            biases[side] = tensor
        elif side in ("left", "right") and not {f"{stem}:left", f"{stem}:right"} <= packed.keys():
            raise InputError(
                f"{stem} has {name} without its other factor; store left and right, or the tensor"
            )
        elif side == "left" and stem:
            tensors[stem] = LowRank(tensor, packed[f"{stem}:right"])
        elif not stem:
            tensors[name] = tensor
    return tensors, biases
