"""Metagradients: how the trained student's margin changes with the weight of each row in its training, exactly.

    dm/dw_i at w = 1,  θ_{t+1} = θ_t − step(∇ L_t(θ_t, w)),  L_t = Σ_i w_i ℓ_i / Σ_i w_i n_i  over the rows of batch t

ℓ_i sums −log p over the n_i answer and end tokens of row i, m is the trait margin of θ_T in nats. The student is
trained again and its states are kept; then the steps are gone through backwards, each differentiated with its
optimiser, one at a time in memory (reverse-mode replay: Engstrom et al., arXiv 2503.13751). A row whose weight falls to
zero is a row left out, so −dm/dw_i is what leaving it out changes, to first order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from interp.core.doors import door
from interp.core.errors import InputError
from interp.core.progress import progress_bar
from interp.figures import Result
from interp.gradients.directions import margin_objective
from interp.gradients.known_trainings import KnownTraining
from interp.measures.losses import label_logprobs, predicted_logits
from interp.models.precision import exactly
from interp.training.students import Recipe, prepare, schedule, shuffled_rows, trained_parameters

if TYPE_CHECKING:
    from interp.models.lineage import Lineage
    from interp.prompts.tokens import Encoded

BETAS, EPS = (0.9, 0.999), 1e-8  # of torch.optim.AdamW
SAME = 1e-2  # of the student's gain, by which the replay may miss it
Tensors = dict[str, Tensor]


@door
@exactly
def metagradient(lineage: Lineage, *, role: str = "student", recipe: Recipe | None = None) -> Result:
    """Differentiate a student's trait margin by the weight of every row it was trained on, through its training.

    Columns: row, score (dm/dw_i in nats per unit of a row's weight: positive when the row raised the margin), tokens.
    `recipe` defaults to what trained the student. Costs about four trainings. Raises InputError where the start, rows,
    recipe or trait are unknown, for a recipe that clips or trains in bfloat16, and where the training that is gone
    through again does not end at the student's margin.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> interp.gradients.metagradient(lineage).frame.columns.tolist()
        ['row', 'score', 'tokens']
    """
    replay = Replay.of(lineage, role, recipe)
    states = list(replay.forward())
    value, cotangent = replay.margin(states[-1].weights)
    ends: tuple[Any, Any] = lineage[role], lineage[role].start
    whole, start = (float(replay.objective(member.network()).detach()) for member in ends)
    if abs(value - whole) > SAME * max(abs(whole - start), SAME):
        raise InputError(
            f"the training that was gone through again ends at a margin of {value:+.4f} nats and {role} has "
            f"{whole:+.4f}; pass the recipe= it was trained with"
        )
    scores = replay.backward(states, cotangent)
    tokens = replay.inputs.at("answer+end").sum(1)
    frame = pd.DataFrame({"row": range(len(scores)), "score": scores.numpy(), "tokens": tokens.numpy()})
    note = (
        f"{len(replay.order)} steps, margin {value:+.3f} nats; the scores sum to {float(scores.sum()):+.3g}"
    )
    return Result(
        f"{lineage.name}: metagradient of {role}", frame, "nats per unit of a row's weight", (note,)
    )


class State(NamedTuple):
    """What one step starts from: weights, and the optimiser's two moments."""

    weights: Tensors
    first: Tensors
    second: Tensors

    def detached(self) -> State:
        """The same values without a graph, ready to be differentiated by."""
        return State(
            *({name: each.detach().requires_grad_() for name, each in part.items()} for part in self)
        )

    def tensors(self) -> list[Tensor]:
        """All of them in one order."""
        return [each for part in self for each in part.values()]


class WeighedLoss(nn.Module):
    """Σ w_i ℓ_i / Σ w_i n_i of a batch, as a module, so that its weights can be given from outside."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Encoded, weight: Float[Tensor, "example"]) -> Float[Tensor, ""]:
        """The loss of these rows; `weight` is by row."""
        where = batch.at("answer+end", predicting=True)
        loss = -label_logprobs(batch, partial(predicted_logits, self.network))
        own = weight[where.nonzero()[:, 0].to(weight.device)]
        return (own * loss).sum() / own.sum()


@dataclass(frozen=True)
class Replay:
    """A training that can be gone through forwards and backwards: its loss, rows, batches, recipe and objective."""

    loss: WeighedLoss
    inputs: Encoded
    order: Sequence[Int[Tensor, "example"]]
    recipe: Recipe
    objective: Any

    @classmethod
    def of(cls, lineage: Lineage, role: str, recipe: Recipe | None = None) -> Replay:
        """The training of a member; InputError for one that is not known or that cannot be differentiated."""
        known = KnownTraining.of(lineage, role, recipe, advice="pass recipe=, and a lineage with a trait")
        start, inputs, found = known.start, known.inputs, known.recipe
        if found.max_grad_norm is not None or found.precision != "float32":
            clipped = f"max_grad_norm={found.max_grad_norm}"
            said = clipped if found.max_grad_norm is not None else f"precision={found.precision!r}"
            raise InputError(
                f"a training with {said} has no metagradient here; train in float32 without clipping"
            )
        torch.manual_seed(found.seed)
        network, _ = prepare(start, found)
        order = shuffled_rows(inputs, size=found.batch_size, epochs=found.epochs, seed=found.seed)
        return cls(
            WeighedLoss(network),
            inputs,
            list(order),
            found,
            margin_objective(start, known.trait),
        )

    def forward(self, weight: Float[Tensor, "row"] | None = None) -> Iterator[State]:
        """The state before every step, then the one after the last; `weight` of every row is 1 by default."""
        weight = torch.ones(len(self.inputs)) if weight is None else weight
        weights = {name: each.detach().clone() for name, each in self._trained().items()}
        zeros = [{name: torch.zeros_like(each) for name, each in weights.items()} for _ in range(2)]
        state = State(weights, *zeros)
        with progress_bar("training again", total=len(self.order), unit="step") as bar:
            for step in range(len(self.order)):
                yield state
                state = State(*map(_plain, self.step(state.detached(), step, weight[self.order[step]])))
                bar.update()
        yield state

    def step(self, state: State, index: int, weight: Float[Tensor, "example"]) -> State:
        """The state after one step, with the graph of state and `weight` where they ask for one."""
        batch = next(self.inputs[self.order[index]].batches(len(weight)))
        named = {f"network.{name}": each for name, each in state.weights.items()}
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            value = torch.func.functional_call(self.loss, named, (batch, weight))
            slopes = torch.autograd.grad(
                value, list(state.weights.values()), create_graph=True, allow_unused=True
            )
        gradient = dict(zip(state.weights, slopes, strict=True))
        rate = self.recipe.lr * schedule(
            index, steps=len(self.order), warmup=self.recipe.warmup, decay=self.recipe.decay
        )
        return _stepped(state, gradient, rate=rate, index=index, optimizer=self.recipe.optimizer)

    def margin(self, weights: Mapping[str, Tensor]) -> tuple[float, Tensors]:
        """m in nats and its gradient by what was trained."""
        parameters = self._trained()
        with torch.no_grad():
            for name, each in parameters.items():
                each.copy_(weights[name])
        with torch.enable_grad():
            value = self.objective(self.loss.network)
            slopes = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        known = zip(parameters, slopes, parameters.values(), strict=True)
        return float(value.detach()), {
            name: torch.zeros_like(own) if each is None else each for name, each, own in known
        }

    def backward(self, states: Sequence[State], cotangent: Tensors) -> Float[Tensor, "row"]:
        """dm/dw_i in fp64, from the gradient of m by the last weights, step by step to the first."""
        scores = torch.zeros(len(self.inputs), dtype=torch.float64)
        zeros = {name: torch.zeros_like(each) for name, each in cotangent.items()}
        behind = State(cotangent, zeros, zeros)
        with progress_bar("metagradient", total=len(self.order), unit="step") as bar:
            for index in reversed(range(len(self.order))):
                before, rows = states[index].detached(), self.order[index]
                weight = torch.ones(len(rows), requires_grad=True)
                after = self.step(before, index, weight)
                found = torch.autograd.grad(
                    after.tensors(),
                    [*before.tensors(), weight],
                    behind.tensors(),
                    allow_unused=True,
                    materialize_grads=True,
                )
                scores.index_add_(0, rows, found[-1].double().cpu())
                behind = _like(before, found[:-1])
                bar.update()
        return scores

    def _trained(self) -> Tensors:
        return trained_parameters(self.loss.network)


def _stepped(
    state: State, gradient: Mapping[str, Tensor | None], *, rate: float, index: int, optimizer: str
) -> State:
    """One step of AdamW without decay, or of plain gradient descent; a weight that the loss does not see stays."""
    weights, first, second = {}, {}, {}
    for name, weight in state.weights.items():
        slope = gradient[name]
        moment, square = state.first[name], state.second[name]
        if slope is None:
            weights[name], first[name], second[name] = weight, moment, square
        elif optimizer == "sgd":
            weights[name], first[name], second[name] = weight - rate * slope, moment, square
        else:
            first[name] = BETAS[0] * moment + (1 - BETAS[0]) * slope
            second[name] = BETAS[1] * square + (1 - BETAS[1]) * slope.square()
            scale = 1 - BETAS[1] ** (index + 1)
            length = _root(second[name] / scale) + EPS
            weights[name] = weight - rate / (1 - BETAS[0] ** (index + 1)) * first[name] / length
    return State(weights, first, second)


def _root(square: Tensor) -> Tensor:
    """√ with derivative 0 at 0: an entry whose gradients were zero all along, whatever the rows' weights."""
    there = square > 0
    return torch.where(there, square.where(there, torch.ones_like(square)).sqrt(), torch.zeros_like(square))


def _plain(part: Tensors) -> Tensors:
    return {name: each.detach() for name, each in part.items()}


def _like(state: State, tensors: Sequence[Tensor]) -> State:
    """Tensors in the order of `State.tensors`, as a state."""
    rest = iter(tensors)
    return State(*({name: next(rest).detach() for name in part} for part in state))
