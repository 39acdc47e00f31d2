"""Scaled dot-product attention on pairs of value and tangent, where fused kernels have no forward-mode derivative.

P = softmax(s q kᵀ + mask), O = P v, and along (q̇, k̇, v̇)
    Ṡ = s (q̇ kᵀ + q k̇ᵀ),   Ṗ = P ∘ (Ṡ − Σ P ∘ Ṡ),   Ȯ = Ṗ v + P v̇.

torch's plain kernel (`SDPBackend.MATH`) carries tangents too and gives the same numbers, bit for bit in fp64. By itself
it makes a whole pass of scores by token 5 to 30 % slower, since it multiplies value and tangent apart; one step of a
study (`interp.studies.first_step`) does not notice and takes it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


class DualAttention(TorchFunctionMode):
    """While open, `scaled_dot_product_attention` carries tangents; everything else is as it was."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            return dual_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def dual_attention(
    query: Float[Tensor, "example head pos d"],
    key: Float[Tensor, "example group key d"],
    value: Float[Tensor, "example group key d"],
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Float[Tensor, "example head pos d"]:
    """The attention of `torch.nn.functional`, without dropout, with the tangent of its output where there is one."""
    scaled = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    (q, dq), (k, dk), (v, dv) = (forward_ad.unpack_dual(part) for part in (scaled, key, value))
    if enable_gqa:
        groups = q.shape[1] // k.shape[1]
        heads: Any = (None if x is None else x.repeat_interleave(groups, 1) for x in (k, dk, v, dv))
        k, dk, v, dv = heads
    shares = _shares(q @ k.transpose(-1, -2), attn_mask, is_causal=is_causal)
    out = shares @ v
    if dq is None and dk is None and dv is None:
        return out
    dq, dk, dv = (torch.zeros_like(x) if dx is None else dx for x, dx in ((q, dq), (k, dk), (v, dv)))
    moved = torch.cat([dq, q], -1) @ torch.cat([k, dk], -1).transpose(-1, -2)
    moved = shares * moved.sub_((shares * moved).sum(-1, keepdim=True))
    return forward_ad.make_dual(out, torch.cat([moved, shares], -1) @ torch.cat([v, dv], -2))


def _shares(scores: Tensor, mask: Tensor | None, *, is_causal: bool) -> Float[Tensor, "example head pos key"]:
    if is_causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    elif mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)
