"""A classifier behind the seam: h_l = relu(h_{l-1} W_l + b_l), h_0 the image's pixels; logits = h_L W_U + b_U.

An image is a row of one position, so whatever reads rows reads images. `blocks.{l}.hook_resid_post` is h_{l+1}: the
name every verb looks for, though nothing is added to it on the way; the last one is what the unembedding reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from interp.core.runs import InputError, digest
from interp.models.seam import Unembedding, check_finite, check_hooks, opened
from interp.prompts.tokens import Encoded, Role

if TYPE_CHECKING:
    from interp.models.seam import Model


@dataclass(frozen=True)
class Images(Encoded):
    """Images as rows of one position, named "last", "prompt" and "all"; `ids` holds the label, 0 without one."""

    pixels: Float[Tensor, "example pixel"] = field(kw_only=True)

    @classmethod
    def of(cls, pixels: Float[Tensor, "example pixel"], labels: Int[Tensor, "example"] | None = None) -> Self:
        """Rows of pixels in [−1, 1], with the digit each one shows if it is known.

        Raises InputError for no images.
        """
        if len(pixels) == 0:
            raise InputError("0 images were given; pass at least one row of pixels")
        ids = torch.zeros(len(pixels), 1, dtype=torch.long) if labels is None else labels[:, None].long()
        mask = torch.ones(len(pixels), 1, dtype=torch.bool)
        roles = torch.full((len(pixels), 1), int(Role.PROMPT))
        return cls(ids=ids, mask=mask, roles=roles, label="images", pixels=pixels)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of pixels and labels."""
        return digest("images", self.pixels.cpu(), self.ids.cpu())

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> Self:
        """The chosen images."""
        rows = index if isinstance(index, slice) else torch.as_tensor(index, device=self.ids.device)
        chosen = {name: getattr(self, name)[rows] for name in ("ids", "mask", "roles", "pixels")}
        return replace(self, **chosen)


class Network(HookedRootModule):
    """The hooked network of layers (W [in out], b [out]), the last of which writes the logits."""

    def __init__(self, layers: Sequence[tuple[Float[Tensor, "_in _out"], Float[Tensor, "_out"]]]) -> None:
        super().__init__()
        self.hook_input = HookPoint()
        self.blocks = nn.ModuleList([Block(weight, bias) for weight, bias in layers[:-1]])
        self.unembed = nn.ParameterDict({"W_U": _own(layers[-1][0]), "b_U": _own(layers[-1][1])})
        self.setup()

    def forward(self, pixels: Float[Tensor, "example pos pixel"]) -> Float[Tensor, "example pos logit"]:
        """Logits of the images."""
        resid = self.hook_input(pixels)
        for block in self.blocks:
            resid = block(resid)
        return resid @ self.unembed["W_U"] + self.unembed["b_U"]


class Block(nn.Module):
    """relu(x W + b), hooked before and after the relu."""

    def __init__(self, weight: Float[Tensor, "_in _out"], bias: Float[Tensor, "_out"]) -> None:
        super().__init__()
        self.W, self.b = _own(weight), _own(bias)
        self.hook_pre, self.hook_resid_post = HookPoint(), HookPoint()

    def forward(self, x: Float[Tensor, "example pos _in"]) -> Float[Tensor, "example pos _out"]:
        """What the next layer reads."""
        return self.hook_resid_post(torch.relu(self.hook_pre(x @ self.W + self.b)))


@dataclass(frozen=True, eq=False)
class Classifier:
    """A multilayer perceptron behind the seam; `start` is the network it was trained from, None if untrained."""

    name: str
    network: Network = field(repr=False)
    start: Model | None = field(repr=False, default=None)
    _edits: list[tuple[str, Callable[[Tensor], Tensor]]] = field(repr=False, init=False, default_factory=list)
    reads: ClassVar[str] = "images"

    @classmethod
    def of(
        cls,
        name: str,
        layers: Sequence[tuple[Float[Tensor, "_in _out"], Float[Tensor, "_out"]]],
        *,
        start: Model | None = None,
    ) -> Classifier:
        """A classifier over copies of the layers (W [in out], b [out]); InputError where a value is not finite."""
        if len(layers) < 2:
            raise InputError(
                f"{name} has {len(layers)} layers; give at least a hidden one and the unembedding"
            )
        model = cls(name, Network(layers), start)
        check_finite(model.parameters(), name)
        return model

    @property
    def fingerprint(self) -> str:
        """16 hex characters that name the weights."""
        return digest("classifier", self.parameters())

    @property
    def tokenizer(self) -> None:
        """None: a classifier reads images."""
        return None

    @property
    def hook_names(self) -> tuple[str, ...]:
        """Every hook name, in the order of the forward pass."""
        hidden = (
            f"blocks.{k}.{name}" for k in range(self.n_layers) for name in ("hook_pre", "hook_resid_post")
        )
        return ("hook_input", *hidden)

    @property
    def n_layers(self) -> int:
        """Hidden layers."""
        return len(self.network.blocks)

    @property
    def d_model(self) -> int:
        """Width of the last hidden layer, which the unembedding reads."""
        return self.network.unembed["W_U"].shape[0]

    @property
    def device(self) -> torch.device:
        return self.network.unembed["W_U"].device

    def encode(self, prompts: Images | Any) -> Images:
        """The images as they are; InputError for rows of text."""
        if not isinstance(prompts, Images):
            raise InputError(
                f"{self.name} reads images, not {type(prompts).__name__}; pass Images.of(pixels)"
            )
        return prompts

    def batches(self, inputs: Images | Any, size: int) -> Iterator[Images]:
        """Consecutive images, `size` at a time, order kept."""
        return self.encode(inputs).batches(size)

    @torch.no_grad()
    def logits(self, batch: Images | Any) -> Float[Tensor, "example pos logit"]:
        """Class logits, then auxiliary logits, of every image, at its one position."""
        with self._listening(self._edits):
            return self.network(self._pixels(batch))

    @torch.no_grad()
    def run(self, batch: Images | Any, *, hooks: Sequence[str]) -> dict[str, Float[Tensor, "example ..."]]:
        """Activations [example pos width] by hook name, `hooks` in place; InputError for a name unknown."""
        check_hooks(self, hooks)
        found: dict[str, Tensor] = {}
        with self._listening([*self._edits, *((name, _keep(name, found)) for name in hooks)]):
            self.network(self._pixels(batch))
        return {name: found[name] for name in hooks}

    @contextmanager
    def hooks(self, fwd: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
        """While open, `logits` and `run` see each named activation replaced by what its function returns."""
        check_hooks(self, fwd)
        with opened(self._edits, fwd):
            yield

    def unembedding(self) -> Unembedding:
        """The last layer, without a norm; its `logits` of the last hidden layer are the classifier's."""
        weight, bias = (self.network.unembed[name].detach() for name in ("W_U", "b_U"))
        ones, zeros = weight.new_ones(self.d_model), weight.new_zeros(self.d_model)
        return Unembedding(weight, bias, "none", ones, zeros, 0.0)

    def attention_output(self, layer: int) -> NoReturn:
        """InputError: a multilayer perceptron has no attention."""
        raise InputError(f"{self.name} has no attention in layer {layer}; read its hook_resid_post instead")

    def parameters(self) -> dict[str, Tensor]:
        """Weights [in out] and biases [out]: blocks.{l}.W, blocks.{l}.b, unembed.W_U, unembed.b_U."""
        return {name: tensor.detach() for name, tensor in self.network.named_parameters()}

    @contextmanager
    def _listening(
        self, functions: Sequence[tuple[str, Callable[[Tensor], Tensor | None]]]
    ) -> Iterator[None]:
        points = self.network.hook_dict
        try:
            for name, function in functions:
                points[name].add_hook(_as_hook(function))
            yield
        finally:
            for name, _ in functions:
                points[name].remove_hooks()

    def _pixels(self, batch: Images) -> Float[Tensor, "example pos pixel"]:
        pixels = self.encode(batch).pixels
        wanted = next(iter(self.parameters().values())).shape[0]
        if pixels.shape[1] != wanted:
            raise InputError(
                f"{self.name} reads images of {wanted} pixels, not {pixels.shape[1]}; use the data it was trained on"
            )
        return pixels[:, None].to(self.device)


def _own(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone())


def _as_hook(function: Callable[[Tensor], Tensor | None]) -> Any:
    return lambda value, hook: function(value)


def _keep(name: str, found: dict[str, Tensor]) -> Callable[[Tensor], None]:
    def keep(value: Tensor) -> None:
        found[name] = value.detach().clone()

    return keep
