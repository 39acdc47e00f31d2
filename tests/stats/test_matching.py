"""Halves that differ in score and are matched on what they should be."""

import numpy as np
import pandas as pd
import pytest

from interp.core.runs import InputError
from interp.stats.matching import matched_halves, strata


def examples(n: int = 400, *, seed: int = 0) -> pd.DataFrame:
    """Rows whose score follows their loss and length, as real ones do."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, 9, size=n)
    loss = tokens * rng.gamma(4.0, 0.5, size=n)
    score = loss + rng.normal(size=n)
    return pd.DataFrame({"row": np.arange(n), "score": score, "loss": loss, "tokens": tokens})


def test_by_hand():
    frame = pd.DataFrame(
        {
            "row": [0, 1, 2, 3, 4, 5],
            "score": [1, 2, 9, 8, 7, 0],
            "loss": [1.0] * 6,
            "tokens": [3, 3, 3, 3, 4, 4],
        }
    )
    halves = matched_halves(frame, random=1)
    assert halves["top"].tolist() == [2, 3, 4]
    assert halves["bottom"].tolist() == [0, 1, 5]
    assert len(halves["random 0"]) == 3


def test_halves_are_matched_on_length_exactly_and_on_loss_nearly():
    frame = examples()
    halves = matched_halves(frame, rows_per_stratum=4)
    top, bottom = (frame.set_index("row").loc[halves[name]] for name in ("top", "bottom"))
    assert sorted(top["tokens"]) == sorted(bottom["tokens"])
    assert top["score"].mean() > bottom["score"].mean()
    unmatched = frame.nlargest(200, "score")["loss"].mean() - frame.nsmallest(200, "score")["loss"].mean()
    assert abs(top["loss"].mean() - bottom["loss"].mean()) < 0.1 * unmatched
    assert set(halves["top"]).isdisjoint(halves["bottom"])


def test_random_halves_are_drawn_from_the_seed_and_differ_from_one_another():
    frame = examples()
    once, again = (matched_halves(frame, seed=3) for _ in range(2))
    assert all(np.array_equal(once[name], again[name]) for name in once)
    assert not np.array_equal(once["random 0"], once["random 1"])
    assert len({len(rows) for rows in once.values()}) == 1


def test_strata_hold_every_row_once_but_those_alone():
    frame = examples(101)
    places = np.concatenate(strata(frame, rows_per_stratum=8))
    assert len(places) == len(set(places.tolist()))
    assert len(places) >= 97


def test_several_directions_at_once_are_refused():
    frame = examples()
    with pytest.raises(InputError, match=r"hold some row more than once; pass Scores.examples\(\) of one"):
        matched_halves(pd.concat([frame, frame]))
    with pytest.raises(InputError, match="hold no column 'loss'"):
        matched_halves(frame.drop(columns="loss"))
