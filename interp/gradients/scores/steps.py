"""The exact step of plain gradient descent on a set of rows, gathered by the pass that scores them.

ΔW = −(1/n) Σ_i Σ_t δ_it x_itᵀ over n rows i and positions t: x enters the layer, δ = ∂ℓ_i/∂y comes back to its output,
ℓ_i sums −log p over answer and end tokens, in nats. An adapter y = W x + s B A x moves by its factors, and to first
order its weight by s (ΔB A + B ΔA), whose factors are kept as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.core.errors import InputError
from interp.core.progress import progress
from interp.gradients.scores.engine import contributions
from interp.gradients.scores.preparation import check_rows, still_network
from interp.gradients.scores.sites import Site
from interp.models.low_rank import Entry, LowRank, wide
from interp.models.parameters import ParameterDirection
from interp.models.seam import lineage_root
from interp.models.views import adapted_layers, is_plain_lora, is_transposed
from interp.prompts.tokens import Encoded
from interp.training.students import body_matrices

if TYPE_CHECKING:
    from interp.models.language import LanguageModel

Factors = Sequence[tuple[str, str, float]]  # names of the modules of A and B, and the scaling


@dataclass(frozen=True, eq=False)
class Gathered:
    """Σ_t δ_t x_tᵀ and Σ_t δ_t by module name, added up batch by batch; a reader of `contributions`."""

    matrices: dict[str, Float[Tensor, "output input"]] = field(default_factory=dict)
    vectors: dict[str, Float[Tensor, "output"]] = field(default_factory=dict)

    def __call__(self, site: Site, a: Tensor, g: Tensor) -> dict[tuple[str, int], Tensor]:
        """Add a batch at one module; there is nothing to score."""
        entered, back = wide(a).flatten(0, -2), wide(g).flatten(0, -2)
        if site.name not in self.matrices:
            self.matrices[site.name] = back.new_zeros(back.shape[1], entered.shape[1])
            self.vectors[site.name] = back.new_zeros(back.shape[1])
        self.matrices[site.name].addmm_(back.T, entered)
        self.vectors[site.name] += back.sum(0)
        return {}


@dataclass(frozen=True, eq=False)
class GradientStep:
    """The step as a direction in weights, and −(1/n) Σ δ at the output of every module that steps, by its name.

    `transposed` are the modules that store their weight as (input, output).
    """

    direction: ParameterDirection
    written: dict[str, Float[Tensor, "output"]]
    transposed: frozenset[str]


def gradient_step(model: LanguageModel, inputs: Encoded, *, batch_size: int = 64) -> GradientStep:
    """The step that one pass over the rows gives: of live adapters where there are some, else of the body's matrices.

    Raises InputError for rows without answers, a loss or step that is not finite, dropout left on, quantised weights
    and adapters other than plain LoRA.
    """
    check_rows(inputs)
    network = still_network(model, merge=not model.adapter_shapes)
    adapters = dict(_adapters(network)) if model.adapter_shapes else {}
    names = [name for each in adapters.values() for a, b, _ in each for name in (a, b)]
    sites = [_site(network, name) for name in names or body_matrices(network)]
    found = _gathered(network, inputs, sites, batch_size)
    adapters = {name: each for name, each in adapters.items() if all(b in found.matrices for _, b, _ in each)}
    moves = dict(_adapted(network, adapters, found) if adapters else _plain(sites, found))
    direction = ParameterDirection(moves, f"step on {inputs.label}", model.fingerprint, lineage_root(model))
    scaled = replace(direction * (-1.0 / len(inputs)), label=direction.label)
    scaled.check(model)
    outputs = {name: [b for _, b, _ in each] for name, each in adapters.items()} or {
        name: [name] for name in found.vectors
    }
    written = {
        name: -torch.stack([found.vectors[output] for output in each]).sum(0) / len(inputs)
        for name, each in outputs.items()
    }
    turned = frozenset(name for name in written if is_transposed(network.get_submodule(name)))
    return GradientStep(scaled, written, turned)


def _gathered(network: Any, inputs: Encoded, sites: Sequence[Site], batch_size: int) -> Gathered:
    """Sums over all rows, batches in order of length."""
    found, start = Gathered(), 0
    order = inputs.lengths.argsort(stable=True)
    batches = inputs[order].batches(batch_size)
    for batch in progress(batches, f"gradient of {inputs.label}", total=len(inputs), size=len):
        numbers = order[start : start + len(batch)].tolist()
        contributions(network, batch, sites=sites, reader=found, numbers=numbers)
        start += len(batch)
    return found


def _site(network: Any, name: str) -> Site:
    return Site(name, network.get_submodule(name), "matrix", {}, {}, 1)


def _plain(sites: Sequence[Site], found: Gathered) -> Iterator[tuple[str, Tensor]]:
    """The gradients of weights and biases, as they are stored."""
    for site in sites:
        if site.name in found.matrices:  # a layer that the loss does not see has none
            gradient = found.matrices[site.name]
            yield f"{site.name}.weight", gradient.T if is_transposed(site.module) else gradient
            if getattr(site.module, "bias", None) is not None:
                yield f"{site.name}.bias", found.vectors[site.name]


def _adapters(network: nn.Module) -> Iterator[tuple[str, Factors]]:
    """The factors of every adapted layer by its name; InputError for a layer that adds more than s B A."""
    for name, layer in adapted_layers(network):
        if not is_plain_lora(layer):
            raise InputError(
                f"the {type(layer).__name__} at {name} adapts its layer otherwise than as W + s B A; merge the adapter "
                "into a model of its own, or pass one with plain LoRA, adapters on"
            )
        active = [adapter for adapter in layer.active_adapters if adapter in layer.lora_A]
        yield (
            name,
            [(f"{name}.lora_A.{each}", f"{name}.lora_B.{each}", layer.scaling[each]) for each in active],
        )


def _adapted(
    network: nn.Module, adapters: dict[str, Factors], found: Gathered
) -> Iterator[tuple[str, Entry]]:
    """s (∇B A + B ∇A) of every adapted weight, as factors in the order in which it is stored."""
    for name, factors in adapters.items():
        left, right = [], []
        for a, b, scaling in factors:
            A, B = (wide(network.get_submodule(each).get_parameter("weight")) for each in (a, b))
            left += [scaling * found.matrices[b], scaling * B]
            right += [A, found.matrices[a]]
        whole = LowRank(torch.cat(left, 1), torch.cat(right))
        turned = is_transposed(network.get_submodule(name))
        yield f"{name}.weight", LowRank(whole.right.T, whole.left.T) if turned else whole
