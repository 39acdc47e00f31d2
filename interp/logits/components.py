"""The residual stream as a sum of parts seen along one direction: embeddings, heads, attention biases, MLPs.

resid = embed + pos_embed + Σ_layer (m (Σ_head z_h W_O^h + b_O) + mlp) (Elhage et al. 2021, transformer-circuits.pub);
m is 1 unless attention and MLP write a multiple of their output (Granite), which hook_mlp_out has inside already.
Where a norm follows the attention output (gemma2), x ↦ g x / scale(x) is applied with the scale the model really
had, so parts stay additive. No head's vector is ever built: z_h · (W_O^h q) is its value along q.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.core.errors import InputError

if TYPE_CHECKING:
    from interp.models.seam import Model
    from interp.prompts.text import Encoded

EMBED, POS_EMBED = "blocks.0.hook_resid_pre", "hook_pos_embed"
TOLERANCE = 1e-3  # of the measured change at a position, or absolute below one logit
NARROW = (
    "load both members with dtype float32, unless the architecture writes to the residual stream outside its "
    "embeddings, heads and MLPs"
)
OTHERWISE = (
    "the architecture writes something else than heads and MLPs to the residual stream, such as a norm behind the "
    "block (OLMo 2, EXAONE 4); use lens or shift, which read the stream itself"
)
Captured = Mapping[str, Float[Tensor, "chosen ..."]]


@dataclass(frozen=True)
class Part:
    """One addend of the residual stream; `layer` and `head` are None where they make no sense."""

    component: str
    kind: str
    layer: int | None = None
    head: int | None = None


@dataclass(frozen=True)
class ComponentReading:
    """One batch at its chosen positions, fp64 on CPU: every part along the direction, and the whole final
    residual stream.
    """

    along: Float[Tensor, "part chosen"]
    resid: Float[Tensor, "chosen d_model"]


def parts(model: Model) -> tuple[Part, ...]:
    """The addends of `model`'s final residual stream, in the order `read_components` returns them."""
    found = [Part("embed", "embedding")]
    if POS_EMBED in model.hook_names:
        found.append(Part("pos_embed", "positional embedding"))
    for layer in range(model.n_layers):
        W_O, b_O = model.attention_output(layer)
        found += [Part(f"L{layer}H{head}", "head", layer, head) for head in range(len(W_O))]
        if b_O is not None:
            found.append(Part(f"L{layer} attention bias", "attention bias", layer))
        found.append(Part(f"L{layer} MLP", "mlp", layer))
    return tuple(found)


def hooks(model: Model) -> tuple[str, ...]:
    """Hook names `read_components` needs, in the order of the forward pass."""
    names = [EMBED, *([POS_EMBED] if POS_EMBED in model.hook_names else [])]
    for layer in range(model.n_layers):
        names += [f"blocks.{layer}.attn.hook_z", f"blocks.{layer}.hook_mlp_out"]
        if _post_norm(layer) + ".hook_scale" in model.hook_names:
            names += [f"{_post_norm(layer)}.{end}" for end in ("hook_scale", "hook_normalized", "hook_out")]
    return (*names, final_hook(model))


def final_hook(model: Model) -> str:
    """Where the residual stream is complete: what the final norm reads."""
    return f"blocks.{model.n_layers - 1}.hook_resid_post"


def read_components(
    model: Model, batch: Encoded, chosen: Bool[Tensor, "example pos"], q: Float[Tensor, "d_model"]
) -> ComponentReading:
    """Dot product of every part with `q` at the chosen positions, from one forward pass that stops at the
    last layer.
    """
    captured = {name: at(value, chosen) for name, value in model.run(batch, hooks=hooks(model)).items()}
    position = captured.get(POS_EMBED)
    embed = captured[EMBED] if position is None else captured[EMBED] - position
    along = [embed @ q, *([] if position is None else [position @ q])]
    for layer in range(model.n_layers):
        along += _attention(model, captured, layer, q)
        along.append(captured[f"blocks.{layer}.hook_mlp_out"] @ q)
    return ComponentReading(torch.stack(along), captured[final_hook(model)])


def at(
    values: Float[Tensor, "example pos ..."], chosen: Bool[Tensor, "example pos"]
) -> Float[Tensor, "chosen ..."]:
    """The chosen positions of all rows, one after the other, as fp64 on CPU."""
    return values.detach()[chosen.to(values.device)].cpu().double()


def _post_norm(layer: int) -> str:
    return f"blocks.{layer}.ln1_post"


def _attention(
    model: Model, captured: Captured, layer: int, q: Float[Tensor, "d_model"]
) -> list[Float[Tensor, "chosen"]]:
    """Each head's value along q, then the output bias's where there is one."""
    W_O, b_O = model.attention_output(layer)
    z = captured[f"blocks.{layer}.attn.hook_z"]
    gain, scale = _post_gain(captured, layer)
    q = q * gain * getattr(getattr(model, "config", None), "residual_multiplier", 1.0)
    heads = torch.einsum("chk,hk->hc", z, W_O.detach().cpu().double() @ q) / scale
    if b_O is None:
        return list(heads)
    bias = (b_O.detach().cpu().double() @ q) / scale
    return [*heads, bias.expand(len(z))]


def _post_gain(captured: Captured, layer: int) -> tuple[Tensor, Tensor]:
    """Weight (d_model) and scale (per position) of the norm behind the attention output; ones where there is
    none.

    The weight is read off the norm's own output / normalized input, summed over positions, so that no
    family's convention for it (w, 1 + w) enters.
    """
    norm = _post_norm(layer)
    if norm + ".hook_scale" not in captured:
        return torch.ones((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    normalized, out = captured[norm + ".hook_normalized"], captured[norm + ".hook_out"]
    weight = (out * normalized).sum(0) / normalized.square().sum(0).clamp_min(torch.finfo(torch.float64).tiny)
    return weight, captured[norm + ".hook_scale"].squeeze(-1)


def check_explained(
    measured: Float[Tensor, "chosen"],
    residual: Float[Tensor, "chosen"],
    label: str,
    *,
    dtype: torch.dtype | None = None,
) -> float:
    """Largest |residual|; InputError when a position leaves more of its change unexplained than TOLERANCE."""
    excess = residual.abs() / measured.abs().clamp_min(1)
    index = int(excess.argmax())
    if not excess[index] <= TOLERANCE:
        raise InputError(
            f"the components of {label} leave {float(residual[index]):.2g} of a measured change of "
            f"{float(measured[index]):.2g} logits unexplained; {OTHERWISE if dtype == torch.float32 else NARROW}"
        )
    return float(residual.abs().max())
