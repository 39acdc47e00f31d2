"""Halves that differ in score and are matched on what they should be."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp.core.runs import InputError
from interp.stats.matching import (
    balance,
    matched_halves,
    nearest_partners,
    neighbours,
    quantile_groups,
    standardised_difference,
)
from interp.stats.tests import auroc


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
    places = np.concatenate(neighbours(frame["tokens"].to_numpy(), frame["loss"].to_numpy(), size=8))
    assert len(places) == len(set(places.tolist()))
    assert len(places) >= 97


def test_several_directions_at_once_are_refused():
    frame = examples()
    with pytest.raises(InputError, match=r"hold some row more than once; pass Scores.examples\(\) of one"):
        matched_halves(pd.concat([frame, frame]))
    with pytest.raises(InputError, match="hold no column 'loss'"):
        matched_halves(frame.drop(columns="loss"))


def test_matching_takes_the_nearest_and_none_twice():
    chosen = pd.DataFrame({"loss": [0.0, 0.0, 9.0]})
    pool: Any = pd.DataFrame({"loss": [4.5, 0.2, 0.1, 0.3, -20.0]})
    pairs = nearest_partners(chosen, pool, on=["loss"], caliper=0.1)
    assert pairs.chosen.tolist() == [0, 1]
    assert sorted(pairs.control.tolist()) == [1, 2]
    gap = balance(pd.DataFrame({"loss": [1.0, 3.0]}), pd.DataFrame({"loss": [0.0, 2.0]}), on=["loss"])
    assert gap == {"loss": pytest.approx(1.0)}
    assert standardised_difference(np.ones(2), np.ones(3)) == 0.0
    with pytest.raises(
        InputError, match=r"none of 3 tokens has a match among 1 within 0.01 standard deviations of loss"
    ):
        nearest_partners(chosen, pool[4:], on=["loss"], caliper=0.01)
    with pytest.raises(InputError, match="the pool have no column 'entropy'"):
        nearest_partners(chosen.assign(entropy=0.0), pool, on=["entropy"])


@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_matching_removes_what_goes_with_a_covariate_and_leaves_a_planted_effect(effect):
    rng = np.random.default_rng(0)
    n = 6000
    loss, entropy = rng.normal(size=n), rng.normal(size=n)
    divergent = rng.random(n) < 0.2 / (1 + np.exp(-1.5 * loss))
    score = loss + effect * divergent + 0.5 * rng.normal(size=n)
    frame: Any = pd.DataFrame({"loss": loss, "entropy": entropy, "score": score})
    chosen, pool = frame[divergent], frame[~divergent]
    assert balance(chosen, pool, on=["loss"])["loss"] > 0.5
    assert auroc(chosen["score"].to_numpy(), pool["score"].to_numpy()).value > 0.65
    pairs = nearest_partners(chosen, pool, on=["loss", "entropy"])
    own, control = chosen.iloc[pairs.chosen], pool.iloc[pairs.control]
    assert len(set(pairs.control.tolist())) == len(pairs) > 0.95 * len(chosen)
    assert max(map(abs, balance(own, control, on=["loss", "entropy"]).values())) < 0.05
    area = auroc(own["score"].to_numpy(), control["score"].to_numpy())
    assert (area.interval[0] > 0.6) if effect else (abs(area.value - 0.5) < 0.03)


def test_strata_have_equal_sizes_and_follow_frequency():
    frequency = np.random.default_rng(0).permutation(100).astype(float)
    bins = quantile_groups(frequency, 5)
    assert np.bincount(bins).tolist() == [20] * 5
    assert (bins == frequency // 20).all()
    assert quantile_groups(np.array([3.0, 1.0, 2.0]), 5).tolist() == [0, 0, 0]
