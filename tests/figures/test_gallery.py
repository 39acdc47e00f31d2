"""The figures of the analyses from frames made by hand: what each prints, names and puts where."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp.features.lean_nulls import _draw_nulls as draw_nulls
from interp.features.shift import ERROR, FeatureShift
from interp.figures import Result
from interp.gradients.ledger.course import _draw as draw_course
from interp.gradients.ledger.ledgers import Ledger
from interp.logits.spectra import _draw as draw_spectrum
from interp.studies.shared_initialisation import draw_cells


def test_the_course_has_its_null_band_and_says_what_it_is() -> None:
    lines = [
        {"step": step, "direction": name, "cosine": value, "half_width": half}
        for step in (1, 2)
        for name, value, half in (("trait", 0.2, 0.0), ("null", 0.01, 0.05))
    ]
    note = "band: mean ± 2 sd of 8 null directions"
    figure: Any = draw_course(Result("course", pd.DataFrame(lines), "cosine", (note,)))
    band = next(trace for trace in figure.data if trace.fill == "toself" and trace.fillcolor == "#7f7f7f")
    assert list(band.y) == pytest.approx([0.06, 0.06, -0.04, -0.04])
    assert figure.layout.title.subtitle.text == note
    assert figure.layout.yaxis.title.text == "cosine with the direction"


def test_the_ledger_falls_to_the_measured_change() -> None:
    modules = pd.DataFrame({"step": 0, "module": ["q", "up"], "attributed": [0.5, -0.2]})
    steps = pd.DataFrame({"step": [0], "attributed": [0.3], "change": [0.35]})
    figure: Any = Ledger("owl", steps, modules, pd.DataFrame(), measured=0.35).figure()
    parts, total, _ = figure.data
    assert list(parts.y) == ["q", "up", "residual"]
    assert list(parts.text) == ["+0.5", "−0.2", "+0.05"]
    assert (list(total.y), list(total.x)) == (["measured change"], [pytest.approx(0.35)])


def test_the_volcano_leaves_out_the_error_node_and_the_dead() -> None:
    frame = pd.DataFrame(
        {
            "feature": [3, 5, 7, ERROR],
            "delta": [0.4, -0.1, 0.0, 2.0],
            "p": [0.001, 0.5, np.nan, 0.01],
            "q": [0.002, 0.5, np.nan, np.nan],
            "reported": [True, False, False, False],
            "direct": [True, False, False, False],
            "live": [True, True, False, True],
        }
    )
    figure: Any = FeatureShift("teacher − base", frame, 0.05).volcano()
    plain, above, below = figure.data
    assert (list(above.text), list(plain.text), list(below.text)) == (
        ["feature 3, direct"],
        ["feature 5"],
        [],
    )
    assert figure.layout.shapes[0].y0 == pytest.approx(3.0)
    assert "Δ: mean over the other half" in figure.layout.title.subtitle.text


def test_starts_are_points_above_their_means_and_intervals() -> None:
    frame = pd.DataFrame(
        {
            "seed": [0, 1, 0, 1],
            "cell": ["same", "same", "foreign", "foreign"],
            "transfer": [1.0, 2.0, -0.1, 0.1],
            "coverage": [0.3, 0.3, 0.0, 0.02],
        }
    )
    figure: Any = draw_cells(frame, title="starts", unit="nats")
    transfer, coverage = (trace for trace in figure.data if trace.type == "heatmap")
    assert (
        transfer.text[0][0] == "+1.5<br>[−4.9, +7.9]"
    )  # t at 0.975 with one degree is 12.706, the error 0.5
    assert list(transfer.z[0]) == pytest.approx([1.5, 0.0])
    assert list(coverage.z[0]) == pytest.approx([0.3, 0.01])
    assert figure.data[2].marker.symbol == ("circle-open", "circle-open")
    assert "95 % t-interval over n = 2 runs" in figure.layout.title.subtitle.text
    alone: Any = draw_cells(frame.iloc[[0, 2]], title="starts", unit="nats")
    assert next(trace for trace in alone.data if trace.type == "heatmap").text[0][0] == "+1"


def test_the_spectrum_stacks_energies_beside_the_overlaps() -> None:
    line = {"matrix": "up", "norm": 5.0, "effective_rank": 1.9, "sigma_1": 4.0, "sigma_2": 3.0}
    frame = pd.DataFrame([{**line, "overlap_chance": 0.1, "overlap_numbers": 0.4, "overlap_other": 0.05}])
    figure: Any = draw_spectrum(Result("spectrum", frame, "squared cosine"))
    heat, first, second = figure.data
    assert list(heat.z[0]) == pytest.approx([2.0, -1.0])
    assert (first.x[0], second.x[0]) == (pytest.approx(0.64), pytest.approx(0.36))
    assert list(second.text) == ["1.9"]
    assert figure.layout.xaxis2.title.text == "share of the energy"


def test_correlations_stand_with_their_interval_beside_their_null() -> None:
    line = {"what": "lean", "rho": 0.3, "low": 0.2, "high": 0.5, "null_mean": 0.01, "null_sd": 0.05}
    figure: Any = draw_nulls(Result("nulls", pd.DataFrame([line]), "ρ"))
    ours, null = figure.data
    assert (ours.error_x.array[0], ours.error_x.arrayminus[0]) == (pytest.approx(0.2), pytest.approx(0.1))
    assert (null.x[0], null.error_x.array[0]) == (0.01, pytest.approx(0.1))
    assert "2 sd of the null" in figure.layout.title.subtitle.text
