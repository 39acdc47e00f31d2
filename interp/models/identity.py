"""What a model's fingerprint is made of: everything that changes the function it computes.

fingerprint = digest(configuration, weights); with adapters digest(fingerprint beneath, adapters, weights they change).
Of the configuration every field counts that the architecture declares, whatever its name, but for those that only
concern training from nothing, decoding or output; numbers count by value (10000 equals 10000.0). A model whose network
has hooks of its user's own computes another function, so that its fingerprint is another one too.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interp.core.content import digest

SILENT = frozenset(
    {
        "architectures", "bos_token_id", "decoder_start_token_id", "dtype", "eos_token_id", "initializer_factor",
        "initializer_range", "output_router_logits", "pad_token_id", "pretraining_tp", "router_aux_loss_coef",
        "router_z_loss_coef", "sep_token_id", "torch_dtype", "transformers_version", "use_cache",
        "tie_word_embeddings",  # which weights are shared is told by their names
    }
)  # fmt: skip
"""Fields that no forward pass of an evaluated model reads."""
TRAINING = ("dropout", "pdrop", "max_position_embeddings", "n_positions", "vocab_size")
"""Parts of field names whose change between a start and its member is usual; they are said and not refused."""

PROCESS = uuid.uuid4().hex
"""What tells this process from every other: nothing can be said of a function that somebody hooks in."""
LIBRARIES = ("accelerate", "interp", "peft", "torch", "transformer_lens", "transformers")


def own_hooks(model: Any) -> tuple[Any, ...]:
    """The hooks that no library here put on the model's network, by module and number, with this process.

    Nothing without such hooks. With them it is this process's alone, so that what is kept of the plain weights is
    neither read nor written under a fingerprint that holds it.
    """
    network = getattr(model, "hf", None)
    found = [
        (place, number)
        for place, module in ([] if network is None else network.named_modules())
        for number in hooks_of(module)
    ]
    return (PROCESS, found) if found else ()


def hooks_of(module: Any) -> list[int]:
    """The numbers of a module's own hooks, forwards and backwards, that no library here put on it."""
    forwards = module._forward_pre_hooks, module._forward_hooks
    every = *forwards, module._backward_pre_hooks, module._backward_hooks
    if not any(every):
        return []  # as of nearly all modules, which are asked whenever a fingerprint is
    put = [item for hooks in every for item in hooks.items()]
    return [number for number, function in put if _author(function) not in LIBRARIES]


def hooked(model: Any) -> str:
    """The fingerprint of a model's weights, another one in every process under hooks that no library here put on."""
    weights = model.backbone.fingerprint
    return digest(weights, *own_hooks(model)) if model.backbone.has_hooks else weights


def weights_print(model: Any) -> str:
    """The fingerprint of a model's weights, whatever hooks are on its network."""
    backbone = getattr(model, "backbone", None)
    return model.fingerprint if backbone is None else backbone.fingerprint


def _author(function: Any) -> str:
    """The package that a function is written in."""
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    return (getattr(function, "__module__", None) or type(function).__module__).partition(".")[0]


def facts(config: Any) -> dict[str, Any]:
    """The fields of a configuration that its function depends on, as plain values, with its `model_type`."""
    from transformers import PretrainedConfig

    common = PretrainedConfig().to_dict().keys() - {"is_encoder_decoder", "chunk_size_feed_forward"}
    kept = {name: _plain(value) for name, value in config.to_dict().items() if _counts(name, common)}
    return {**kept, "model_type": config.model_type}


def _counts(name: str, common: Any) -> bool:
    return name not in SILENT and name not in common and not name.startswith(("_", "summary_"))


def _plain(value: Any) -> Any:
    """A configuration's value as JSON would give it back, whole floats as integers and absent keys left out."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configurations differ, with both values."""
    names = sorted(one.keys() | other.keys())
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def is_usual(field: str) -> bool:
    """Whether training tools change this field beside the weights."""
    return any(part in field for part in TRAINING)


def adapter_weights(peft: Any, layers: Any) -> dict[str, Any]:
    """The active adapters' tensors (fp32) and scalings, under names without the adapter's own name."""
    from peft import get_peft_model_state_dict

    found: dict[str, Any] = {}
    for index, adapter in enumerate(sorted(peft.active_adapters)):
        state = get_peft_model_state_dict(peft, adapter_name=adapter, save_embedding_layers=False)
        found |= {f"{index}:{name}": _single(tensor) for name, tensor in state.items()}
        found[f"{index}:scaling"] = [
            float(layer.scaling[adapter]) for layer in layers if adapter in getattr(layer, "scaling", ())
        ]
    return found


def _single(tensor: Tensor) -> Tensor:
    return tensor.detach().float()
