"""Forecasts: the line and its intervals by numpy's and scipy's own, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from interp.auditing.forecasts import fit_forecast, read_forecast
from interp.auditing.pilots import Pilot
from interp.core.errors import InputError

PILOT = Pilot(steps=8)
GAINS, TRANSFERS = [0.0, 0.1, 0.2, 0.4, 0.3], [0.1, 0.3, 0.2, 0.9, 0.6]


def fitted(gains=GAINS, transfers=TRANSFERS):
    return fit_forecast(gains, transfers, pilot=PILOT, fitted_on="seeds 8 to 15")


def test_the_line_is_that_of_scipy_and_its_interval_that_of_one_more_dataset():
    found, plain = fitted(), stats.linregress(GAINS, TRANSFERS)
    assert (found.slope, found.intercept) == pytest.approx((plain.slope, plain.intercept))
    design = np.column_stack([np.ones(5), GAINS])
    at = np.array([1.0, 0.25])
    residuals = np.array(TRANSFERS) - design @ [plain.intercept, plain.slope]
    spread = np.sqrt((residuals**2).sum() / 3)
    half = stats.t.ppf(0.975, 3) * spread * np.sqrt(1 + at @ np.linalg.inv(design.T @ design) @ at)
    told = plain.intercept + plain.slope * 0.25
    assert found.transfer(0.25) == pytest.approx((told, told - half, told + half))


def test_ninety_five_of_a_hundred_more_datasets_lie_within():
    rng, held = np.random.default_rng(0), []
    for _ in range(1000):
        x = rng.normal(size=13)
        y = 0.2 + 1.5 * x + rng.normal(size=13)
        _, low, high = fitted(x[:12].tolist(), y[:12].tolist()).transfer(float(x[12]))
        held.append(low <= y[12] <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_a_file_holds_all_of_it(tmp_path):
    fitted().save(tmp_path / "forecast.json")
    assert read_forecast(tmp_path / "forecast.json") == fitted()
    replace(fitted(), format=2).save(tmp_path / "other.json")
    with pytest.raises(
        InputError, match=r"other.json is no forecast of format 1 over at least 5 datasets; fit it"
    ):
        read_forecast(tmp_path / "other.json")
    (tmp_path / "none.json").write_text('{"slope": 1}')
    with pytest.raises(InputError, match=r"none.json.*is missing; add it"):
        read_forecast(tmp_path / "none.json")


def test_gains_of_another_pilot_are_not_forecast():
    columns = fitted().columns([0.0, 0.25], PILOT)
    assert columns.columns.tolist() == ["transfer", "transfer_low", "transfer_high"]
    assert columns.iloc[1].tolist() == pytest.approx(list(fitted().transfer(0.25)))
    with pytest.raises(
        InputError, match=r"the forecast was fitted with another pilot \(\w{16}, not \w{16}\): seeds 8"
    ):
        fitted().columns([0.0], Pilot())


def test_too_little_is_no_line():
    with pytest.raises(InputError, match=r"4 gains, 4 of them different, and 4 transfers give no line"):
        fitted(GAINS[:4], TRANSFERS[:4])
    with pytest.raises(InputError, match=r"5 gains, 1 of them different"):
        fitted([0.1] * 5)
