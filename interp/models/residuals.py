"""The residual stream of a plain network, with its graph: before, in the middle of and after a decoder layer.

What is differentiated is read here, off any network of the model's shape: merged or with live adapters, as it is or in
training. hook_resid_mid, between attention and MLP, is what the layer's second norm reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InputError, nearest
from interp.models.bridge import Stop, at_layer, decoder_layers
from interp.models.views import unwrapped

if TYPE_CHECKING:
    from interp.models.language import LanguageModel
    from interp.prompts.tokens import Encoded

ENDS = ("pre", "mid", "post")
SITE = re.compile(rf"blocks\.(\d+)\.hook_resid_({'|'.join(ENDS)})")


@dataclass(frozen=True)
class ResidualSite:
    """A hook of the residual stream in a plain network: what enters ("pre") or leaves ("post") a layer or a part of it.

    `part` is the part's name in the layer, "" for the layer itself.
    """

    hook: str
    layer: int
    part: str
    end: str

    @classmethod
    def of(cls, model: LanguageModel, hook: str) -> Self:
        """The site of that hook; InputError off the residual stream, and for a middle that the layers do not have."""
        match = SITE.fullmatch(hook)
        if match is None or int(match[1]) >= model.n_layers:
            known = [f"blocks.{layer}.hook_resid_{end}" for layer in range(model.n_layers) for end in ENDS]
            raise InputError(f"hook {nearest(hook, known)}; a gradient is read on the residual stream")
        layer, end = int(match[1]), match[2]
        if end != "mid":
            return cls(hook, layer, "", end)
        if hook not in model.hook_names:
            raise InputError(
                f"{model.name} has no {hook}, its attention and MLP read one stream; take "
                f"blocks.{layer}.hook_resid_pre or hook_resid_post"
            )
        block = model.bridge.blocks[layer]
        reader = block.hook_aliases["hook_resid_mid"].removesuffix(".hook_in")
        return cls(hook, layer, block.submodules[reader].name, "pre")

    def read(self, network: Any, batch: Encoded) -> Float[Tensor, "example pos d_model"]:
        """The stream of a Hugging Face module or a PeftModel over these rows; the pass ends there."""
        plain = unwrapped(network)
        layer = decoder_layers(plain)[self.layer]
        found: list[Tensor] = []

        def keep(h: Tensor) -> None:
            found.append(h)
            raise Stop

        handle = at_layer(layer.get_submodule(self.part), self.end, keep)
        ids, mask = batch.ids.to(plain.device), batch.mask.to(plain.device).long()
        try:
            plain.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        except Stop:
            return found[0]
        finally:
            handle.remove()
        return found[0]
