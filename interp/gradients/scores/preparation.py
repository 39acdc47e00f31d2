"""What `score` checks at the door, and the network it works on: the model's own modules are never touched."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from interp.core.errors import InputError
from interp.models.parameters import ParameterDirection
from interp.models.views import untie
from interp.prompts.tokens import Encoded

WIDTHS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # narrower floats are quantised

if TYPE_CHECKING:
    from interp.gradients.scores.metrics import Metric
    from interp.models.language import LanguageModel


def as_directions(
    direction: ParameterDirection | Sequence[ParameterDirection], metric: Metric | None
) -> tuple[ParameterDirection, ...]:
    """One direction or several, the metric folded in, under labels that differ.

    Raises InputError for none.
    """
    several = (direction,) if isinstance(direction, ParameterDirection) else tuple(direction)
    if not several:
        raise InputError("no direction to score along; pass at least one, such as lineage.update('teacher')")
    named = [
        dataclasses.replace(each, label=label)
        for each, label in zip(several, _apart([each.label for each in several]), strict=True)
    ]
    folded = [each if metric is None else metric.fold(each) for each in named]
    apart = {alias: first for each in folded for alias, first in each.apart.items()}
    return tuple(each.ends_apart(apart) for each in folded) if apart else tuple(folded)


def _apart(labels: Sequence[str]) -> list[str]:
    """The labels, those that occur more than once numbered by their place, with more signs where that is taken."""
    apart: list[str] = []
    for place, label in enumerate(labels, start=1):
        shown = f"{label} #{place}" if labels.count(label) > 1 else label
        while shown in apart or (shown != label and shown in labels):
            shown += "'"
        apart.append(shown)
    return apart


def check_cosine(
    cosine: bool, *, by: Sequence[str], metric: Metric | None, directions: Sequence[ParameterDirection]
) -> None:
    """InputError where a cosine with the gradient has no one meaning."""
    supports = {frozenset([*each.tensors, *each.biases]) for each in directions}
    if cosine and len(supports) > 1:
        raise InputError(
            f"cosine=True is over the tensors of the direction, and these {len(directions)} hold different ones; "
            "score them in calls of their own"
        )
    if cosine and tuple(by) != ("example",):
        raise InputError(f"cosine=True belongs to whole rows, not to by={list(by)}; ask for by=['example']")
    if cosine and metric is not None:
        raise InputError(
            f"cosine=True is with the plain gradient, not under {type(metric).__name__}; leave out one of the two"
        )


def check_rows(inputs: Encoded) -> None:
    """InputError where there is no row, and one that names the first row without answer tokens, counting from 1."""
    if not len(inputs):
        raise InputError(
            f"{inputs.label} holds no rows to score; pass at least one prompt with its completion"
        )
    empty = ~inputs.at("answer+end", predicting=True).any(1)
    if empty.any():
        raise InputError(
            f"row {int(empty.nonzero()[0]) + 1} of {inputs.label} has no answer tokens, so no loss; "
            "drop rows without a completion"
        )


def prepared(model: LanguageModel, directions: Sequence[ParameterDirection]) -> Any:
    """A view of the model's network over the same storage, with the weights the directions name, all frozen.

    Effective weights are those with adapters merged in; LoRA factors are those of live adapters. InputError for
    dropout left on and for quantised weights.
    """
    names = {name for direction in directions for name in direction.tensors}
    apart = {alias: first for direction in directions for alias, first in direction.apart.items()}
    network = still_network(model, merge=names <= model.shapes.keys() | apart.keys())
    untie(network, {alias: first for alias, first in apart.items() if model.ties.get(alias) == first})
    return network


def still_network(model: LanguageModel, *, merge: bool) -> Any:
    """A view of the model's network over the same storage, frozen: adapters in its weights if `merge`, else live.

    InputError for dropout left on and for quantised weights.
    """
    model.check_still()
    network = model.network(merge=merge)
    for name, weight in network.named_parameters():
        if weight.dtype not in WIDTHS:
            kind = str(weight.dtype).removeprefix("torch.")
            raise InputError(
                f"{model.name} has quantised weights ({name} is {kind}), which have no gradient; "
                "load it with dtype='bfloat16' or 'float32'"
            )
    if hasattr(network.config, "_experts_implementation"):
        network.config._experts_implementation = (
            "eager"  # of the view alone: fused products have no forward mode
        )
    network.config.pad_token_id = (
        None  # of the view alone: padding on the right needs no mask, and no advice on one
    )
    return network
