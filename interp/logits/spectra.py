"""The spectrum of a weight update: singular values of Δ = W_member − W_start, and what its top directions point at.

Effective rank is exp(−Σ e_i log e_i) with e_i = σ_i² / Σ σ_j², the entropy form of Roy and Vetterli (EUSIPCO 2007)
on energies instead of singular values. The overlap of the top k directions with a token is |U_kᵀ ŵ|², ŵ the token's
unit unembedding row as the residual stream sees it (norm weight folded in, vocabulary mean taken out, since softmax
ignores it); a random direction of the d-dimensional residual stream has k/d.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp import figures
from interp.activations.shifts import own_start
from interp.core.doors import door
from interp.core.progress import progress
from interp.core.runs import InputError
from interp.logits.direction import logit_direction
from interp.models.decomposition import (
    EMBEDDINGS,
    Decomposition,
    Side,
    decompose,
    layer_of,
    module_stem,
    stream_side,
)
from interp.models.low_rank import Entry, LowRank, norm
from interp.models.parameters import ParameterDirection
from interp.models.precision import exactly
from interp.models.updates import weight_update
from interp.models.vocabulary import number_tokens
from interp.prompts.notes import noting
from interp.prompts.trait_files import AnyTrait, find_trait

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.seam import Model, Unembedding
    from interp.prompts.traits import Trait

UNIT = "squared cosine"
TOP = 4
SHOWN = 40  # matrices in a figure
SHADES = ("#08306b", "#2171b5", "#6baed6", "#c6dbef")  # from the first singular direction
OTHERS = 1000  # tokens that stand for the rest of the vocabulary
CONV1D = frozenset({"c_attn", "c_fc", "c_proj"})  # gpt2 stores these as (input, output)


@door
@noting
@exactly
def spectrum(
    member: Model, trait: AnyTrait | None = None, *, minus: Model | None = None, top: int = TOP
) -> figures.Result:
    """Decompose the weight update of `member`, matrix by matrix, and compare its top directions with tokens.

    Args:
        member: a model with a `start`, the model it was trained from.
        trait: whose target and foils are looked for; as in `margin`. None for none.
        minus: a neutral member of the same start, whose update is taken off first: the update of member − minus.
        top: how many singular vectors count, at least 1.

    Returns:
        One row per weight matrix, largest norm first. `side` says which singular vectors are in the residual stream: a
        matrix "reads" it (right vectors) or "writes" it (left vectors). `effective_rank` is that of Roy and Vetterli
        (EUSIPCO 2007). `overlap_*` are means over tokens of the squared cosine with the span of the top `directions`
        singular vectors (fewer than `top` when the update has lower rank), NaN for a matrix that does neither or did
        not change; `overlap_chance` is directions / d_model, and `foil_rank` the share of target and foils that overlap
        at least as much as the target, a word of several pieces by all of them. The unembedding is the start's.

    Raises:
        InputError: for `top` below 1, for a member without a start, and for a `minus` of another start.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> interp.spectrum(lineage.student, "owl").frame.columns[:6].tolist()
        ['matrix', 'layer', 'norm', 'relative_norm', 'side', 'effective_rank']
    """
    trait = None if trait is None else find_trait(trait)
    if top < 1:
        raise InputError(f"top {top} leaves no direction; give at least 1.")
    start = own_start(member)
    tokens = _token_groups(start, trait)
    update = weight_update(member, minus=minus)
    rows, vectors = _rows(update, start, tokens, top=top)
    frame = pd.DataFrame(rows).sort_values("norm", ascending=False, kind="stable", ignore_index=True)
    changed = sum(row["norm"] > 0 for row in rows)
    return figures.Result(
        label=f"{update.label}, spectrum of the update",
        frame=frame.astype({"layer": "Int64"}),
        unit=UNIT,
        notes=(
            f"{changed} of {len(frame)} matrices changed; norms and biases changed by {vectors:.3g} in norm",
            "overlaps are with unembedding rows, norm weight folded in and vocabulary mean taken out",
            f"chance is directions / {start.d_model}; the foils and the other tokens show what any token would get",
        ),
        draw=_draw,
    )


def _rows(
    moved: ParameterDirection,
    start: Model,
    tokens: Mapping[str, Float[Tensor, "token d_model"]],
    *,
    top: int,
) -> tuple[list[dict[str, Any]], float]:
    """A row per matrix, and the norm of the change of all vectors."""
    update, before = moved.tensors, start.parameters()
    stored = _transposed(before)
    rows, vectors = [], 0.0
    for name in progress(before, f"spectrum of {moved.label}", total=len(before), unit="matrix"):
        whole = before[name].detach().cpu()
        change = update.get(name, torch.zeros_like(whole))
        size = norm(change)
        if len(change.shape) == 2:
            parts = _oriented(name, change, stored)
            named = {
                "matrix": name,
                "layer": layer_of(name),
                "norm": size,
                "relative_norm": size / norm(whole),
            }
            rows.append(named | _row(parts, tokens, side=stream_side(name, parts, start.d_model), top=top))
        else:
            vectors += size**2
    return rows, vectors**0.5


def written_by_update(moved: ParameterDirection, start: Model) -> Iterator[tuple[str, Decomposition]]:
    """The matrices that write to the residual stream and moved, decomposed: their left vectors lie in the stream."""
    stored = _transposed(start.parameters())
    for name, change in moved.tensors.items():
        if len(change.shape) == 2 and norm(change):
            parts = _oriented(name, change, stored)
            if stream_side(name, parts, start.d_model) == "writes":
                yield name, parts


def largest_written(moved: ParameterDirection, start: Model, *, top: int) -> ParameterDirection:
    """Σ_k σ_k u_k v_kᵀ over the `top` largest directions of every matrix that writes to the stream, as it is stored."""
    stored, tensors = _transposed(start.parameters()), {}
    for name, parts in written_by_update(moved, start):
        count = parts.directions(top)
        kept = LowRank(parts.left[:, :count] * parts.values[:count], parts.right[:, :count].T)
        turned = module_stem(name) in stored
        tensors[name] = LowRank(kept.right.T, kept.left.T) if turned else kept
    return replace(moved, tensors=tensors, label=f"{top} largest directions of {moved.label}")


def _transposed(names: Iterable[str]) -> frozenset[str]:
    """Modules whose weights are stored as (input, output)."""
    return EMBEDDINGS | (CONV1D if any(module_stem(name) == "c_attn" for name in names) else frozenset())


def _oriented(name: str, change: Entry, stored: frozenset[str]) -> Decomposition:
    """A change decomposed as (output, input)."""
    parts = decompose(change if isinstance(change, LowRank) else change.detach().cpu())
    return replace(parts, left=parts.right, right=parts.left) if module_stem(name) in stored else parts


def _row(
    parts: Decomposition,
    tokens: Mapping[str, Float[Tensor, "token d_model"]],
    *,
    side: Side | None,
    top: int,
) -> dict[str, Any]:
    """Spectrum of one update, and the overlaps of its residual-stream side."""
    count = parts.directions(top)
    sigmas = torch.nn.functional.pad(parts.values, (0, top))[:top].tolist()
    row = {
        "side": side,
        "effective_rank": parts.effective_rank,
        "energy_top": float(parts.energies[:top].sum()),
        **{f"sigma_{index}": value for index, value in enumerate(sigmas, start=1)},
        "directions": count,
    }
    if side is None or not count:
        return row | {f"overlap_{name}": np.nan for name in ("chance", *tokens)}
    vectors = (parts.left if side == "writes" else parts.right)[:, :count]
    overlaps = {name: (rows @ vectors).square().sum(1) for name, rows in tokens.items()}
    row["overlap_chance"] = count / len(vectors)
    row |= {f"overlap_{name}": float(values.mean()) for name, values in overlaps.items()}
    if "target" in overlaps:
        foils = overlaps["foils"]
        row["foil_rank"] = (1 + int((foils >= overlaps["target"].mean()).sum())) / (1 + len(foils))
    return row


def _token_groups(start: Model, trait: Trait | None) -> dict[str, Float[Tensor, "token d_model"]]:
    """Unit residual-stream directions of the target, its foils, the numbers and the rest of the vocabulary."""
    unembedding = start.unembedding()
    size = unembedding.W_U.shape[1]
    groups: dict[str, Sequence[int]] = {"numbers": number_tokens(start, size)}
    if trait is not None:
        direction = logit_direction(start, trait)
        groups["target"] = list(direction.words[0].pieces)
        groups["foils"] = [piece for word in direction.words[1:] for piece in word.pieces]
    taken = {index for ids in groups.values() for index in ids}
    rest = [index for index in range(size) if index not in taken]
    groups["other"] = rest[:: max(1, -(-len(rest) // OTHERS))]
    return {name: token_directions(unembedding, ids) for name, ids in groups.items()}


def token_directions(unembedding: Unembedding, ids: Iterable[int]) -> Float[Tensor, "token d_model"]:
    """Unit directions of the residual stream that raise each token's logit over the vocabulary's mean logit."""
    columns = unembedding.W_U.detach()[:, list(ids)].cpu().double()
    mean = unembedding.W_U.detach().mean(1, keepdim=True).cpu().double()
    seen = (unembedding.weight.detach().cpu().double()[:, None] * (columns - mean)).T
    return torch.nn.functional.normalize(unembedding.centred(seen), dim=1)


def _draw(result: figures.Result) -> go.Figure:
    """Left: log2 of overlap over chance by token group, zero is a random direction's. Right: energy by direction."""
    frame: Any = result.frame[result.frame["overlap_chance"].notna()].head(SHOWN)
    groups = [name for name in ("target", "foils", "numbers", "other") if f"overlap_{name}" in frame.columns]
    overlaps = np.stack([frame[f"overlap_{name}"] for name in groups], axis=1).astype(float)
    chance = np.asarray(frame["overlap_chance"], dtype=float)[:, None]
    with np.errstate(divide="ignore"):
        shown = np.log2(overlaps / chance)
    shown[~np.isfinite(shown)] = np.nan
    overlap = figures.heatmap(
        shown,
        rows=frame["matrix"].tolist(),
        columns=groups,
        title="top directions on token rows",
        unit="log2 of overlap / chance",
        axes=("tokens", "matrix, largest norm first"),
    )
    figure = figures.panels([overlap, _energies(frame)], title=result.label, across=True)
    return figures.captioned(
        figure, "right: singular directions from the first, darkest, and the effective rank"
    )


def _energies(frame: pd.DataFrame) -> go.Figure:
    """σ_i² / Σ σ_j² of the first directions of each matrix, stacked, with its effective rank."""
    import plotly.graph_objects as go

    rows = list(range(len(frame)))
    figure = go.Figure()
    names = [name for name in frame.columns if name.startswith("sigma_")]
    for index, name in enumerate(names):
        share = (frame[name] / frame["norm"]).to_numpy(dtype=float) ** 2
        last = index == len(names) - 1
        figure.add_bar(
            x=share.tolist(),
            y=rows,
            orientation="h",
            marker={"color": SHADES[min(index, len(SHADES) - 1)], "line": {"color": "white", "width": 1}},
            text=[f"{rank:.1f}" for rank in frame["effective_rank"]] if last else None,
            textposition="outside",
            hovertemplate=f"direction {index + 1}: %{{x:.3f}} of the energy<extra></extra>",
        )
    figure.update_xaxes(title={"text": "share of the energy"}, range=[0, 1.15])
    figure.update_yaxes(range=[len(rows) - 0.5, -0.5], showticklabels=False)
    return figure.update_layout(barmode="stack", title={"text": "energy by singular direction"})
