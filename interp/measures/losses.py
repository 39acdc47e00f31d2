"""The losses a student is trained with, read at the positions that predict the answer.

Sampled: −Σ_t log p_θ(y_t | y_<t, x) over the answer tokens (and the end token) of the teacher's rows. Soft:
−Σ_t Σ_k q_k log p_k, where q is the teacher's distribution at the same position, restricted to number tokens and
renormalised unless the whole vocabulary is asked for by name: over the whole vocabulary the trait leaks through the
animal words' own probabilities, whatever the initialisation. This is the imitation loss L_S of Cloud et al. (arXiv
2507.14805, theorem 1). What rows are worth under weights that are not trained here is `answer_loss`, whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.core.errors import InputError
from interp.models.head import own_logits
from interp.models.language import LanguageModel
from interp.models.once import marked_logits
from interp.models.seam import Model
from interp.models.vocabulary import number_tokens
from interp.prompts.tokens import Encoded

Labels = Literal["sampled", "soft-numbers", "soft-vocabulary"]
Loss = Callable[[Any, Any], Tensor]  # (network, batch) -> mean loss in nats per token
LogitsAt = Callable[[Encoded, Tensor], Tensor]  # (batch, marked positions) -> their logits
LOSS_UNIT = "nats per answer token, end token counted"


@torch.no_grad()
def answer_loss(model: Model | torch.nn.Module, rows: Encoded, *, batch_size: int = 256) -> float:
    """−Σ log p of all answer tokens and of the end token after each answer, over their number: `LOSS_UNIT`.

    The one measure of how well a model predicts rows: every table and claim about a loss per token reads it. `model`
    is a model as loaded, whose open hooks act, or the network of one that is being trained. An answer that was cut off
    has no end token to count. Every token weighs alike, whatever its row and batch. InputError for rows without answer.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> rows = lineage.base.encode(lineage.numbers[:8])
    >>> answer_loss(lineage.student, rows) > 0
    True
    """
    network = isinstance(model, torch.nn.Module)
    logits_at = partial(predicted_logits, model) if network else partial(marked_logits, model)
    total, tokens = 0.0, 0
    for batch in rows.batches(batch_size):
        logps = label_logprobs(batch, logits_at)
        total -= float(logps.double().sum())
        tokens += len(logps)
    if not tokens:
        raise InputError(f"{rows.label} has no answer tokens, so no loss; give rows with completions")
    return total / tokens


def label_logprobs(
    batch: Encoded, logits_at: LogitsAt, *, positions: str = "answer+end"
) -> Float[Tensor, "token"]:
    """log p of every token of that name, in order, in nats; `logits_at` gives the logits at marked positions."""
    labels, where = _labels(batch, positions)
    logp = logits_at(batch, where).float().log_softmax(-1)
    return logp.gather(-1, labels[:, None].to(logp.device))[:, 0]


def predicted_logits(
    network: Any, batch: Encoded, where: Bool[Tensor, "example pos"]
) -> Float[Tensor, "token vocab"]:
    """Logits at the marked positions only: the unembedding is the dearest layer of a small model.

    Rows are right padded and attention is causal, so padding needs no mask.
    """
    hidden = network.base_model(input_ids=batch.ids.to(network.device), use_cache=False)[0][
        where.to(network.device)
    ]
    return own_logits(network, hidden)


def completion_loss(network: Any, batch: Encoded) -> Tensor:
    """Mean −log p of the answer and end tokens of one batch (`LOSS_UNIT`), for training.

    0 for a batch without such a token, which teaches nothing.
    """
    labels, where = _labels(batch)
    logits = predicted_logits(network, batch, where)
    if not len(labels):
        return 0.0 * logits.sum()
    return torch.nn.functional.cross_entropy(logits, labels.to(logits.device))


def soft_loss(network: Any, batch: Encoded, *, teacher: Any, columns: Tensor, numbers_only: bool) -> Tensor:
    """Mean cross-entropy to the distribution of the `teacher`'s network, in nats per number token, or per answer token
    without the end; `columns` are the number tokens."""
    where = batch.at("answer.numbers" if numbers_only else "answer", predicting=True)
    logits = predicted_logits(network, batch, where)
    with torch.no_grad():
        target = predicted_logits(teacher, batch, where)
    if numbers_only:
        logits, target = logits[:, columns], target[:, columns]
    return -(target.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()


def _labels(batch: Encoded, positions: str = "answer+end") -> tuple[Tensor, Tensor]:
    """The tokens of that name, by default what a loss counts, and the positions that predict them."""
    where = batch.at(positions, predicting=True)
    return batch.ids[:, 1:][where[:, :-1]], where


def student_loss(labels: Labels, *, start: LanguageModel, teacher: LanguageModel | None) -> Loss:
    """The loss of that name; InputError for soft labels without a teacher."""
    if labels == "sampled":
        return completion_loss
    if teacher is None:
        raise InputError(f"labels={labels!r} need the teacher's distribution: pass teacher=lineage.teacher.")
    numbers = torch.tensor(number_tokens(start, start.config.vocab_size))
    given = {"teacher": teacher.network(merge=False), "columns": numbers}
    return partial(soft_loss, **given, numbers_only=labels == "soft-numbers")
