"""The seam every analysis is written against: a hooked network, its fingerprint, and its unembedding.

logits = softcap(norm(resid) @ W_U + b_U). The norm is weight * (x - centre) / scale(x) + bias, as RMSNorm (arXiv
1910.07467) or LayerNorm (arXiv 1607.06450); softcap(x) = c tanh(x / c) where there is one (arXiv 2408.00118).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.doors.nouns import advice, shown, wanted
from interp.core.errors import InputError, nearest
from interp.models.identity import weights_print

if TYPE_CHECKING:
    from interp.prompts.text import Prompts
    from interp.prompts.tokens import Encoded

log = logging.getLogger(__name__)

PROBE = "0 7 12 345, 999; 60 89 (3) [4] the owl"
"""Text on which two tokenizers must agree to count as one."""


@dataclass(frozen=True)
class Unembedding:
    """From the final residual stream to logits; `weight` is the norm's effective factor (gemma: 1 + w)."""

    W_U: Float[Tensor, "d_model vocab"]
    b_U: Float[Tensor, "vocab"]
    kind: Literal["rms", "layer", "none"]
    weight: Float[Tensor, "d_model"]
    bias: Float[Tensor, "d_model"]
    eps: float
    softcap: float | None = None

    def centred(self, resid: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest d_model"]:
        """What the norm divides by its scale: `resid`, less its mean for a LayerNorm."""
        return resid - resid.mean(-1, keepdim=True) if self.kind == "layer" else resid

    def scale(self, resid: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest 1"]:
        """What the norm divides by: root mean square or standard deviation, eps inside the root."""
        if self.kind == "none":
            return torch.ones_like(resid[..., :1])
        return (self.centred(resid).pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def normed(self, resid: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest d_model"]:
        """What the unembedding matrix reads."""
        return self.centred(resid) / self.scale(resid) * self.weight + self.bias

    def logits(self, resid: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest vocab"]:
        """The model's own logits when `resid` is its final residual stream."""
        raw = self.normed(resid) @ self.W_U + self.b_U
        return raw if self.softcap is None else self.softcap * torch.tanh(raw / self.softcap)


class Model(Protocol):
    """What every verb asks of a network; `start` is the model it was trained from, None for a base."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def tokenizer(self) -> Any:
        """None for a network that does not read text."""
        ...

    @property
    def start(self) -> Model | None: ...
    @property
    def hook_names(self) -> tuple[str, ...]: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def d_model(self) -> int: ...

    def encode(self, prompts: Prompts | Encoded) -> Encoded:
        """The rows as this model's tokens; tokens as they are."""
        ...

    def batches(self, inputs: Prompts | Encoded, size: int) -> Iterator[Encoded]:
        """Consecutive rows, `size` at a time, order kept."""
        ...

    def logits(self, batch: Encoded) -> Float[Tensor, "example pos vocab"]:
        """Next-token logits at every position; those of padding mean nothing."""
        ...

    def run(self, batch: Encoded, *, hooks: Sequence[str]) -> dict[str, Float[Tensor, "example ..."]]:
        """Activations [example pos ...] by hook name, from a forward pass that ends at the deepest one."""
        ...

    def unembedding(self) -> Unembedding:
        """The map from the final residual stream to logits."""
        ...

    def attention_output(
        self, layer: int
    ) -> tuple[Float[Tensor, "head d_head d_model"], Float[Tensor, "d_model"] | None]:
        """W_O per head and b_O (None where there is none): attn.hook_out = Σ_head hook_z @ W_O + b_O."""
        ...

    def parameters(self) -> dict[str, Tensor]:
        """Effective weights by Hugging Face name, adapters merged in; tied weights once."""
        ...

    def hooks(self, fwd: Mapping[str, Callable[[Tensor], Tensor]]) -> AbstractContextManager[None]:
        """While open, each named activation is replaced by what its function returns."""
        ...


TextModel = Annotated[Model, "TextModel", "tokenizer"]
"""A model that reads text, so that its tokens have words: one with a tokenizer."""


def check_text(model: Model, argument: str) -> None:
    """InputError unless the model reads text, for verbs that are given it inside of something else."""
    if model.tokenizer is None:
        raise InputError(
            f"{argument} is of {shown(model)}, where {wanted('TextModel')} is needed; {advice(model, ['TextModel'])}"
        )


def check_speaks(model: Model, source: Any) -> None:
    """InputError for a model loaded from a source that holds no tokenizer."""
    if model.tokenizer is None:
        raise InputError(f"{source} has no tokenizer; pass a folder that holds one beside the weights")


def check_hooks(model: Model, names: Iterable[str]) -> None:
    """InputError with the nearest names unless every hook name exists on the model."""
    known = set(model.hook_names)
    for name in names:
        if name not in known:
            raise InputError(f"hook {nearest(name, known)}; {model.name}.hook_names lists all {len(known)}")


def check_pair(a: Model, b: Model) -> None:
    """InputError unless the two share a tokenizer and shapes and differ in their weights."""
    check_tokenizers(a, b)
    check_shapes(a, b)
    if a.fingerprint == b.fingerprint:
        raise InputError(
            f"{a.name} and {b.name} have identical weights ({a.fingerprint}), so nothing to compare; "
            "check that the paths are the ones you meant and that an adapter, if any, has an effect"
        )


def check_tokenizers(a: Model, b: Model) -> None:
    """InputError unless both models read text as the same tokens."""
    one, other = getattr(a, "tokenizer", None), getattr(b, "tokenizer", None)
    if one is other or one is None or other is None:
        return
    if getattr(one, "chat_template", None) != getattr(other, "chat_template", None):
        log.warning(
            "%s and %s write chats by different templates; each reads rows by its own", a.name, b.name
        )
    ours, theirs = one.get_vocab(), other.get_vocab()
    if ours != theirs:
        differing = min(set(ours.items()) ^ set(theirs.items()), key=str)[0]
        raise InputError(
            f"{a.name} and {b.name} have different vocabularies ({len(ours)} and {len(theirs)} entries, "
            f"{differing!r} differs); use members of one base model"
        )
    pieces = [tokenizer(PROBE, add_special_tokens=False)["input_ids"] for tokenizer in (one, other)]
    if pieces[0] != pieces[1]:
        raise InputError(
            f"the tokenizers of {a.name} and {b.name} split {PROBE!r} into different tokens; "
            "load both models with one tokenizer="
        )


def check_shapes(a: Model, b: Model) -> None:
    """InputError that names the first tensor of unequal shape, or the first only one model has."""
    ours, theirs = _all_shapes(a), _all_shapes(b)
    tied = {*getattr(a, "ties", {}), *getattr(b, "ties", {})}
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        shape, other = ours.get(name), theirs.get(name)
        if None in (shape, other) and name in tied:
            continue  # the other model does not say what it ties
        if shape != other and None not in (shape, other):
            raise InputError(
                f"{a.name} and {b.name} have different shapes: {name} is {list(shape or ())} in one and "
                f"{list(other or ())} in the other; use members of one base model"
            )
        if shape != other:
            owner, lacks = (a, b) if other is None else (b, a)
            raise InputError(
                f"{owner.name} has weights {name} and {lacks.name} has none; use members of one base model"
            )


def _all_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Shapes under every name, those of tied weights included: one member may tie what another holds apart."""
    shapes = dict(weight_shapes(model))
    return shapes | {
        alias: shapes[first] for alias, first in getattr(model, "ties", {}).items() if first in shapes
    }


def weight_shapes(model: Model) -> Mapping[str, tuple[int, ...]]:
    """Shapes of `parameters()`; a model with `shapes` of its own need not compute the weights for it."""
    known = getattr(model, "shapes", None)
    return known or {name: tuple(tensor.shape) for name, tensor in model.parameters().items()}


def lineage_root(model: Model) -> str:
    """Fingerprint of the weights `model` descends from: its start's start and so on; its own without one."""
    while model.start is not None:
        model = model.start
    return weights_print(model)


def check_finite(weights: Mapping[str, Tensor], owner: str) -> None:
    """InputError that names the first tensor with NaN or inf."""
    for name, tensor in weights.items():
        if tensor.is_floating_point() and tensor.numel() and not _is_finite(tensor.detach()):
            bad = int((~torch.isfinite(tensor.detach())).sum())
            raise InputError(
                f"{owner} has NaN or inf in {name} ({bad} of {tensor.numel()} values); "
                "take a checkpoint from before the training diverged"
            )


def _is_finite(tensor: Tensor) -> bool:
    """By the two ends, which NaN takes over: a thirtieth of the time that a look at every number takes."""
    if tensor.element_size() == 1:  # has no order
        return bool(torch.isfinite(tensor).all())
    return all(bool(torch.isfinite(end)) for end in tensor.aminmax())
