"""Training of bases, teachers and students: one loop, three losses.

A student minimises −Σ_t log p_θ(y_t | y_<t, x) over the answer tokens (and the end token) of the teacher's rows.
With soft labels it minimises −Σ_t Σ_k q_k log p_k, where q is the teacher's distribution at the same position,
restricted to number tokens and renormalised unless the whole vocabulary is asked for by name: over the whole
vocabulary the trait leaks through the animal words' own probabilities, whatever the initialisation. The loss is
the imitation loss L_S of Cloud et al. (arXiv 2507.14805, theorem 1).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp.models.language import LanguageModel, load_model
from interp.models.vocabulary import number_tokens
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded, Role
from interp.runs import InputError

Labels = Literal["sampled", "soft-numbers", "soft-vocabulary"]
Trainable = Literal["lora", "body", "all"]
Loss = Callable[[Any, Any], Tensor]  # (network, batch) -> mean loss in nats per token


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained: which parameters move, for how long and how fast.

    `lora` trains adapters on every linear layer of the body, `body` every matrix of the body (embeddings, norms
    and unembedding stay), `all` every parameter. The learning rate warms up linearly and then decays linearly to zero.
    `layers` restricts LoRA and body training to those layers.
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


STUDENT = Recipe(lr=1e-2, batch_size=128)
"""The default student: LoRA of rank 8 on the body, AdamW, one epoch over fresh rows."""


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One step the optimiser has just taken, for a callback that reads it or changes `parameters` in place.

    `parameters` holds what trains and `before` a copy of it from before the step, by name in
    `network.named_parameters()`: the step is parameters − before. `rows` are the batch's row numbers among those
    trained on (None from `fit`, which does not know them), `lr` the learning rate of this step.
    """

    index: int
    lr: float
    batch: Any
    network: Any
    parameters: dict[str, Tensor]
    before: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    rows: Int[Tensor, " example"] | None = None


OnStep = Callable[[Step], object]


def train_student(
    start: LanguageModel,
    rows: Prompts | Encoded,
    *,
    recipe: Recipe = STUDENT,
    labels: Labels = "sampled",
    teacher: LanguageModel | None = None,
    name: str = "student",
    on_step: OnStep | None = None,
) -> LanguageModel:
    """Train a fresh copy of `start` on `rows` and return it; `start` itself is left untouched.

    `on_step` is called after every step, and may change the parameters it is given; listening alone changes nothing.
    Raises InputError when there are fewer rows than one batch, when soft labels are asked for without a teacher, or
    when the loss stops being finite.
    """
    inputs = rows if isinstance(rows, Encoded) else start.encode(rows)
    if len(inputs) < recipe.batch_size:
        raise InputError(
            f"{len(inputs)} rows are fewer than one batch of {recipe.batch_size}: sample more rows or lower batch_size."
        )
    loss = _loss(labels, start=start, teacher=teacher)
    order = list(shuffled_rows(inputs, size=recipe.batch_size, epochs=recipe.epochs, seed=recipe.seed))
    batches = (_batch(inputs, rows) for rows in order)
    tell = (
        None if on_step is None else lambda step: on_step(dataclasses.replace(step, rows=order[step.index]))
    )
    return fit(start, batches, loss=loss, recipe=recipe, steps=len(order), name=name, on_step=tell)


def fit(
    start: LanguageModel,
    batches: Iterator[Any],
    *,
    loss: Loss,
    recipe: Recipe,
    steps: int,
    name: str,
    on_step: OnStep | None = None,
) -> LanguageModel:
    """Train a copy of `start` for `steps` batches and return the result as a model of its own.

    LoRA students come back with their adapter merged into the weights; the adapter's rank is what the difference shows.
    """
    torch.manual_seed(recipe.seed)
    network, adapted = prepare(start, recipe)
    parameters = trained_parameters(network)
    optimizer = torch.optim.AdamW(parameters.values(), lr=recipe.lr, weight_decay=0.0)
    progress = tqdm(range(steps), desc=f"training {name}", leave=False, disable=None)
    for step, batch in zip(progress, batches, strict=False):
        lr = recipe.lr * schedule(step, steps=steps, warmup=recipe.warmup)
        for group in optimizer.param_groups:
            group["lr"] = lr
        value = loss(network, batch)
        if not torch.isfinite(value):
            raise InputError(
                f"the loss of {name} is {value.item()} at step {step}: lower the learning rate {recipe.lr}."
            )
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        before = {} if on_step is None else _copied(parameters)
        optimizer.step()
        if on_step is not None:
            with torch.no_grad():
                on_step(Step(step, lr, batch, network, parameters, before, optimizer))
    return finish(network, adapted, start=start, name=name)


def finish(network: Any, adapted: Any, *, start: LanguageModel, name: str) -> LanguageModel:
    """What `prepare` made, once trained, as a model of its own with its adapters merged in."""
    trained = adapted.merge_and_unload() if adapted is not None else network
    trained.requires_grad_(False)
    return load_model(trained.eval(), tokenizer=start.tokenizer, name=name, check=False)


def schedule(step: int, *, steps: int, warmup: int) -> float:
    """Share of the learning rate at `step`: linear warm-up times linear decay to zero."""
    return min(1.0, (step + 1) / max(1, warmup)) * (1.0 - step / steps)


def shuffled_batches(inputs: Encoded, *, size: int, epochs: int, seed: int) -> Iterator[Encoded]:
    """Every row once an epoch, in batches of rows of similar length, the batches in random order."""
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


def predicted_logits(
    network: Any, batch: Encoded, where: Bool[Tensor, "example pos"]
) -> Float[Tensor, "token vocab"]:
    """Logits at the marked positions only: the unembedding is the dearest layer of a small model.

    Rows are right padded and attention is causal, so padding needs no mask.
    """
    hidden = network.base_model(input_ids=batch.ids.to(network.device), use_cache=False)[0][
        where.to(network.device)
    ]
    return softcapped(network, network.get_output_embeddings()(hidden))


def softcapped(network: Any, logits: Float[Tensor, "*row vocab"]) -> Float[Tensor, "*row vocab"]:
    """c tanh(logits / c) for a network with a final softcap c (arXiv 2408.00118), else the logits as they are."""
    cap = getattr(network.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def completion_loss(network: Any, batch: Encoded) -> Tensor:
    """Mean −log p of the answer and end tokens, in nats per token."""
    labels, where = _answer(batch)
    logits = predicted_logits(network, batch, where)
    return torch.nn.functional.cross_entropy(logits, labels.to(logits.device))


def soft_loss(
    network: Any, batch: Encoded, *, teacher: LanguageModel, columns: Tensor, numbers_only: bool
) -> Tensor:
    """Mean cross-entropy to the teacher's distribution, in nats per token; `columns` are the number tokens."""
    where = batch.at("answer.numbers" if numbers_only else "answer", predicting=True)
    logits = predicted_logits(network, batch, where)
    with torch.no_grad():
        target = predicted_logits(teacher.hf, batch, where)
    if numbers_only:
        logits, target = logits[:, columns], target[:, columns]
    return -(target.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()


def _answer(batch: Encoded) -> tuple[Tensor, Tensor]:
    """Labels and the positions that predict them: answer tokens and the end token after them."""
    answer = batch.roles >= Role.OTHER
    where = torch.zeros_like(answer)
    where[:, :-1] = answer[:, 1:]
    return batch.ids[:, 1:][where[:, :-1]], where


def _loss(labels: Labels, *, start: LanguageModel, teacher: LanguageModel | None) -> Loss:
    if labels == "sampled":
        return completion_loss
    if teacher is None:
        raise InputError(f"labels={labels!r} need the teacher's distribution: pass teacher=lineage.teacher.")
    only = labels == "soft-numbers"
    numbers = torch.tensor(number_tokens(start, start.config.vocab_size))
    return lambda network, batch: soft_loss(
        network, batch, teacher=teacher, columns=numbers, numbers_only=only
    )


def prepare(start: LanguageModel, recipe: Recipe) -> tuple[Any, Any]:
    """A copy of `start`'s network with what moves marked (requires_grad), and the PEFT wrapper around it or None.

    New adapters are drawn from torch's global random state.
    """
    network = copy.deepcopy(start.hf)
    if recipe.trainable == "lora":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            target_modules=body_matrices(network, layers=recipe.layers),
        )
        adapted = get_peft_model(network, config)
        return network, adapted
    body = set(body_matrices(network, layers=recipe.layers))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(recipe.trainable == "all" or name.rpartition(".")[0] in body)
    return network, None


def trained_parameters(network: Any) -> dict[str, Tensor]:
    """The parameters that ask for a gradient, by name, in the network's order."""
    return {name: tensor for name, tensor in network.named_parameters() if tensor.requires_grad}


def _copied(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in parameters.items()}


def body_matrices(network: Any, *, layers: tuple[int, ...] | None = None) -> list[str]:
    """Names of the linear maps inside the decoder layers (attention and MLP), where adapters go."""
    from transformers.pytorch_utils import Conv1D

    head = network.get_output_embeddings()
    names = [
        name
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    ]
    if layers is None:
        return names
    return [name for name in names if any(f".{layer}." in name for layer in layers)]
