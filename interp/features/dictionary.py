"""A dictionary: a sparse autoencoder at a hook, and what it says of an activation there.

h = Σ_j f_j(h) s(h) d_j + b + e: features f_j ≥ 0, few of them not zero; rows d_j of the decoder; the error e, what is
not reconstructed. The scale s is 1 unless the autoencoder normalises its input. Where |h| is beyond the dictionary's
limit, as at an attention sink that its training left out, f = 0, and all but the bias is error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.core.runs import InputError, digest
from interp.models.seam import check_hooks, lineage_root

if TYPE_CHECKING:
    from interp.models.seam import Model

NEURONPEDIA = "https://neuronpedia.org"
SCALED = ("layer_norm", "constant_norm_rescale")  # normalisations that differ from activation to activation
BLOCK = 2**24  # values of features held at a time


@dataclass(frozen=True, eq=False, repr=False)
class Dictionary:
    """A SAELens autoencoder in its inference form at `hook`, for models that descend from the weights `lineage`.

    `notes` say what every result made with it has to say, such as that it was trained on another model. `neuronpedia`
    is the identifier under which its features are shown there, empty when they are not. `limit` is ten times the median
    norm of the activations it was trained on; `dataclasses.replace(dictionary, limit=math.inf)` reads all the same.
    """

    sae: Any = field(repr=False)
    hook: str
    label: str
    lineage: str
    notes: tuple[str, ...] = ()
    neuronpedia: str = ""
    limit: float = math.inf

    @property
    def d_in(self) -> int:
        """Width of the activations it reads, heads flattened."""
        return self.sae.cfg.d_in

    @property
    def width(self) -> int:
        """Number of features."""
        return self.sae.cfg.d_sae

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all that changes what it gives: its weights, the rest of its configuration, the hook it reads."""
        weights = {name: tensor.detach().cpu() for name, tensor in self.sae.state_dict().items()}
        apart = ("metadata", "device", "dtype")
        settings = {name: value for name, value in self.sae.cfg.to_dict().items() if name not in apart}
        limit = () if math.isinf(self.limit) else (self.limit,)
        return digest("dictionary", self.hook, settings, weights, *limit)

    @cached_property
    def decoder(self) -> Float[Tensor, "feature d_in"]:
        """d_j: what one unit of a feature adds to the activation, before the scale, in fp32 on CPU."""
        weight = self.sae.W_dec.detach().float().cpu()
        if getattr(self.sae.cfg, "rescale_acts_by_decoder_norm", False):
            weight = weight / weight.norm(dim=1, keepdim=True)
        return weight

    @torch.no_grad()
    def encode(self, h: Float[Tensor, "*row d_in"]) -> Float[Tensor, "*row feature"]:
        """Features of activations, in fp32 on the device of `h`."""
        return self.split(h)[0]

    @torch.no_grad()
    def reconstruct(self, h: Float[Tensor, "*row d_in"]) -> Float[Tensor, "*row d_in"]:
        """h − e: what the features and the bias make of an activation."""
        return self.split(h)[1]

    def scale(self, h: Float[Tensor, "*row d_in"]) -> Float[Tensor, "*row 1"]:
        """s(h): the factor of one unit of a feature, apart from its decoder row."""
        kind = self.sae.cfg.normalize_activations
        if kind not in SCALED:
            return torch.ones_like(h[..., :1])
        if kind == "layer_norm":
            return h.std(dim=-1, keepdim=True)
        return h.norm(dim=-1, keepdim=True) / self.d_in**0.5

    def check(self, model: Model) -> None:
        """InputError unless `model` has the hook and descends from the weights this dictionary belongs to."""
        check_hooks(model, (self.hook,))
        root = lineage_root(model)
        if root != self.lineage:
            raise InputError(
                f"dictionary {self.label} belongs to models that descend from {self.lineage}, and {model.name} "
                f"descends from {root}; train one on its base, or load this one with allow_transfer=True"
            )
        if self.hook.endswith(("hook_resid_pre", "hook_resid_post")) and model.d_model != self.d_in:
            raise InputError(
                f"dictionary {self.label} reads activations of width {self.d_in}, and {model.name} has {model.d_model} "
                f"at {self.hook}; load a dictionary of this model"
            )

    def link(self, feature: int) -> str:
        """Address of a feature's page on Neuronpedia, empty when this dictionary is not shown there."""
        self.check_features([feature])
        return f"{NEURONPEDIA}/{self.neuronpedia}/{feature}" if self.neuronpedia else ""

    def check_features(self, features: Any) -> None:
        """InputError for a feature that does not exist."""
        for feature in features:
            if not 0 <= int(feature) < self.width:
                raise InputError(
                    f"there is no feature {feature}; {self.label} has features 0 to {self.width - 1}"
                )

    def rows_at_once(self) -> int:
        """Activations whose features fit the memory this package allows itself at a time."""
        return max(1, BLOCK // self.width)

    def __repr__(self) -> str:
        kind = self.sae.cfg.architecture()
        return f"Dictionary({self.label}: {kind}, {self.width} features of {self.d_in} at {self.hook})"

    @torch.no_grad()
    def split(
        self, h: Float[Tensor, "*row d_in"]
    ) -> tuple[Float[Tensor, "*row feature"], Float[Tensor, "*row d_in"]]:
        """Features and reconstruction in one go; InputError for activations of another width."""
        if h.shape[-1] != self.d_in:
            raise InputError(
                f"dictionary {self.label} reads activations of width {self.d_in}, not {h.shape[-1]}; "
                f"give it those of {self.hook}"
            )
        features = self.sae.encode(h.to(self.sae.device, torch.float32))
        beyond = self.beyond(h)
        if beyond.any():
            features = features.masked_fill(beyond[..., None].to(features.device), 0)
        return features.to(h.device, torch.float32), self.sae.decode(features).to(h)

    def beyond(self, h: Float[Tensor, "*row d_in"]) -> Bool[Tensor, "*row"]:
        """Which activations stand out in norm, so that this dictionary does not speak for them."""
        return h.norm(dim=-1) > self.limit
