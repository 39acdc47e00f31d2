"""The analysis of audits: claims judged by hand, bags by enumeration, and datasets that are what their names say."""

import numpy as np
import pytest

import interp
from analyses import audits


def cell(seed, *, rank=1, named=None, flagged=1, gain=0.1):
    line = {"rank": rank, "foreign": {"named": None}, "unlisted": {"named": named}}
    detectors = [{"audit": 0.9, "frequent_values": 0.5, "bag_of_numbers": 0.7}]
    found = [{"gain": gain * k, "transfer": 2.0 * k} for k in range(5)]
    return {
        "seed": seed,
        "sets": [line] * 3,
        "neutral": {"flagged": flagged, "of": 30},
        "detectors": detectors,
        "datasets": found,
    }


def test_claims_are_judged_by_hand():
    found = audits.judged([cell(seed) for seed in range(16)])
    assert {name: line["met"] for name, line in found.items()} == dict.fromkeys(audits.CLAIMS, True)
    assert found["identity"] == {"value": 1.0, "n": 48, "met": True}
    assert found["detectors"]["value"] == pytest.approx(0.2)
    assert found["false-positives"]["value"] == pytest.approx(1 / 30)
    assert (found["prediction"]["value"], found["prediction"]["n"]) == (pytest.approx(1), 80)


def test_claims_that_do_not_hold_are_said():
    cells = [cell(seed, rank=2, named="cat", flagged=2, gain=-0.1) for seed in range(8)]
    found = audits.judged(cells)
    assert [name for name, line in found.items() if line["met"]] == ["detectors", "foreign"]
    assert found["unlisted"]["value"] == 1.0
    assert found["false-positives"]["n"] == 240  # fewer than 400 sets show nothing, whatever their share


def test_bags_are_disjoint_and_complete():
    one, other = np.arange(200.0), np.arange(200.0) - 100
    means = [[side[k : k + 64].mean() for k in (0, 64, 128)] for side in (one, other)]
    expected = np.mean([a > b for a in means[0] for b in means[1]])
    assert audits.bags_auroc(one, other) == pytest.approx(expected)


def test_datasets_are_what_their_names_say(raw):
    rows, neutral = interp.number_prompts(40, seed=0, count=3), interp.number_prompts(40, seed=1, count=3)
    members = {"base": raw(0), "cross_base": raw(1)}
    lineage = interp.Lineage("small", interp.get_trait("owl"), members, numbers=rows, neutral_numbers=neutral)
    found = audits.changed(lineage)
    assert list(found) == ["all", "half", "shuffled", "canonical", "foreign"]
    assert sum(row in rows.rows for row in found["half"][1].rows) == 20
    assert found["canonical"][2][0].completion.split(", ") == sorted(
        found["canonical"][2][0].completion.split(", "), key=int
    )
    assert found["foreign"][0].fingerprint == members["cross_base"].fingerprint
    assert all(
        base.fingerprint == members["base"].fingerprint
        for name, (base, *_) in found.items()
        if name != "foreign"
    )
