"""A Hugging Face module and what can be read off it without changing it: views, merged adapters, layers, last norm.

A view is a structural copy over the same storage: W is shared, modules are not, so a bridge or an adapter may rewrite
the copy's modules while the original stays what it was. Merged: W + Σ_adapters scaling · B A (LoRA, arXiv 2106.09685).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from interp.models.bridge import boot, firing_hooks
from interp.models.head import read_unembedding
from interp.models.multimodal import is_multimodal, text_model
from interp.models.seam import Unembedding
from interp.runs import InputError, digest


def view(module: nn.Module) -> nn.Module:
    """The same weights under modules of its own; `requires_grad` set on one side does not reach the other.

    Raises InputError for a module that holds activations of a past pass with their graph.
    """
    memo: dict[int, Any] = {id(buffer): buffer for buffer in module.buffers()}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    try:
        return copy.deepcopy(module, memo)
    except RuntimeError as error:  # a recurrent state with its graph
        raise InputError(
            f"{type(module).__name__} keeps what a pass with gradients left in it, so it cannot be copied; use another "
            "architecture"
        ) from error


def adapted_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and module of every layer PEFT put in the place of a plain one, outermost only."""
    found: list[str] = []
    for name, layer in list(module.named_modules()):
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if hasattr(layer, "adapter_layer_names") and not inside:
            found.append(name)
            yield name, layer


def without_adapters(module: nn.Module) -> nn.Module:
    """A view with plain layers only, as they were before PEFT."""
    plain = view(module)
    for name, layer in adapted_layers(plain):
        _put(plain, name, layer.get_base_layer() if _is_tuner(layer) else layer.original_module)
    return plain


def merged(module: nn.Module) -> nn.Module:
    """A view with plain layers only whose adapted weights are new tensors holding the active adapters' effect."""
    plain = view(module)
    for name, layer in adapted_layers(plain):
        layer = getattr(layer, "token_adapter", layer)
        _put(plain, name, _merged_layer(layer) if _is_tuner(layer) else _saved_module(layer))
    return plain


def _merged_layer(layer: Any) -> nn.Module:
    """The layer beneath, its weights replaced by merged copies unless the adapters are off."""
    base = layer.get_base_layer()
    if not layer.disable_adapters:
        for key, weight in list(base.named_parameters(recurse=False)):
            base.register_parameter(key, nn.Parameter(weight.detach().clone(), requires_grad=False))
        layer.merge()
    return layer.get_base_layer()


def _is_tuner(layer: Any) -> bool:
    """Whether the layer computes an adapter (LoRA and its kin), rather than holding a trained full copy."""
    return "base_layer" in layer._modules


def check_unmerged(module: nn.Module, name: str) -> None:
    """InputError when an adapter was already folded into the weights beneath it, which hides the base."""
    for layer_name, layer in adapted_layers(module):
        if getattr(layer, "merged_adapters", None):
            raise InputError(
                f"{name} has its adapter merged in place at {layer_name}, so its base is gone; "
                "call unmerge_adapter() first, or pass merge_and_unload() as a model of its own"
            )


def _saved_module(layer: Any) -> nn.Module:
    """The trained full copy of a layer (modules_to_save), or the original while adapters are off."""
    active = [name for name in layer.active_adapters if name in layer.modules_to_save]
    return (
        layer.modules_to_save[active[0]] if active and not layer.disable_adapters else layer.original_module
    )


def _put(root: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, layer)


@dataclass(frozen=True, eq=False)
class Backbone:
    """The weights behind one language model; `peft` wraps the same module as `hf` when adapters are live on it."""

    hf: Any
    peft: Any = None

    @classmethod
    def of(cls, module: Any, name: str) -> Backbone:
        """A view of `module` (PeftModel or plain) in evaluation mode with its adapters as they are set now.

        Raises InputError for an adapter that changes no weights, and for adapter layers outside a PeftModel.
        """
        check_unmerged(module, name)
        own: Any = view(module).eval()
        if not hasattr(own, "get_base_model"):
            if any(adapted_layers(own)):
                raise InputError(
                    f"{name} holds adapter layers outside a PeftModel; pass the PeftModel itself"
                )
            return cls(text_model(own, name) if is_multimodal(own.config) else own)
        if is_multimodal(own.config):
            raise InputError(
                f"{name} is an adapter on a multimodal model; merge it and pass the merged model"
            )
        if own.active_peft_config.is_prompt_learning:
            kind = own.active_peft_config.peft_type.value
            raise InputError(f"{name} has a {kind} adapter, which changes no weights; pass a LoRA or its kin")
        return cls(own.get_base_model(), own)

    @cached_property
    def config(self) -> Any:
        """The text part of the configuration."""
        return self.hf.config.get_text_config()

    @cached_property
    def plain(self) -> Backbone:
        """The backbone beneath the adapters, itself when there are none."""
        return self if self.peft is None else Backbone(without_adapters(self.hf))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight by plain name."""
        return {name: tuple(weight.shape) for name, weight in self.plain.hf.named_parameters()}

    @cached_property
    def adapter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of the live adapters by its name in `hf`; none without adapters."""
        named = {} if self.peft is None else dict(self.hf.named_parameters())
        own = (name for name in named if name.replace(".base_layer", "") not in self.shapes)
        return {name: tuple(named[name].shape) for name in own}

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the weights; with live adapters, of the weights beneath and of the adapters' own tensors.

        An adapter without effect has the fingerprint of its backbone, so that a twin is found out.
        """
        if self.peft is None:
            return digest("weights", self.weights())
        if _same(self.weights(), self.plain.weights()):
            return self.plain.fingerprint
        return digest("adapted", self.plain.fingerprint, adapter_weights(self.peft))

    def weights(self) -> dict[str, Tensor]:
        """Effective weights by plain name, adapters merged in; nothing but adapted tensors is copied."""
        module = self.hf if self.peft is None else merged(self.hf)
        return {name: weight.detach() for name, weight in module.named_parameters()}

    @cached_property
    def layers(self) -> nn.ModuleList:
        """The decoder layers in order.

        Raises InputError for a module without such a list.
        """
        count = self.config.num_hidden_layers
        for module in self.hf.base_model.modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return module
        raise InputError(
            f"{type(self.hf).__name__} has no list of {count} decoder layers; pass a decoder-only causal language model"
        )

    @cached_property
    def bridge(self) -> Any:
        """A TransformerBridge over the same storage, adapters merged in.

        It splits fused projections into q, k, v from the plain weight, where it would lose a live adapter.
        """
        return boot(view(self.hf) if self.peft is None else merged(self.hf))

    @cached_property
    def hook_names(self) -> tuple[str, ...]:
        """Every hook name of the bridge that fires."""
        return firing_hooks(self.bridge)

    def unembedding(self) -> Unembedding:
        """The final norm and output matrix, in the dtype of the weights."""
        plain = self if self.peft is None else Backbone(merged(self.hf))
        return read_unembedding(plain.hf, plain.layers)


def adapter_weights(peft: Any) -> dict[str, Any]:
    """The active adapters' tensors (fp32) and scalings, under names without the adapter's own name."""
    from peft import get_peft_model_state_dict

    found: dict[str, Any] = {}
    for index, adapter in enumerate(sorted(peft.active_adapters)):
        state = get_peft_model_state_dict(peft, adapter_name=adapter, save_embedding_layers=False)
        found |= {f"{index}:{name}": tensor.detach().float() for name, tensor in state.items()}
        found[f"{index}:scaling"] = [
            float(layer.scaling[adapter])
            for _, layer in adapted_layers(peft)
            if adapter in getattr(layer, "scaling", ())
        ]
    return found


def _same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
