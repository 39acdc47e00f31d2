"""Views of a module over the same storage, with adapters taken off or merged in, and which of its weights are tied.

A view is a structural copy: W is shared, modules are not, so a bridge or an adapter may rewrite the copy's modules
while the original stays what it was. Merged: W + Σ_adapters scaling · B A (LoRA, arXiv 2106.09685), by PEFT's own
merge for every kind of adapter, into new tensors.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import InputError
from interp.models.loading import first_line

EMPTY = (dict, OrderedDict, set)


def view(
    module: nn.Module,
    change: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    instead: Mapping[nn.Module, nn.Module] = MappingProxyType({}),
) -> nn.Module:
    """The same weights under modules of its own; `requires_grad` set on one side does not reach the other.

    What `change` makes of a weight or buffer takes its place, and a view of what `instead` names that of a module.
    Raises InputError for a module that holds activations of a past pass with their graph.
    """
    memo: dict[int, Any] = {id(buffer): change(buffer) for buffer in module.buffers()}
    for parameter in module.parameters():
        own = change(parameter.detach())
        memo[id(parameter)] = nn.Parameter(own, requires_grad=parameter.requires_grad)
    memo |= _empty_copies(module)
    try:
        memo |= {id(outer): copy.deepcopy(inner, memo) for outer, inner in instead.items()}
        return copy.deepcopy(module, memo)
    except RuntimeError as error:  # a recurrent state with its graph
        raise InputError(
            f"{type(module).__name__} keeps what a pass with gradients left in it, so it cannot be copied; use another "
            "architecture"
        ) from error


def _empty_copies(module: nn.Module) -> dict[int, Any]:
    """Copies of empty tables of hooks, of which every module has a dozen: most of what deepcopy would be busy with."""
    held = (value for each in module.modules() for value in vars(each).values())
    return {id(value): type(value)() for value in held if type(value) in EMPTY and not value}


class Asked(nn.Module):
    """A function of a network as a module, so that `functional_call` reaches its weights, under `network.`"""

    def __init__(self, network: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network, self.function = network, function

    def forward(self, *given: Any) -> Tensor:
        return self.function(self.network, *given)


def adapted_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and module of every layer PEFT put in the place of a plain one, outermost only."""
    outer = " "
    for name, layer in list(module.named_modules()):  # what is inside of one follows it
        if not name.startswith(outer) and hasattr(layer, "adapter_layer_names"):
            outer = f"{name}."
            yield name, layer


def unwrapped(network: Any) -> Any:
    """The network beneath PEFT's wrapper, adapters in it, or itself where there is none."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network


def without_adapters(module: nn.Module) -> nn.Module:
    """A view with plain layers only, as they were before PEFT."""
    beneath = {
        layer: layer.get_base_layer() if _is_tuner(layer) else layer.original_module
        for _, layer in adapted_layers(module)
    }
    return view(module, instead=beneath)


def merged(module: nn.Module, *, ties: Mapping[str, str] | None = None, wide: bool = False) -> nn.Module:
    """A view with plain layers only whose adapted weights are new tensors holding the active adapters' effect.

    `wide` merges narrow floats in fp32, where the effect is not rounded to the weight. Weights that were tied before,
    which `ties` names if that is known, and are still equal are tied again. Raises InputError for an adapter that PEFT
    cannot merge.
    """
    ties = tied_names(without_adapters(module)) if ties is None else ties
    plain = view(module)
    for name, layer in adapted_layers(plain):
        layer = getattr(layer, "token_adapter", layer)
        put(plain, name, _merged_layer(layer, wide=wide) if _is_tuner(layer) else _saved_module(layer))
    for alias, first in ties.items():
        one, other = plain.get_parameter(first), plain.get_parameter(alias)
        if one is not other and torch.equal(one, other):
            owner, _, leaf = alias.rpartition(".")
            setattr(plain.get_submodule(owner), leaf, one)
    return plain


def merges_to_itself(layer: Any, *, wide: bool) -> bool:
    """Whether a layer with a plain LoRA adapter, merged as `merged` does, has the weights beneath the adapter."""
    beneath = dict(layer.get_base_layer().named_parameters())
    merged_weights = _merged_layer(view(layer), wide=wide).named_parameters()
    return all(torch.equal(weight, beneath[name].to(weight.dtype)) for name, weight in merged_weights)


def _merged_layer(layer: Any, *, wide: bool) -> nn.Module:
    """The layer beneath, its weights replaced by merged copies unless the adapters are off.

    One module may be wrapped several times, once for each of its parameters that is adapted.
    """
    base = layer.get_base_layer()
    if layer.disable_adapters:
        return base
    for key, weight in list(base.named_parameters(recurse=False)):
        dtype = torch.promote_types(weight.dtype, torch.float32) if wide else weight.dtype
        own = weight.detach().to(dtype, copy=True)
        base.register_parameter(key, nn.Parameter(own, requires_grad=False))
    wrappers = [layer]
    while wrappers[-1].base_layer is not base:
        wrappers.append(wrappers[-1].base_layer)
    for wrapper in wrappers:
        try:
            wrapper.merge()
        except (NotImplementedError, RuntimeError, ValueError, AttributeError, TypeError) as error:
            raise InputError(
                f"a {type(wrapper).__name__} adapter changes more than weights or cannot be merged into them "
                f"({first_line(error)}); pass an adapter that PEFT's merge_and_unload takes"
            ) from error
    return layer.get_base_layer()


def _is_tuner(layer: Any) -> bool:
    """Whether the layer computes an adapter (LoRA and its kin), rather than holding a trained full copy."""
    return "base_layer" in layer._modules


def is_plain_lora(layer: Any) -> bool:
    """Whether the layer adds scaling · B A to its weight and does nothing else."""
    from peft.tuners.lora.layer import Linear

    active = layer.active_adapters
    return (
        type(layer) is Linear
        and not layer.disable_adapters
        and not any(layer.lora_bias.get(adapter) or adapter in layer.lora_variant for adapter in active)
    )


def is_transposed(layer: Any) -> bool:
    """Whether the layer, adapted or plain, stores its weight as [input, output], as GPT-2's do."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer, Conv1D)


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


def put(root: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a module in the place of that name."""
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, layer)


def tied_names(module: nn.Module) -> dict[str, str]:
    """Every further name of a shared parameter, and the first one, under which `named_parameters` lists it."""
    first = {id(weight): name for name, weight in module.named_parameters()}
    return {
        name: first[id(weight)]
        for name, weight in module.named_parameters(remove_duplicate=False)
        if first[id(weight)] != name
    }


def untie(module: nn.Module, names: Mapping[str, str]) -> None:
    """Give every named alias of a shared parameter a parameter of its own over the same storage."""
    for alias, first in names.items():
        weight = module.get_parameter(alias)
        if weight is module.get_parameter(first):
            owner, _, leaf = alias.rpartition(".")
            own = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
            setattr(module.get_submodule(owner), leaf, own)
