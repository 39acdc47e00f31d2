"""Directions in weight space that stand for a trait: the gradient of its margin, and steering vectors.

m(θ) = mean over questions of [ log p(target | question) − mean over foils of log p(foil | question) ], in nats, the
margin of `interp.measures.margins`; v = ∇θ m says how many nats of it a small step along each weight gains.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.activations.arrays import Direction, check_lineage
from interp.core.content import digest
from interp.core.doors import door
from interp.core.errors import InputError
from interp.measures.losses import predicted_logits
from interp.models.parameters import ParameterDirection, check_residual
from interp.models.precision import exactly
from interp.models.seam import lineage_root
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.prompts.trait_files import AnyTrait, find_trait

if TYPE_CHECKING:
    from interp.models.language import LanguageModel
    from interp.models.seam import Model
    from interp.prompts.traits import Trait


class NamedObjective(Protocol):
    """A scalar function of a network, differentiable, with its name, unit and key, and the lineage it may be asked in.

    `parts` are scalars that add up to it, one per `batch_size` rows, each with a graph of its own.
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

    `rows` are the questions with as much of an answer as its own last token needs, equal beginnings once; `where`
    marks the positions that predict answers. Entry e adds weights[e] · log p(labels[e]) at marked position places[e].
    """

    rows: Encoded
    where: Bool[Tensor, "row pos"]
    places: Int[Tensor, "entry"]
    labels: Int[Tensor, "entry"]
    weights: Float[Tensor, "entry"]
    label: str
    key: str
    lineage: str
    unit: str = "nats of margin"

    def __call__(self, network: Any) -> Float[Tensor, ""]:
        """Margin of a Hugging Face module (live PEFT layers included) or a PeftModel, in nats."""
        return torch.stack(list(self.parts(network, batch_size=len(self.rows)))).sum()

    def parts(self, network: Any, *, batch_size: int = 64) -> Iterator[Float[Tensor, ""]]:
        """Scalars that add up to the margin, one per `batch_size` rows, each with a graph of its own."""
        plain = network.get_base_model() if hasattr(network, "get_base_model") else network
        before = 0
        for start in range(0, len(self.rows), batch_size):
            rows = slice(start, start + batch_size)
            where = self.where[rows]
            here = (self.places >= before) & (self.places < before + int(where.sum()))
            logits = predicted_logits(plain, self.rows[rows], where)
            logp = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
            device = logp.device
            taken = logp[(self.places[here] - before).to(device), self.labels[here].to(device)]
            yield (taken * self.weights[here].to(taken)).sum()
            before += int(where.sum())


def margin_objective(model: Model, trait: Trait) -> MarginObjective:
    """Make the margin of `trait` a function to evaluate and differentiate on any network of the shape of `model`."""
    candidates = [trait.target, *trait.foils]
    pairs = [(question, candidate) for question in trait.questions for candidate in candidates]
    encoded = model.encode(Prompts.from_pairs(pairs, label=f"{trait.name} answers"))
    answer = encoded.at("answer")
    share = torch.tensor([1.0, *[-1.0 / len(trait.foils)] * len(trait.foils)]) / len(trait.questions)
    row, column = answer.nonzero().unbind(1)
    hosts, at = _shared_prefixes(encoded, answer)
    rows = _questions(encoded[hosts], answer[hosts])
    where = torch.zeros_like(rows.mask)
    where[at[row], column - 1] = True
    index = (where.flatten().cumsum(0) - 1).view_as(rows.ids)
    return MarginObjective(
        rows,
        where,
        places=index[at[row], column - 1],
        labels=encoded.ids[row, column],
        weights=share.repeat(len(trait.questions))[row],
        label=f"{trait.name} margin",
        key=digest(trait),
        lineage=lineage_root(model),
    )


def _shared_prefixes(
    encoded: Encoded, answer: Bool[Tensor, "row pos"]
) -> tuple[Int[Tensor, "host"], Int[Tensor, "row"]]:
    """Rows whose inputs begin no other row, and for every row the index of the host that holds its input.

    The input ends before the last answer token, which is only predicted: attention is causal.
    """
    ends = (answer * torch.arange(answer.shape[1])).amax(1).tolist()
    inputs = [tuple(ids[:end]) for ids, end in zip(encoded.ids.tolist(), ends, strict=True)]
    hosts: list[int] = []
    at: dict[int, int] = {}
    for row in sorted(range(len(inputs)), key=lambda row: (-len(inputs[row]), row)):
        same = (k for k, host in enumerate(hosts) if inputs[host][: len(inputs[row])] == inputs[row])
        at[row] = next(same, len(hosts))
        if at[row] == len(hosts):
            hosts.append(row)
    return torch.tensor(hosts), torch.tensor([at[row] for row in range(len(inputs))])


def _questions(rows: Encoded, answer: Bool[Tensor, "row pos"]) -> Encoded:
    """The rows without their last answer token and what follows it."""
    later = answer.flip(1).cumsum(1).flip(1) - answer.int()  # answer tokens after this one
    kept = rows.mask & (later > 0)
    width = int(kept.sum(1).max())
    ids = rows.ids.masked_fill(~kept, rows.pad_id)[:, :width]
    return Encoded(ids, kept[:, :width], (rows.roles * kept)[:, :width], rows.label, rows.pad_id)


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
