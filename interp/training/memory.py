"""Too little memory, said as what to lower, however CUDA or the processor's allocator words it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from interp.core.runs import InputError

WORDS = ("out of memory", "not enough memory")


@contextmanager
def memory_enough(sentence: str) -> Iterator[None]:
    """Turn running out of memory into an InputError of this sentence: what was done, and what to lower."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(words in str(error) for words in WORDS):
            raise
        raise InputError(sentence) from error
