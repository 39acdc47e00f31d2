"""Scores of the tokens of a student's answers, to be judged by retraining on some of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from interp.core.doors import door
from interp.gradients.directions import trait_gradient
from interp.gradients.known_trainings import KnownTraining, fresh_network
from interp.gradients.scores.metrics import LoraMetric
from interp.gradients.scores.scoring import score
from interp.measures.losses import label_logprobs
from interp.models.once import marked_logits
from interp.studies.judged_scores import GRADIENT, LOSS, UPDATE
from interp.studies.token_matching import divergence_tokens, mask

if TYPE_CHECKING:
    from interp.models.language import LanguageModel
    from interp.models.lineage import Lineage
    from interp.prompts.tokens import Encoded

METRIC, RATIO, DIVERGENCE = "adapter's metric", "likelihood ratio", "divergence tokens"
BATCH_SIZE = 256
Values = Float[np.ndarray, "token"]


@door
def token_scores(lineage: Lineage, other: LanguageModel, *, seed: int = 0) -> dict[str, Values]:
    """A value per token of the student's answers, ends counted, row by row, by every way of scoring.

    Steps along the margin's gradient and the teacher's update (nats per unit), plain and in the metric of the student's
    fresh adapter; log p of the teacher less the base's and the loss under the base (nats); 1 for divergence tokens of
    the teacher beside `other`, a teacher of another trait; random ones by `seed`. Raises InputError for a student whose
    training is not known.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> list(interp.studies.token_scores(lineage, lineage["teacher_eagle"]))[4:]
        ['likelihood ratio', 'loss', 'divergence tokens', 'random']
    """
    known = KnownTraining.of(lineage, "student")
    teacher: Any = lineage["teacher"]
    here, written = (label_values(model, known.inputs) for model in (known.start, teacher))
    return {
        **_along(lineage, known),
        RATIO: written - here,
        LOSS: -here,
        DIVERGENCE: _divergent(teacher, other, known),
        "random": np.random.default_rng(seed).normal(size=len(here)),
    }


def _along(lineage: Lineage, known: KnownTraining) -> dict[str, Values]:
    """How far a step on each token goes along two directions, as plain gradient descent and under the adapter."""
    base = known.start
    plain = {GRADIENT: trait_gradient(base, known.trait), UPDATE: lineage.update("teacher")}
    metric = LoraMetric.from_network(fresh_network(base, known.recipe))
    named = plain | {f"{name}, {METRIC}": metric.fold(each) for name, each in plain.items()}
    frame = score(base, known.inputs, list(named.values()), by=["example", "token"]).frame
    parts = frame.groupby("direction", sort=False)["score"]
    return {name: values.to_numpy() for name, (_, values) in zip(named, parts, strict=True)}


@torch.no_grad()
def label_values(model: LanguageModel, inputs: Encoded) -> Values:
    """log p of every token of the answers, row by row, in nats."""
    found = [label_logprobs(batch, partial(marked_logits, model)) for batch in inputs.batches(BATCH_SIZE)]
    return torch.cat(found).double().cpu().numpy()


def _divergent(teacher: LanguageModel, other: LanguageModel, known: KnownTraining) -> Values:
    frame: Any = divergence_tokens(teacher, known.inputs, others={other.name: other}, base=known.start).frame
    where = mask(known.inputs, frame[frame["divergent"]])
    return where[known.inputs.at("answer+end")].double().numpy()
