"""How many rows a gradient-alignment test needs: the score's standardised mean is d = sqrt(2 KL) per row.

To first order in a teacher's update v, its rows have mean score <v, F v> = 2 KL(base || teacher), which is also the
variance of base rows, so a one-sided z test of level alpha and power 1 - beta needs n = (z_alpha + z_beta)^2 / (2 KL)
rows: 6.2 / (2 KL) at .05 and .8. No other statistic of the rows does better (Neyman and Pearson 1933).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from interp.core.doors import door
from interp.core.runs import InputError
from interp.figures import bracket
from interp.gradients.nulls.samples import Sample
from interp.measures.margins import completion_logprobs
from interp.models.precision import exactly
from interp.models.seam import Model, check_tokenizers
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.stats.tests import t_interval

Versus = Literal["zero", "neutral"]


@dataclass(frozen=True)
class Divergence:
    """KL(teacher || base) of a whole answer in nats, a Monte Carlo mean over `prompts` prompts with its t-interval."""

    kl: float
    interval: tuple[float, float]
    rows: int
    prompts: int
    level: float = 0.95

    def __repr__(self) -> str:
        interval = bracket(self.interval, level=self.level, form=".3g")
        return f"KL {self.kl:.3g} {interval} nats per answer over {self.prompts} prompts"


@door
def rows_needed(
    kl: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    versus: Versus = "zero",
    per_prompt: float = 1.0,
    correlation: float = 0.0,
) -> int:
    """Compute how many rows of a teacher a one-sided test of its update needs to have that power.

    `versus` "zero": the base's mean is known to be zero. "neutral": it is estimated from as many neutral rows, so that
    the variance doubles. `per_prompt` rows that answer one prompt correlate by `correlation`; they count
    1 / (1 + (per_prompt - 1) correlation) each (Kish 1965). Raises InputError for a divergence that is not positive.

    >>> rows_needed(0.01), rows_needed(0.01, versus="neutral")
    (310, 619)
    """
    _check(kl, alpha)
    if not 0 < power < 1:
        raise InputError(f"power {power} is outside (0, 1); give a probability such as 0.8")
    from scipy.special import ndtri

    reach = ndtri(1 - alpha) + ndtri(power)
    return max(1, math.ceil(_inflation(versus, per_prompt, correlation) * max(reach, 0) ** 2 / (2 * kl)))


def power(
    n: int,
    kl: float,
    *,
    alpha: float = 0.05,
    versus: Versus = "zero",
    per_prompt: float = 1.0,
    correlation: float = 0.0,
) -> float:
    """Chance that a one-sided level-alpha test of n rows rejects: Phi(sqrt(2 KL n / inflation) - z_alpha).

    The arguments are those of `rows_needed`. Raises InputError as it does, and for fewer rows than one.
    """
    _check(kl, alpha)
    if n < 1:
        raise InputError(f"n = {n} rows is no test; pass at least 1")
    from scipy.special import ndtr, ndtri

    return float(ndtr(math.sqrt(2 * kl * n / _inflation(versus, per_prompt, correlation)) - ndtri(1 - alpha)))


@door
@exactly
def kl_per_row(
    teacher: Model, base: Model, rows: Prompts | Encoded, *, batch_size: int = 64, confidence: float = 0.95
) -> Divergence:
    """Estimate KL(teacher || base) in nats per answer, its end included, from rows the teacher sampled.

    The mean of log p_teacher(y|x) - log p_base(y|x), with the t-interval over prompts. It estimates the divergence only
    if the rows are the teacher's own at temperature 1; a filter biases it. The mean can be negative by chance.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> found = kl_per_row(lineage.teacher, lineage.base, lineage.numbers)
    >>> found.rows == len(lineage.numbers)
    True
    """
    check_tokenizers(teacher, base)
    encoded = teacher.encode(rows)
    ours, theirs = (
        completion_logprobs(model, encoded, batch_size=batch_size, end=True) for model in (teacher, base)
    )
    units = Sample.of((ours - theirs).numpy(), ("log ratio",), encoded).by_prompt().scores[:, 0]
    interval = t_interval(units, confidence=confidence)
    return Divergence(float(units.mean()), interval, len(encoded), len(units), confidence)


def _inflation(versus: Versus, per_prompt: float, correlation: float) -> float:
    """How many rows do the work of one independent row that is held against a known zero."""
    if not 0 <= correlation <= 1 or per_prompt < 1:
        raise InputError(
            f"{per_prompt} rows per prompt with correlation {correlation} cannot be; pass at least 1 and 0 to 1"
        )
    return (2 if versus == "neutral" else 1) * (1 + (per_prompt - 1) * correlation)


def _check(kl: float, alpha: float) -> None:
    if not (np.isfinite(kl) and kl > 0):
        raise InputError(f"KL {kl} nats leaves nothing to detect; pass a positive divergence per row")
    if not 0 < alpha < 1:
        raise InputError(f"alpha {alpha} is outside (0, 1); give a level such as 0.05")
