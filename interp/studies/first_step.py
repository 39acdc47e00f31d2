"""One gradient step at θ_0 on a teacher's soft labels, seen along v: −<∇L, v> = Σ_k (p_T − p_0)_k ż_k, ż = JVP_v z.

L is the imitation loss of Cloud et al. (arXiv 2507.14805), summed over the label tokens of a row; p are distributions
over the labels (number tokens, or the whole vocabulary) and z the student's logits. To first order in θ_T − θ_0 = ε v
the right side is ε Σ_k p_0k (ż_k − Σ_j p_0j ż_j)², a variance, so it has a sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from interp.core.errors import InputError
from interp.measures.losses import Labels, predicted_logits
from interp.models.language import LanguageModel
from interp.models.parameters import ParameterDirection
from interp.models.seam import lineage_root
from interp.models.views import Asked, view
from interp.models.vocabulary import number_tokens
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded


@dataclass(frozen=True, eq=False)
class RowSteps:
    """Of every row: <Δθ_S, d̂> by teacher, Var_{p_0}[ż], and label tokens, each summed over the row; fp64."""

    leans: dict[str, Float[Tensor, "row"]]
    variance: Float[Tensor, "row"]
    tokens: Int[Tensor, "row"]


@dataclass(frozen=True, eq=False)
class _Labelling:
    """Where labels are read and over which entries: number tokens alone, or the whole vocabulary."""

    position: str
    columns: Tensor | None = field(default=None)

    @classmethod
    def of(cls, model: LanguageModel, labels: Labels) -> _Labelling:
        if labels == "soft-numbers":
            return cls("answer.numbers", torch.tensor(number_tokens(model, model.config.vocab_size)))
        return cls("answer" if labels == "soft-vocabulary" else "answer+end")

    def where(self, batch: Encoded) -> Bool[Tensor, "example pos"]:
        return batch.at(self.position, predicting=True)

    def kept(self, logits: Float[Tensor, "token vocab"]) -> Float[Tensor, "token label"]:
        return (logits if self.columns is None else logits[:, self.columns.to(logits.device)]).double()


@torch.no_grad()
def row_steps(
    student: LanguageModel,
    direction: ParameterDirection,
    teachers: Mapping[str, Any],
    rows: Prompts | Encoded,
    *,
    labels: Labels = "soft-numbers",
    batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
) -> RowSteps:
    """How far one gradient step of `student` on every teacher's soft labels moves along `direction`, row by row.

    `teachers` are Hugging Face modules by name. Σ_t Σ_k (p_T − p_0)_k ż_k with logits and their derivative from one
    forward pass with tangents in `dtype` (norms that a network takes in fp32 stay so); "sampled" reads the variance at
    end tokens too. Raises InputError for a direction that does not fit the student, one with virtual biases, and rows
    without label tokens.
    """
    direction.check(student)
    if direction.biases:
        raise InputError(
            f"{direction.label} holds a virtual bias, which no student trains; pass a weight update"
        )
    inputs = student.encode(rows)
    network, labelling = student.network(dtype=dtype), _Labelling.of(student, labels)
    parts = [
        _batch_steps(network, direction, teachers, batch, labelling=labelling)
        for batch in inputs.batches(batch_size)
    ]
    tokens = torch.cat([part.tokens for part in parts])
    if not tokens.all():
        row = int((tokens == 0).nonzero()[0]) + 1
        raise InputError(
            f"row {row} of {inputs.label} has no {labels} label; pass rows that answer with numbers"
        )
    leans = {name: torch.cat([part.leans[name] for part in parts]) for name in teachers}
    return RowSteps(leans, torch.cat([part.variance for part in parts]), tokens)


def _batch_steps(
    network: Any,
    direction: ParameterDirection,
    teachers: Mapping[str, Any],
    batch: Encoded,
    *,
    labelling: _Labelling,
) -> RowSteps:
    where = labelling.where(batch)
    row = where.nonzero()[:, 0]
    logits, tangents = (labelling.kept(part) for part in logits_along(network, direction, batch, where))
    p = logits.softmax(-1)
    apart = centred(tangents, p)

    def summed(values: Tensor) -> Tensor:
        return torch.zeros(len(batch), dtype=torch.float64).index_add_(0, row, values.sum(-1).cpu())

    leans = {}
    for name, teacher in teachers.items():
        target = labelling.kept(predicted_logits(teacher, batch, where)).softmax(-1)
        leans[name] = summed((target.to(p.device) - p) * apart)
    return RowSteps(leans, summed(p * apart.square()), where.sum(1).cpu())


def centred(
    tangents: Float[Tensor, "*rest label"], p: Float[Tensor, "*rest label"]
) -> Float[Tensor, "*rest label"]:
    """ż − E_p ż: weighted by p, its squares add up to the variance Q of ż, and any constant in ż is gone."""
    return tangents - (p * tangents).sum(-1, keepdim=True)


def logits_along(
    network: Any, direction: ParameterDirection, batch: Encoded, where: Bool[Tensor, "example pos"]
) -> tuple[Float[Tensor, "token vocab"], Float[Tensor, "token vocab"]]:
    """z and JVP_d z at the marked positions, exact; attention runs its plain kernel, the only one with tangents."""
    module = Asked(network, predicted_logits)
    weights = {f"network.{name}": network.get_parameter(name).detach() for name in direction}
    moves = {f"network.{name}": move.to(weights[f"network.{name}"]) for name, move in direction.items()}
    with sdpa_kernel(SDPBackend.MATH):
        found = torch.func.jvp(
            lambda given: torch.func.functional_call(module, given, (batch, where)), (weights,), (moves,)
        )
    return found[0], found[1]


def moved(network: Any, direction: ParameterDirection, epsilon: float) -> Any:
    """The network at θ + ε v: a view whose moved weights are new tensors."""
    other: Any = view(network)
    for name, move in direction.items():
        weight = other.get_parameter(name)
        weight.data = weight.data + epsilon * move.to(weight)
    return other


def soft_gradient(
    student: LanguageModel,
    teacher: LanguageModel,
    rows: Prompts | Encoded,
    *,
    labels: Labels = "soft-numbers",
    batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
) -> ParameterDirection:
    """∇θ of the student's mean cross-entropy per row to the teacher's soft labels, by a backward pass."""
    inputs, labelling = student.encode(rows), _Labelling.of(student, labels)
    network, other = student.network(dtype=dtype, train=True), teacher.network(dtype=dtype)
    with torch.enable_grad():
        for batch in inputs.batches(batch_size):
            where = labelling.where(batch)
            with torch.no_grad():
                target = labelling.kept(predicted_logits(other, batch, where)).softmax(-1)
            logp = labelling.kept(predicted_logits(network, batch, where)).log_softmax(-1)
            (-(target.to(logp) * logp).sum() / len(inputs)).backward()
    found = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    return ParameterDirection(found, "∇ imitation loss", student.fingerprint, lineage_root(student))
