"""The analysis of single tokens: values by hand, claims that wait, and what every way of scoring gives each token."""

import json
import sys

import numpy as np
import pytest

import interp
from analyses import judged_tokens as judged, retraining_page as page
from interp.studies.judged_tokens import label_values
from interp.training.students import Recipe
from tests.gradients.test_metagradients import grown

RHO = {"∇m, adapter's metric": 0.25, "likelihood ratio": -0.125, "divergence tokens": 0.5, "loss": -0.25}


def of_seed(shift=0.0):
    tails = {"without_top": -0.75, "without_bottom": 0.5}
    return {"scores": [{"scores": name, "rho": rho + shift, **tails} for name, rho in RHO.items()]}


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
    assert told[2] == "| divergence tokens | +0.50 | -0.75 | +0.50 |"
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


@pytest.fixture(scope="module")
def lineage():
    return grown(Recipe(batch_size=8, lr=3e-2, warmup=1, rank=2, epochs=2))


def test_every_way_of_scoring_gives_every_token_its_own_value(lineage):
    """Against log-probabilities of whole rows, and scores of rows along the same gradient."""
    other = lineage.student  # stands for another trait's teacher
    found = interp.studies.token_scores(lineage, other)
    base, inputs = lineage.base, lineage.base.encode(lineage.numbers)
    rows, places = inputs.at("answer+end").nonzero().unbind(1)
    here, own, theirs = (
        model.logits(inputs)[rows, places - 1]
        .log_softmax(-1)
        .gather(-1, inputs.ids[rows, places, None])[:, 0]
        for model in (base, lineage["teacher"], other)
    )
    assert found["loss"] == pytest.approx(-here.numpy(), abs=1e-5)
    assert found["likelihood ratio"] == pytest.approx((own - here).numpy(), abs=1e-5)
    number = inputs.at("answer.numbers")[rows, places].numpy()
    ratio = (own - theirs).numpy()
    highest = ratio >= np.quantile(ratio[number], 0.8)
    assert (found["divergence tokens"] == (number & highest & (ratio > 0))).all()
    plain = interp.trait_gradient(base, lineage.trait)
    totals = interp.score(base, lineage.numbers, plain).totals[:, 0].numpy()
    assert np.bincount(rows, found["∇m"]) == pytest.approx(totals, rel=1e-4, abs=1e-5)
    assert np.abs(found["∇m, adapter's metric"] - found["∇m"]).max() > 1e-3
    assert {len(values) for values in found.values()} == {len(rows)}


def test_a_lineage_is_measured_once_and_says_by_which_code(lineage, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(judged, "measure", lambda seed: asked.append(seed) or of_seed())
    monkeypatch.setattr(interp.studies, "freeze", lambda *_, **__: {"code": "key", "commit": "abc"})
    monkeypatch.setattr(sys, "argv", ["", "--out", str(tmp_path / "tokens.json"), "--seeds", "8"])
    judged.main()
    judged.main()
    kept = json.loads((tmp_path / "tokens.json").read_text())["by seed"]["8"]
    assert asked == [8]
    assert (kept["code"], kept["commit"], kept["versions"]) == ("key", "abc", interp.core.versions())
