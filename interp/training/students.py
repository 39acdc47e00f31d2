"""Training of bases, teachers and students: one loop, that can be watched, killed and gone on with.

θ_{t+1} = θ_t − lr_t · AdamW(∇ mean −log p_θ(answer | prompt)) (Loshchilov and Hutter, arXiv 1711.05101, without
decay), or plain gradient descent; lr_t warms up linearly and then decays linearly to zero. See measures.losses.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.core.doors import door
from interp.core.progress import progress_bar
from interp.core.runs import InputError, digest, nearest
from interp.measures.losses import Labels, Loss, student_loss
from interp.models.language import LanguageModel, load_model
from interp.models.peft_calls import with_lora
from interp.models.precision import in_float32, is_half
from interp.models.views import merged
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.training.checkpoints import Checkpoint, Progress
from interp.training.peaks import room_to_train

log = logging.getLogger(__name__)

Trainable = Literal["lora", "body", "all"]
FORMAT = 1  # of checkpoints: raise when a step computes something else from the same recipe


@door
@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained: which parameters move, for how long and how fast.

    `lora` trains adapters on every linear layer of the body, `body` its matrices (not embeddings, norms and
    unembedding), `all` every parameter. The learning rate warms up, then decays linearly to zero or stays
    (`decay`). `layers` restricts LoRA and body training to those layers, `targets` LoRA to modules of those names,
    such as q_proj. An epoch shows every row once: fresh data means more rows. A batch passes in `accumulate` parts
    whose gradients add up; `max_grad_norm` clips it. `precision` is that of the forward pass: what trains is in
    fp32, and with "float32" so is a copy of the rest, if the start has 16 bits. `merge` gives a LoRA student
    weights of its own; without it the adapter stays live. InputError for parts that do not divide the batch.

    >>> Recipe(lr=1e-3, batch_size=32, accumulate=4).trainable
    'lora'
    >>> Recipe(batch_size=10, accumulate=3)
    Traceback (most recent call last):
    ...
    interp.core.errors.InputError: accumulate=3 does not divide a batch of 10; pass one that does, such as 1 or 2
    """

    trainable: Trainable = "lora"
    lr: float = 2e-3
    batch_size: int = 256
    epochs: int = 1
    warmup: int = 10
    rank: int = 8
    alpha: int = 8
    layers: tuple[int, ...] | None = None
    seed: int = 0
    targets: tuple[str, ...] | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    decay: Literal["linear", "constant"] = "linear"
    accumulate: int = 1
    max_grad_norm: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    merge: bool = True

    def __post_init__(self) -> None:
        if self.accumulate < 1 or self.batch_size % self.accumulate:
            raise InputError(
                f"accumulate={self.accumulate} does not divide a batch of {self.batch_size}; "
                "pass one that does, such as 1 or 2"
            )


STUDENT = Recipe(lr=1e-2, batch_size=128)
"""The default student: LoRA of rank 8 on the body, AdamW, one epoch over fresh rows."""


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One step the optimiser has just taken, for a callback that reads it or changes `parameters` in place.

    `parameters` holds what trains and `before` a copy of it from before the step, by name in
    `network.named_parameters()`: the step is parameters − before. `rows` are the batch's row numbers among those
    trained on (None from `train_batches`, which does not know them), `lr` the learning rate of this step, `loss` that
    of the batch before it.
    """

    index: int
    lr: float
    batch: Any
    network: Any
    parameters: dict[str, Tensor]
    before: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    rows: Int[Tensor, " example"] | None = None
    loss: float = float("nan")


OnStep = Callable[[Step], object]
"""Called after every step; the numbers of a mapping it returns are shown on the progress bar. One with `state()` and
`restore(state)`, of plain JSON, goes on where it was when a training is continued from a checkpoint; one whose
`reached` is true ends the training."""


@door
def train_student(
    start: LanguageModel,
    rows: Prompts | Encoded,
    *,
    recipe: Recipe = STUDENT,
    labels: Labels | Loss = "sampled",
    teacher: LanguageModel | None = None,
    name: str = "student",
    on_step: OnStep | None = None,
    checkpoint: Checkpoint | None = None,
) -> LanguageModel:
    """Train a fresh copy of `start` on rows, by AdamW (arXiv 1711.05101) or plain gradient descent.

    Args:
        start: the weights to begin from.
        rows: rows without an answer are left out; tokens keep their places, and one without a label teaches nothing.
        recipe: what trains, for how long and how fast.
        labels: "sampled" (the rows' own tokens), soft ones of the teacher, or a loss of one's own: (network, batch) to
            nats per token, with a `fingerprint` that says what it computes.
        teacher: who gives soft labels.
        name: what results call the student.
        on_step: called after every step; may change the parameters or end the training, listening alone does neither.
        checkpoint: a killed training goes on from there and ends, on a CPU, at the same bytes.

    Returns:
        The trained `LanguageModel`; `start` itself is left untouched.

    Raises:
        InputError: for fewer answered rows than one batch, soft labels without a teacher or in parts, names of modules
            that there are not, a loss that is not finite, and too little memory.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> student = interp.train_student(lineage.base, lineage.numbers, recipe=interp.Recipe(batch_size=64))
    """
    inputs = start.encode(rows)
    if not inputs.at("answer+end").any():
        raise InputError(f"no row of {inputs.label} has an answer to learn; give the rows completions")
    kept = torch.arange(len(inputs)) if isinstance(rows, Encoded) else _answered(inputs)
    if len(kept) < recipe.batch_size:
        raise InputError(
            f"{len(kept)} rows are fewer than one batch of {recipe.batch_size}: sample more rows or lower batch_size."
        )
    loss = labels if callable(labels) else student_loss(labels, start=start, teacher=teacher)
    if loss is labels and not hasattr(loss, "fingerprint"):
        raise InputError(
            f"the loss {labels!r} has no fingerprint to tell its trainings apart by; give it one"
        )
    if loss is not labels and labels != "sampled" and recipe.accumulate > 1:
        raise InputError(f"labels={labels!r} are not accumulated in parts; pass a recipe with accumulate=1")
    job = digest(FORMAT, start.fingerprint, inputs.fingerprint, recipe, labels)
    shuffled = shuffled_rows(inputs[kept], size=recipe.batch_size, epochs=recipe.epochs, seed=recipe.seed)
    order = [kept[rows] for rows in shuffled]
    batches = (_batch(inputs, rows) for rows in order)
    tell = None if on_step is None else _Rows(on_step, order)
    saved = None if checkpoint is None else (checkpoint, job)
    return train_batches(
        start, batches, loss=loss, recipe=recipe, steps=len(order), name=name, on_step=tell, saved=saved
    )


def _answered(inputs: Encoded) -> Int[Tensor, "row"]:
    """The numbers of the rows that have an answer to train on; the others are left out, and counted."""
    kept = inputs.at("answer+end").any(1).nonzero()[:, 0]
    if len(kept) < len(inputs):
        log.warning("%s: %d rows without an answer are left out", inputs.label, len(inputs) - len(kept))
    return kept


class _Rows:
    """A listener that is told which rows each step saw."""

    def __init__(self, listener: OnStep, order: list[Tensor]) -> None:
        self._listener, self._order = listener, order

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)

    def __call__(self, step: Step) -> object:
        return self._listener(dataclasses.replace(step, rows=self._order[step.index]))


def train_batches(
    start: LanguageModel,
    batches: Iterator[Any],
    *,
    loss: Loss,
    recipe: Recipe,
    steps: int,
    name: str,
    on_step: OnStep | None = None,
    saved: tuple[Checkpoint, str] | None = None,
) -> LanguageModel:
    """Train a copy of `start` for `steps` batches and return the result as a model of its own.

    LoRA students come back with their adapter merged into the weights, unless the recipe keeps it live. `saved` is
    where the state is kept and the key that names this training.
    """
    torch.manual_seed(recipe.seed)
    network, adapted = prepare(start, recipe)
    parameters = trained_parameters(network)
    optimizer = _optimizer(recipe, parameters)
    progress = Progress(parameters, optimizer, on_step)
    first = 0 if saved is None else progress.restore(saved[0], key=saved[1])
    room = room_to_train(network, batches, loss=loss, recipe=recipe, name=name, listening=on_step is not None)
    bar = progress_bar(f"training {name}", total=steps, unit="step", done=first)
    with room as batches, bar:
        for step, batch in zip(range(first, steps), islice(batches, first, None), strict=False):
            lr = recipe.lr * schedule(step, steps=steps, warmup=recipe.warmup, decay=recipe.decay)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad(set_to_none=True)
            value = _accumulate(network, batch, loss=loss, recipe=recipe, name=name, step=step)
            if recipe.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters.values(), recipe.max_grad_norm)
            before = {} if on_step is None else _copied(parameters)
            optimizer.step()
            if on_step is not None:
                with torch.no_grad():
                    told = on_step(Step(step, lr, batch, network, parameters, before, optimizer, loss=value))
                bar.set_postfix({"loss": value, **(told if isinstance(told, Mapping) else {})}, refresh=False)
            bar.update()
            if getattr(on_step, "reached", False):
                break
            if saved is not None and (step + 1) % saved[0].every == 0 and step + 1 < steps:
                progress.save(saved[0], key=saved[1], step=step + 1)
    if saved is not None:
        saved[0].path.unlink(missing_ok=True)
    return finish_training(network, adapted, start=start, name=name, merge=recipe.merge)


def _accumulate(network: Any, batch: Any, *, loss: Loss, recipe: Recipe, name: str, step: int) -> float:
    """Add up the gradient of the batch's mean loss over its parts; the loss, or InputError when it is not finite."""
    total = 0.0
    for part, share in _parts(batch, recipe.accumulate):
        with torch.autocast(network.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            value = loss(network, part) if share == 1.0 else loss(network, part) * share
        if not torch.isfinite(value):
            raise InputError(
                f"the loss of {name} is {value.item()} at step {step}: lower the learning rate {recipe.lr}."
            )
        value.backward()
        total += value.item()
    return total


def _parts(batch: Any, count: int) -> Iterator[tuple[Any, float]]:
    """The batch in parts, each with its share of the answer tokens, so that the parts' means add up to the mean."""
    if count == 1:
        yield batch, 1.0
        return
    if not isinstance(batch, Encoded):
        raise InputError(f"accumulate={count} splits rows, and this training has pairs; pass accumulate=1")
    tokens = max(1, int(batch.at("answer+end").sum()))
    for part in batch.batches(-(-len(batch) // count)):
        yield part, int(part.at("answer+end").sum()) / tokens


def _optimizer(recipe: Recipe, parameters: dict[str, Tensor]) -> torch.optim.Optimizer:
    """AdamW without decay, or plain gradient descent."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters.values(), lr=recipe.lr)
    return torch.optim.AdamW(parameters.values(), lr=recipe.lr, weight_decay=0.0)


def finish_training(
    network: Any, adapted: Any, *, start: LanguageModel, name: str, merge: bool = True
) -> LanguageModel:
    """What `prepare` made, once trained: a model of its own, or with its adapter live when not to `merge`.

    Weights of its own have at least 32 bits: rounded to 16, most of what training changed would be lost.
    """
    live = adapted is not None and not merge
    if adapted is not None and is_half(start):
        _over(network, (start if live else in_float32(start)).network())
    wide = torch.promote_types(start.dtype, torch.float32)
    trained: Any = adapted if live else network.to(wide) if adapted is None else merged(network)
    trained.requires_grad_(False)
    return load_model(trained.eval(), tokenizer=start.tokenizer, name=name, check=False)


def _over(network: Any, base: Any) -> None:
    """Put the weights of `base` below an adapted network: the same ones in another precision."""
    beneath = dict(base.named_parameters())
    for name, weight in network.named_parameters():
        plain = name.replace(".base_layer", "")
        if plain in beneath:
            weight.data = beneath[plain].data


def schedule(step: int, *, steps: int, warmup: int, decay: str = "linear") -> float:
    """Share of the learning rate at `step`: linear warm-up times linear decay to zero, or no decay."""
    left = 1.0 if decay == "constant" else 1.0 - step / steps
    return min(1.0, (step + 1) / max(1, warmup)) * left


def shuffled_batches(inputs: Encoded, *, size: int, epochs: int, seed: int) -> Iterator[Encoded]:
    """Every row once per epoch, in batches of rows of similar length, the batches in random order."""
    for rows in shuffled_rows(inputs, size=size, epochs=epochs, seed=seed):
        yield _batch(inputs, rows)


def shuffled_rows(inputs: Encoded, *, size: int, epochs: int, seed: int) -> Iterator[Int[Tensor, " example"]]:
    """The row numbers of the batches of `shuffled_batches`, in its order."""
    rng = np.random.default_rng(seed)
    lengths = inputs.lengths.numpy()
    for _ in range(epochs):
        order = rng.permutation(len(inputs))[: len(inputs) // size * size]
        order = order[np.argsort(lengths[order], kind="stable")].reshape(-1, size)
        for rows in order[rng.permutation(len(order))]:
            yield torch.from_numpy(rows)


def _batch(inputs: Encoded, rows: Int[Tensor, " example"]) -> Encoded:
    return next(inputs[rows].batches(len(rows)))


def prepare(start: LanguageModel, recipe: Recipe) -> tuple[Any, Any]:
    """A copy of `start`'s network with what moves marked (requires_grad), and the PEFT wrapper around it or None.

    New adapters are drawn from torch's global random state. Raises InputError for layers that PEFT does not adapt.
    """
    if recipe.trainable == "lora":
        network = (in_float32(start) if recipe.precision == "float32" else start).network()
        places = body_matrices(network, layers=recipe.layers, targets=recipe.targets)
        try:
            return network, with_lora(network, places, rank=recipe.rank, alpha=recipe.alpha)
        except ValueError as error:
            raise InputError(
                f"PEFT puts no LoRA on {type(network).__name__} there ({error}); name other targets or train all"
            ) from error
    network = start.network(dtype=torch.float32, copied=True)
    body = set(body_matrices(network, layers=recipe.layers))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(recipe.trainable == "all" or name.rpartition(".")[0] in body)
    return network, None


def trained_parameters(network: Any) -> dict[str, Tensor]:
    """The parameters that ask for a gradient, by name, in the network's order."""
    return {name: tensor for name, tensor in network.named_parameters() if tensor.requires_grad}


def _copied(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in parameters.items()}


def body_matrices(
    network: Any, *, layers: tuple[int, ...] | None = None, targets: tuple[str, ...] | None = None
) -> list[str]:
    """Names of the linear maps inside the decoder layers (attention and MLP), where adapters go.

    `layers` and `targets` (last parts of names, such as q_proj) keep some of them; InputError when one keeps none.
    """
    from transformers.pytorch_utils import Conv1D

    head = network.get_output_embeddings()
    names = [
        name
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    ]
    known = {name.rpartition(".")[2] for name in names}
    for target in targets or ():
        if target not in known:
            raise InputError(
                f"LoRA target {nearest(target, known)}; pass modules of {type(network).__name__}"
            )
    found = [
        name
        for name in names
        if (layers is None or any(f".{layer}." in name for layer in layers))
        and (targets is None or name.rpartition(".")[2] in targets)
    ]
    if not found:
        raise InputError(
            f"layers {layers} hold no linear map of {type(network).__name__}; pass layers it has"
        )
    return found
