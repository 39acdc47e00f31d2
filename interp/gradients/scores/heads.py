"""Scores by attention head: the rows of q, k and v that make a head, and the columns of o that read it.

q, k, v   (V a)_head · g_head        o   a_head · (Vᵀ g)_head
Under grouped queries a head of k or v is the group's. What belongs to no head (the output bias of the attention, every
other module) has head −1, so that the heads of a module add up to the module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.runs import InputError
from interp.gradients.scores.sites import Site, by_position, dense_at, stores_inputs_first, through
from interp.models.low_rank import wide

WRITES = {
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "query": "q",
    "key": "k",
    "value": "v",
}
READS = ("o_proj", "out_proj", "c_proj", "dense")
FUSED = {"c_attn": "qkv", "query_key_value": "heads"}  # q, k, v one after the other, or inside every head
ATTENTION = ("attn", "self_attn", "attention", "self_attention")


@dataclass(frozen=True)
class Heads:
    """How an attention matrix is cut: its `parts` (of q, k, v, o) of `count` heads; `reads` when heads enter it (o)."""

    parts: tuple[str, ...]
    count: int
    reads: bool
    inside: bool = False  # parts lie within each head rather than heads within each part


def head_layout(site: Site, config: Any) -> Heads | None:
    """How the site is cut into heads; None for a module outside the attention.

    Raises InputError for an attention matrix of an unknown layout.
    """
    *path, leaf = site.name.replace("attn.attention", "attn").split(".")
    if site.kind != "matrix" or not any(part in ATTENTION for part in path[-1:]):
        return None
    queries = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or queries
    found = None
    if leaf in WRITES:
        found = Heads((WRITES[leaf],), queries if WRITES[leaf] == "q" else groups, reads=False)
    elif leaf in READS:
        found = Heads(("o",), queries, reads=True)
    elif leaf in FUSED and groups == queries and (leaf != "c_attn" or stores_inputs_first(site.module)):
        found = Heads(("q", "k", "v"), queries, reads=False, inside=FUSED[leaf] == "heads")
    if found and _width(site, reads=found.reads) == len(found.parts) * found.count * _head_width(config):
        return found
    raise InputError(
        f"{site.name} is an attention matrix of a layout without known heads; leave 'head' out of by"
    )


def _width(site: Site, *, reads: bool) -> int:
    """Features of the matrix along the axis that the heads cut."""
    rows, columns = site.module.get_parameter("weight").shape
    return columns if reads != stores_inputs_first(site.module) else rows


def _head_width(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def by_head(
    site: Site, a: Tensor, g: Tensor, *, layout: Heads | None
) -> Mapping[tuple[str, int], Float[Tensor, "direction example pos"]]:
    """Contributions by (part, head) at every position; ("", −1) holds what belongs to no head."""
    if layout is None:
        return {("", -1): by_position(site, a, g)}
    weight = site.stacks.get("weight")
    met = wide(a if layout.reads else g)
    rows = []
    for k in range(site.count):
        moved = through(weight, k, g, back=True) if layout.reads else through(weight, k, a)
        product = torch.zeros_like(met) if moved is None else wide(moved) * met
        if not layout.reads and "bias" in site.stacks:
            product += wide(dense_at(site.stacks["bias"], k, like=g[0, 0])) * wide(g)
        rows.append(_cut(product, layout))
    cut = torch.stack(rows)  # direction, example, pos, part, head
    found = {
        (part, head): cut[..., index, head]
        for index, part in enumerate(layout.parts)
        for head in range(layout.count)
    }
    if layout.reads and "bias" in site.stacks:
        bias = torch.stack([dense_at(site.stacks["bias"], k, like=g[0, 0]) for k in range(site.count)])
        found["", -1] = (wide(g) @ wide(bias).T).movedim(-1, 0)
    return found


def _cut(product: Float[Tensor, "example pos features"], layout: Heads) -> Tensor:
    """[example, pos, part, head], each the sum over its features."""
    parts, lead = len(layout.parts), product.shape[:2]
    if layout.inside:
        return product.view(*lead, layout.count, parts, -1).sum(-1).transpose(-1, -2)
    return product.view(*lead, parts, layout.count, -1).sum(-1)
