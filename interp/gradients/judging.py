"""Judging by retraining, of rows or tokens: what has to hold before, and what leaving out the tails of scores changes.

gain(θ) = m(θ) − m(neutral twin), m the trait margin in nats: what any training of the kind does is taken off. In a
lineage without a twin the start stands in its place. Students of a part must gain in the direction of the whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from interp.core.errors import InputError
from interp.measures.margins import margin
from interp.stats.ranks import rank_interval, spearman

if TYPE_CHECKING:
    from interp.gradients.known_trainings import KnownTraining
    from interp.gradients.scores.scoring import Scores
    from interp.models.lineage import Lineage
    from interp.prompts.tokens import Encoded

TRIED = 8  # subsets after which it is known whether the trait passes at all
LEAST = 0.1  # of the whole student's gain that theirs have to reach
TAIL = 0.1  # of the parts, taken out at either end
FLOOR = 0.05  # nats: a gain that makes the trait's word a twentieth likelier beside its foils is no trait that passed
TWINS = ("neutral_student", "cross_neutral_student")


@dataclass(frozen=True)
class WholeGain:
    """What the student of the whole training gains, and the margin of the twin or start that it is held against."""

    nats: float
    against: float
    over: str

    @classmethod
    def of(cls, lineage: Lineage, role: str, training: KnownTraining) -> WholeGain:
        """By two margins, before anything is trained; InputError for a student that gained nothing."""
        starts = lineage.started_from
        twin = next((each for each in TWINS if each in starts and starts[each] == starts.get(role)), None)
        against = margin(training.start if twin is None else lineage.text(twin), training.trait)
        nats = margin(lineage.text(role), training.trait) - against
        over = "itself" if twin == role else twin or training.start.name
        if not nats > FLOOR:  # a NaN is no gain
            raise InputError(
                f"{role} gains {nats:+.2f} nats over {over}, no more than {FLOOR:g}, so that no trait passed that its "
                "rows could tell of; judge scores of a student that took the trait over"
            )
        return cls(nats, against, over)

    def check(
        self, margins: Float[np.ndarray, "subset"], kept: Bool[np.ndarray, "subset part"], *, unit: str
    ) -> None:
        """InputError when students of these subsets hardly gain what the whole one did, or move away from the trait."""
        gain = float(margins.mean()) - self.against
        if not gain >= LEAST * self.nats:
            raise InputError(
                f"students of {kept[0].sum()} {unit} gain {gain:+.2f} nats over {self.over} where all {kept.shape[1]} "
                f"give {self.nats:+.2f}: too few for the trait to pass; raise share, or give the student more rows"
            )


def check_scored(scores: Scores, lineage: Lineage, inputs: Encoded, role: str) -> None:
    """InputError for scores of other rows than a student was trained on, or taken at no member of its lineage."""
    if scores.inputs.fingerprint != inputs.fingerprint:
        raise InputError(
            f"{scores.label} scores other rows than {role} was trained on ({inputs.label}); score these"
        )
    if scores.weights and scores.weights not in {model.fingerprint for model in lineage.members.values()}:
        raise InputError(
            f"{scores.label} was scored at weights {scores.weights}, which no member of {lineage.name!r} has (its "
            f"base: {lineage.base.fingerprint}); score the rows at its base"
        )


def check_subsets(subsets: int, share: float, *, unit: str) -> None:
    """InputError for fewer subsets than are tried, and for a share that leaves nothing in or nothing out."""
    if subsets < TRIED or not 0 < share < 1:
        raise InputError(
            f"{subsets} subsets of {share:g} of the {unit}; pass at least {TRIED}, and a share within 0 and 1"
        )


def ranked_line(
    name: str,
    values: Float[np.ndarray, "part"],
    kept: Bool[np.ndarray, "subset part"],
    margins: Float[np.ndarray, "subset"],
    *,
    seed: int,
) -> dict[str, Any]:
    """The line of one way of scoring: ρ of the subsets' sums with their margins, and its interval over subsets."""
    sums = kept @ values
    low, high = rank_interval(sums, margins, seed=seed)
    return {"scores": name, "rho": float(spearman(sums[None], margins)[0]), "low": low, "high": high}


def without_tails(
    named: Mapping[str, Float[np.ndarray, "part"]], retrain: Callable[[list[Any]], Any]
) -> dict[str, Float[np.ndarray, "score"]]:
    """How the margin changes in nats without the parts of the highest and of the lowest scores, by way of scoring."""
    parts = len(next(iter(named.values())))
    left = [~tail for values in named.values() for tail in _tails(values)]
    whole, *without = retrain([np.ones(parts, dtype=bool), *left])
    return {
        "without_top": np.array(without[::2]) - whole,
        "without_bottom": np.array(without[1::2]) - whole,
    }


def _tails(values: Float[np.ndarray, "part"]) -> Bool[np.ndarray, "2 part"]:
    """The tenth with the highest scores, and that with the lowest."""
    order, count = np.argsort(values, kind="stable"), max(1, round(TAIL * len(values)))
    found = np.zeros((2, len(values)), dtype=bool)
    found[0, order[-count:]] = True
    found[1, order[:count]] = True
    return found
