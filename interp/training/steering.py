"""Writing under a steering vector: h ← h + scale · v where the residual stream enters or leaves one layer.

The vector is added to the plain Hugging Face module, at every position of every pass, so that `generate` and its
key-value cache work as they always do; the weights do not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from interp.training.teachers import Teacher


@contextmanager
def steered(teacher: Teacher) -> Iterator[None]:
    """While open, the teacher's module runs with its vector added; a teacher without one runs as it is."""
    steering, model = teacher.steering, teacher.model
    if steering is None:
        yield
        return
    added = (steering.scale * steering.vector).to(model.device, model.dtype)
    with model.editing(steering.hook, lambda h: h + added):
        yield
