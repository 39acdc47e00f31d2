"""What a whole training would take over, from a pilot's gain: a line fitted on other bases, frozen in a file.

    transfer = a + b gain,   within ± t_{n−2} s √(1 + 1/n + (gain − mean)² / Σ (gain_i − mean)²)

n datasets were trained on to the end; s is the residual spread. The interval is that of one more dataset like those,
of the same pilot and the same kind of base and student: no forecast is a fact about others, and none is used where the
pilot is another one.

    {"format": 1, "slope": ..., "intercept": ..., "spread": ..., "mean": ..., "squares": ..., "n": ..., "pilot": KEY,
     "fitted_on": "toy, seeds 8 to 15, ..."}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.auditing.pilots import LEVEL, Pilot
from interp.core.content import digest, json_text
from interp.core.doors import door
from interp.core.errors import InputError
from interp.core.records import read_fields
from interp.core.runs import write_atomic
from interp.models.loading import read_json

FORMAT = 1  # of forecast files
FEWEST_FITTED = 5


@door
@dataclass(frozen=True)
class Forecast:
    """A line from gain to transfer in nats with what its intervals need, the key of its pilot, and what it rests on."""

    slope: float
    intercept: float
    spread: float
    mean: float
    squares: float
    n: int
    pilot: str
    fitted_on: str
    format: int = FORMAT

    def transfer(self, gain: float) -> tuple[float, float, float]:
        """The transfer that a gain lets expect, and where 95 of 100 datasets would lie, in nats."""
        from scipy.stats import t

        told = self.intercept + self.slope * gain
        apart = (gain - self.mean) ** 2 / self.squares
        half = t.ppf((1 + LEVEL) / 2, self.n - 2) * self.spread * (1 + 1 / self.n + apart) ** 0.5
        return told, told - half, told + half

    def columns(self, gains: Sequence[float], pilot: Pilot) -> pd.DataFrame:
        """Columns transfer, transfer_low and transfer_high; InputError for gains of another pilot."""
        if (key := _key(pilot)) != self.pilot:
            raise InputError(
                f"the forecast was fitted with another pilot ({self.pilot}, not {key}): {self.fitted_on}; pass that "
                "pilot, or no forecast"
            )
        names = ["transfer", "transfer_low", "transfer_high"]
        return pd.DataFrame([self.transfer(gain) for gain in gains], columns=names)

    def save(self, path: str | Path) -> None:
        """Write the file that `read_forecast` reads."""
        write_atomic(path, json_text(self))


@door
def fit_forecast(
    gains: Sequence[float], transfers: Sequence[float], *, pilot: Pilot, fitted_on: str
) -> Forecast:
    """Fit the line of transfers on the gains of `pilot` by least squares; `fitted_on` says what was trained.

    Raises InputError for fewer than five datasets, and gains that are all alike.

    Example:
        >>> import interp
        >>> fitted = {"pilot": interp.auditing.Pilot(), "fitted_on": "five toys"}
        >>> interp.auditing.fit_forecast([0, 1, 2, 3, 4], [0, 2, 4, 6, 8], **fitted).transfer(2.0)[0]
        4.0
    """
    x, y = np.array(gains, dtype=float), np.array(transfers, dtype=float)
    squares = float(((x - x.mean()) ** 2).sum()) if len(x) else 0.0
    if len(x) < FEWEST_FITTED or len(x) != len(y) or squares == 0:
        raise InputError(
            f"{len(x)} gains, {len(set(gains))} of them different, and {len(y)} transfers give no line with an "
            f"interval; pass at least {FEWEST_FITTED} of each, gains that differ"
        )
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / squares)
    intercept = float(y.mean() - slope * x.mean())
    spread = float((((y - intercept - slope * x) ** 2).sum() / (len(x) - 2)) ** 0.5)
    return Forecast(slope, intercept, spread, float(x.mean()), squares, len(x), _key(pilot), fitted_on)


def read_forecast(path: str | Path) -> Forecast:
    """The forecast in a file; InputError for a file that holds none, or one of another format.

    Example:
        >>> import interp
        >>> fitted = {"pilot": interp.auditing.Pilot(), "fitted_on": "five toys"}
        >>> interp.auditing.fit_forecast([0, 1, 2, 3, 4], [0, 2, 4, 6, 8], **fitted).save("forecast.json")
        >>> interp.auditing.read_forecast("forecast.json").fitted_on
        'five toys'
    """
    found: Any = read_fields(Forecast, read_json(Path(path)), str(path))
    if found.format != FORMAT or found.n < FEWEST_FITTED or found.squares <= 0:
        raise InputError(
            f"{path} is no forecast of format {FORMAT} over at least {FEWEST_FITTED} datasets; fit it again"
        )
    return found


def _key(pilot: Pilot) -> str:
    return digest("pilot", asdict(pilot))
