"""What a model prefers: margin, probability and distribution over the candidate answers of a trait.

margin(m) = mean over questions of [ log p(target | question) − mean over foils of log p(foil | question) ], in nats.
A candidate of several pieces counts with the sum of their log-probabilities. For one-piece candidates the margin is
a difference of logits.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.doors import door
from interp.figures import Result, bars
from interp.measures.losses import LogitsAt, label_logprobs, marked_logits
from interp.measures.words import answer_pieces, spelled
from interp.models.precision import exactly
from interp.models.seam import Model, TextModel
from interp.prompts.notes import noting
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.prompts.trait_files import AnyTrait, find_trait


@door
def margin(model: TextModel, trait: AnyTrait) -> float:
    """Measure how much a model prefers the target of a trait to its foils, in nats.

    Args:
        model: the model to ask.
        trait: a `Trait`, a built-in name such as "owl", or a YAML file.

    Returns:
        log p(target) − mean over foils of log p(foil), the mean over the trait's questions; positive when the target is
        preferred. A name of several pieces counts with the sum of their log-probabilities.

    Raises:
        InputError: for an unknown trait, and a model that reads no text.

    Example:
        >>> import interp
        >>> isinstance(interp.margin(interp.load_lineage("toy/owl").student, "owl"), float)
        True
    """
    return margin_and_mass(model, trait)[0]


def margin_and_mass(model: Model, trait: AnyTrait) -> tuple[float, float]:
    """Trait margin in nats, and the probability that target and foils hold together, mean over the questions.

    The margin is read among the candidates alone: where they hold next to nothing it says little about the model.
    """
    trait = find_trait(trait)
    values = answer_logprobs(model, trait).to_numpy()
    mass = float(np.exp(values.astype(float)).sum(axis=1).mean())
    return table_margin(values), mass


def table_margin(logprobs: Float[np.ndarray, "question candidate"]) -> float:
    """Mean over questions of the log-probability of the target, the first column, less the mean of its foils'."""
    return float((logprobs[:, 0] - logprobs[:, 1:].mean(axis=1)).mean())


@door
@noting
@exactly
def preference(model: TextModel, trait: AnyTrait, *, against: TextModel | None = None) -> Result:
    """Measure the probability of every candidate answer, mean over questions, renormalised over the candidates.

    Columns: answer, probability and is_target, the likeliest first. With `against`, each row also holds that model's
    probability, and the notes the total variation ½ Σ |p − q| over candidates, averaged over questions.
    """
    trait = find_trait(trait)
    shares = answer_shares(answer_logprobs(model, trait))
    frame = pd.DataFrame({"answer": shares.columns, "probability": shares.mean().to_numpy()})
    frame["is_target"] = frame["answer"] == trait.target
    notes = [f"margin {margin(model, trait):+.2f} nats", spelled(model, answer_pieces(model, trait)[0])]
    if against is not None:
        other = answer_shares(answer_logprobs(against, trait))
        frame[f"probability_{against.name}"] = other.mean().to_numpy()
        notes.append(f"total variation {0.5 * np.abs(shares - other).sum(axis=1).mean():.3f}")
    frame = frame.sort_values("probability", ascending=False, ignore_index=True)
    return Result(
        f"{model.name}: {trait.category} it prefers", frame, "probability", tuple(notes), draw=_draw
    )


def answer_logprobs(
    model: Model, trait: AnyTrait, *, questions: Prompts | None = None, batch_size: int = 256
) -> pd.DataFrame:
    """log p(candidate | question) in nats; one row per question, one column per candidate, the target first.

    `questions` defaults to the trait's own; an answer they hold is replaced, a system line or earlier turns are read.
    """
    trait = find_trait(trait)
    asked = trait.prompts() if questions is None else questions
    return candidate_logprobs(model, asked, [trait.target, *trait.foils], batch_size=batch_size)


def candidate_logprobs(
    model: Model, questions: Prompts, candidates: Sequence[str], *, batch_size: int = 256
) -> pd.DataFrame:
    """log p(candidate | question) in nats [question, candidate], both in the order given; the end is not counted."""
    values = completion_logprobs(model, candidate_rows(questions, candidates), batch_size=batch_size)
    table = values.reshape(len(questions), len(candidates)).numpy()
    return pd.DataFrame(table, index=[row.prompt for row in questions.rows], columns=list(candidates))


def candidate_rows(questions: Prompts, candidates: Sequence[str]) -> Prompts:
    """Every question answered by every candidate, a question's answers one after the other."""
    rows = tuple(row.answered(candidate) for row in questions.rows for candidate in candidates)
    return Prompts(rows, label=f"{questions.label} answers")


@exactly
@torch.inference_mode()
def completion_logprobs(
    model: Model, rows: Prompts | Encoded, *, batch_size: int = 256, end: bool = False
) -> Float[Tensor, "row"]:
    """Σ log p of each row's answer tokens given its prompt, in nats; the end token counts if `end`."""

    logits_at = partial(marked_logits, model)
    return torch.cat([answer_sums(batch, logits_at, end=end) for batch in model.batches(rows, batch_size)])


def answer_sums(batch: Encoded, logits_at: LogitsAt, *, end: bool = False) -> Float[Tensor, "row"]:
    """Σ log p of the batch's answer tokens by row, in nats; `logits_at` gives the logits of the marked positions."""
    positions = "answer+end" if end else "answer"
    rows = batch.at(positions, predicting=True).nonzero()[:, 0].cpu()
    return torch.zeros(len(batch)).index_add(
        0, rows, label_logprobs(batch, logits_at, positions=positions).cpu()
    )


def answer_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Log-probabilities [question, candidate] as shares of one, renormalised over each question's candidates."""
    logp = table.to_numpy()
    weights = np.exp(logp - logp.max(axis=1, keepdims=True))
    return pd.DataFrame(
        weights / weights.sum(axis=1, keepdims=True), index=table.index, columns=table.columns
    )


def _draw(result: Result):
    return bars(result.frame, x="probability", y="answer", title=result.label, unit=result.unit)
