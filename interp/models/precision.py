"""Sixteen-bit checkpoints measured in fp32: the same member, its weights widened, which is exact.

bf16 keeps 8 bits of a number and fp16 11, so the small differences that are measured here drown in the rounding of a
forward pass. The copy is made once per network, keeps the member's fingerprint, and lives as long as the network does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass, replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from interp.core.errors import InputError
from interp.models.backbone import Backbone
from interp.models.changes import of_weights
from interp.models.language import LanguageModel
from interp.models.views import view, without_adapters
from interp.prompts.notes import add_notes

log = logging.getLogger(__name__)

HALVES = (torch.float16, torch.bfloat16)
PLAIN = (*HALVES, torch.float32, torch.float64)  # what is narrower is quantised and left alone
Given = ParamSpec("Given")
Found = TypeVar("Found")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Widened(Backbone):
    """The fp32 copy of a 16-bit backbone, `narrow`, whose fingerprint it keeps."""

    narrow: Any = None

    @of_weights
    def fingerprint(self) -> str:
        """That of the 16-bit weights."""
        return self.narrow.fingerprint

    @of_weights
    def plain(self) -> Backbone:
        """The copy beneath the adapters, itself when there are none."""
        return self if self.peft is None else Widened(without_adapters(self.hf), None, self.narrow.plain)


def in_float32(value: T) -> T:
    """A model, or the models of a lineage, teacher, mapping or list, computed in fp32 where its weights have 16 bits.

    Anything else is returned as it is. Edits that are open on a model (`steer`, `ablate`, `patch`) hold on its copy,
    its start is widened with it, and what the two share is copied once. Logs one line per copy; raises InputError when
    the memory does not suffice.
    """
    from interp.models.lineage import Lineage

    found: Any = value
    if isinstance(value, LanguageModel):
        found = _model(value)
    elif isinstance(value, Lineage) and any(is_half(model) for model in value.members.values()):
        found = replace(value, members={role: in_float32(model) for role, model in value.members.items()})
    elif isinstance(value, Mapping) and any(map(is_half, value.values())):
        found = {key: in_float32(each) for key, each in value.items()}
    elif is_dataclass(value) and is_half(getattr(value, "model", None)):
        found = replace(cast("Any", value), model=in_float32(cast("Any", value).model))
    elif isinstance(value, list | tuple) and any(map(is_half, value)):
        found = type(value)(in_float32(each) for each in value)
    return found


def is_half(model: Any) -> bool:
    """Whether it is a language model with 16-bit weights, none of them quantised."""
    if not isinstance(model, LanguageModel):
        return False
    kinds = {weight.dtype for weight in model.hf.parameters()}
    return bool(kinds & set(HALVES)) and kinds <= set(PLAIN)


def precision_notes(*models: Any) -> tuple[str, ...]:
    """What a result has to say of the precision: nothing, or one sentence when a model was widened."""
    narrow = [_narrow_dtype(model) for model in models]
    return tuple(
        dict.fromkeys(f"computed in float32 from {dtype} weights" for dtype in narrow if dtype is not None)
    )


def exactly(verb: Callable[Given, Found]) -> Callable[Given, Found]:
    """A verb that measures 16-bit models in fp32 (see `in_float32`) and says so in the notes of its result."""

    @wraps(verb)
    def measured(*args: Given.args, **kwargs: Given.kwargs) -> Found:
        wide = [in_float32(value) for value in args]
        named = {name: in_float32(value) for name, value in kwargs.items()}
        found = cast("Any", verb)(*wide, **named)
        return add_notes(found, precision_notes(*wide, *named.values()))

    return measured


def _narrow_dtype(value: Any) -> str | None:
    """The 16-bit type behind a widened model or what holds one (a shift, a teacher, a lineage), by its name."""
    several = value if isinstance(value, Mapping) else getattr(value, "members", None)
    if several:
        return next((dtype for model in several.values() if (dtype := _narrow_dtype(model))), None)
    holder = getattr(value, "member", getattr(value, "model", value))
    backbone = getattr(holder, "backbone", None)
    if not isinstance(backbone, Widened):
        return None
    kinds = (weight.dtype for weight in backbone.narrow.hf.parameters())
    return next(str(dtype).removeprefix("torch.") for dtype in kinds if dtype in HALVES)


def _model(model: LanguageModel) -> LanguageModel:
    start = in_float32(model.start)
    if not is_half(model):
        return model if start is model.start else _relinked(model, model.backbone, start)
    model.backbone.renew()
    wide = vars(model.backbone).get("widened")
    if wide is None:
        wide = _copied(model, start)
        vars(model.backbone)["widened"] = wide
    return _relinked(model, wide, start)


def _relinked(model: LanguageModel, backbone: Backbone, start: Any) -> LanguageModel:
    """The model over another backbone, with another start and the same open edits."""
    found = replace(model, backbone=backbone, start=start)
    object.__setattr__(found, "_edits", model._edits)
    return found


def _copied(model: LanguageModel, start: Any) -> Widened:
    """The network in fp32; what lies in the storage of the start's is taken from the start's copy."""
    outer = model.hf if model.peft is None else model.peft
    shared = _shared(model.start, start)
    gibibytes = sum(weight.numel() for weight in outer.parameters() if _at(weight) not in shared) / 2**28
    log.info(
        "%s: 16-bit weights are computed in float32, in a copy of %.2g GiB on %s",
        model.name,
        gibibytes,
        model.device,
    )
    try:
        own: Any = view(outer, lambda tensor: _wide(shared.get(_at(tensor), tensor)))
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{model.name} is computed in float32, and {model.device} has no room for a copy of {gibibytes:.2g} GiB "
            "beside its 16-bit weights; load it with dtype='float32', which makes no copy, or on a larger device"
        ) from error
    hf = own if model.peft is None else own.get_base_model()
    hf.config.dtype = torch.float32
    return Widened(hf.eval(), None if model.peft is None else own.eval(), model.backbone)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in HALVES else tensor


def _at(weight: Tensor) -> tuple[int, torch.Size]:
    return weight.data_ptr(), weight.shape


def _shared(narrow: Any, wide: Any) -> dict[tuple[int, torch.Size], Tensor]:
    """The start's widened tensors by where its 16-bit ones lie."""
    if narrow is wide or not isinstance(narrow, LanguageModel):
        return {}
    pairs = zip(narrow.hf.parameters(), wide.hf.parameters(), strict=True)
    return {_at(before): after.detach() for before, after in pairs}
