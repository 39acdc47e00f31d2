"""The ceiling of a prediction: second students of its datasets, by another draw, and their correlations by hand."""

import dataclasses
import json

import pytest

import interp
from analyses import audit_draws as draws, audits
from analyses.audit_claims import PREDICTED


def test_a_second_student_is_another_draw_of_the_same_recipe(monkeypatch):
    """Every dataset's transfer is its own student's margin less its twin's, of which equal ones are trained once."""
    made = []

    def train_student(base, rows, *, recipe):
        made.append((base, rows))
        assert recipe == dataclasses.replace(interp.organisms.TOY.student, seed=500_001)
        return rows

    class Named:
        def __init__(self, fingerprint):
            self.fingerprint = fingerprint

    twin, base = Named("neutral"), Named("base")
    values = {"owl": {"neutral": 1.0}, "eagle": {"neutral": 2.0}, "oak": {"neutral": 3.0}}

    def changed(own):
        return {name: (base, Named(f"{own} {name}"), twin) for name in PREDICTED}

    monkeypatch.setattr(audits, "TRAINED", {})
    monkeypatch.setattr(draws, "changed", changed)
    monkeypatch.setattr(draws, "lineage", lambda trait, seed: f"{trait} {seed}")
    monkeypatch.setattr(interp, "train_student", train_student)
    monkeypatch.setattr(interp, "margin", lambda rows, trait: values[trait].get(rows.fingerprint, 5.0))
    found = draws.measure(8)["transfers"]
    assert found["owl"] == dict.fromkeys(PREDICTED, 4.0)
    assert found["oak"] == dict.fromkeys(PREDICTED, 2.0)
    assert len(made) == 3 * len(PREDICTED) + 1


def test_correlations_by_hand(monkeypatch, tmp_path):
    """Of four datasets: the second student turns two neighbours round, ρ = 1 − 6 · 2 / (4 · 15)."""
    names = PREDICTED[:4]
    parts = [
        {
            "seed": 8,
            "part": f"data owl {name}",
            "found": {"trait": "owl", "dataset": name, "gain": -float(k), "transfer": float(k)},
        }
        for k, name in enumerate(names)
    ]
    others = [
        {"seed": 8, "part": "data owl filtered", "found": {"trait": "owl", "dataset": "filtered"}},
        {"seed": 11, "part": "data owl all", "found": parts[0]["found"]},
    ]
    monkeypatch.setattr(draws, "RESULTS", tmp_path / "audits.json")
    draws.RESULTS.write_text(json.dumps({"parts": parts + others}))
    second = dict(zip(names, (0.0, 2.0, 1.0, 3.0), strict=True))
    found = draws.compared({"8": {"transfers": {"owl": second}}})
    assert found["students"] == pytest.approx(0.8)
    assert found["gain, first"] == pytest.approx(-1.0)
    assert found["gain, second"] == pytest.approx(-0.8)
    assert [line["second"] for line in found["datasets"]] == list(second.values())
    assert draws.correlations([])["students"] is None
