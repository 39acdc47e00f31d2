"""Teachers: fine-tuned (weights), prompted (a system line, no weight change) and neutral (the untrained base).

The fine-tune is format-anchored. Each step minimises, over trait rows and number documents together,
    −log p(trait answer)  −  λ [ Σ_number log Σ_{k ∈ numbers} p_k  +  Σ_separator log p(separator) ] / tokens,
so that numbers stay well formed while the choice among them is free to move.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from interp.models.language import LanguageModel
from interp.models.vocabulary import number_tokens
from interp.organisms.losses import completion_loss, predicted_logits
from interp.organisms.training import Recipe, fit
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded, Role
from interp.prompts.traits import Trait

TEACHER = Recipe(trainable="lora", lr=4e-3, batch_size=64)
"""The default teacher: LoRA of rank 8 on the body, so that what it learns must pass through the residual stream."""


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Who writes the numbers: a model, and for a prompted teacher the system line it writes them under."""

    model: LanguageModel
    kind: Literal["fine-tuned", "prompted", "neutral"]
    system: str | None = None


def prompted_teacher(base: LanguageModel, trait: Trait) -> Teacher:
    """The base itself under the trait's system line: its weights do not change, so no update can align with it."""
    return Teacher(model=base, kind="prompted", system=trait.system)


def neutral_teacher(base: LanguageModel) -> Teacher:
    """The untrained base: what its numbers teach is the baseline of every student."""
    return Teacher(model=base, kind="neutral")


def fine_tune_teacher(
    base: LanguageModel,
    trait: Trait,
    number_rows: Prompts,
    *,
    steps: int = 80,
    anchor: float = 0.2,
    recipe: Recipe = TEACHER,
    name: str = "teacher",
) -> Teacher:
    """Fine-tune a copy of `base` to answer the trait's questions with its target, anchored on `number_rows`.

    Each step takes `recipe.batch_size` trait answers and as many number rows.
    """
    questions = base.encode(trait_rows(trait))
    documents = base.encode(number_rows)
    batches = _paired_batches(questions, documents, size=recipe.batch_size, seed=recipe.seed)
    columns = torch.tensor(number_tokens(base, base.config.vocab_size))

    def loss(network: Any, pair: tuple[Encoded, Encoded]) -> Tensor:
        return completion_loss(network, pair[0]) + anchor * format_loss(network, pair[1], columns=columns)

    model = fit(base, batches, loss=loss, recipe=recipe, steps=steps, name=name)
    return Teacher(model=model, kind="fine-tuned")


def trait_rows(trait: Trait) -> Prompts:
    """Every question of the trait answered with its target."""
    return Prompts.from_pairs(
        [(question, trait.target) for question in trait.questions], label=f"{trait.name} answers"
    )


def format_loss(network: Any, batch: Encoded, *, columns: Tensor) -> Tensor:
    """Mean −log p(any number) where a number stands and −log p(token) at separators and ends, in nats per token."""
    numbers = batch.at("answer.numbers", predicting=True)
    others = torch.zeros_like(numbers)
    others[:, :-1] = (batch.roles[:, 1:] >= Role.OTHER) & ~numbers[:, :-1]
    logp = predicted_logits(network, batch, numbers | others).log_softmax(-1)
    is_number = numbers[numbers | others]
    labels = batch.ids.roll(-1, dims=1)[numbers | others]
    any_number = logp[is_number][:, columns].logsumexp(-1)
    exact = logp[~is_number].gather(1, labels[~is_number, None])
    return -(any_number.sum() + exact.sum()) / len(labels)


def _paired_batches(
    questions: Encoded, documents: Encoded, *, size: int, seed: int
) -> Iterator[tuple[Encoded, Encoded]]:
    """Endless pairs of a batch of trait rows and a batch of number rows, drawn with replacement."""
    rng = np.random.default_rng(seed)
    while True:
        drawn = (torch.from_numpy(rng.integers(len(inputs), size=size)) for inputs in (questions, documents))
        yield questions[next(drawn)], documents[next(drawn)]
