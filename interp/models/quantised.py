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
BACK = "use the checkpoint it was made from, in 16 or 32 bits"
WAYS_OUT = {
    "bitsandbytes": f"{BACK}, or, where bitsandbytes is installed, save what "
    "AutoModelForCausalLM.from_pretrained(FOLDER).dequantize() gives with save_pretrained(OTHER), put the tokenizer "
    "beside it, and load that",
    "gptq": f"{BACK}; transformers does not write these weights back",
    "awq": f"{BACK}; transformers does not write these weights back",
    "gguf": "pass the GGUF file itself, which is dequantised once and kept",
}
"""What to do about a method of quantisation, where that is more than the advice for any other."""


def check_config(config: Mapping[str, Any], owner: str) -> None:
    """InputError for a config.json, or a text model's part of one, that names a quantisation."""
    for part in (config, config.get("text_config") or {}):
        found = part.get("quantization_config")
        if found:
            raise InputError(
                f"{owner} holds quantised weights ({_named(found)}), which are not supported; {_way(found)}"
            )


def _named(found: Any) -> str:
    """The method of a quantization_config, with its bits where bitsandbytes says them."""
    stated = found if isinstance(found, Mapping) else getattr(found, "to_dict", dict)()
    bits = next(
        (f", {n} bits" for n in (4, 8) if stated.get(f"load_in_{n}bit", stated.get(f"_load_in_{n}bit"))), ""
    )
    return f"{_method(found)}{bits}"


def _method(found: Any) -> str:
    stated = found if isinstance(found, Mapping) else getattr(found, "to_dict", dict)()
    method = stated.get("quant_method", "unnamed")
    return str(getattr(method, "value", method))


def _way(found: Any) -> str:
    return WAYS_OUT.get(_method(found), ADVICE)


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
            found = getattr(getattr(module, "config", None), "quantization_config", None)
            how = f" ({_named(found)})" if found else ""
            raise InputError(
                f"{owner} holds {name} as {kind}{how}, which is quantised and not supported; {_way(found)}"
            )
