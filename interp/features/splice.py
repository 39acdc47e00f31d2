"""Changing features where the model computes: h ← h + s(h) Σ_j (f'_j − f_j) d_j, the error kept as it is.

With f' = f nothing is added, so doing nothing changes no logit; replacing h by its reconstruction instead drops the
error. The change holds for what the model does while the block is open; a gradient takes it for a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.core.doors import door
from interp.features.dictionary import Dictionary
from interp.models.bridge import FAST

if TYPE_CHECKING:
    from interp.models.language import LanguageModel

Change = Callable[[Tensor], Tensor]  # features [example pos feature] -> features of the same shape


@door
@contextmanager
def with_features(model: LanguageModel, dictionary: Dictionary, change: Change) -> Iterator[LanguageModel]:
    """Change the features of `model` at the dictionary's hook while the `with` block is open; the error is kept.

    At a hook of the residual stream sampling (`interp.training.sampling`) sees the change as logits and activations
    do; at another hook it does not. InputError for a dictionary of another lineage, width or hook.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> dictionary = interp.joined.default_dictionary(lineage)
    >>> batch = lineage.base.encode(lineage.numbers[:2])
    >>> with with_features(lineage.base, dictionary, interp.features.ablate_features([0])) as changed:
    ...     logits = changed.logits(batch)
    >>> logits.shape == lineage.base.logits(batch).shape
    True
    """
    dictionary.check(model)
    directions = dictionary.decoder

    def edit(h: Tensor) -> Tensor:
        flat = h.flatten(2)
        before = dictionary.encode(flat)
        difference = (change(before) - before).to(h) @ directions.to(h)
        return h + (difference * dictionary.scale(flat).detach()).view(h.shape)

    with _replaced(model, dictionary.hook, edit):
        yield model


@contextmanager
def reconstructed(model: LanguageModel, dictionary: Dictionary) -> Iterator[LanguageModel]:
    """Replace the activation at the dictionary's hook by its reconstruction while open: the error is left out.

    Activations beyond the dictionary's limit stay as they are.
    """
    dictionary.check(model)

    def edit(h: Tensor) -> Tensor:
        flat = h.flatten(2)
        beyond = dictionary.beyond(flat)[..., None]
        return torch.where(beyond, flat, dictionary.reconstruct(flat)).view(h.shape)

    with _replaced(model, dictionary.hook, edit):
        yield model


@contextmanager
def _replaced(model: LanguageModel, hook: str, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The edit at the model's hook and, on the residual stream, at the plain module that samples."""
    # after check() the bridge exists, so it does not copy the edit of the plain module
    plain = model.editing(hook, edit) if FAST.fullmatch(hook) else nullcontext()
    with plain, model.hooks({hook: edit}):
        yield
