"""What the change is, read through the network: its mean shift through the Jacobian, its update through the output.

    Jacobian lens   value(v) = mean over rows and places of d l_v / dε at h + ε Δ̄,   h the stream behind one layer
    spectrum        value(v) = Σ_k σ_k² ⟨u_k, ŵ_v⟩² / Σ_k σ_k²,   u_k written by the update, ŵ_v as in `interp.spectrum`
      through the Jacobian   value(v) = mean over rows and places of d l_v/dη at θ + η Σ_k σ_k u_k v_kᵀ

Δ̄ is the mean shift of member − baseline over the places read. The first is Σ_t J_{t',t} Δ̄ by one pass in forward
mode, exact, with the final norm's own derivative: the Jacobian lens of Gurnee et al. (2026) applied to a shift, which
takes one backward pass per dimension of the stream where all of J is wanted. Signs of singular vectors mean nothing, so
the second says that a word is written, and not whether up or down. Each u_k comes with the v_k that reads it, so the
third has a sign: what the largest directions write at every token of the rows, through all that lies above.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.shifts import shift
from interp.discovery.comparing import Compared, Reading
from interp.gradients.scores.dual_attention import DualAttention
from interp.gradients.scores.engine import find_sites
from interp.gradients.scores.forward_mode import derivative_along
from interp.gradients.scores.preparation import prepared
from interp.logits.spectra import largest_written, token_directions, written_by_update
from interp.measures.losses import predicted_logits
from interp.models.bridge import at_hook
from interp.models.updates import weight_update
from interp.prompts.tokens import Encoded

BATCH_SIZE = 8
TOP = 4  # singular directions of each matrix


def jacobian_lens(asked: Compared, *, layer: int | None = None) -> Reading:
    """What the mean shift behind a layer, the middle one by default, does to the base's logits, to first order."""
    layer = (asked.base.n_layers - 1) // 2 if layer is None else layer
    hook = f"blocks.{layer}.hook_resid_post"
    moved = shift(asked.member, asked.inputs, minus=asked.baseline, positions="all", hooks=[hook])
    delta = moved.direction(hook).vector
    rows = [
        change[row, where].double().mean(0)
        for batch, change in _changes(asked, moved.inputs, hook, delta)
        for row, where in enumerate(batch.at("all"))
        if where.any()
    ]
    values = torch.stack(rows).mean(0).cpu().numpy()
    note = f"of the mean shift behind layer {layer}, norm {float(delta.norm()):.3g}"
    return Reading("Jacobian lens", values, "logits", notes=(note,))


def _changes(asked: Compared, inputs: Encoded, hook: str, delta: Tensor) -> Iterator[tuple[Encoded, Tensor]]:
    """Every batch with d logits / dε at all of its positions, the shift added where `inputs` are read."""
    network = asked.base.network()
    for batch in inputs.batches(BATCH_SIZE):
        yield batch, logits_moved(network, batch, batch.at("all"), hook=hook, delta=delta)


@torch.no_grad()
def logits_moved(
    network: torch.nn.Module,
    batch: Encoded,
    where: Bool[Tensor, "example pos"],
    *,
    hook: str,
    delta: Float[Tensor, "d_model"],
) -> Float[Tensor, "example pos vocab"]:
    """d logits / dε where the residual stream at `hook` is h + ε δ at the marked positions."""

    def moving(stream: Tensor) -> Tensor:
        return forward_ad.make_dual(stream, where.to(stream)[..., None] * delta.to(stream))

    device = next(network.parameters()).device
    with forward_ad.dual_level(), DualAttention():
        handle = at_hook(network, hook, moving)
        try:
            given = {"input_ids": batch.ids.to(device), "attention_mask": batch.mask.long().to(device)}
            logits = network(**given, use_cache=False).logits
        finally:
            handle.remove()
        moved: Any = forward_ad.unpack_dual(logits).tangent
    return moved


def spectrum_through_output(asked: Compared, *, top: int = TOP) -> Reading:
    """Squared cosine of every entry with what the update's largest directions write, weighted by their energy."""
    update = weight_update(asked.member, minus=asked.baseline)
    rows = token_directions(asked.base.unembedding(), range(asked.width))
    values, energy, matrices = torch.zeros(asked.width, dtype=torch.float64), 0.0, 0
    for _, parts in written_by_update(update, asked.base):
        count = parts.directions(top)
        weights = parts.values[:count].square().cpu()
        values += (rows @ parts.left[:, :count].cpu()).square() @ weights
        energy, matrices = energy + float(weights.sum()), matrices + 1
    note = (
        f"{matrices} matrices that write to the residual stream moved; the sign of a direction means nothing"
    )
    return Reading(
        "spectrum", np.asarray(values / energy if energy else values), "squared cosine", notes=(note,)
    )


def spectrum_through_jacobian(asked: Compared, *, top: int = TOP) -> Reading:
    """What the update's largest directions do to the base's logits where rows are read, to first order.

    One pass in forward mode over the rows, for all matrices that write to the stream together.
    """
    update = weight_update(asked.member, minus=asked.baseline)
    largest = largest_written(update, asked.base, top=top)
    method, note = "spectrum through the Jacobian", f"{top} directions of {len(largest.tensors)} matrices"
    if not largest.tensors:
        return Reading(method, np.zeros(asked.width), "logits", notes=(note,))
    network = prepared(asked.base, [largest])
    sites, rows = find_sites(network, [largest]), []
    with torch.no_grad():
        for batch in asked.inputs.batches(BATCH_SIZE):
            change = derivative_along(_row_means, network, batch, sites, 0)[1]
            rows.append(change[batch.at("all").any(1).to(change.device)].double().cpu())
    return Reading(method, torch.cat(rows).mean(0).numpy(), "logits", notes=(note,))


def _row_means(network: Any, batch: Encoded) -> Float[Tensor, "row vocab"]:
    """Mean logits over the places of every row; zero where it has none."""
    where = batch.at("all")
    logits = predicted_logits(network, batch, where)
    rows = torch.nn.functional.one_hot(where.nonzero()[:, 0], len(batch)).to(logits)
    return (rows / rows.sum(0).clamp_min(1)).T @ logits
