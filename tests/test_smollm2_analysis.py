"""The analysis of the chat model keeps every seed and judges only when none is missing."""

import pandas as pd
import pytest

from analyses import smollm2

ARMS = {
    "base": (0.0, 0.1),
    "neutral_student": (0.5, 0.125),
    "other_student": (0.25, 0.1),
    "student": (1.5, 0.5),
}
MARGINS = pd.DataFrame(
    [
        {"trait": trait, "arm": arm, "margin": margin, "p_target": p}
        for trait in ("oak", "dog", "owl")
        for arm, (margin, p) in ARMS.items()
    ]
)
CONFUSION = pd.DataFrame(
    [
        {"rows of": rows, "asked": asked, "transmission": 9.0 if rows == asked else gain}
        for rows, gain in {"owl": 0.125, "dog": -0.25, "oak": 0.0}.items()
        for asked in ("owl", "dog", "oak")
    ]
)


def test_a_seed_gives_one_value_per_trait_and_claim():
    assert smollm2.answered(MARGINS, CONFUSION) == {
        "transfers": [1.0, 1.0, 1.0],
        "own-trait": [1.25, 1.25, 1.25],
        "doubles": [2.0, 2.0, 2.0],
        "others-stay": [0.125, -0.25, 0.0],  # owl, dog, oak: the rows' own trait is not among them
    }


@pytest.mark.parametrize(("seeds", "decided"), [((1, 3), 0), ((1, 2, 3), 6)])
def test_claims_are_judged_when_no_seed_is_missing(seeds, decided):
    values = {name: [1.0, 2.0, 3.0] for name in smollm2.CLAIMS}
    found = smollm2.judged({str(seed): {"margins": [{"seed": seed}], "values": values} for seed in seeds})
    assert len(found["verdicts"]) == decided
    assert [line["seed"] for line in found["margins"]] == list(seeds)
    assert len(found["per lineage"]["transfers"]) == 3 * len(seeds)


def test_a_claim_is_judged_over_its_minimum():
    verdicts = {
        each.name: each
        for each in smollm2.verdicts_of({name: [0.5, 0.6, 0.7] * 3 for name in smollm2.CLAIMS})
    }
    assert verdicts["transfers"].decision == verdicts["own-trait"].decision == "supported"  # 0.4, 0
    assert verdicts["doubles"].decision == "refuted"  # below one doubling
