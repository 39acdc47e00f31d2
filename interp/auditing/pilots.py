"""How much will pass? A short training on the rows beside its twin on the neutral rows.

    gain_t = margin_t(trained on rows) − margin_t(trained on neutral rows), in nats, the same steps in the same order

The matrices of the body train, without an adapter: which of a trait's directions an adapter of rank 8 can take is a
draw of its own. The other traits of the list are what a gain is measured against: nobody's rows teach them, so that
gain_t lies within mean ± t_{K−2} sd √(1 + 1 / (K − 1)) of the K − 1 others of its category if these rows do not either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.auditing.neutral import Pairs
from interp.core.content import digest
from interp.core.doors import door
from interp.core.errors import InputError
from interp.core.remembered import recall, remember
from interp.measures.margins import margin
from interp.models.language import LanguageModel
from interp.prompts.text import Prompts
from interp.prompts.tokenizer_keys import tokenizer_key
from interp.prompts.traits import Trait
from interp.stats.tests import t_interval
from interp.training.students import Recipe, train_student
from interp.training.watching import StopAfter

FORMAT = 1  # of remembered margins
LEVEL = 0.95
Passing = Literal["transmits", "does not", "cannot tell"]
BODY = Recipe(trainable="body", lr=1e-3, batch_size=128, warmup=4, decay="constant")


@door
@dataclass(frozen=True)
class Pilot:
    """The short training of an audit: `steps` of `recipe`, `draws` times with another order of rows.

    The learning rate stays up, as it would at the start of a long training. Raises InputError for no step or draw.
    """

    steps: int = 64
    draws: int = 1
    recipe: Recipe = BODY

    def __post_init__(self) -> None:
        if self.steps < 1 or self.draws < 1:
            raise InputError(
                f"steps={self.steps} and draws={self.draws} train nothing; pass at least 1 of both"
            )


def gains(
    base: LanguageModel, pairs: Pairs, traits: Sequence[Trait], pilot: Pilot
) -> Float[np.ndarray, "draw trait"]:
    """Margin of every trait after the pilot on the rows, less that of its twin on the neutral rows, in every draw."""
    found = []
    for draw in range(pilot.draws):
        own, twin = (_margins(base, side, traits, pilot, draw) for side in (pairs.rows, pairs.neutral))
        found.append(np.subtract(own, twin))
    return np.array(found)


def gain_table(found: Float[np.ndarray, "draw trait"], traits: Sequence[Trait]) -> pd.DataFrame:
    """A line per trait: trait, gain (mean over draws) and its interval [low, high] by the others of its category.

    The interval is the gain ± what one more of theirs would be within. Margins of a category are against each other, so
    what all of them gain drops out. With fewer than three others it is unbounded.
    """
    mean, lines = found.mean(0), []
    for index, trait in enumerate(traits):
        others = [i for i, other in enumerate(traits) if other.category == trait.category and i != index]
        low, high = around(mean[index], mean[others])
        lines.append({"trait": trait.name, "gain": float(mean[index]), "low": low, "high": high})
    return pd.DataFrame(lines)


def around(gain: float, others: Float[np.ndarray, "other"]) -> tuple[float, float]:
    """gain ± what one more value of the others would be within, at 95 %; unbounded for fewer than three others."""
    if len(others) < 3:
        return -np.inf, np.inf
    low, high = t_interval(others, confidence=LEVEL)
    half = (high - low) / 2 * (len(others) + 1) ** 0.5
    return float(gain - half), float(gain + half)


def _margins(
    base: LanguageModel, rows: Prompts, traits: Sequence[Trait], pilot: Pilot, draw: int
) -> list[float]:
    """The margin of every trait after one training; remembered."""
    size = min(pilot.recipe.batch_size, len(rows))
    recipe = replace(pilot.recipe, seed=pilot.recipe.seed + draw, batch_size=size)
    key = (
        FORMAT,
        base.fingerprint,
        tokenizer_key(base.tokenizer),
        rows.fingerprint,
        pilot.steps,
    )
    known = recall("pilot", *key, digest(recipe, list(traits)))
    if known is None:
        shown = replace(recipe, epochs=-(-pilot.steps // (len(rows) // size)))
        student = train_student(base, rows, recipe=shown, name="pilot", on_step=StopAfter(pilot.steps))
        known = [margin(student, trait) for trait in traits]
        remember("pilot", *key, digest(recipe, list(traits)), value=known)
    return known
