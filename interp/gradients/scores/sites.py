"""Where a weight meets the data: for one module, the exact share of −<∇ℓ_i, v> that passes through its weights.

With input a_t and output gradient g_t = ∂ℓ/∂y_t at position t,
    matrix     y = W a + b     <∇ℓ, V> = Σ_t g_t · (V a_t) = Σ_t (Lᵀ g_t) · (R a_t) for V = L R
    embedding  y_t = W[id_t]   <∇ℓ, V> = Σ_t g_t · V[id_t]
    norm       y = w ∘ x̂ + b   <∇ℓ, v> = Σ_t (g_t ∘ x̂_t) · v
A tied matrix is met twice, as embedding and as unembedding, and both terms count. Any other module is differentiated
forward by itself. Contributions here are +<∇ℓ, v>; the sign is turned where they are collected.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.models.low_rank import LowRank, wide

Kind = Literal["matrix", "embedding", "norm", "other", "hook"]
CHUNK = {
    "cpu": 1_000_000,
    "cuda": 64_000_000,
}  # numbers of per-example gradient held at once: what a cache holds


@dataclass(frozen=True)
class Thin:
    """The factors of several low-rank tensors side by side; `owner` [ranks, tensors] says whose each rank is."""

    left: Float[Tensor, "rows ranks"]
    right: Float[Tensor, "ranks columns"]
    owner: Float[Tensor, "ranks tensors"]

    def of(self, index: int) -> LowRank:
        """The factors of one of them."""
        own = self.owner[:, index].bool()
        return LowRank(self.left[:, own], self.right[own])


@dataclass(frozen=True)
class Stack:
    """One tensor in K directions: the dense ones stacked, the low-rank ones by their factors.

    Matrices are oriented (output, input) whatever the module stores. `dense_at` and `thin_at` say which of the K
    directions each belongs to.
    """

    count: int
    dense: Float[Tensor, "dense ..."] | None
    dense_at: tuple[int, ...]
    thin: Thin | None
    thin_at: tuple[int, ...]


@dataclass(frozen=True)
class Site:
    """A module with the directions' tensors for its own weights, by leaf name; `weights` are the full names.

    A hook site holds a virtual bias on what leaves a decoder layer, or on what enters the first one (`entering`).
    """

    name: str
    module: nn.Module
    kind: Kind
    stacks: dict[str, Stack]
    weights: dict[str, str]
    count: int
    entering: bool = False
    beside: tuple[Any, Any] = ((), {})  # what else an "other" module is called with, after its first argument
    part: int | None = None  # which of several outputs is met, as a router gives logits, weights and choices


def kind_of(module: nn.Module) -> Kind:
    """How a module's own weights enter its output."""
    from transformers.pytorch_utils import Conv1D

    forward = type(module).forward  # a subclass may scale or mask what its parent computes
    if forward in (nn.Linear.forward, Conv1D.forward):
        return "matrix"
    if forward is nn.Embedding.forward or type(module).__name__.endswith("ScaledWordEmbedding"):
        return "embedding"
    own = {name for name, _ in module.named_parameters(recurse=False)}
    plain = len(signature(forward).parameters) == 2  # itself and x: no gate
    if plain and (
        isinstance(module, nn.LayerNorm) or (own == {"weight"} and "RMSNorm" in type(module).__name__)
    ):
        return "norm"
    return "other"


def stack(tensors: Sequence[Tensor | LowRank | None], *, like: Tensor, transposed: bool = False) -> Stack:
    """K directions of one tensor (None where a direction leaves it alone), in the dtype and place of `like`."""
    put: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
    dense = {k: tensor.to(**put) for k, tensor in enumerate(tensors) if isinstance(tensor, Tensor)}
    factors = {k: tensor for k, tensor in enumerate(tensors) if isinstance(tensor, LowRank)}
    each = list(dense.values())
    stacked = (torch.stack(each) if len(each) > 1 else each[0][None]) if each else None  # one is not copied
    if transposed and stacked is not None and stacked.dim() == 3:
        stacked = stacked.transpose(1, 2)
    thin = _side_by_side(list(factors.values()), transposed=transposed, **put) if factors else None
    return Stack(len(tensors), stacked, tuple(dense), thin, tuple(factors))


def still_row(stack: Stack, row: int | None) -> Stack:
    """One row of every direction zeroed: an embedding gives that of its `padding_idx` no gradient, wherever it is."""
    if row is None:
        return stack
    dense = None if stack.dense is None else stack.dense.index_fill(1, _index(row, stack.dense), 0)
    thin = stack.thin
    if thin is not None:
        thin = replace(thin, left=thin.left.index_fill(0, _index(row, thin.left), 0))
    return replace(stack, dense=dense, thin=thin)


def _index(row: int, like: Tensor) -> Tensor:
    return torch.tensor([row], device=like.device)


def _side_by_side(factors: Sequence[LowRank], *, transposed: bool, **put: Any) -> Thin:
    left = torch.cat([factor.left for factor in factors], 1).to(**put)
    right = torch.cat([factor.right for factor in factors], 0).to(**put)
    owner = torch.block_diag(*[torch.ones(factor.rank, 1) for factor in factors]).to(left.device)
    return Thin(right.T, left.T, owner) if transposed else Thin(left, right, owner)


def by_position(site: Site, a: Tensor, g: Tensor) -> Float[Tensor, "direction example pos"]:
    """Contributions at every input position: one pass of each dense direction over the tokens."""
    if site.kind == "matrix":
        found = _matrix(site, a, g)
    elif site.kind == "embedding":
        found = _embedding(site.stacks["weight"], a, unscaled(site, g))
    else:
        found = _vectors(site, vector_gradients(site, a, g)) if site.kind != "other" else _other(site, a, g)
    return found


def by_example(site: Site, a: Tensor, g: Tensor) -> Float[Tensor, "direction example"]:
    """Contributions by example through each example's own gradient: the tokens are passed once, whatever K is."""
    if site.kind != "matrix":
        return by_position(site, a, g).sum(-1)
    stack = site.stacks.get("weight")
    total = _zeros(g, site.count, len(g))
    if stack is not None and stack.dense is not None:
        total[list(stack.dense_at)] += _through_gradients(stack.dense.flatten(1), a, g)
    if stack is not None and stack.thin is not None:
        total[list(stack.thin_at)] += _thin(stack.thin, a, g).sum(-1)
    if "bias" in site.stacks:
        bias = site.stacks["bias"]
        total[list(bias.dense_at)] += _rows(bias) @ wide(g.sum(1)).T
    return total


def _through_gradients(
    dense: Float[Tensor, "dense weight"], a: Tensor, g: Tensor
) -> Float[Tensor, "dense example"]:
    """<G_i, V_k> with G_i = Σ_t g_t a_tᵀ made a few examples at a time, in one place in memory."""
    size = max(1, CHUNK.get(g.device.type, CHUNK["cuda"]) // dense.shape[1])
    place = g.new_empty(min(size, len(g)), g.shape[2], a.shape[2])
    parts = []
    for start in range(0, len(g), size):
        rows = slice(start, start + size)
        gradients = place[: len(g[rows])]
        torch.bmm(g[rows].transpose(1, 2), a[rows], out=gradients)
        parts.append(wide(dense) @ wide(gradients.flatten(1)).T)
    return torch.cat(parts, 1)


def _matrix(site: Site, a: Tensor, g: Tensor) -> Float[Tensor, "direction example pos"]:
    total = _zeros(g, site.count, *g.shape[:2])
    stack = site.stacks.get("weight")
    if stack is not None and stack.dense is not None:
        for k, matrix in zip(stack.dense_at, stack.dense, strict=True):
            total[k] += _dot(nn.functional.linear(a, matrix), g)
    if stack is not None and stack.thin is not None:
        total[list(stack.thin_at)] += _thin(stack.thin, a, g)
    if "bias" in site.stacks:
        bias = site.stacks["bias"]
        total[list(bias.dense_at)] += (wide(g) @ _rows(bias).T).movedim(-1, 0)
    return total


def _thin(thin: Thin, a: Tensor, g: Tensor) -> Float[Tensor, "tensor example pos"]:
    """Σ_r (R a)_r (Lᵀ g)_r for every low-rank direction at once."""
    products = wide(a @ thin.right.T) * wide(g @ thin.left)
    return (products @ thin.owner.to(products)).movedim(-1, 0)


def _embedding(stack: Stack, ids: Tensor, g: Tensor) -> Float[Tensor, "direction example pos"]:
    total = _zeros(g, stack.count, *g.shape[:2])
    if stack.dense is not None:
        for k, matrix in zip(stack.dense_at, stack.dense, strict=True):
            total[k] += _dot(nn.functional.embedding(ids, matrix), g)
    if stack.thin is not None:
        products = wide(stack.thin.left[ids]) * wide(g @ stack.thin.right.T)
        total[list(stack.thin_at)] += (products @ stack.thin.owner.to(products)).movedim(-1, 0)
    return total


def unscaled(site: Site, g: Tensor) -> Tensor:
    """The gradient at the rows of an embedding whose output is scaled (gemma: by √d_model)."""
    scale = getattr(site.module, "embed_scale", None)
    return g if scale is None else g * torch.as_tensor(scale).to(g)


def vector_gradients(site: Site, a: Tensor, g: Tensor) -> dict[str, Float[Tensor, "example pos d"]]:
    """The gradient of each vector weight at every position, heads added up."""
    if site.kind == "hook":
        return {"bias": wide(g)}
    found = {"weight": wide(g) * normalised(site.module, a)}
    if "bias" in site.stacks:
        found["bias"] = wide(g)
    return {leaf: _by_token(gradient) for leaf, gradient in found.items()}


def _by_token(gradient: Tensor) -> Float[Tensor, "example pos d"]:
    """The gradient by position; a norm inside the heads sees [example, pos, head, d]."""
    return gradient if gradient.dim() == 3 else gradient.sum(2)


def normalised(module: nn.Module, x: Tensor) -> Tensor:
    """x̂ of a norm: what its weight multiplies, in fp32 at least."""
    x = wide(x)
    eps = getattr(module, "eps", getattr(module, "variance_epsilon", 0.0))
    if isinstance(module, nn.LayerNorm):
        return nn.functional.layer_norm(x, module.normalized_shape, eps=eps)
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def _vectors(site: Site, gradients: dict[str, Tensor]) -> Float[Tensor, "direction example pos"]:
    first = next(iter(gradients.values()))
    total = first.new_zeros(site.count, *first.shape[:2])
    for leaf, stack in site.stacks.items():
        total[list(stack.dense_at)] += (gradients[leaf] @ _rows(stack).T).movedim(-1, 0)
    return total


def _other(site: Site, a: Tensor, g: Tensor) -> Float[Tensor, "direction example pos"]:
    """<g, dy> with dy the module's own derivative along each direction, forward mode."""
    weights = {leaf: parameter.detach() for leaf, parameter in site.module.named_parameters(recurse=False)}
    bare: Any = copy.copy(site.module)  # over the same weights, without the hooks that brought us here
    bare._forward_hooks, bare._forward_pre_hooks = OrderedDict(), OrderedDict()

    def output(moving: dict[str, Tensor]) -> Any:
        out: Any = torch.func.functional_call(bare, moving, (a, *site.beside[0]), site.beside[1])
        return out if site.part is None else out[site.part]

    rows = []
    for k in range(site.count):
        tangents = {leaf: dense_at(site.stacks.get(leaf), k, like=weight) for leaf, weight in weights.items()}
        moved: Any = torch.func.jvp(output, (weights,), (tangents,))[1]
        rows.append((wide(moved).view_as(g) * wide(g)).flatten(2).sum(-1))
    return torch.stack(rows)


def dense_at(stack: Stack | None, k: int, *, like: Tensor) -> Tensor:
    """Direction k of a tensor in full; zeros where it leaves the tensor alone."""
    if stack is not None and stack.dense is not None and k in stack.dense_at:
        return stack.dense[stack.dense_at.index(k)]
    if stack is not None and stack.thin is not None and k in stack.thin_at:
        return stack.thin.of(stack.thin_at.index(k)).dense()
    return torch.zeros_like(like)


def through(stack: Stack | None, k: int, x: Tensor, *, back: bool = False) -> Tensor | None:
    """V x, or Vᵀ x going back, through the thin factors where V has them; None where direction k leaves V alone."""
    if stack is not None and stack.thin is not None and k in stack.thin_at:
        factors = stack.thin.of(stack.thin_at.index(k))
        return x @ factors.left @ factors.right if back else x @ factors.right.T @ factors.left.T
    if stack is not None and stack.dense is not None and k in stack.dense_at:
        matrix = stack.dense[stack.dense_at.index(k)]
        return x @ matrix if back else nn.functional.linear(x, matrix)
    return None


def _rows(stack: Stack) -> Float[Tensor, "dense d"]:
    assert stack.dense is not None
    return wide(stack.dense)


def _zeros(like: Tensor, *shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


def _dot(x: Tensor, g: Tensor) -> Float[Tensor, "example pos"]:
    return (wide(x) * wide(g)).sum(-1)
