"""Rows to detect and rows to transmit: by hand, and what the page makes of them."""

import pandas as pd
import pytest

from analyses import audits_page as page, detect_transmit
from analyses.results_page import kept

LINES = [
    {"seed": seed, "trait": "owl", "form": form, "to detect": see, "to transmit": give}
    for form, pairs in {
        "as written": [(300, 2048), (400, None)],
        "tens": [(None, None), (5000, 1024)],
    }.items()
    for seed, (see, give) in zip((8, 9), pairs, strict=True)
]


@pytest.mark.parametrize(
    ("transfers", "rows"),
    [
        ([0.0, 1.0, 2.0], 2048),  # halfway between 1,024 and 4,096 rows, in log rows
        ([0.1, 0.2, 0.6], 11585),  # three quarters of the way from 4,096 to 16,384
        ([0.7, 0.1, 0.0], 1024),
        ([0.0, 0.4, 0.49], None),
    ],
)
def test_rows_to_transmit_lie_on_the_line_between_doses(transfers, rows):
    assert detect_transmit.to_transmit(transfers) == rows


def test_rows_to_detect_are_those_of_a_mean_of_d_over_twenty_candidates():
    assert detect_transmit.to_detect(0.2) == pytest.approx((2.8070 + 0.8416) ** 2 / 0.04, rel=3e-3)
    assert detect_transmit.to_detect(-0.1) is None


def test_what_the_page_says_of_the_committed_numbers():
    frame = pd.DataFrame(kept("detect_transmit")["tables"]["lines"])
    passed = frame[frame["to transmit"].notna()]
    early = passed["to detect"] < passed["to transmit"] / 5
    assert passed.loc[~early, "form"].tolist() == ["tens"]
    tens = frame[frame["form"] == "tens"]
    assert (tens["to detect"] <= detect_transmit.DOSES[-1]).mean() < 0.5
    assert tens["to transmit"].notna().mean() < 0.5


def test_the_page_lists_every_seed_and_says_where_no_dose_passes_it_on(monkeypatch):
    monkeypatch.setattr(page, "measured", lambda name: True)
    monkeypatch.setattr(page, "kept", lambda name: {"tables": {"lines": LINES}})
    told = page.plane().splitlines()
    assert told[2] == "| owl | as written | 300, 400 | 2,048, – |"
    assert told[3] == "| owl | tens | –, 5,000 | –, 1,024 |"
    assert told[-1].startswith("Seeds 8, 9. Rows to detect are")
    figure = page.plane_picture()
    drawn = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data if trace.name}
    assert drawn["as written"] == ([300, 400], [2048, page.BEYOND])
    assert drawn["tens"] == ([page.BEYOND, 5000], [page.BEYOND, 1024])
