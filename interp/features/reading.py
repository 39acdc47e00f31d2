"""Activations at a dictionary's hook, the features of every token, and their means by row and over all.

mean_ij = 1/n_i Σ_t f_j(h_it) over the chosen tokens of row i, rate_ij the share of them at which f_j > 0. The norm of
the error, |h − ĥ|, is read beside them. Features exist block by block; what is kept is a number per row and feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.recording import BATCH_SIZE, record
from interp.core.doors import door
from interp.core.runs import InputError
from interp.features.dictionary import Dictionary
from interp.models.precision import exactly
from interp.prompts.notes import hear
from interp.stats.matching import spreads

if TYPE_CHECKING:
    from interp.models.seam import Model
    from interp.prompts.text import Encoded, Prompts

NUMBERS = "predicting answer.numbers"  # where features are read unless another place is named
LIVE = 1e-4  # share of tokens at which a feature must fire to be one


@dataclass(frozen=True, eq=False)
class TokenReading:
    """Activations at the chosen tokens of all rows, row after row, with the row and the column each was read at."""

    values: Float[Tensor, "token d_in"]
    rows: Int[Tensor, "token"]
    columns: Int[Tensor, "token"]
    n_rows: int

    def blocks(self, dictionary: Dictionary) -> Iterator[tuple[slice, Float[Tensor, "token feature"]]]:
        """Consecutive tokens and their features, as many at a time as memory allows."""
        for part in self.parts(dictionary):
            yield part, dictionary.encode(self.values[part])

    def parts(self, dictionary: Dictionary) -> Iterator[slice]:
        """Consecutive tokens whose features fit the memory allowed."""
        size = dictionary.rows_at_once()
        yield from (slice(start, start + size) for start in range(0, len(self.values), size))


@dataclass(frozen=True, eq=False)
class RowMeans:
    """Means over the chosen tokens of each row: of every feature, of its firing, and of the error's norm."""

    mean: Float[Tensor, "row feature"]
    rate: Float[Tensor, "row feature"]
    error: Float[Tensor, "row"]
    tokens: Int[Tensor, "row"]


@exactly
def read_tokens(
    dictionary: Dictionary,
    model: Model,
    prompts: Prompts | Encoded,
    *,
    positions: str = NUMBERS,
    batch_size: int = BATCH_SIZE,
) -> TokenReading:
    """Read the activations of `model` at the dictionary's hook and the tokens named; rows without one are left out.

    InputError for a dictionary of another lineage, width or hook.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> dictionary = interp.joined.default_dictionary(lineage)
    >>> read_tokens(dictionary, lineage.base, lineage.numbers[:4], positions="last").rows.tolist()
    [0, 1, 2, 3]
    """
    dictionary.check(model)
    recorded = record(model, prompts, hooks=dictionary.hook, positions=positions, batch_size=batch_size)
    rows, places = recorded.mask.nonzero(as_tuple=True)
    values = recorded.flat(dictionary.hook).flatten(1)
    return TokenReading(values, rows, recorded.where[rows, places], len(recorded))


def within(dictionary: Dictionary, *readings: TokenReading) -> tuple[TokenReading, ...]:
    """Readings of the same tokens without those beyond the dictionary's limit in one of them, whose number is noted."""
    beyond = torch.stack([dictionary.beyond(each.values) for each in readings]).any(0)
    if not beyond.any():
        return readings
    hear(
        [
            f"{int(beyond.sum())} of {len(beyond)} tokens left out, whose norm is beyond {dictionary.limit:.4g}, up to "
            f"which {dictionary.label} speaks"
        ]
    )
    return tuple(
        TokenReading(each.values[~beyond], each.rows[~beyond], each.columns[~beyond], each.n_rows)
        for each in readings
    )


def row_means(dictionary: Dictionary, reading: TokenReading) -> RowMeans:
    """Means by row in fp32; rows without a chosen token are left out, so all have one."""
    present, index = reading.rows.unique(return_inverse=True)
    tokens = torch.bincount(index, minlength=len(present))
    mean = torch.zeros(len(present), dictionary.width)
    rate, error = torch.zeros_like(mean), torch.zeros(len(present))
    for part in reading.parts(dictionary):
        features, rebuilt = dictionary.split(reading.values[part])
        mean.index_add_(0, index[part], features)
        rate.index_add_(0, index[part], (features > 0).float())
        error.index_add_(0, index[part], (reading.values[part] - rebuilt).norm(dim=1))
    return RowMeans(mean / tokens[:, None], rate / tokens[:, None], error / tokens, tokens)


@door
@exactly
def feature_statistics(
    dictionary: Dictionary, model: Model, prompts: Prompts | Encoded, *, positions: str = NUMBERS
) -> pd.DataFrame:
    """One line per feature: rate (share of tokens), mean (over all tokens), decoder_norm and live (rate ≥ 1e-4).

    Means are in units of the dictionary's activations. InputError for a dictionary of another lineage, width or hook.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> dictionary = interp.joined.default_dictionary(lineage)
    >>> len(feature_statistics(dictionary, lineage.base, lineage.numbers[:8])) == dictionary.width
    True
    """
    return statistics_of(dictionary, read_tokens(dictionary, model, prompts, positions=positions))


def statistics_of(dictionary: Dictionary, reading: TokenReading) -> pd.DataFrame:
    """`feature_statistics` of tokens already read."""
    mean, rate = (values.numpy() for values in token_means(dictionary, reading))
    return pd.DataFrame(
        {
            "feature": np.arange(dictionary.width),
            "rate": rate,
            "mean": mean,
            "decoder_norm": dictionary.decoder.norm(dim=1).numpy(),
            "live": rate >= LIVE,
        }
    )


def token_means(
    dictionary: Dictionary, reading: TokenReading
) -> tuple[Float[Tensor, "feature"], Float[Tensor, "feature"]]:
    """Mean of every feature over the tokens read, and the share of them at which it fires."""
    total, fired = torch.zeros(dictionary.width), torch.zeros(dictionary.width)
    for _, features in reading.blocks(dictionary):
        total += features.sum(0)
        fired += (features > 0).float().sum(0)
    return total / len(reading.values), fired / len(reading.values)


def matched_features(
    statistics: pd.DataFrame,
    features: Sequence[int],
    *,
    count: int = 10,
    exclude: Sequence[int] = (),
    seed: int = 0,
) -> Int[np.ndarray, "feature control"]:
    """For each feature `count` live controls nearest in frequency × decoder norm × base activation, in random order.

    Distance is Euclidean in the logarithms of the three, each divided by its standard deviation over live features.
    Controls are neither among `features` nor in `exclude`. InputError when too few live features are left.
    """
    numbers, live = statistics["feature"].to_numpy(), statistics["live"].to_numpy(bool)
    pool = np.flatnonzero(live & ~np.isin(numbers, [int(feature) for feature in (*features, *exclude)]))
    if len(pool) < count:
        raise InputError(
            f"{len(pool)} live features are left as controls for {len(features)}, and {count} were asked for; "
            "ask for fewer or read more rows"
        )
    scaled = logs(statistics)
    scaled = scaled / spreads(scaled[live])
    rng = np.random.default_rng(seed)
    chosen = []
    for feature in features:
        distance = np.linalg.norm(scaled[pool] - scaled[_line(statistics, feature)], axis=1)
        nearest = numbers[pool[np.argsort(distance, kind="stable")[:count]]]
        chosen.append(rng.permutation(nearest))
    return np.array(chosen, dtype=int).reshape(len(features), count)


def _line(statistics: pd.DataFrame, feature: int) -> int:
    """Where a feature stands in the table; InputError when it does not."""
    found = np.flatnonzero(statistics["feature"].to_numpy() == feature)
    if not len(found):
        raise InputError(
            f"feature {feature} is not in these statistics of {len(statistics)} features; "
            "take them from feature_statistics of the same dictionary"
        )
    return int(found[0])


def logs(statistics: pd.DataFrame) -> Float[np.ndarray, "feature 3"]:
    """Logarithms of rate, decoder norm and mean; zeros become the smallest positive value."""
    columns = []
    for name in ("rate", "decoder_norm", "mean"):
        values = statistics[name].to_numpy().astype(float)
        positive = values[values > 0]
        columns.append(np.log(np.maximum(values, positive.min() if len(positive) else 1.0)))
    return np.stack(columns, axis=1)
