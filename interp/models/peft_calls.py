"""Calls of PEFT without the warning about its own code that transformers gives: no user can act on it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SAID = ".*is_gradient_checkpointing.*"


@contextmanager
def without_its_warning() -> Iterator[None]:
    """Drop the FutureWarning that PEFT asks for `is_gradient_checkpointing`; every other one is shown."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", SAID, FutureWarning)
        yield


def with_lora(network: Any, places: list[str], *, rank: int, alpha: int) -> Any:
    """The network with new low-rank adapters at the named modules, drawn from torch's global random state.

    Raises ValueError for modules that PEFT does not adapt.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=places, task_type="CAUSAL_LM")
    with without_its_warning():
        return get_peft_model(network, config)
