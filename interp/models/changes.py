"""Whether a network's weights were changed in place, or hooks put on it, told without reading the weights.

torch counts in-place changes of a tensor, views of its storage included, but for the steps of fused optimizers, which
are counted here. What is written through `.data` or NumPy is counted by nobody.
"""

from __future__ import annotations

from collections import Counter
from functools import cache, cached_property
from typing import Any, NamedTuple, TypeVar

from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from interp.models.identity import hooks_of

T = TypeVar("T")

_FUSED: Counter[int] = Counter()
"""Steps that fused optimizers took, by where the weight lies."""


@cache
def _listen() -> None:
    """Count the steps of fused optimizers from the first network on that is looked at."""
    register_optimizer_step_post_hook(_count)


def _count(optimizer: Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        if group.get("fused"):
            _FUSED.update(weight.data_ptr() for weight in group["params"] if weight.grad is not None)


class NetworkState(NamedTuple):
    """Which weights a network has and where they lie, how often each was changed in place, and its user's hooks."""

    places: list[tuple[int, int]]
    changes: list[tuple[int, int]]
    hooks: list[tuple[int, ...]]


def state_of(network: nn.Module) -> NetworkState:
    """What tells a network from itself after its weights were changed, without reading them."""
    _listen()
    found = NetworkState([], [], [])
    for module in network.modules():
        if hooks := hooks_of(module):
            found.hooks.append((id(module), *hooks))
        for weight in module._parameters.values():
            if weight is not None:
                place = weight.data_ptr()
                found.places.append((id(weight), place))
                found.changes.append((0 if weight.is_inference() else weight._version, _FUSED[place]))
    return found


class of_weights(cached_property[T]):
    """A `cached_property` made of weights: made again once they are others, after the owner's `renew` said so."""

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        if instance is not None:
            instance.renew()
        return super().__get__(instance, owner)

    def __set__(self, instance: Any, value: T) -> None:
        """Never: with this here, what is kept is not found before `__get__` looks at the weights."""
        raise AttributeError(f"{self.attrname} is read alone")
