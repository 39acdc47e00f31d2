"""Whether a member can have come from its start: by its weights, and by its configuration.

cos = Σ θ·θ₀ / (|θ| |θ₀|) over the matrices, the first 65 536 numbers of each. Two independent initialisations have
|cos| of about 1/√n, below .01 for the toy's bases; a fine-tuned model stays near 1.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from torch import Tensor

from interp.core.errors import InputError
from interp.models.identity import differing, facts, is_usual

if TYPE_CHECKING:
    from interp.models.seam import Model

log = logging.getLogger(__name__)

UNRELATED = 0.2
SAMPLE = 65_536


def check_kinship(member: Model, *, asked: bool) -> None:
    """InputError where the member is of another initialisation than its start, unless that was asked for.

    Also for a configuration whose forward pass differs from the start's: the change is then not one of weights alone.
    """
    start = member.start
    if start is None or asked:
        return
    _check_configuration(member, start)
    check_related(
        member, advice=f"pass its own base, or keep it as a control with unrelated=[{member.name!r}]"
    )


def check_related(member: Model, *, advice: str) -> None:
    """InputError where a member's weights are as far from its start's as those of two independent initialisations."""
    cosine = cosine_with_start(member)
    if cosine is not None and cosine < UNRELATED:
        start: Any = member.start
        raise InputError(
            f"{member.name} has a cosine of {cosine:+.3f} with the weights of {start.name}, as two independent "
            f"initialisations have, so it did not start from there; {advice}"
        )


def cosine_with_start(member: Model) -> float | None:
    """Cosine of the member's matrices with its start's; None without a start or a matrix of one name and shape."""
    if member.start is None:
        return None
    theirs = member.start.parameters()
    sums = [0.0, 0.0, 0.0]
    live: Any = getattr(member, "backbone", None)  # beneath a live adapter, whatever the adapter adds
    ours = member.parameters() if live is None else live.plain.weights()
    for name, weight in ours.items():
        other = theirs.get(name)
        if other is None or weight.dim() < 2 or weight.shape != other.shape:
            continue
        x, y = _sample(weight), _sample(other)
        for place, (a, b) in enumerate(((x, y), (x, x), (y, y))):
            sums[place] += float(a @ b)
    product, *squares = sums
    return product / (squares[0] * squares[1]) ** 0.5 if all(squares) else None


def _sample(weight: Tensor) -> Tensor:
    return weight.detach().flatten()[:SAMPLE].double()


def _check_configuration(member: Any, start: Any) -> None:
    configs = getattr(member, "config", None), getattr(start, "config", None)
    if not all(hasattr(config, "to_dict") for config in configs):
        return
    apart = differing(*map(facts, configs))
    usual = {name: values for name, values in apart.items() if is_usual(name)}
    if usual:
        log.warning("%s and %s are configured differently: %s", member.name, start.name, usual)
    if other := [name for name in apart if name not in usual]:
        mine, its = apart[other[0]]
        raise InputError(
            f"{member.name} is configured with {other[0]} {mine!r} and {start.name} with {its!r}, so they differ in "
            "more than weights; give both config.json files the value the weights were trained with"
        )
