"""A Hugging Face module and what can be read off it without changing it: weights, fingerprint, layers, last norm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.content import digest
from interp.core.errors import InputError
from interp.models.bridge import boot, decoder_layers, firing_hooks, odd_shapes
from interp.models.changes import of_weights, state_of
from interp.models.head import read_unembedding
from interp.models.identity import adapter_weights, facts
from interp.models.multimodal import is_multimodal, text_model
from interp.models.seam import Unembedding
from interp.models.views import (
    adapted_layers,
    check_unmerged,
    is_plain_lora,
    merged,
    merges_to_itself,
    tied_names,
    view,
    without_adapters,
)

COPIES = ("flat", "bridge", "widened")
OF_WEIGHTS = (*COPIES, "shapes", "fingerprint", "old_fingerprint", "ties")
"""What a backbone keeps that is made of the network, and of its weights; `plain` shares their storage."""


@dataclass(frozen=True, eq=False)
class Backbone:
    """The weights behind one language model; `peft` wraps the same module as `hf` when adapters are live on it.

    Raises InputError for adapter layers that no PeftModel wraps.
    """

    hf: Any
    peft: Any = None

    def __post_init__(self) -> None:
        if self.peft is None and any(adapted_layers(self.hf)):
            raise InputError(
                f"{type(self.hf).__name__} holds adapter layers outside a PeftModel; pass the PeftModel itself"
            )

    @classmethod
    def of(cls, module: Any, name: str) -> Backbone:
        """A view of `module` (PeftModel or plain) in evaluation mode with its adapters as they are set now.

        Raises InputError for an adapter that changes no weights or sits on a multimodal model.
        """
        check_unmerged(module, name)
        return cls.around(view(module), name)

    @classmethod
    def around(cls, module: Any, name: str) -> Backbone:
        """As `of`, around the module itself, which nothing else may hold; InputError where `of` raises it."""
        own = module.eval()
        if not hasattr(own, "get_base_model"):
            return cls(text_model(own, name) if is_multimodal(own.config) else own)
        if is_multimodal(own.config):
            raise InputError(
                f"{name} is an adapter on a multimodal model; merge it and pass the merged model"
            )
        if own.active_peft_config.is_prompt_learning:
            kind = own.active_peft_config.peft_type.value
            raise InputError(f"{name} has a {kind} adapter, which changes no weights; pass a LoRA or its kin")
        return cls(own.get_base_model(), own)

    def renew(self) -> None:
        """Forget what was made of the network where its weights or hooks are others now."""
        known, now = vars(self), state_of(self.hf)
        before = known.get("state", now)
        if before != now:
            made = COPIES if before[:2] == now[:2] else OF_WEIGHTS
            for name in made if before.places == now.places else ("plain", *made):
                known.pop(name, None)
        known["state"] = now

    @property
    def has_hooks(self) -> bool:
        """Whether hooks of its user's own are on the network; known since `renew`."""
        return bool(vars(self)["state"].hooks)

    @cached_property
    def config(self) -> Any:
        """The text part of the configuration."""
        return self.hf.config.get_text_config()

    @of_weights
    def plain(self) -> Backbone:
        """The backbone beneath the adapters, itself when there are none."""
        return self if self.peft is None else Backbone(without_adapters(self.hf))

    @of_weights
    def flat(self) -> Any:
        """The network with its adapters merged in, `hf` itself when there are none; made once while they stay."""
        return self.hf if self.peft is None else merged(self.hf, ties=self.plain.ties)

    @of_weights
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight by plain name, as `weights` lists them."""
        beneath = {name: tuple(weight.shape) for name, weight in self.plain.hf.named_parameters()}
        apart = {name: beneath[first] for name, first in self.plain.ties.items() if name not in self.ties}
        return beneath | apart

    @cached_property
    def adapter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of the live adapters by its name in `hf`; none without adapters."""
        named = {} if self.peft is None else dict(self.hf.named_parameters())
        own = (name for name in named if name.replace(".base_layer", "") not in self.shapes)
        return {name: tuple(named[name].shape) for name in own}

    @of_weights
    def fingerprint(self) -> str:
        """Digest of the weights and of the configuration; with live adapters, of what is beneath and of the adapters.

        An adapter without effect has the fingerprint of its backbone, so that a twin is found out.
        """
        if self.peft is None:
            return digest("model", facts(self.config), self.old_fingerprint)
        effect = self._effect()
        if not effect:
            return self.plain.fingerprint
        known = all(is_plain_lora(layer) for layer in self._adapted)  # then the factors say it all
        return digest("adapted", self.plain.fingerprint, self._adapter_weights(), None if known else effect)

    @of_weights
    def old_fingerprint(self) -> str:
        """The fingerprint before it covered the configuration, by which folders of version 0.1 know their members."""
        if self.peft is None:
            return digest("weights", self.weights())
        if not self._effect():
            return self.plain.old_fingerprint
        return digest("adapted", self.plain.old_fingerprint, self._adapter_weights())

    @property
    def _adapted(self) -> list[Any]:
        return [layer for _, layer in adapted_layers(self.hf)]

    def _adapter_weights(self) -> dict[str, Any]:
        return adapter_weights(self.peft, self._adapted)

    @cached_property
    def _is_lora(self) -> bool:
        """Whether plain LoRA on layers of their own weights is all that the adapters are."""
        tied = {*self.plain.ties, *self.plain.ties.values()}
        return all(
            is_plain_lora(layer) and f"{name}.weight" not in tied for name, layer in adapted_layers(self.hf)
        )

    def _effect(self) -> bool | dict[str, Tensor]:
        """Effective weights that are not those beneath the adapters, narrow ones merged in fp32.

        Of plain LoRA, whether there is one: the first layer with an effect tells.
        """
        wide = self.hf.dtype in (torch.float16, torch.bfloat16)
        if self._is_lora:
            return not all(merges_to_itself(layer, wide=wide) for layer in self._adapted)
        beneath, ties = self.plain.weights(), self.plain.ties
        found = self.weights(wide=wide)
        return {
            name: weight
            for name, weight in found.items()
            if not torch.equal(weight, beneath[ties.get(name, name)].to(weight.dtype))
        }

    @of_weights
    def ties(self) -> dict[str, str]:
        """Further names of weights that stand in several places, such as a tied output matrix, and their first name."""
        return self.plain.ties if self.peft is not None and self._is_lora else tied_names(self.flat)

    def weights(self, *, wide: bool = False) -> dict[str, Tensor]:
        """Effective weights by plain name, adapters merged in; nothing but adapted tensors is copied.

        `wide` merges in fp32 at least, where an adapter's effect is not rounded to narrow weights.
        """
        apart = wide and self.peft is not None
        module = merged(self.hf, ties=self.plain.ties, wide=True) if apart else self.flat
        return {name: weight.detach() for name, weight in module.named_parameters()}

    @cached_property
    def layers(self) -> nn.ModuleList:
        """The decoder layers in order; InputError for a module without such a list."""
        return decoder_layers(self.hf)

    @of_weights
    def bridge(self) -> Any:
        """A TransformerBridge over the same storage, adapters merged in.

        It splits fused projections into q, k, v from the plain weight, where it would lose a live adapter.
        """
        return boot(view(self.flat))

    @cached_property
    def hook_names(self) -> tuple[str, ...]:
        """Every hook name of the bridge that fires; adapters add none to those beneath."""
        return firing_hooks(self.bridge) if self.peft is None else self.plain.hook_names

    @cached_property
    def odd_hooks(self) -> dict[str, tuple[int, ...]]:
        """The hooks whose values are not [example, position, ...], with their shape for two rows of three tokens."""
        return odd_shapes(self.bridge, self.hook_names) if self.peft is None else self.plain.odd_hooks

    def unembedding(self) -> Unembedding:
        """The final norm and output matrix, in the dtype of the weights."""
        return read_unembedding(self.flat, decoder_layers(self.flat))
