"""Scores by loss token: the derivative of every token's loss along a direction, in one forward pass with tangents.

score_it = −d/dε ℓ_it(θ + ε v) at ε = 0 (forward-mode differentiation, e.g. arXiv 1502.05767). A linear layer carries
the pair (y, ẏ) = (W x, W ẋ + V x); below the first weight that moves there is no ẋ, only a forward pass.
Σ_t score_it is the score of the row. Nothing is kept for a backward pass; attention runs its plain kernel, since the
fused ones have no forward-mode derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from interp.core.errors import InputError
from interp.gradients.scores.dual_attention import DualAttention
from interp.gradients.scores.engine import Contributions, Place
from interp.gradients.scores.row_loss import answer_columns, summed_losses, token_losses
from interp.gradients.scores.sites import Site, dense_at, through
from interp.models.bridge import at_layer
from interp.models.views import Asked, is_transposed
from interp.prompts.tokens import Encoded


@torch.no_grad()
def token_contributions(
    network: Any, batch: Encoded, *, sites: Sequence[Site], numbers: Sequence[int] | None = None
) -> Contributions:
    """Scores [direction example pos] at every answer and end token, zero elsewhere, in one place without a module.

    `network` must be a view of its own, as `LanguageModel.network` makes: its linear layers are replaced while
    this runs. Raises InputError as `contributions` does.
    """
    first, last = answer_columns(batch)
    pairs = [derivative_along(token_losses, network, batch, sites, k) for k in range(sites[0].count)]
    changes = torch.stack([change for _, change in pairs])
    loss, tokens = summed_losses(pairs[0][0], batch, numbers=numbers)
    scores = nn.functional.pad(-changes, (first + 1, batch.ids.shape[1] - 1 - last))
    return Contributions({Place(""): scores}, loss, tokens)


def derivative_along(
    function: Callable[[Any, Encoded], Tensor], network: Any, batch: Encoded, sites: Sequence[Site], k: int
) -> tuple[Tensor, Tensor]:
    """A function of network and batch, such as the loss of every token, and its derivative along direction k.

    `network` is a view of its own, as in `token_contributions`. Raises InputError where that does.
    """
    handles = []
    linear = [site for site in sites if site.kind == "matrix"]
    try:
        with forward_ad.dual_level(), DualAttention():
            for site in linear:
                site.module.forward = _moving_linear(site, k)
            for site in sites:
                if site.kind == "hook":
                    handles.append(_moving_bias(site, k))
            duals = {
                f"network.{name}": forward_ad.make_dual(weight, tangent)
                for name, weight, tangent in _other_weights(sites, k)
            }
            value, change = forward_ad.unpack_dual(
                torch.func.functional_call(Asked(network, function), duals, (batch,))
            )
            return value, torch.zeros_like(value) if change is None else change
    except NotImplementedError as error:
        raise InputError(
            f"{type(network).__name__} computes with a function of its own that has no forward mode, which scores by "
            "token need; ask for by=['example'], 'position' or 'module', which read the backward pass"
        ) from error
    finally:
        for site in linear:
            vars(site.module).pop("forward", None)
        for handle in handles:
            handle.remove()


def _moving_linear(site: Site, k: int) -> Callable[[Tensor], Tensor]:
    """The layer's forward on pairs of value and tangent."""
    module: Any = site.module
    weight = module.weight.detach().T if is_transposed(module) else module.weight.detach()
    bias = None if module.bias is None else module.bias.detach()
    stack = site.stacks.get("weight")
    moved_bias = None if bias is None else dense_at(site.stacks.get("bias"), k, like=bias)

    def forward(x: Tensor) -> Tensor:
        value, tangent = forward_ad.unpack_dual(x)
        moved = through(stack, k, value)
        if tangent is not None:
            carried = nn.functional.linear(tangent, weight)
            moved = carried if moved is None else moved.add_(carried)
        if moved_bias is not None:
            moved = moved_bias.expand(*value.shape[:-1], -1) if moved is None else moved + moved_bias
        out = nn.functional.linear(value, weight, bias)
        return out if moved is None else forward_ad.make_dual(out, moved)

    return forward


def _other_weights(sites: Sequence[Site], k: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, value and tangent of every moved weight outside the linear layers."""
    for site in sites:
        if site.kind in ("embedding", "norm", "other"):
            for leaf, stack in site.stacks.items():
                weight = site.module.get_parameter(leaf).detach()
                yield site.weights[leaf], weight, dense_at(stack, k, like=weight)


def _moving_bias(site: Site, k: int) -> Any:
    """A hook that moves the residual stream by the virtual bias."""

    def moved(tensor: Tensor) -> Tensor:
        value, tangent = forward_ad.unpack_dual(tensor)
        bias = dense_at(site.stacks["bias"], k, like=value[0, 0]).expand_as(value)
        return forward_ad.make_dual(value, bias.clone() if tangent is None else tangent + bias)

    return at_layer(site.module, "pre" if site.entering else "post", moved)
