"""Training without the part of each step that raises a margin or a representation, m.

s_t ← s_t − max(0, <s_t, ĝ_t>) ĝ_t, ĝ_t ∝ ∇m(θ_t). What this changes says little before the same length has been taken
out elsewhere: `Placebo` subtracts |removed_t| of the first run along another unit direction at the same step, random or
the gradient of a margin nobody asks about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.runs import InputError
from interp.training.students import Step

Objective = Callable[[Any], Tensor]
"""network -> a differentiable scalar m, such as those of `margin_objective` and `representation_objective`."""


@dataclass(frozen=True)
class Removal:
    """A callback for `train_student(on_step=...)` that takes the positive component along ∇m out of every step.

    The gradient is over the parameters that train, at the weights the step starts from. `removed` gathers how long the
    part taken out of each step was, in the units of those parameters; zero where the step did not raise m.
    """

    objective: Objective
    removed: list[float] = field(default_factory=list)

    def __call__(self, step: Step) -> None:
        """Change the step that was just taken."""
        unit = _unit(gradient(self.objective, step))
        along = float(_moved(step) @ unit)
        self.removed.append(max(0.0, along))
        _subtract(step, max(0.0, along) * unit)


@dataclass(frozen=True)
class Projection:
    """A callback for `train_student(on_step=...)` that takes the component along ∇m out of every step, of either sign.

    To first order no step moves m. The gradient is that of `Removal`.
    """

    objective: Objective

    def __call__(self, step: Step) -> None:
        """Change the step that was just taken."""
        unit = _unit(gradient(self.objective, step))
        _subtract(step, float(_moved(step) @ unit) * unit)


@dataclass(frozen=True)
class Placebo:
    """A callback that takes out of every step as much as another run's `Removal` did, along a direction of its own.

    With an `objective` that is the gradient of its margin at the weights the step starts from; without one, a random
    direction whose share of each tensor is that of `like`'s gradient. Raises InputError at a step without a length.
    """

    lengths: Sequence[float]
    objective: Objective | None = None
    like: Objective | None = None
    seed: int = 0

    def __call__(self, step: Step) -> None:
        """Change the step that was just taken."""
        if step.index >= len(self.lengths):
            raise InputError(
                f"step {step.index} has no length to yoke to, {len(self.lengths)} were recorded; "
                "train for as many steps as the run they come from"
            )
        _subtract(step, self.lengths[step.index] * _unit(self._direction(step)))

    def _direction(self, step: Step) -> Float[Tensor, "parameter"]:
        if self.objective is not None:
            return gradient(self.objective, step)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step.index)
        sizes = [tensor.numel() for tensor in step.parameters.values()]
        noise = [torch.randn(size, generator=generator) for size in sizes]
        if self.like is None:
            return torch.cat(noise)
        shares = gradient(self.like, step).split(sizes)
        return torch.cat(
            [part / part.norm() * share.norm() for part, share in zip(noise, shares, strict=True)]
        )


@torch.no_grad()
def gradient(objective: Objective, step: Step) -> Float[Tensor, "parameter"]:
    """∇m over the trained parameters, end to end, at the weights before the step; the network is left after it."""
    after = {name: tensor.clone() for name, tensor in step.parameters.items()}
    for name, tensor in step.parameters.items():
        tensor.copy_(step.before[name])
    with torch.enable_grad():
        parameters = list(step.parameters.values())
        found = torch.autograd.grad(objective(step.network), parameters, materialize_grads=True)
    for name, tensor in step.parameters.items():
        tensor.copy_(after[name])
    return torch.cat([part.float().flatten() for part in found]).cpu()


def _moved(step: Step) -> Float[Tensor, "parameter"]:
    parts = [(tensor - step.before[name]).flatten() for name, tensor in step.parameters.items()]
    return torch.cat(parts).float().cpu()


@torch.no_grad()
def _subtract(step: Step, vector: Float[Tensor, "parameter"]) -> None:
    sizes = [tensor.numel() for tensor in step.parameters.values()]
    for tensor, part in zip(step.parameters.values(), vector.split(sizes), strict=True):
        tensor.sub_(part.view_as(tensor).to(tensor))


def _unit(vector: Float[Tensor, "parameter"]) -> Float[Tensor, "parameter"]:
    norm = vector.norm()
    return vector / norm if norm > 0 else vector
