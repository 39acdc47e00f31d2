"""Quantised weights are refused: their stored numbers are not the weights, and no update can be added to them.

A file of 8-bit floats without its scales loads without a word, as other weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from interp.core.errors import InputError

PLAIN = ("F64", "F32", "F16", "BF16")
ADVICE = "use the checkpoint in 16 or 32 bits, or dequantize() it with transformers and save that"


def check_config(config: Mapping[str, Any], owner: str) -> None:
    """InputError for a config.json, or a text model's part of one, that names a quantisation."""
    for part in (config, config.get("text_config") or {}):
        found = part.get("quantization_config")
        if found:
            method = found.get("quant_method", "unnamed") if isinstance(found, Mapping) else "unnamed"
            raise InputError(f"{owner} holds quantised weights ({method}), which are not supported; {ADVICE}")


def check_stored(dtypes: Mapping[str, str], owner: str) -> None:
    """InputError for a weight stored as anything but a float of 16 bits or more; masks and counters may be."""
    for name, dtype in dtypes.items():
        if dtype not in PLAIN and (name.endswith("weight") or dtype.startswith("F")):
            raise InputError(
                f"{owner} stores {name} as {dtype}, which is quantised and not supported; {ADVICE}"
            )


def check_module(module: torch.nn.Module, owner: str) -> None:
    """InputError for a module in memory with such a weight."""
    for name, weight in module.named_parameters():
        if not weight.is_floating_point() or weight.element_size() < 2:
            kind = str(weight.dtype).removeprefix("torch.")
            raise InputError(
                f"{owner} holds {name} as {kind}, which is quantised and not supported; {ADVICE}"
            )
