"""What a network keeps of the tokens it has read: whose rows go on from a shared beginning, and rows picked of it.

Keys and values of attention stand apart token by token. A state of a convolution or of a recurrence, as Falcon-H1 or
LFM2 keep beside or instead of them, holds all tokens at once and is written in place: it goes on by a token at a time.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import InputError

PLAIN = frozenset({"DynamicLayer", "DynamicSlidingWindowLayer", "DynamicIndexedLayer", "DummyLayer"})
"""transformers' layers of a cache that hold keys and values alone, or nothing."""


def is_attention_alone(cache: Any) -> bool:
    """Whether a cache holds attention's keys and values and nothing else."""
    return _is_dynamic(cache) and all(
        type(layer).__name__ in PLAIN and _is_of_library(layer) for layer in cache.layers
    )


def _is_dynamic(cache: Any) -> bool:
    """Whether it is transformers' own growing cache; those that an architecture derives hold more than its layers."""
    return type(cache).__name__ == "DynamicCache" and _is_of_library(cache)


def _is_of_library(part: Any) -> bool:
    return type(part).__module__ == "transformers.cache_utils"


def picked_rows(cache: Any, rows: list[int], device: torch.device) -> Any:
    """Those rows of a cache, which is left as it is; None for one that holds more than keys and values."""
    if not is_attention_alone(cache):
        return None
    own = copy.copy(cache)
    own.layers = [copy.copy(layer) for layer in cache.layers]
    own.batch_select_indices(torch.tensor(rows, device=device))
    return own


class RowsOf:
    """A cache of another kind, with rows picked by what beam search picks them by, states and all."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def batch_select_indices(self, rows: Tensor) -> None:
        """Keep these rows; InputError for a cache of an architecture's own."""
        if not _is_dynamic(self.cache):
            raise InputError(
                f"{type(self.cache).__name__} holds states whose rows cannot be picked, which sampling and numbers of "
                "several tokens ask for; use another architecture"
            )
        self.cache.reorder_cache(rows)


def as_picked(cache: Any) -> Any:
    """A cache whose `batch_select_indices` picks all that it holds."""
    return cache if is_attention_alone(cache) else RowsOf(cache)


def as_kept(cache: Any) -> Any:
    """The cache itself, which a network reads."""
    return cache.cache if isinstance(cache, RowsOf) else cache
