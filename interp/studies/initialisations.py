"""Other starts for a student of θ_0: f(Πθ_0) = f(θ_0) in other coordinates Π, or other weights θ_0 + σ rms(θ_0) ξ.

Π is linear in what students train: neurons and heads in another order, or a residual stream x' = Q x with Q
orthogonal. Under x' = Q x a matrix that reads the stream behind a norm of scales g becomes W diag(g / c) Qᵀ, one that
writes to it Q W, and the norm keeps one scale c = rms(g), so that weights and steps keep their size. Only the order
leaves Adam's steps the same function; plain gradient descent does not notice Q either (arXiv 1412.6980 scales each
coordinate by itself).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InputError
from interp.models.bridge import decoder_layers
from interp.models.language import LanguageModel
from interp.models.seam import check_shapes, check_tokenizers
from interp.models.starts import with_weights

Weights = dict[str, Tensor]
Carry = Callable[[Mapping[str, Tensor]], Weights]
"""From the weights of a network to those of the same function in other coordinates; it serves every network alike."""
KINDS = ("llama", "mistral", "qwen2", "qwen3")
LAYER = re.compile(r"model\.layers\.(?P<layer>\d+)\.(?P<place>.+)")
READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
"""The norms of a layer and the matrices that read the stream behind each."""
WRITERS = ("self_attn.o_proj", "mlp.down_proj")


def permutation(model: LanguageModel, *, seed: int) -> Carry:
    """MLP neurons and attention heads of every layer in a random order; under grouped queries, groups and their heads.

    Raises InputError for an architecture whose neurons and heads it does not know.
    """
    _check_kind(model, "permuted")
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    orders = [_orders(config, width, generator) for _ in range(model.n_layers)]

    def carry(weights: Mapping[str, Tensor]) -> Weights:
        return {name: _permuted(name, weight, orders) for name, weight in weights.items()}

    return carry


def _orders(config: Any, width: int, generator: torch.Generator) -> dict[str, Int[Tensor, "unit"]]:
    """Where every neuron, query column and key column of a layer comes from."""
    groups = config.num_key_value_heads
    size = config.num_attention_heads // groups
    keys = torch.randperm(groups, generator=generator)
    queries = torch.cat([group * size + torch.randperm(size, generator=generator) for group in keys])
    neurons = torch.randperm(config.intermediate_size, generator=generator)
    return {"mlp": neurons, "query": _columns(queries, width), "key": _columns(keys, width)}


def _columns(heads: Int[Tensor, "head"], width: int) -> Int[Tensor, "unit"]:
    return (heads[:, None] * width + torch.arange(width)).flatten()


def _permuted(name: str, weight: Tensor, orders: list[dict[str, Tensor]]) -> Tensor:
    """The weight with its units in their new order: rows of what computes a unit, columns of what reads it."""
    found = LAYER.fullmatch(name)
    if found is None:
        return weight
    order = orders[int(found["layer"])]
    match found["place"].rsplit(".", 1):
        case [("mlp.gate_proj" | "mlp.up_proj"), _]:
            return weight[order["mlp"]]
        case ["mlp.down_proj", "weight"]:
            return weight[:, order["mlp"]]
        case ["self_attn.q_proj", _]:
            return weight[order["query"]]
        case [("self_attn.k_proj" | "self_attn.v_proj"), _]:
            return weight[order["key"]]
        case ["self_attn.o_proj", "weight"]:
            return weight[:, order["query"]]
        case _:
            return weight


def rotation(model: LanguageModel, *, seed: int) -> Carry:
    """The residual stream turned by a random orthogonal Q, the scales of every norm folded into what reads it.

    Raises InputError for another architecture than an RMS-normed one of `KINDS`, and for an embedding that is also the
    unembedding: the last norm's scales can then not be folded into one of the two.
    """
    _check_kind(model, "rotated")
    if "lm_head.weight" not in model.parameters():
        raise InputError(
            f"{model.name} has one matrix as embedding and unembedding, into which no norm can be folded, so it cannot "
            "be rotated; leave out that cell (--without rotated) or take a model with tie_word_embeddings=False"
        )
    noise = torch.randn(
        model.d_model, model.d_model, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    Q, R = torch.linalg.qr(noise)
    Q = Q * R.diagonal().sign()

    def carry(weights: Mapping[str, Tensor]) -> Weights:
        scales = {name: weight.double() for name, weight in weights.items() if _is_norm(name)}
        return {name: _rotated(name, weight.double(), scales, Q) for name, weight in weights.items()}

    return carry


def _is_norm(name: str) -> bool:
    """Whether the weight is a scale of a norm of the residual stream (a norm of queries or keys is none)."""
    return name == "model.norm.weight" or name.removesuffix(".weight").endswith(tuple(READERS))


def _rotated(
    name: str, weight: Tensor, scales: Mapping[str, Tensor], Q: Float[Tensor, "d_model d_model"]
) -> Tensor:
    """One weight of the turned network, in fp64."""
    if _is_norm(name):
        return torch.full_like(weight, float(_rms(weight)))
    if name == "model.embed_tokens.weight":
        return weight @ Q.T
    if name.removesuffix(".weight").removesuffix(".bias").endswith(WRITERS):
        return Q @ weight
    norm = _norm_before(name)
    if norm is None:
        return weight
    return weight * (scales[norm] / _rms(scales[norm])) @ Q.T


def _norm_before(name: str) -> str | None:
    """The norm behind which this matrix reads the stream; None for a weight that does not read it."""
    if name == "lm_head.weight":
        return "model.norm.weight"
    found = LAYER.fullmatch(name)
    for norm, places in READERS.items():
        if found and found["place"] in {f"{place}.weight" for place in places}:
            return f"model.layers.{found['layer']}.{norm}.weight"
    return None


def _rms(values: Tensor) -> Tensor:
    return values.square().mean().sqrt()


def carried(model: LanguageModel, carry: Carry, *, name: str) -> LanguageModel:
    """The same function in the coordinates `carry` leads to, as a model of its own."""
    return with_weights(model, carry(model.parameters()), name=name)


def joined(*, head: LanguageModel, body: LanguageModel, name: str) -> LanguageModel:
    """The decoder layers of `body` between the embedding, last norm and unembedding of `head` (and its positions).

    Raises InputError for two models of different tokenizers or shapes.
    """
    check_tokenizers(head, body)
    check_shapes(head, body)
    layers = body_weights(body)
    return with_weights(head, {key: body.parameters()[key] for key in layers}, name=name)


def body_weights(model: LanguageModel) -> list[str]:
    """Names of the weights inside the decoder layers."""
    network = model.network()
    layers = decoder_layers(network)
    place = next(name for name, module in network.named_modules() if module is layers)
    return [name for name in model.parameters() if name.startswith(f"{place}.")]


def _check_kind(model: LanguageModel, what: str) -> None:
    """InputError unless the neurons, heads and norms have the names and the places of a Llama."""
    kind = model.config.model_type
    if kind not in KINDS:
        raise InputError(
            f"{model.name} is a {kind}, and no {what} start is made for one; leave out that cell (--without {what}), "
            f"or pass one of {', '.join(KINDS)}"
        )
