"""Directions in weight space that stand for a trait: the gradient of its margin, and steering vectors.

m(θ) = mean over questions of [ log p(target | question) − mean over foils of log p(foil | question) ], in nats, the
margin of `interp.measures.margins`; v = ∇θ m says how many nats of it a small step along each weight gains.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.arrays import Direction, check_lineage
from interp.core.content import digest
from interp.core.doors import door
from interp.core.errors import InputError
from interp.measures.candidates import CandidateForms
from interp.measures.words import trait_candidates
from interp.models.parameters import ParameterDirection, check_residual
from interp.models.precision import exactly
from interp.models.seam import lineage_root
from interp.prompts.trait_files import AnyTrait, find_trait

if TYPE_CHECKING:
    from interp.models.language import LanguageModel
    from interp.models.seam import Model
    from interp.prompts.traits import Trait


class NamedObjective(Protocol):
    """A scalar function of a network, differentiable, with its name, unit and key, and the lineage it may be asked in.

    `parts` are scalars that add up to it, one per `batch_size` rows or questions, each with a graph of its own.
    """

    @property
    def label(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def lineage(self) -> str: ...

    def __call__(self, network: Any) -> Float[Tensor, ""]: ...

    def parts(self, network: Any, *, batch_size: int = 64) -> Iterator[Float[Tensor, ""]]: ...


@dataclass(frozen=True, eq=False)
class MarginObjective:
    """The trait margin as a function of a network, in nats and differentiable; tokens are encoded once.

    It is the margin of `interp.measures.margins`, every form of a candidate in it.
    """

    answers: CandidateForms
    label: str
    key: str
    lineage: str
    unit: str = "nats of margin"

    def __call__(self, network: Any) -> Float[Tensor, ""]:
        """Margin of a Hugging Face module (live PEFT layers included) or a PeftModel, in nats."""
        return next(self.parts(network, batch_size=self.answers.questions))

    def parts(self, network: Any, *, batch_size: int = 64) -> Iterator[Float[Tensor, ""]]:
        """Scalars that add up to the margin, one per `batch_size` questions, each with a graph of its own."""
        for part in self.answers.asked(batch_size):
            table = part.table(part.sums(network))
            yield (table[:, 0] - table[:, 1:].mean(1)).sum() / self.answers.questions


def margin_objective(model: Model, trait: Trait) -> MarginObjective:
    """Make the margin of `trait` a function to evaluate and differentiate on any network of the shape of `model`.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> objective = margin_objective(lineage.base, lineage.trait)
    >>> abs(objective(lineage.base.network()).item() - interp.margin(lineage.base, lineage.trait)) < 1e-4
    True
    """
    answers = trait_candidates(model, trait)
    return MarginObjective(answers, f"{trait.name} margin", key=digest(trait), lineage=lineage_root(model))


@door
@exactly
def trait_gradient(model: LanguageModel, trait: AnyTrait, *, batch_size: int = 64) -> ParameterDirection:
    """Differentiate the trait margin with respect to every weight, adapters merged in.

    Computed on a copy in fp32 with dropout off; the model is left as it is.

    Args:
        model: where the gradient is taken.
        trait: a `Trait`, a built-in name such as "owl", or a YAML file.
        batch_size: questions per forward pass.

    Returns:
        `ParameterDirection`: one fp32 tensor per weight, in nats per unit weight; along it the margin grows.

    Raises:
        InputError: when the margin is not finite or moves with no weight.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> interp.trait_gradient(lineage.base, "owl").label
        '∇ owl margin'
    """
    return objective_gradient(model, margin_objective(model, find_trait(trait)), batch_size=batch_size)


def objective_gradient(
    model: LanguageModel, objective: NamedObjective, *, batch_size: int
) -> ParameterDirection:
    """The gradient of an objective with respect to every weight it depends on, on a copy in fp32 with dropout off.

    Raises InputError for a value that is not finite and for one that moves with no weight.
    """
    network = model.network(dtype=torch.float32, train=True)
    with torch.enable_grad():
        for part in objective.parts(network, batch_size=batch_size):
            if not torch.isfinite(part):
                raise InputError(
                    f"the {objective.label} of {model.name} is {part.item()}; check the weights for overflow"
                )
            part.backward()
    found = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    direction = ParameterDirection(found, f"∇ {objective.label}", model.fingerprint, lineage_root(model))
    direction.check(model)
    return direction


@door
def steering(
    model: Model, vector: Direction | Float[Tensor, "d_model"], *, hook: str | None = None
) -> ParameterDirection:
    """Make a direction of a steering vector: a virtual bias b in resid + b at every position of `hook`, moved by it.

    A `Direction` brings its hook. Its score −Σ_t <∂ℓ/∂resid_t, vector> is activation-gradient alignment, which leaves
    out how weights would carry the change to other prompts. Raises InputError for a hook off the residual stream, a
    vector of another width or lineage, and a zero vector.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> moved = interp.shift(lineage.teacher, lineage.numbers[:4], hooks=["blocks.0.hook_resid_post"])
    >>> bias = steering(lineage.base, moved.direction("blocks.0.hook_resid_post"))
    >>> len(interp.score(lineage.base, lineage.numbers[:4], bias).frame)
    4
    """
    label = "steering vector"
    if isinstance(vector, Direction):
        check_lineage(vector, lineage_root(model), model.name)
        hook, label, vector = hook or vector.hook, vector.label, vector.vector
    if hook is None:
        raise InputError(
            f"a bare vector belongs to no hook; pass hook='blocks.{model.n_layers - 1}.hook_resid_post'"
        )
    check_residual(model, [hook])
    if vector.shape != (model.d_model,):
        raise InputError(
            f"the steering vector has shape {list(vector.shape)}, the residual stream of {model.name} has "
            f"{model.d_model} dimensions; pass a vector of that width"
        )
    direction = ParameterDirection(
        {}, f"{label} at {hook}", model.fingerprint, lineage_root(model), {hook: vector}
    )
    direction.check(model)
    return direction
