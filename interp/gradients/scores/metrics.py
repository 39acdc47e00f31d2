"""Optimiser metrics, folded into a direction once: v' = P⁻¹ v, so that <∇ℓ, v'> = <P⁻¹ ∇ℓ, v>.

−P⁻¹ ∇ℓ is the step an optimiser takes on a row. SGD: P = 1. Adam (arXiv 1412.6980): P = diag(√v̂ + ε) at its second
moments. Sign: P = diag|ḡ|. LoRA at B = 0 (arXiv 2106.09685): ΔW = −η s² G AᵀA, so P⁻¹ V = s² V AᵀA.
No metric but SGD's keeps the sign that theory guarantees for a shared initialisation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.core.errors import InputError, nearest
from interp.core.storage import read_tensors
from interp.models.low_rank import Entry, LowRank
from interp.models.parameters import ParameterDirection
from interp.models.views import adapted_layers, is_plain_lora, is_transposed, unwrapped


class Metric(Protocol):
    """How an optimiser turns a gradient into a step."""

    def fold(self, direction: ParameterDirection) -> ParameterDirection:
        """P⁻¹ v."""
        ...


@dataclass(frozen=True)
class SGD:
    """The step is the gradient: v' = v."""

    def fold(self, direction: ParameterDirection) -> ParameterDirection:
        """The direction itself."""
        return replace(direction, label=f"{direction.label} [SGD]")


@dataclass(frozen=True, eq=False)
class Adam:
    """A frozen Adam state: v' = v / (√v̂ + ε), by weight name.

    `second_moments` are bias-corrected, v̂ = exp_avg_sq / (1 − β₂^step). Momentum is left out: it mixes earlier
    batches, whichever row is scored. Entries that the optimiser never saw a gradient of (v̂ = 0) are left out of v':
    the real step there would be set by the row's own gradient. `lineage`, when known, is that of the trained weights.
    """

    second_moments: dict[str, Tensor]
    eps: float = 1e-8
    lineage: str = ""

    @classmethod
    def from_optimizer(
        cls,
        optimizer: torch.optim.Optimizer,
        named_parameters: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
        *,
        lineage: str = "",
    ) -> Adam:
        """The state of a live Adam or AdamW, matched to `network.named_parameters()` by identity, so by name.

        Raises InputError that names a parameter which asks for a gradient and has no second moment, or that says the
        optimiser holds parameters of another network.
        """
        named = dict(named_parameters)
        names = {id(parameter): name for name, parameter in named.items()}
        moments: dict[str, Tensor] = {}
        eps: set[float] = set()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in names:
                    raise InputError(
                        f"the optimiser trains a parameter of shape {list(parameter.shape)} that is not among the "
                        f"{len(named)} named; pass named_parameters() of the network it trains"
                    )
                name = names[id(parameter)]
                moments[name] = _corrected(name, optimizer.state.get(parameter, {}), group)
            eps.add(float(group["eps"]))
        for name, parameter in named.items():
            if parameter.requires_grad and name not in moments:
                raise InputError(
                    f"{name} asks for a gradient and is not in the optimiser; pass its own network"
                )
        if len(eps) != 1:
            raise InputError(f"the groups of the optimiser have different eps {sorted(eps)}; use one")
        return cls(moments, eps.pop(), lineage)

    @classmethod
    def from_safetensors(
        cls, path: str | Path, *, step: int, beta2: float = 0.999, eps: float = 1e-8
    ) -> Adam:
        """The state from a file of `exp_avg_sq` by weight name after `step` steps; bias is corrected here.

        Raises InputError for a step below 1.
        """
        if step < 1:
            raise InputError(f"step {step} is before the first; pass how many steps the optimiser had taken")
        packed, metadata = read_tensors(Path(path))
        moments = {name: tensor.float() / (1 - beta2**step) for name, tensor in packed.items()}
        return cls(moments, eps, metadata.get("lineage", ""))

    def fold(self, direction: ParameterDirection) -> ParameterDirection:
        """v / (√v̂ + ε), dense; InputError naming a weight without a second moment or with one of another shape."""
        _refuse_biases(direction, "Adam")
        if self.lineage and self.lineage != direction.lineage:
            raise InputError(
                f"the Adam state belongs to the lineage of {self.lineage}, {direction.label} to {direction.lineage}; "
                "pass the state of the optimiser that trained this lineage"
            )
        return _divided(direction, self.second_moments, self._scale, name="Adam")

    def _scale(self, moment: Tensor) -> Tensor:
        return torch.where(moment > 0, moment.float().sqrt() + self.eps, torch.inf)


@dataclass(frozen=True, eq=False)
class Sign:
    """Sign descent on the mean gradient ḡ of a batch: v' = v / |ḡ|, and zero where ḡ is zero or absent.

    Row by row −<g_i, v'> = −Σ_j g_ij v_j / |ḡ_j|, so the n rows of the batch sum to −n <sign ḡ, v>: its real step.
    """

    reference: ParameterDirection

    def fold(self, direction: ParameterDirection) -> ParameterDirection:
        """v / |ḡ|; InputError for a reference of other weights or shapes, and when nothing remains."""
        _refuse_biases(direction, "sign descent")
        if self.reference.fingerprint != direction.fingerprint:
            raise InputError(
                f"the mean gradient belongs to weights {self.reference.fingerprint}, {direction.label} to "
                f"{direction.fingerprint}; take the gradient where the direction starts"
            )
        kept = {name: entry for name, entry in direction.tensors.items() if name in self.reference}
        if not kept:
            raise InputError(
                f"{direction.label} and {self.reference.label} share no weight; pass a gradient of these"
            )
        reference = {name: self.reference[name] for name in kept}
        folded = replace(direction, tensors=kept)
        return _divided(folded, reference, lambda g: torch.where(g != 0, g.abs(), torch.inf), name="sign")


@dataclass(frozen=True, eq=False)
class LoraMetric:
    """What a fresh LoRA adapter (B = 0) can follow of a direction: v' = s² V AᵀA, of the adapter's rank.

    `factors` are the A of each adapted module, [rank, inputs], by module name; `transposed` names the modules that
    store [inputs, outputs] (Conv1D): there v' = s² AᵀA V. Weights without an adapter do not move and are dropped. Away
    from B = 0 the step has a second term, s² B Bᵀ V, which is not here.
    """

    factors: dict[str, Float[Tensor, "rank inputs"]]
    scaling: float = 1.0
    transposed: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def from_network(cls, network: nn.Module) -> LoraMetric:
        """The A of the adapters live on a network, several of one module side by side, scaling folded in.

        Raises InputError where no adapter is live, and for one that is not plain LoRA.
        """
        factors, transposed = {}, set()
        for name, layer in adapted_layers(unwrapped(network)):
            if not is_plain_lora(layer):
                raise InputError(
                    f"the {type(layer).__name__} at {name} adapts its layer otherwise than as W + s B A; "
                    "this metric is for plain LoRA with its adapters on"
                )
            own = [adapter for adapter in layer.active_adapters if adapter in layer.lora_A]
            if own:
                scaled = [layer.scaling[a] * layer.lora_A[a].weight.detach().float() for a in own]
                factors[name] = torch.cat(scaled)
                transposed |= {name} if is_transposed(layer) else set()
        if not factors:
            raise InputError(
                f"{type(unwrapped(network)).__name__} has no live LoRA adapters; pass the network that trains them"
            )
        return cls(factors, transposed=frozenset(transposed))

    def fold(self, direction: ParameterDirection) -> ParameterDirection:
        """s² V AᵀA as factors; InputError for a factor of another width and when no weight of v is adapted."""
        _refuse_biases(direction, "LoRA")
        kept = {
            name: self._seen(name, entry)
            for name, entry in direction.tensors.items()
            if name.removesuffix(".weight") in self.factors
        }
        if not kept:
            modules = ", ".join(list(self.factors)[:3])
            raise InputError(f"no weight of {direction.label} has an adapter; adapters are on {modules}, ...")
        return replace(direction, tensors=kept, label=f"{direction.label} [LoRA]")

    def _seen(self, name: str, entry: Entry) -> LowRank:
        module = name.removesuffix(".weight")
        A, squared, turned = self.factors[module].float(), self.scaling**2, module in self.transposed
        inputs = entry.shape[0 if turned else 1]
        if A.shape[1] != inputs:
            raise InputError(
                f"the adapter of {module} reads {A.shape[1]} inputs and {name} has {inputs}; "
                "pass the adapters of this model"
            )
        if turned:
            return LowRank(squared * A.T, _times(A, entry))
        return LowRank(squared * _times_transposed(entry, A), A)


@dataclass(frozen=True, eq=False)
class LoraAdam:
    """What Adam makes of a fresh LoRA adapter's gradient (B = 0): v' = s² (V Aᵀ ∘ 1 / (√v̂ + ε)) A.

    `second_moments` are those of the gradients of B, v̂, by module name as `adapters` has them, [outputs, rank]; an
    entry without any (v̂ = 0) is left out. Momentum is left out, as in `Adam`.
    """

    adapters: LoraMetric
    second_moments: dict[str, Float[Tensor, "outputs rank"]]
    eps: float = 1e-8

    @classmethod
    def from_batches(
        cls, network: nn.Module, batches: Iterable[Any], loss: Callable[[Any, Any], Tensor]
    ) -> LoraAdam:
        """v̂ as the mean square of the gradients of batches at the network's own weights: one pass over them.

        `loss` is (network, batch) to the loss that is trained. Nothing moves. Raises InputError for no batch, and where
        `LoraMetric.from_network` does.
        """
        adapters = LoraMetric.from_network(network)
        live = dict(adapted_layers(unwrapped(network)))
        squares: dict[str, Tensor] = {}
        count = 0
        for batch in batches:
            count += 1
            network.zero_grad(set_to_none=True)
            loss(network, batch).backward()
            for name in adapters.factors:
                square = torch.cat(_gradients_of_b(live[name]), 1).square()
                squares[name] = squares[name] + square if name in squares else square
        network.zero_grad(set_to_none=True)
        if not count:
            raise InputError("no batch to take second moments of; pass the rows that are trained on")
        return cls(adapters, {name: square / count for name, square in squares.items()})

    def fold(self, direction: ParameterDirection) -> ParameterDirection:
        """v' as factors; InputError as of `LoraMetric.fold`."""
        followed = self.adapters.fold(direction)
        tensors = {name: self._divided(name, entry) for name, entry in followed.tensors.items()}
        return replace(followed, tensors=tensors, label=f"{direction.label} [LoRA, Adam]")

    def _divided(self, name: str, entry: Entry) -> LowRank:
        """The factor that is the gradient of B, divided by what Adam divides it by."""
        assert isinstance(entry, LowRank)
        module = name.removesuffix(".weight")
        moment = self.second_moments[module].float()
        scale = torch.where(moment > 0, moment.sqrt() + self.eps, torch.inf)
        if module in self.adapters.transposed:
            return LowRank(entry.left, entry.right / scale.T)
        return LowRank(entry.left / scale, entry.right)


def _gradients_of_b(layer: Any) -> list[Tensor]:
    """Of the live adapters of a layer side by side, as `LoraMetric.from_network` has their A."""
    weights = [layer.lora_B[each].weight for each in layer.active_adapters if each in layer.lora_B]
    return [torch.zeros_like(each) if each.grad is None else each.grad.detach().float() for each in weights]


def _times(A: Tensor, entry: Entry) -> Tensor:
    """A V."""
    return (A @ entry.left) @ entry.right if isinstance(entry, LowRank) else A @ entry


def _times_transposed(entry: Entry, A: Tensor) -> Tensor:
    """V Aᵀ."""
    return entry.left @ (entry.right @ A.T) if isinstance(entry, LowRank) else entry @ A.T


def _divided(
    direction: ParameterDirection,
    by: Mapping[str, Tensor],
    scale: Callable[[Tensor], Tensor],
    *,
    name: str,
) -> ParameterDirection:
    """Every tensor divided by scale(by[its name])."""
    tensors: dict[str, Tensor | LowRank] = {}
    for weight, tensor in direction.items():
        if weight not in by:
            raise InputError(
                f"{name} has no state for {weight}: {nearest(weight, by)}; pass the state of the model's own optimiser"
            )
        if by[weight].shape != tensor.shape:
            raise InputError(
                f"{name} has a state of shape {list(by[weight].shape)} for {weight}, which is {list(tensor.shape)}; "
                "pass the state of the model's own optimiser"
            )
        tensors[weight] = tensor / scale(by[weight].to(tensor.device))
    return replace(direction, tensors=tensors, label=f"{direction.label} [{name}]")


def _corrected(name: str, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
    """exp_avg_sq / (1 − β₂^step): what Adam divides by, squared; its running maximum under amsgrad."""
    if "exp_avg_sq" not in state:
        raise InputError(
            f"the optimiser has no second moment (exp_avg_sq) for {name}; pass an Adam that has taken a step"
        )
    moment = state.get("max_exp_avg_sq", state["exp_avg_sq"])
    return moment.detach().float() / (1 - group["betas"][1] ** float(state["step"]))


def _refuse_biases(direction: ParameterDirection, name: str) -> None:
    if direction.biases:
        raise InputError(
            f"{direction.label} holds a virtual bias, which {name} does not train; score it without a metric"
        )
