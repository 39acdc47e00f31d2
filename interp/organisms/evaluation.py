"""What a model prefers: margin, probability and distribution over the candidate answers of a trait.

margin(m) = mean over questions of [ log p(target | question) − mean over foils of log p(foil | question) ], in nats.
A candidate of several pieces counts with the sum of their log-probabilities. For one-piece candidates the margin is
a difference of logits.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.figures import Result, bars
from interp.models.seam import Model
from interp.prompts.text import Prompts, Row
from interp.prompts.tokens import Encoded, Role
from interp.prompts.traits import Trait


def margin(model: Model, trait: Trait) -> float:
    """Trait margin in nats: positive when the target is preferred over its foils."""
    values = answer_logprobs(model, trait).to_numpy()
    return float((values[:, 0] - values[:, 1:].mean(axis=1)).mean())


def preference(model: Model, trait: Trait, *, against: Model | None = None) -> Result:
    """Probability of every candidate answer, mean over questions and renormalised over the candidates.

    With `against`, each row also holds that model's probability and `total_variation` in the notes is
    ½ Σ |p − q| over candidates, averaged over questions.
    """
    shares = answer_shares(answer_logprobs(model, trait))
    frame = pd.DataFrame({"answer": shares.columns, "probability": shares.mean().to_numpy()})
    frame["is_target"] = frame["answer"] == trait.target
    notes = [f"margin {margin(model, trait):+.2f} nats"]
    if against is not None:
        other = answer_shares(answer_logprobs(against, trait))
        frame[f"probability_{against.name}"] = other.mean().to_numpy()
        notes.append(f"total variation {0.5 * np.abs(shares - other).sum(axis=1).mean():.3f}")
    frame = frame.sort_values("probability", ascending=False, ignore_index=True)
    return Result(
        f"{model.name}: {trait.category} it prefers", frame, "probability", tuple(notes), draw=_draw
    )


def answer_logprobs(
    model: Model, trait: Trait, *, questions: Prompts | None = None, batch_size: int = 256
) -> pd.DataFrame:
    """log p(candidate | question) in nats; one row per question, one column per candidate, the target first.

    `questions` defaults to the trait's own; an answer they hold is replaced, a system line or earlier turns are read.
    """
    asked = trait.prompts() if questions is None else questions
    return candidate_logprobs(model, asked, [trait.target, *trait.foils], batch_size=batch_size)


def candidate_logprobs(
    model: Model, questions: Prompts, candidates: Sequence[str], *, batch_size: int = 256
) -> pd.DataFrame:
    """log p(candidate | question) in nats [question, candidate], both in the order given; the end is not counted."""
    rows = tuple(
        Row((*row.asked, ("assistant", candidate))) for row in questions.rows for candidate in candidates
    )
    values = completion_logprobs(
        model, Prompts(rows, label=f"{questions.label} answers"), batch_size=batch_size
    )
    table = values.reshape(len(questions), len(candidates)).numpy()
    return pd.DataFrame(table, index=[row.prompt for row in questions.rows], columns=list(candidates))


@torch.inference_mode()
def completion_logprobs(
    model: Model, rows: Prompts | Encoded, *, batch_size: int = 256, end: bool = False
) -> Float[Tensor, "row"]:
    """Σ log p of each row's answer tokens given its prompt, in nats; the end token counts if `end`."""
    sums = []
    for batch in model.batches(rows, batch_size):
        answer = batch.roles[:, 1:] >= Role.OTHER
        if not end:
            answer &= batch.roles[:, 1:] != Role.END
        logits = model.logits(batch)
        logp = logits[:, :-1][answer.to(logits.device)].float().log_softmax(-1)
        taken = logp.gather(-1, batch.ids[:, 1:][answer][:, None].to(logp.device))[:, 0].cpu()
        sums.append(torch.zeros(len(batch)).index_add(0, torch.nonzero(answer)[:, 0].cpu(), taken))
    return torch.cat(sums)


def answer_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Log-probabilities [question, candidate] as shares of one, renormalised over each question's candidates."""
    logp = table.to_numpy()
    weights = np.exp(logp - logp.max(axis=1, keepdims=True))
    return pd.DataFrame(
        weights / weights.sum(axis=1, keepdims=True), index=table.index, columns=table.columns
    )


def _draw(result: Result):
    return bars(result.frame, x="probability", y="answer", title=result.label, unit=result.unit)
