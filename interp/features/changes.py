"""Changes of features for `with_features`: f' from f, the other features and the error kept.

ablate_features: f'_j = 0; add: f'_j = f_j + a_j; clamp: f'_j = v_j; scaled_change: f' = f + c (change(f) − f). What
reaches the activation is s(h) Σ_j (f'_j − f_j) d_j, so `scaled_change` multiplies that with c. All hold at every token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp.core.runs import InputError
from interp.features.splice import Change


def ablate_features(features: Iterable[int]) -> Change:
    """Set the features to zero.

    InputError for none, for one named twice and, once it meets a dictionary, for one that is not there.

    >>> ablate_features([0])(torch.tensor([1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return _put(_chosen(features), None, relative=False)


def add(features: Iterable[int], amounts: Sequence[float] | Tensor, *, active: bool = False) -> Change:
    """Add an amount to each feature, in units of its activation; with `active` only where it fires.

    The sum may be negative: then the decoder row is subtracted. InputError as for `ablate_features`, and for
    amounts that are not one finite number per feature.

    >>> add([1], [0.5])(torch.tensor([1.0, 2.0])).tolist()
    [1.0, 2.5]
    """
    chosen = _chosen(features)
    return _put(chosen, _amounts(amounts, chosen), relative=True, active=active)


def clamp(features: Iterable[int], values: Sequence[float] | Tensor) -> Change:
    """Set each feature to a value, in units of its activation, such as its mean in another model.

    InputError as for `add`.
    """
    chosen = _chosen(features)
    return _put(chosen, _amounts(values, chosen), relative=False)


def scaled_change(change: Change, factor: float) -> Change:
    """Scale a change: 0 leaves the features as they are, 1 is the change itself.

    >>> scaled_change(ablate_features([1]), 0.5)(torch.tensor([1.0, 2.0])).tolist()
    [1.0, 1.0]
    """
    return lambda features: features + factor * (change(features) - features)


def _put(chosen: Tensor, values: Tensor | None, *, relative: bool, active: bool = False) -> Change:
    def change(features: Tensor) -> Tensor:
        _check_width(chosen, features.shape[-1])
        index = chosen.to(features.device)
        own = features[..., index]
        new = torch.zeros_like(own) if values is None else values.to(own).expand_as(own)
        changed = features.clone()
        changed[..., index] = own + new * (own > 0 if active else 1) if relative else new
        return changed

    return change


def _chosen(features: Iterable[int]) -> Tensor:
    chosen = [int(feature) for feature in features]
    if not chosen:
        raise InputError("no features to change; name at least one, such as [3]")
    twice = next((feature for feature in chosen if chosen.count(feature) > 1), None)
    if twice is not None:
        raise InputError(f"feature {twice} is named twice; name every feature once")
    return torch.tensor(chosen)


def _amounts(amounts: Any, chosen: Tensor) -> Tensor:
    values = torch.as_tensor(amounts, dtype=torch.float32).flatten()
    if len(values) != len(chosen) or not torch.isfinite(values).all():
        raise InputError(
            f"{len(values)} amounts ({values[:3].tolist()} first) for {len(chosen)} features; "
            "give one finite number per feature"
        )
    return values


def _check_width(chosen: Tensor, width: int) -> None:
    outside = [int(feature) for feature in chosen if not 0 <= feature < width]
    if outside:
        raise InputError(f"there is no feature {outside[0]}; the dictionary has features 0 to {width - 1}")
