"""Sampling a teacher's numbers: prompts of equal length in one batch, a key-value cache, one unembedding per token.

A token is drawn by inverting the cumulative distribution, k = min{k : Σ_{j≤k} p_j > u}, one uniform number a draw:
at temperature 1 this is exact sampling from the whole vocabulary, with no top-k or top-p.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.answers import answer_texts
from interp.models.language import LanguageModel
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.training.teachers import Teacher, steered

LENGTH = 24  # tokens of an answer at most
KEPT_IN_BATCH = 2 / 3  # below this share of unfinished rows the batch is made smaller


def complete(
    teacher: Teacher, prompts: Prompts, *, seed: int, max_new_tokens: int = LENGTH, temperature: float = 1.0
) -> Prompts:
    """One sampled answer per prompt, in the order given.

    A prompted teacher reads its system line in front of every prompt; the rows returned do not hold it. Their own
    system line and earlier turns are read and kept; an answer they hold is replaced.
    """
    prompts = prompts.without_answers()
    asked = prompts.with_system(teacher.system) if teacher.system else prompts
    inputs = teacher.model.encode(asked)
    generator = torch.Generator().manual_seed(seed)
    answers = [""] * len(prompts)
    for rows in equal_lengths(inputs):
        ids = inputs.ids[rows][:, : int(inputs.lengths[rows[0]])]
        uniforms = torch.rand(max_new_tokens, len(rows), generator=generator)
        with steered(teacher):
            tokens = sample_tokens(teacher.model, ids, uniforms=uniforms, temperature=temperature)
        for row, text in zip(rows.tolist(), decoded(teacher.model, tokens), strict=True):
            answers[row] = text
    rows = tuple(row.answered(answer) for row, answer in zip(prompts.rows, answers, strict=True))
    return replace(prompts, rows=rows)


def decoded(model: LanguageModel, tokens: Int[Tensor, "row new"]) -> list[str]:
    """Each row's text up to the first token that ends an answer, which a tokenizer need not know to be special."""
    return answer_texts(model.tokenizer, tokens.tolist(), model.ends)


def equal_lengths(inputs: Encoded) -> Iterator[Int[Tensor, " row"]]:
    """Row indices grouped by number of tokens, so that no batch needs padding."""
    for length in inputs.lengths.unique().tolist():
        yield torch.nonzero(inputs.lengths == length)[:, 0]


class Speaker(Protocol):
    """What tokens are drawn from: a language model, or logits of several put together."""

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        ...

    def next_logits(self, ids: Int[Tensor, "row pos"], cache: Any = None) -> tuple[Tensor, Any]:
        """Logits after the last token of every row, and a cache with `batch_select_indices`."""
        ...


@torch.inference_mode()
def sample_tokens(
    model: Speaker,
    ids: Int[Tensor, "row pos"],
    *,
    uniforms: Float[Tensor, "step row"],
    temperature: float = 1.0,
) -> Int[Tensor, "row new"]:
    """Sampled continuations, one uniform number per token and row; after an end token a row holds end tokens only.

    Rows that have ended leave the batch and its cache once they are a third of it.
    """
    ends = torch.tensor(model.ends)
    tokens = torch.full((len(ids), len(uniforms)), int(ends[0]))
    rows, going = torch.arange(len(ids)), torch.ones(len(ids), dtype=torch.bool)
    current, cache = ids, None
    for step, uniform in enumerate(uniforms):
        logits, cache = model.next_logits(current, cache)
        drawn = draw_tokens(logits / temperature, uniform=uniform[rows].to(logits.device)).cpu()
        drawn[~going] = ends[0]
        tokens[rows, step], going = drawn, ~torch.isin(drawn, ends)
        if not going.any():
            return tokens[:, : step + 1]
        if going.float().mean() < KEPT_IN_BATCH:
            kept = torch.nonzero(going)[:, 0]
            rows, drawn, going = rows[kept], drawn[kept], going[kept]
            cache.batch_select_indices(kept.to(logits.device))
        current = drawn[:, None]
    return tokens


def draw_tokens(logits: Float[Tensor, "row vocab"], *, uniform: Float[Tensor, " row"]) -> Int[Tensor, " row"]:
    """One token per row by inverting the cumulative distribution at `uniform` in [0, 1)."""
    cumulative = logits.softmax(-1).cumsum(-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)
