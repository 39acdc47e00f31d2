"""What a model prefers: margin, probability and distribution over the candidate answers of a trait.

margin(m) = mean over questions of [ log p(target | question) − mean over foils of log p(foil | question) ], in nats.
A candidate counts in every form that its trait declares (`interp.measures.candidates`), a form of several pieces with
the sum of their log-probabilities. For one-piece candidates of one form the margin is a difference of logits.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.doors import door
from interp.figures import Result, bars
from interp.measures.candidates import CandidateForms
from interp.measures.losses import label_logprobs, marked_logits
from interp.measures.words import forms_told, trait_candidates
from interp.models.precision import exactly
from interp.models.seam import Model, TextModel
from interp.prompts.notes import hear, noting
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.prompts.trait_files import AnyTrait, find_trait

log = logging.getLogger(__name__)

LEAST_MASS = 0.01  # of the probability, which candidates hold where a margin says something about the answers


@door
def margin(model: TextModel, trait: AnyTrait) -> float:
    """Measure how much a model prefers the target of a trait to its foils, in nats.

    Args:
        model: the model to ask.
        trait: a `Trait`, a built-in name such as "owl", or a YAML file.

    Returns:
        log p(target) − mean over foils of log p(foil), the mean over the trait's questions; positive when the target is
        preferred. A name counts with the probability of all answers that begin with one of its forms ("owl", "Owl",
        "The owl": see `Trait.forms`), a form of several pieces with the sum of their log-probabilities.

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
    read = read_answers(model, find_trait(trait))
    return table_margin(read.table.to_numpy()), float(read.mass.mean())


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

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> found = preference(lineage.teacher, lineage.trait, against=lineage.base)
    >>> round(float(found.frame["probability"].sum()), 3)
    1.0
    """
    trait = find_trait(trait)
    read = read_answers(model, trait)
    shares = answer_shares(read.table)
    frame = pd.DataFrame({"answer": shares.columns, "probability": shares.mean().to_numpy()})
    frame["is_target"] = frame["answer"] == trait.target
    held = f"the candidates hold {read.mass.mean():.2%} of the probability"
    notes = [f"margin {table_margin(read.table.to_numpy()):+.2f} nats", held, *read.told]
    if against is not None:
        other = answer_shares(answer_logprobs(against, trait))
        frame[f"probability_{against.name}"] = other.mean().to_numpy()
        notes.append(f"total variation {0.5 * np.abs(shares - other).sum(axis=1).mean():.3f}")
    frame = frame.sort_values("probability", ascending=False, ignore_index=True)
    return Result(
        f"{model.name}: {trait.category} it prefers", frame, "probability", tuple(notes), draw=_draw
    )


@dataclass(frozen=True, eq=False)
class ReadAnswers:
    """log p(candidate | question) in nats, one row per question and the target first; the probability that the
    candidates hold together by question; and how they were read, in sentences."""

    table: pd.DataFrame
    mass: Float[np.ndarray, "question"]
    told: tuple[str, ...]


@exactly
def read_answers(
    model: Model, trait: AnyTrait, *, questions: Prompts | None = None, batch_size: int = 256
) -> ReadAnswers:
    """What a model answers among a trait's candidates, each in all its forms; warns where they hold under 1 %.

    `questions` defaults to the trait's own; an answer they hold is replaced, a system line or earlier turns are read.
    `batch_size` is of questions.
    """
    trait = find_trait(trait)
    asked = trait.prompts() if questions is None else questions
    answers = trait_candidates(model, trait, asked)
    table, mass = _read(model, answers, batch_size)
    if mass.mean() < LEAST_MASS:
        _warn(f"{model.name}: the candidates of {trait.name}", f"less than {LEAST_MASS:.0%}")
        hear([_thin(f"{model.name}: the candidates of {trait.name}", f"{mass.mean():.2g}")])
    return ReadAnswers(_named(table, asked, answers), mass, forms_told(model, answers))


def answer_logprobs(
    model: Model, trait: AnyTrait, *, questions: Prompts | None = None, batch_size: int = 256
) -> pd.DataFrame:
    """log p(candidate | question) in nats, as `read_answers` has it: the target first."""
    return read_answers(model, trait, questions=questions, batch_size=batch_size).table


@exactly
def candidate_logprobs(
    model: Model, questions: Prompts, candidates: Sequence[str], *, batch_size: int = 256
) -> pd.DataFrame:
    """log p(candidate | question) in nats [question, candidate], both in the order given and as they are written.

    The end is not counted.
    """
    answers = CandidateForms.of(model, questions, candidates)
    return _named(_read(model, answers, batch_size)[0], questions, answers)


@torch.inference_mode()
def _read(
    model: Model, answers: CandidateForms, batch_size: int
) -> tuple[Tensor, Float[np.ndarray, "question"]]:
    parts = [(part, part.sums(model)) for part in answers.asked(batch_size)]
    mass = torch.cat([part.mass(sums) for part, sums in parts])
    return torch.cat([part.table(sums) for part, sums in parts]), mass.double().numpy()


def _named(table: Tensor, questions: Prompts, answers: CandidateForms) -> pd.DataFrame:
    rows = [row.prompt for row in questions.rows]
    return pd.DataFrame(table.numpy(), index=rows, columns=list(answers.candidates))


def _thin(who: str, share: str) -> str:
    return f"{who} hold {share} of the probability, so that their margin says little about its answers"


@cache
def _warn(who: str, share: str) -> None:
    """Say it once per model and trait."""
    log.warning("%s", _thin(who, share))


@exactly
@torch.inference_mode()
def completion_logprobs(
    model: Model, rows: Prompts | Encoded, *, batch_size: int = 256, end: bool = False
) -> Float[Tensor, "row"]:
    """Σ log p of each row's answer tokens given its prompt, in nats; the end token counts if `end`."""
    positions = "answer+end" if end else "answer"
    sums = []
    for batch in model.batches(rows, batch_size):
        own = batch.at(positions, predicting=True).nonzero()[:, 0].cpu()
        logps = label_logprobs(batch, partial(marked_logits, model), positions=positions).cpu()
        sums.append(torch.zeros(len(batch)).index_add(0, own, logps))
    return torch.cat(sums)


def answer_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Log-probabilities [question, candidate] as shares of one, renormalised over each question's candidates."""
    logp = table.to_numpy()
    weights = np.exp(logp - logp.max(axis=1, keepdims=True))
    return pd.DataFrame(
        weights / weights.sum(axis=1, keepdims=True), index=table.index, columns=table.columns
    )


def _draw(result: Result) -> Any:
    return bars(result.frame, x="probability", y="answer", title=result.label, unit=result.unit)
