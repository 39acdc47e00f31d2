"""What the claims on judged scores are made of, on made-up judgements and hand-made rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import interp
from interp.gradients.datamodels import DatamodelingScore
from interp.hypotheses.subject import Subject
from interp.organisms.toy import World, build_network, build_tokenizer
from interp.prompts.text import Prompts
from interp.studies import judged_scores
from interp.studies.judged_scores import FAMILY, measure_judged_scores, value_ratios

RHO = {"metagradient": 0.9, "∇m": 0.3, "teacher's update": 0.5, "loss": -0.4, "length": 0.1}


def test_claims_are_differences_of_rank_correlations(monkeypatch):
    asked = {}

    def judged(lineage, scores, **given):
        asked.update(given, scores=scores)
        frame = pd.DataFrame({"scores": RHO.keys(), "rho": RHO.values()})
        margins = np.array([0.0, 1.0, 2.0, 3.0])
        return DatamodelingScore(
            "judged", frame, np.ones((4, 2), dtype=bool), margins, np.array([0.0, 2.0, 1.0])
        )

    monkeypatch.setattr(judged_scores, "row_scores", lambda subject: "scores")
    monkeypatch.setattr(judged_scores, "datamodeling_score", judged)
    network = build_network(World(d_model=16, d_mlp=24), seed=0).eval()
    base = interp.load_model(network, tokenizer=build_tokenizer(), name="base", check=False)
    subject = Subject(interp.Lineage("made up", None, {"base": base}), seed=7, quick=True)
    found = measure_judged_scores(subject)
    assert found.values == pytest.approx(
        {
            "metagradient-near-ceiling": 0.9 - 0.8 * 0.5,  # ranks 1 2 3 with 1 3 2
            "update-over-gradient": 0.2,
            "update-over-loss-and-length": 0.1,
        }
    )
    assert set(found.values) == {claim.name for claim in FAMILY.claims}
    assert asked == {"subsets": 8, "repeats": 3, "seed": 7, "scores": "scores"}
    assert found.tables["draws"][0]["draws_agree"] == pytest.approx(0.5)


def test_values_are_weighed_by_how_much_oftener_the_teacher_writes_them():
    rows = Prompts.from_pairs([("a", "1, 2"), ("b", "2, 3")])
    neutral = Prompts.from_pairs([("a", "1, 1"), ("b", "4")])
    one, two, three = np.log([1.5 / 2.5, 2.5 / 0.5, 1.5 / 0.5])
    assert value_ratios(rows, neutral) == pytest.approx([one + two, two + three])
