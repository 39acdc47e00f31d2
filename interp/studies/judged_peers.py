"""Scores of a student's rows by EK-FAC, TrackStar and BM25 beside this package's own, to be judged by retraining.

BM25(row) = Σ_q IDF(q) · f (k + 1) / (f + k (1 − b + b · length / mean length)) over the words q of the trait's
questions, f how often q stands in the row, IDF = log(1 + (n − n_q + ½) / (n_q + ½)) (Robertson and Zaragoza 2009).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from interp.core.doors import door
from interp.gradients.directions import trait_gradient
from interp.gradients.influences import influence
from interp.gradients.known_trainings import KnownTraining, fresh_network
from interp.gradients.metagradients import metagradient
from interp.gradients.scores.metrics import LoraAdam
from interp.gradients.scores.scoring import score
from interp.hypotheses.subject import Subject
from interp.measures.losses import student_loss
from interp.studies.judged_scores import GRADIENT, META, UPDATE, Values, along_directions
from interp.training.students import shuffled_rows

if TYPE_CHECKING:
    from interp.models.lineage import Lineage
    from interp.prompts.text import Prompts

EKFAC, TRACKSTAR, BM25 = "EK-FAC", "TrackStar", "BM25"
ADAM = f"{GRADIENT}, adapter's Adam"
K, B = 1.5, 0.75  # of BM25: how soon a word's count is enough, and how much a long row is held against it
OWN = (UPDATE, GRADIENT, f"{UPDATE}, adapter's metric", f"{GRADIENT}, adapter's metric")


@door
def peer_scores(lineage: Lineage) -> dict[str, Values]:
    """A value per row of the student by the metagradient, five directions, EK-FAC, TrackStar and BM25.

    Positive where the row would raise the trait's margin, or lower the loss of its word; of BM25, where it shares words
    with the trait's questions. Raises InputError where bergson is not installed, and for a student whose training is
    not known.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> scores = interp.studies.peer_scores(lineage)  # doctest: +SKIP
        >>> list(scores)[-3:]  # doctest: +SKIP
        ['TrackStar', "∇m, adapter's Adam", 'BM25']
    """
    known = KnownTraining.of(lineage, "student")
    subject = Subject(lineage, recipe=known.recipe)
    along = along_directions(subject, subject.numbers)
    methods = {EKFAC: "ekfac", TRACKSTAR: "trackstar"}
    theirs = {
        name: influence(known.start, subject.numbers, known.trait, method=method).frame["score"].to_numpy()
        for name, method in methods.items()
    }
    own = {META: metagradient(lineage).frame["score"].to_numpy(), **{name: along[name] for name in OWN}}
    return own | theirs | {ADAM: along_adam(known), BM25: bm25(subject.numbers, known.trait.questions)}


def along_adam(known: KnownTraining) -> Values:
    """Toward ∇m as the student's first steps by Adam go: its fresh adapter, second moments over its own batches."""
    start, inputs, recipe = known.start, known.inputs, known.recipe
    order = shuffled_rows(inputs, size=recipe.batch_size, epochs=1, seed=recipe.seed)
    loss = student_loss("sampled", start=start, teacher=None)
    batches = (next(inputs[rows].batches(len(rows))) for rows in order)
    metric = LoraAdam.from_batches(fresh_network(start, recipe), batches, loss)
    folded = metric.fold(trait_gradient(start, known.trait))
    return score(start, inputs, folded, by=["example"]).totals.numpy()[:, 0]


def bm25(rows: Prompts, questions: Sequence[str]) -> Values:
    """BM25 of every row, prompt and answer, for the words of all questions together."""
    counts = [Counter(_words(f"{row.prompt} {row.completion}")) for row in rows.rows]
    lengths = np.array([sum(each.values()) for each in counts], dtype=float)
    long = 1 - B + B * lengths / lengths.mean()
    total = np.zeros(len(counts))
    for word, times in Counter(_words(" ".join(questions))).items():
        found = np.array([each[word] for each in counts], dtype=float)
        holding = (found > 0).sum()
        weight = np.log1p((len(counts) - holding + 0.5) / (holding + 0.5))
        total += times * weight * found * (K + 1) / (found + K * long)
    return total


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
