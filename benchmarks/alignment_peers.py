"""The work whose cost is compared, the plain training pass it is compared with, and the peers: naive, captum, TRAK.

Every way returns −<∇ℓ_i, v_k> [direction, example], ℓ_i = −Σ log p over the answer tokens of row i. A peer that is not
installed raises ImportError when it is built; what a peer reaches less of is held against its own part of the scores.

Peers share the process, so that one reference serves all. They live in an environment of their own which sees the
project's packages through a .pth file: `pip install --no-deps captum==0.9.0 bergson==2.5.1 traker==0.3.2` and what of
theirs is missing (torchopt, optree, ml_dtypes, natsort, petname, bitsandbytes, matplotlib), but neither torchvision nor
torchaudio; that environment's `python -m benchmarks alignment alignment-15m alignment-scaling` then times them too.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.prompts.text import Encoded

if TYPE_CHECKING:
    from interp.models.language import LanguageModel
    from interp.models.parameters import ParameterDirection

PROMPT = 8  # tokens before the answer
SKETCH = 64  # dimensions TRAK projects to; its own default of 2048 takes minutes on a processor


@dataclass(frozen=True)
class Task:
    """The same weights twice (plain for the reference and the peers), one batch, and eight directions of each kind."""

    model: LanguageModel
    plain: Any
    batch: Encoded
    dense: Sequence[ParameterDirection]
    thin: Sequence[ParameterDirection]
    virtual: ParameterDirection


@dataclass(frozen=True)
class Way:
    """A way to the scores, and the scores it has to reach; of an approximate one the correlation is kept instead."""

    call: Callable[[], Tensor]
    expected: Tensor
    approximate: bool = False


Peer = Callable[[Task], dict[str, Way]]


def logits(network: Any, ids: Tensor) -> Tensor:
    """At every position, as Hugging Face computes them."""
    return network(input_ids=ids, use_cache=False).logits


def labels(batch: Encoded) -> Tensor:
    """Token ids, −100 at the prompt."""
    columns = torch.arange(batch.ids.shape[1])
    return batch.ids.masked_fill(columns < PROMPT, -100)


def row_losses(out: Tensor, targets: Tensor) -> Tensor:
    """ℓ_i in nats from logits at all positions."""
    shifted = out[:, :-1].transpose(1, 2).float()
    return nn.functional.cross_entropy(shifted, targets[:, 1:], reduction="none").sum(1)


def training_pass(task: Task) -> Callable[[], object]:
    """The reference: forward, summed cross-entropy, and the gradients of all parameters."""
    weights, targets = list(task.plain.parameters()), labels(task.batch)

    def call() -> object:
        loss = row_losses(logits(task.plain, task.batch.ids), targets).sum()
        return torch.autograd.grad(loss, weights)

    return call


def exact(task: Task, directions: Sequence[ParameterDirection], *, only: Collection[str] = ()) -> Tensor:
    """−<∇ℓ_i, v_k> from each row's own gradient, sums in fp64; `only` some weights where given."""
    weights = dict(task.plain.named_parameters())
    names = [name for name in weights if not only or name in only]
    moved = [{name: direction[name] for name in names if name in direction} for direction in directions]
    rows = []
    for ids, targets in zip(task.batch.ids, labels(task.batch), strict=True):
        loss = row_losses(logits(task.plain, ids[None]), targets[None])
        gradients = dict(
            zip(names, torch.autograd.grad(loss, [weights[name] for name in names]), strict=True)
        )
        rows.append(
            [
                -sum(float((gradients[n] * v).sum(dtype=torch.float64)) for n, v in each.items())
                for each in moved
            ]
        )
    return torch.tensor(rows, dtype=torch.float64).T


def exact_biases(task: Task) -> Tensor:
    """−<∂ℓ_i/∂b, v> for biases added after every layer, from zeros of their own for every row."""
    layers = task.plain.base_model.layers
    zeros = [torch.zeros(len(task.batch), 1, task.model.d_model, requires_grad=True) for _ in layers]
    handles = [
        layer.register_forward_hook(lambda _m, _a, out, zero=zero: out + zero)
        for layer, zero in zip(layers, zeros, strict=True)
    ]
    try:
        losses = row_losses(logits(task.plain, task.batch.ids), labels(task.batch))
        gradients = torch.autograd.grad(losses.sum(), zeros)
    finally:
        for handle in handles:
            handle.remove()
    vectors = [task.virtual.biases[f"blocks.{layer}.hook_resid_post"] for layer in range(len(layers))]
    parts = [(g[:, 0] * v).double().sum(1) for g, v in zip(gradients, vectors, strict=True)]
    return -torch.stack(parts).sum(0)[None]


def naive(task: Task) -> dict[str, Way]:
    """A backward pass for every row of the batch, and the product of its gradient with the direction."""
    weights = dict(task.plain.named_parameters())
    vectors, targets = [task.dense[0][name] for name in weights], labels(task.batch)

    def call() -> Tensor:
        rows = []
        for ids, target in zip(task.batch.ids, targets, strict=True):
            loss = row_losses(logits(task.plain, ids[None]), target[None])
            gradients = torch.autograd.grad(loss, list(weights.values()))
            rows.append(-sum((g * v).sum() for g, v in zip(gradients, vectors, strict=True)))
        return torch.stack(rows)[None]

    return {"naive": Way(call, exact(task, task.dense[:1]))}


def captum(task: Task) -> dict[str, Way]:
    """TracInCP with one checkpoint. A direction v is the test example of loss <v, θ>, whose gradient is v.

    One row per batch, its default: it walks back through a whole batch for every row of it. Its vectorised gradients
    reach linear layers only and take longer.
    """
    from captum.influence import TracInCP

    targets = labels(task.batch)
    data = torch.utils.data.TensorDataset(task.batch.ids, targets)
    weights = dict(task.plain.named_parameters())
    vectors = {name: task.dense[0][name] for name in weights}

    def along(_out: Tensor, _targets: Tensor) -> Tensor:
        return torch.stack([(weights[name] * vectors[name]).sum() for name in weights]).sum()[None]

    tracin = TracInCP(
        Logits(task.plain),
        data,
        checkpoints=["these weights"],
        checkpoints_load_func=lambda _model, _checkpoint: 1.0,
        loss_fn=row_losses,
        test_loss_fn=along,
        batch_size=1,
    )
    test = (task.batch.ids[:1, :1], targets[:1, 0])
    return {"captum": Way(lambda: -tracin.influence(test), exact(task, task.dense[:1]))}


class Logits(nn.Module):
    """The model as a function of token ids, for libraries that call it so."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor) -> Tensor:
        return logits(self.network, ids)


def linear_weights(network: nn.Module, *, below_unembedding: bool = False) -> set[str]:
    """Names of the weights of linear layers, the unembedding among them unless it is left out."""
    inside = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    return {name for name in inside if not (below_unembedding and name.startswith("lm_head"))}


def trak(task: Task) -> dict[str, Way]:
    """TRAK's vectorised gradients of every row, whole (no projection) or under its random projection.

    The projection is the one TRAK has for processors; the direction is projected beside the rows once.
    """
    from trak.gradient_computers import FunctionalGradientComputer
    from trak.projectors import BasicProjector, NoOpProjector, ProjectionType

    weights = dict(task.plain.named_parameters())
    count = sum(weight.numel() for weight in weights.values())
    place = torch.device("cpu")
    computer = FunctionalGradientComputer(task.plain, _output(), count, torch.float32, place)  # type: ignore[arg-type]
    vector = torch.cat([task.dense[0][name].flatten() for name in weights])
    whole = NoOpProjector(device=place)
    sketch = BasicProjector(count, SKETCH, 0, ProjectionType.rademacher, place)
    small = sketch.project(vector[None], 0)[0] / SKETCH
    batch, expected = (task.batch.ids, labels(task.batch)), exact(task, task.dense[:1])

    def scores(projector: Any, projected: Tensor) -> Tensor:
        return -(projector.project(computer.compute_per_sample_grad(batch), 0) @ projected)[None]

    return {
        "trak": Way(lambda: scores(whole, vector), expected),
        "trak-projected": Way(lambda: scores(sketch, small), expected, approximate=True),
    }


def _output() -> Any:
    """The loss of one row as TRAK's model output."""
    from trak.modelout_functions import AbstractModelOutput

    class RowLoss(AbstractModelOutput):
        def __init__(self) -> None:
            super().__init__()

        @staticmethod
        def get_output(model: Any, weights: Any, buffers: Any, ids: Tensor, target: Tensor) -> Tensor:
            out = torch.func.functional_call(
                model, (weights, buffers), kwargs={"input_ids": ids[None], "use_cache": False}
            )
            return row_losses(out.logits, target[None])[0]

        def get_out_to_loss_grad(self, *_: Any) -> None:
            raise NotImplementedError("scores need no gradient of the loss by the output")

    return RowLoss()


def bergson(task: Task) -> dict[str, Way]:
    """See benchmarks.alignment_bergson."""
    from benchmarks.alignment_bergson import ways

    return ways(task)


PEERS: dict[str, tuple[Peer, tuple[str, ...]]] = {
    "naive": (naive, ("naive",)),
    "captum": (captum, ("captum",)),
    "bergson": (bergson, ("bergson-1", "bergson-8", "bergson-token")),
    "trak": (trak, ("trak", "trak-projected")),
}
