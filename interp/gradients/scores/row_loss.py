"""The loss of every row from its last hidden states: ℓ_i = −Σ log p(y_t | y_<t, x) over answer and end tokens, in nats.

The unembedding reads only columns that predict an answer, and where it goes forward and back (`pieces`) some rows at a
time, so that no more than LOGITS logits are held at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.core.errors import InputError
from interp.models.head import own_logits
from interp.models.views import unwrapped
from interp.prompts.tokens import Encoded

LOGITS = 2**23  # in one piece: 32 MiB in fp32


def row_losses(
    network: Any, batch: Encoded, *, numbers: Sequence[int] | None = None
) -> tuple[Float[Tensor, "example"], Int[Tensor, "example"]]:
    """ℓ_i in nats and its number of tokens; the unembedding reads only columns that predict an answer."""
    return summed_losses(token_losses(network, batch), batch, numbers=numbers)


def summed_losses(
    losses: Float[Tensor, "example pos"], batch: Encoded, *, numbers: Sequence[int] | None = None
) -> tuple[Float[Tensor, "example"], Int[Tensor, "example"]]:
    """Losses of rows from those of their tokens; InputError for a row without a token and for one not finite.

    `numbers` are those of the rows, from 0, by which errors name them (counting from 1).
    """
    tokens = batch.at("answer+end", predicting=True).sum(1)
    rows = losses.sum(1)
    _check_losses(rows.detach(), tokens, batch, numbers)
    return rows, tokens


def token_losses(network: Any, batch: Encoded) -> Float[Tensor, "example pos"]:
    """−log p of every token that is answer or end, zero elsewhere; column t is about token t + first."""
    hidden = last_hidden(network, batch)
    return head_losses(network, hidden, batch, rows=slice(None), columns=answer_columns(batch))


def last_hidden(network: Any, batch: Encoded) -> Float[Tensor, "example pos width"]:
    """What the unembedding reads, before it is cut to the answers."""
    return unwrapped(network).base_model(input_ids=batch.ids.to(network.device), use_cache=False)[0]


def head_losses(
    network: Any,
    hidden: Float[Tensor, "example pos width"],
    batch: Encoded,
    *,
    rows: slice,
    columns: tuple[int, int],
) -> Float[Tensor, "row column"]:
    """−log p, in fp32 at least, of the tokens that follow these columns, zero where they are neither answer nor end.

    `hidden` are those of the rows at all columns.
    """
    first, last = columns
    answer = batch.at("answer+end")[rows, first + 1 : last + 1]
    labels = batch.ids[rows, first + 1 : last + 1].masked_fill(~answer, -100).to(hidden.device)
    logits = own_logits(network, hidden[:, first:last])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1)
    losses = nn.functional.cross_entropy(logits, labels.flatten(), reduction="none")
    return losses.view(labels.shape)


def answer_columns(batch: Encoded, rows: slice = slice(None)) -> tuple[int, int]:
    """First column that predicts an answer or end token of any of the rows, and one past the last.

    Raises InputError for rows without answers.
    """
    columns = batch.at("answer+end", predicting=True)[rows].any(0).nonzero()[:, 0]
    if not len(columns):
        raise InputError(f"{batch.label} has no answer tokens, so no loss; pass rows with completions")
    return int(columns[0]), int(columns[-1]) + 1


def pieces(network: Any, batch: Encoded) -> Iterator[tuple[slice, tuple[int, int]]]:
    """Consecutive rows and their answer columns, at most LOGITS logits at a time, and at least one row."""
    first, last = answer_columns(batch)
    entries = network.get_output_embeddings().weight.shape[0]
    size = max(1, LOGITS // ((last - first) * entries))
    if size >= len(batch):
        yield slice(None), (first, last)
        return
    answered = batch.at("answer+end", predicting=True).any(1)
    for start in range(0, len(batch), size):
        rows = slice(start, min(start + size, len(batch)))
        if answered[rows].any():
            yield rows, answer_columns(batch, rows)


def _check_losses(losses: Tensor, tokens: Tensor, batch: Encoded, numbers: Sequence[int] | None) -> None:
    def name(row: int) -> str:
        whole = f"a batch of {batch.label}" if numbers is None else batch.label
        return f"row {(row if numbers is None else numbers[row]) + 1} of {whole}"

    if not tokens.all():
        row = int((tokens == 0).nonzero()[0])
        raise InputError(f"{name(row)} has no answer tokens, so no loss; drop rows without a completion")
    if not torch.isfinite(losses).all():
        row = int((~torch.isfinite(losses)).nonzero()[0])
        raise InputError(
            f"{name(row)} has a loss of {losses[row].item()}; load the model in float32 or drop the row"
        )
