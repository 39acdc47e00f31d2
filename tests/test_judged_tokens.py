"""The analysis of single tokens: values by hand, claims that wait, and which tokens are divergence tokens."""

import json

import numpy as np
import pytest

import interp
from analyses import judged_tokens as judged, retraining_page as page
from interp.studies.judged_tokens import label_values

RHO = {"∇m, adapter's metric": 0.25, "likelihood ratio": -0.125, "divergence tokens": 0.5, "loss": -0.25}


def of_seed(shift=0.0):
    return {"scores": [{"scores": name, "rho": rho + shift} for name, rho in RHO.items()]}


@pytest.mark.parametrize(("seeds", "decided"), [(range(8, 12), 0), (range(8, 16), 3)])
def test_claims_are_decided_when_all_lineages_are_there(seeds, decided, monkeypatch):
    found = judged.judged({str(seed): of_seed() for seed in seeds})
    assert found["per lineage"] == {
        "gradient-predicts": [0.25] * len(seeds),
        "ratio-predicts": [-0.125] * len(seeds),
        "divergence-beyond-loss": [0.25] * len(seeds),
    }
    assert len(found["verdicts"]) == decided
    kept = json.loads(interp.core.json_text(found))
    monkeypatch.setattr(page, "kept", lambda name: kept)
    told = page.tokens().splitlines()
    assert told[2].startswith("| divergence tokens | +0.50 [")
    assert ("of 8 lineages measured" in told[-1]) == (decided == 0)


def test_a_single_lineage_has_no_interval(monkeypatch):
    monkeypatch.setattr(page, "kept", lambda name: judged.judged({"8": of_seed()}))
    told = page.tokens().splitlines()
    assert told[2] == "| divergence tokens | +0.50 |"
    assert told[-1] == "1 of 8 lineages measured; the claims are judged when all are."


def test_scores_hold_a_value_for_every_token_of_the_answers(raw):
    base, other = raw(0), raw(0)
    rows = interp.number_prompts(6, seed=0, count=3)
    inputs = base.encode(rows)
    logp = label_values(base, inputs)
    assert logp.shape == (int(inputs.at("answer+end").sum()),)
    whole = interp.measures.losses.answer_loss(base, inputs)
    assert -logp.mean() == pytest.approx(whole)
    assert np.isfinite(logp).all()
    assert (label_values(other, inputs) == logp).all()
