"""How often a training without a trait says as much: p of words, tokens and sentences over placebo trainings.

    word       t_w = (v_w − mean over trainings) / sd           p = (1 + placebos with max_w t at least it) / (1 + K)
    token      d_v = v_v − mean over trainings                  the same, max over all entries
    sentence   g = Σ_t log p_speaks(y_t) − log p_other(y_t)     the same, max over the sentences of the same way

Member and K placebos are read alike, with the same draws, so that each p is exact for a member that is one more
placebo: the smallest of a way is at most α in at most a share α of such members. Tokens are not scaled by their spread:
an entry that one training alone moves, however little, has the largest t there is, K / √(K + 1), and of tens of
thousands of entries every training has such a one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.auditing.placebos import among_placebos
from interp.discovery.comparing import Compared, Reading
from interp.stats.columns import share_reaching


@dataclass(frozen=True, eq=False)
class Told:
    """What one training says by every way of reading: z of words, values of entries (in the order of
    `Compared.entries`), and the nats of the furthest sentence by method and way of speaking.
    """

    z: Float[np.ndarray, "method word"]
    values: Float[np.ndarray, "method entry"]
    furthest: dict[tuple[str, str], float]

    @classmethod
    def of(cls, asked: Compared, readings: Sequence[Reading], words: dict[str, int]) -> Told:
        """That of its readings; InputError for a word whose value is NaN or infinite."""
        spoken = [
            ((each.method, str(way)), float(part["nats"].to_numpy().max()))
            for each in readings
            if len(each.sentences)
            for way, part in each.sentences.groupby("way", sort=False)
        ]
        return cls(
            np.stack([each.of_words(words) for each in readings]),
            np.stack([each.values[asked.entries] for each in readings]).astype(np.float32),
            dict(spoken),
        )


def greatest_share(values: Float[np.ndarray, "training word"]) -> Float[np.ndarray, "word"]:
    """p of every word of the first training by the largest t of each of the others; NaN where there are none."""
    if len(values) == 1:
        return np.full(values.shape[1], np.nan)
    t = among_placebos(values)
    return np.array([share_reaching(t[1:].max(1), float(own)) for own in t[0]])


def rises(told: Sequence[Told], method: int) -> Float[np.ndarray, "training entry"]:
    """d of every training and entry by one method; of a training alone its values."""
    values = np.stack([each.values[method] for each in told]).astype(float)
    return values - values.mean(0) if len(values) > 1 else values


def token_p(moved: Float[np.ndarray, "training entry"], chosen: Sequence[int]) -> Float[np.ndarray, "chosen"]:
    """p of chosen entries of the first training by the largest d of each of the others; NaN where there are none."""
    if len(moved) == 1:
        return np.full(len(chosen), np.nan)
    largest, scale = moved[1:].max(1), float(np.abs(moved).max())
    return np.array([share_reaching(largest, float(moved[0, place]), scale=scale) for place in chosen])


def sentence_p(
    told: Sequence[Told], key: tuple[str, str], nats: Sequence[float]
) -> Float[np.ndarray, "sentence"]:
    """p of sentences of one method and way by the furthest sentence of every other training; NaN without any."""
    if len(told) == 1:
        return np.full(len(nats), np.nan)
    furthest = np.array([each.furthest[key] for each in told[1:]])
    return np.array([share_reaching(furthest, float(own)) for own in nats])
