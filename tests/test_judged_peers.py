"""The analysis of peers keeps every seed, judges only when none is missing, and runs whole on a tiny lineage."""

from __future__ import annotations

import json
import math
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import interp
from analyses import judged_peers, retraining_page as page
from interp.figures import Result
from interp.gradients.directions import margin_objective
from interp.gradients.known_trainings import KnownTraining
from interp.measures.losses import student_loss
from interp.prompts import Prompts
from interp.studies import judged_peers as peers
from interp.training.students import Recipe, prepare, trained_parameters
from tests.gradients.test_judging import any_gain
from tests.gradients.test_metagradients import grown

needs_bergson = pytest.mark.skipif(find_spec("bergson") is None, reason="bergson is not installed")
WAYS = ("EK-FAC", "TrackStar", "∇m, adapter's metric", peers.ADAM)


def line(*rho):
    rho = (*rho, rho[2] + 0.01)
    frame = pd.DataFrame({"scores": WAYS, "rho": rho, "without_top": -0.5, "without_bottom": 0.25})
    values = {"ekfac-over-gradient": rho[0] - rho[2], "trackstar-above-zero": rho[1]}
    values["adam-over-plain-steps"] = rho[3] - rho[2]
    return {"scores": frame.to_dict("records"), "values": values}


def test_claims_are_judged_by_hand_when_no_seed_is_missing():
    by_seed = {str(seed): line(0.3 + 0.01 * seed, 0.01 * seed - 0.12, 0.2) for seed in judged_peers.SEEDS}
    found = judged_peers.judged(by_seed)
    assert [verdict["decision"] for verdict in found["verdicts"]] == [
        "supported",
        "inconclusive",
        "supported",
    ]
    assert found["verdicts"][0]["effect"] == pytest.approx(0.215)
    assert found["per lineage"]["trackstar-above-zero"][:2] == pytest.approx([-0.04, -0.03])
    some = judged_peers.judged({seed: by_seed[seed] for seed in ("8", "15")})
    assert (some["verdicts"], [each["seed"] for each in some["tables"]["scores"]]) == ([], [8] * 4 + [15] * 4)


def scored(base, rows, trait, *, method):
    frame = pd.DataFrame({"row": range(len(rows)), "score": [len(method) * i for i in range(len(rows))]})
    return Result("made up", frame, "nothing")


@pytest.fixture(scope="module")
def lineage():
    return grown(Recipe(batch_size=8, lr=3e-2, warmup=1, rank=2, epochs=2))


@pytest.fixture
def run(lineage, monkeypatch, tmp_path):
    """Runs the analysis with the tiny lineage for every seed; `influence` is made up where it is absent."""
    asked = []
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(interp, "load_lineage", lambda name, *, seed: asked.append((name, seed)) or lineage)
    monkeypatch.setattr(judged_peers.measure, "__kwdefaults__", {"subsets": 8, "workers": 1})

    def main(*seeds):
        monkeypatch.setattr(sys, "argv", ["", "--out", str(tmp_path / "peers.json"), "--seeds", *seeds])
        judged_peers.main()
        return json.loads((tmp_path / "peers.json").read_text()), asked

    return main


@pytest.mark.parametrize(
    "theirs", [pytest.param("made up", marks=pytest.mark.slow), pytest.param("bergson", marks=needs_bergson)]
)
def test_every_way_is_judged_on_a_tiny_lineage(run, lineage, monkeypatch, theirs):
    """Eight halves of 24 rows."""
    if theirs == "made up":
        monkeypatch.setattr(peers, "influence", scored)
    any_gain(monkeypatch)
    found, _ = run("8")
    scores = pd.DataFrame(found["tables"]["scores"]).set_index("scores")
    assert set(scores.index) == {"metagradient", "EK-FAC", "TrackStar", "BM25", peers.ADAM, *peers.OWN}
    assert scores["rho"].between(-1, 1).all()
    assert scores.loc["metagradient", "without_top"] < scores.loc["metagradient", "without_bottom"]
    gap = scores["rho"]["EK-FAC"] - scores["rho"]["∇m, adapter's metric"]
    assert found["per lineage"]["ekfac-over-gradient"] == pytest.approx([gap])
    assert (found["verdicts"], set(found["claims"])) == ([], set(judged_peers.CLAIMS))


def test_a_killed_run_goes_on_with_the_seeds_that_are_missing(run, monkeypatch):
    monkeypatch.setattr(peers, "influence", scored)
    monkeypatch.setattr(interp.gradients, "datamodeling_score", lambda *_, **given: judgement(given))
    first, _ = run("8")
    found, asked = run("8", "9")
    assert asked == [("toy/owl", 8), ("toy/owl", 9)]
    assert found["by seed"]["8"] == first["by seed"]["8"]
    assert found["per lineage"]["trackstar-above-zero"] == [0.8, 0.9]  # by the seed that draws the halves


def judgement(given):
    assert (given["subsets"], given["repeats"]) == (8, 0)
    frame = pd.DataFrame({"scores": WAYS, "rho": [0.5, given["seed"] / 10, 0.25, 0.25]})
    return SimpleNamespace(frame=frame)


def test_the_page_says_what_is_there(monkeypatch):
    found = judged_peers.judged({"8": line(0.3, 0.1, 0.2), "9": line(0.5, -0.1, 0.2)})
    monkeypatch.setattr(page, "kept", lambda name: found)
    told = page.peers().splitlines()
    assert told[2].startswith("| EK-FAC | bergson: factors, then 1 forward and backward | +0.40 [")
    ways = ["| ∇m, adapter's Adam", "| ∇m, adapter's metric", "| TrackStar"]
    assert [row.split(" | ")[0] for row in told[3:6]] == ways
    assert told[-1] == "2 of 8 lineages measured; the claims are judged when all are."
    monkeypatch.setattr(
        page,
        "kept",
        lambda name: judged_peers.judged({str(s): line(0.3, 0.1 * s, 0.2) for s in range(8, 16)}),
    )
    assert [row.split(" | ")[0] for row in page.peers().splitlines()[-3:]] == [
        f"| {name}" for name in judged_peers.CLAIMS
    ]
    monkeypatch.setattr(page, "kept", lambda name: judged_peers.judged({"9": line(0.5, -0.1, 0.2)}))
    assert page.peers().splitlines()[2].endswith(" | +0.50 | -0.50 | +0.25 |")


def test_bm25_by_hand():
    """Two rows of three words and one of six; "most" is asked twice and is in the third row alone, "we" in two."""
    rows = Prompts.from_pairs([("we have", "1"), ("we add", "2"), ("most of all the most", "3")])
    found = peers.bm25(rows, ["We most?", "most"])
    short, long = 0.25 + 0.75 * 3 / 4, 0.25 + 0.75 * 6 / 4
    we = math.log(1 + 1.5 / 2.5) * 2.5 / (1 + 1.5 * short)
    most = 2 * math.log(1 + 2.5 / 1.5) * 2 * 2.5 / (2 + 1.5 * long)
    assert found == pytest.approx([we, we, most])


def test_along_adam_is_the_change_of_margin_by_the_first_step_of_adam(lineage):
    """Summed over a single batch, v̂ = ḡ²: the derivative of the margin by B along the sign of the batch's gradient."""
    known = KnownTraining.of(lineage, "student", Recipe(batch_size=24, rank=2, lr=1e-2))
    ours = peers.along_adam(known).sum()
    torch.manual_seed(known.recipe.seed)
    network, _ = prepare(known.start, known.recipe)
    trained = trained_parameters(network)
    batch = next(known.inputs.batches(24))
    loss = student_loss("sampled", start=known.start, teacher=None)(network, batch)
    steps = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    value = margin_objective(known.start, known.trait)(network)
    slopes = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
    pairs = zip(trained, steps, slopes, strict=True)
    along = sum(float((g.sign() * -m).sum()) for name, g, m in pairs if "lora_B" in name)
    assert ours / int(known.inputs.at("answer+end").sum()) == pytest.approx(along, rel=2e-2)
