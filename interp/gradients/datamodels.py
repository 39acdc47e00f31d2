"""Scores judged by retraining: does the sum of the rows' scores predict the student that is trained on them alone?

LDS(τ) = ρ_j( Σ_{i ∈ S_j} τ_i , m(θ(S_j)) ), S_j random subsets of the rows, θ(S) the student trained on S, m its trait
margin in nats, ρ Spearman's (the linear datamodelling score of Park et al., arXiv 2303.14186). Trainings share all that
the subset does not decide: the draw of the adapter, the order of the rows, the number of steps and their rates.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from interp.core.content import digest
from interp.core.doors import door
from interp.core.processes import sweep
from interp.core.runs import Cache, InputError
from interp.figures import Shown, bars, whiskers
from interp.gradients.judging import TRIED, WholeGain, check_scored, check_subsets, ranked_line, without_tails
from interp.gradients.known_trainings import KnownTraining
from interp.gradients.scores.scoring import Scores
from interp.measures.losses import student_loss
from interp.measures.margins import margin
from interp.models.lineage import read_lineage
from interp.stats.ranks import spearman
from interp.training.students import Recipe, shuffled_rows, train_batches

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.language import LanguageModel
    from interp.models.lineage import Lineage
    from interp.prompts.tokens import Encoded

FORMAT = 1  # of kept margins; raise when the same subset gives another one
Kept = Bool[np.ndarray, "row"]


@dataclass(frozen=True, eq=False, repr=False)
class DatamodelingScore(Shown):
    """A line per way of scoring: scores, rho with its 95 % bootstrap interval (low, high) over subsets, and how the
    margin changes in nats when the tenth of the rows, or tokens, with the highest, or the lowest, scores is left out.

    `kept` are the subsets, `margins` what their students reached in nats, `repeated` the same of the first of them from
    another draw of adapter and order; `draws_agree` is ρ of the two. Both are noisy, so that a score which tells a
    subset's mean over draws reaches about √draws_agree; one that knows the draw, as a metagradient does, can pass it.
    """

    label: str
    frame: pd.DataFrame
    kept: Bool[np.ndarray, "subset row"]
    margins: Float[np.ndarray, "subset"]
    repeated: Float[np.ndarray, "repeat"]
    notes: tuple[str, ...] = ()

    @property
    def draws_agree(self) -> float:
        """Rank correlation of margins from two draws, NaN for fewer than three repeats."""
        if len(self.repeated) < 3:
            return float("nan")
        return float(spearman(self.repeated[None], self.margins[: len(self.repeated)])[0])

    def figure(self) -> go.Figure:
        """ρ by way of scoring, the whiskers from its bootstrap."""
        frame = self.frame.sort_values("rho")
        figure = bars(frame, x="rho", y="scores", title=self.label, unit="rank correlation")
        return whiskers(figure, frame, x="rho")

    def __repr__(self) -> str:
        best = self.frame.loc[self.frame["rho"].idxmax()]
        return (
            f"{self.label}: {len(self.margins)} subsets; {best['scores']} ρ = {best['rho']:+.2f}, the largest"
        )


@door
def datamodeling_score(
    lineage: Lineage,
    scores: Scores | Mapping[str, Sequence[float] | np.ndarray],
    *,
    role: str = "student",
    subsets: int = 128,
    share: float = 0.5,
    repeats: int = 16,
    seed: int = 0,
    workers: int | None = 1,
) -> DatamodelingScore:
    """Judge scores of rows by retraining: rank correlation of their sums with margins of students of random subsets.

    Every student is kept in the cache, so that a killed call goes on and other scores of the same rows cost nothing.
    Subsets of one training are its unit: for a claim over trainings take one value per lineage.

    Args:
        lineage: whose student is trained again, with its trait.
        scores: `Scores` of the rows it was trained on, each direction a way of scoring, or values per row by name.
        role: which student.
        subsets: how many random subsets of the rows.
        share: of the rows in each.
        repeats: how many of them are trained again with another draw of adapter and order.
        seed: of the subsets.
        workers: processes; None is one per core.

    Returns:
        `DatamodelingScore`: scores, rho, low, high, without_top and without_bottom (nats).

    Raises:
        InputError: for scores of other rows, of a model outside the lineage or not finite, a student whose recipe or
            rows are unknown or that gains at most 0.05 nats over its neutral twin or start, fewer than 8 subsets, and
            subsets so small that the trait does not pass.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> toward = interp.trait_gradient(lineage.base, lineage.trait)
        >>> scores = interp.score(lineage.base, lineage.numbers, toward)
        >>> interp.gradients.datamodeling_score(lineage, scores, subsets=4)
        Traceback (most recent call last):
        ...
        interp.core.errors.InputError: 4 subsets of 0.5 of the rows; pass at least 8, and a share within 0 and 1
    """
    check_subsets(subsets, share, unit="rows")
    training = StudentTraining.of(lineage, role)
    named = _by_row(scores, lineage, training.inputs, role)
    whole = WholeGain.of(lineage, role, training)
    kept = random_subsets(len(training.inputs), subsets=subsets, share=share, seed=seed)
    with _retraining(lineage, role, training, workers=workers) as retrain:
        margins = retrain(kept[:TRIED])
        whole.check(margins, kept[:TRIED], unit="rows")
        margins = np.concatenate([margins, retrain(kept[TRIED:])])
        repeated = retrain(kept[:repeats], draw=1)
        tails = without_tails(named, retrain)
    lines = [ranked_line(name, values, kept, margins, seed=seed) for name, values in named.items()]
    label = f"{lineage.name}: scores judged by retraining {role}"
    found = DatamodelingScore(label, pd.DataFrame(lines).assign(**tails), kept, margins, repeated)
    return replace(found, notes=_notes(found, share=share, spread=float(margins.std(ddof=1))))


@dataclass(frozen=True)
class StudentTraining(KnownTraining):
    """A known training whose students of some of the rows are told by their trait margin, in nats."""

    def margin(self, kept: Kept, *, draw: int = 0) -> float:
        """The trait margin of the student of these rows alone, once; `draw` counts draws of adapter and order."""
        recipe = replace(self.recipe, seed=self.recipe.seed + draw)
        key = digest(
            FORMAT, self.start.fingerprint, self.inputs.fingerprint, recipe, self.trait, np.packbits(kept)
        )

        def build(folder: Path) -> None:
            value = margin(retrained(self.start, self.inputs, kept, recipe=recipe), self.trait)
            (folder / "margin.json").write_text(json.dumps(value))

        return float(json.loads((Cache.default().get("retrained", key, build) / "margin.json").read_text()))


def retrained(start: LanguageModel, inputs: Encoded, kept: Kept, *, recipe: Recipe) -> LanguageModel:
    """The student of the rows that are kept, the others taken out of the batches they stood in.

    With all rows it is `train_student`'s, to the same bits. Raises InputError where no row is kept.
    """
    if not kept.any():
        raise InputError("no row is kept, so that nothing is trained; keep some")
    left = torch.from_numpy(kept)
    order = [
        rows[left[rows]]
        for rows in shuffled_rows(inputs, size=recipe.batch_size, epochs=recipe.epochs, seed=recipe.seed)
    ]
    order = [rows for rows in order if len(rows)]
    batches = (next(inputs[rows].batches(len(rows))) for rows in order)
    loss = student_loss("sampled", start=start, teacher=None)
    return train_batches(
        start, batches, loss=loss, recipe=recipe, steps=len(order), name="student of a subset"
    )


def random_subsets(rows: int, *, subsets: int, share: float, seed: int) -> Bool[np.ndarray, "subset row"]:
    """Subsets of equal size, each drawn by itself."""
    rng, size = np.random.default_rng(seed), max(1, round(share * rows))
    kept = np.zeros((subsets, rows), dtype=bool)
    for line in kept:
        line[rng.permutation(rows)[:size]] = True
    return kept


@contextmanager
def _retraining(
    lineage: Lineage, role: str, training: StudentTraining, *, workers: int | None
) -> Iterator[Any]:
    """What gives the margins of subsets, in this process or in others, which read the lineage from a folder."""
    if workers == 1:
        yield partial(_margins, training.margin, 1)
        return
    with tempfile.TemporaryDirectory(prefix="interp-retrain-") as folder:
        lineage.save(Path(folder) / "lineage")
        work = partial(_margin_in, str(Path(folder) / "lineage"), role, training.recipe)
        yield partial(_margins, work, workers)


def _margins(
    work: Any, workers: int | None, kept: Iterable[Kept], *, draw: int = 0
) -> Float[np.ndarray, "subset"]:
    found = sweep(partial(work, draw=draw), list(kept), workers=workers, label="retraining", unit="student")
    return np.array(found, dtype=float)


def _margin_in(folder: str, role: str, recipe: Recipe, kept: Kept, *, draw: int) -> float:
    return _training_in(folder, role, recipe).margin(kept, draw=draw)


@lru_cache(maxsize=1)
def _training_in(folder: str, role: str, recipe: Recipe) -> StudentTraining:
    return StudentTraining.of(read_lineage(folder), role, recipe)


def _by_row(
    scores: Scores | Mapping[str, Any], lineage: Lineage, inputs: Encoded, role: str
) -> dict[str, Float[np.ndarray, "row"]]:
    """Finite values per row by name; InputError for scores of something else and the first that is not finite."""
    if isinstance(scores, Scores):
        check_scored(scores, lineage, inputs, role)
        columns = zip(scores.directions, scores.totals.numpy().T, strict=True)
    else:
        columns = scores.items()
    named = {name: np.asarray(values, dtype=float) for name, values in columns}
    if not named:
        raise InputError("no scores to judge; pass Scores, or values per row by name")
    for name, values in named.items():
        if values.shape != (len(inputs),):
            rows = f"{values.size} row" + "s" * (values.size != 1)
            raise InputError(
                f"{name!r} scores {rows}, and {role} was trained on {len(inputs)}; score all of them"
            )
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise InputError(
                f"{name!r} scores row {row + 1} with {values[row]}; give every row a finite score"
            )
    return named


def _notes(found: DatamodelingScore, *, share: float, spread: float) -> tuple[str, ...]:
    said = (
        f"{len(found.margins)} students of {share:.0%} of {found.kept.shape[1]} rows, whose margins spread by "
        f"{spread:.3g} nats; intervals are over subsets of one training"
    )
    if np.isnan(found.draws_agree):
        return (said,)
    draws = f"another draw of adapter and order agrees at ρ = {found.draws_agree:+.2f}"
    return said, f"over {len(found.repeated)} subsets {draws}"
