"""docs/results.md says what the code makes: verdicts follow from committed values, prose from committed numbers."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from analyses import performance_table, results_page as page
from analyses.alignment_is_causal import judged
from analyses.digits import judged as judged_digits
from analyses.features_are_causal import TOP, judged as judged_features
from analyses.results_page import kept
from interp.experiment.outcome import judge_margins, transmission
from interp.hypotheses.subject import Measurement
from interp.organisms.digit_networks import MNIST
from interp.prompts.questions import one_word_questions
from interp.prompts.traits import get_trait
from interp.stats.tests import holm
from interp.studies.registry import family
from tests.test_readme import follows

FAMILIES = {
    name: (
        name.removeprefix("digits_").replace("_", "-"),
        "digits" if name.startswith("digits_") else "folder",
    )
    for name in page.FAMILIES
}


def test_what_the_page_claims_of_gradients():
    found, causal = (kept(name) for name in ("alignment", "alignment_is_causal"))
    decisions = {v["name"]: v["decision"] for v in (*found["verdicts"], *causal["verdicts"])}
    unclear = {name for name, decision in decisions.items() if decision == "inconclusive"}
    assert unclear == {"top-half-transfers-more", "top-half-over-random", "random-over-bottom-half"}
    assert set(decisions.values()) == {"supported", "inconclusive", "holds"}
    assert decisions["alignment-own-update"] == "holds"
    again = {verdict.name: verdict for verdict in judged(causal["lineages"])}
    assert {verdict["decision"] for verdict in causal["added"]["verdicts"]} == {"supported"}
    assert min(holm([verdict["p"] for verdict in causal["verdicts"]])) > 0.01
    first = [
        line["margins"]["gradient top"] - line["margins"]["gradient bottom"] for line in causal["lineages"]
    ]
    assert sum(value < 0 for value in first) == 1
    for old in causal["verdicts"]:
        follows(again[old["name"]], old)
    assert [line["seed"] for line in found["lineages"]] == list(range(8))
    assert all(len(line["mismatched_sd"]) == 7 for line in found["lineages"])


@pytest.mark.parametrize("name", FAMILIES)
def test_committed_verdicts_of_a_family_follow_from_its_committed_values(name):
    found = kept(name)
    tested = family(FAMILIES[name][0], organism=FAMILIES[name][1])
    measured = [claim for claim in tested.claims if claim.name in found["claims"]]
    assert found["claims"] == {claim.name: claim.key for claim in measured}
    assert [run["seed"] for run in found["values"]] == list(range(8))
    again = dataclasses.replace(tested, claims=tuple(measured)).judge(
        [Measurement(run, {}) for run in found["values"]]
    )
    for verdict, old in zip(again, found["verdicts"], strict=True):
        follows(verdict, old)


def test_what_the_page_claims_of_the_six_hypotheses():
    every = {name: kept(name) for name in FAMILIES}
    decisions = {v["name"]: v["decision"] for found in every.values() for v in found["verdicts"]}
    unclear = {name for name, decision in decisions.items() if decision not in ("supported", "holds")}
    assert unclear == {
        "other-order-transfers", "shared-head-transfers", "direction-shared", "direction-absent-in-neutral",
        "direction-sufficient", "direction-harmless", "divergence-enriched",
        "divergence-own-trait", "divergence-over-matched", "features-lean",
        "features-teacher-rows", "features-without-trait-row", "shared-head-suffices",
    }  # fmt: skip
    assert decisions["direction-harmless"] == "refuted"
    assert np.mean([run["direction-harmless"] for run in every["one_direction"]["values"]]) == pytest.approx(
        0.54, abs=0.005
    )
    alike = [line["cosine_held"] for line in every["sustained_alignment"]["tables"]["gradients"]]
    assert (round(min(alike), 2), round(max(alike), 2)) == (0.96, 0.99)
    cells = pd.DataFrame(every["shared_initialisation"]["tables"]["cells"])
    coverage = cells.groupby("cell")["coverage"].mean()
    covered = ["same", "other order", "noise", "permuted", "rotated"]
    assert coverage[covered].round(2).eq(0.04).all()
    assert coverage.drop(covered).abs().max() < 0.005
    rho = pd.DataFrame(every["features_beyond_vocabulary"]["values"])["features-lean"].mean()
    assert rho == pytest.approx(0.05, abs=0.005)
    checks = {v["name"] for found in every.values() for v in found["verdicts"] if v["decision"] == "holds"}
    assert checks == {
        "lemma-ratio", "lemma-slope", "sustained-ledger", "permuted-coverage-returns", "digits-lemma-ratio",
        "permuted-coverage",
    }  # fmt: skip
    own = [run["direction-sufficient"] for run in every["one_direction"]["values"]]
    assert sum(value > 0 for value in own) > 4
    wide = pd.DataFrame(every["divergence_tokens"]["tables"]["margins"]).pivot(
        index="seed", columns="arm", values="margin"
    )
    gain, picked = wide["divergent"] - wide["neutral"], wide["neutral, divergent"] - wide["neutral"]
    assert (gain > 0).all()
    assert abs(gain.median() - picked.median()) < 1
    assert gain.median() > 2


def test_what_the_page_claims_of_the_digits():
    found = kept("digits")
    assert {verdict["decision"] for verdict in found["verdicts"]} == {"supported"}
    arms = {arm: np.array(values) for arm, values in found["accuracy"].items()}
    for verdict, old in zip(judged_digits(arms), found["verdicts"], strict=True):
        follows(verdict, old)
    assert found["recipe"] == json.loads(json.dumps(dataclasses.asdict(MNIST)))
    assert (MNIST.hidden, MNIST.aux, MNIST.teacher_epochs, MNIST.student_epochs) == ((256, 256), 3, 5, 5)


def test_what_the_page_claims_of_a_small_checkpoint():
    found = kept("small_checkpoint")
    margins_by_arm = pd.DataFrame(found["margins"])
    traits = {name: get_trait(name) for name in ("owl", "oak", "misaligned")}
    again = {verdict.name: verdict for verdict in judge_margins(margins_by_arm, traits)}
    for old in found["verdicts"]:
        follows(again[old["name"]], old)
    lines = transmission(margins_by_arm).frame
    for line in found["transmission"]:
        values = lines.query("trait == @line['trait'] and arm == @line['arm']")["transmission"].to_numpy()
        assert line["mean"] == pytest.approx(values.mean())
        assert len(values) == 3
        assert line["arm"] != "student" or min(values) > 0
    decisions = {verdict["name"].partition(": ")[2]: set() for verdict in found["verdicts"]}
    for verdict in found["verdicts"]:
        decisions[verdict["name"].partition(": ")[2]].add(verdict["decision"])
    assert decisions["cross-init-does-not"] == {"supported"}
    assert decisions["same-init-transfers"] == decisions["beats-other-trait"] == {"inconclusive"}
    for detectors in found["detectors"].values():
        area = {line["detector"]: line["auroc"] for line in detectors}
        assert max(area, key=lambda name: area[name]) == "gradient along the teacher's update"
        assert min(line["low"] for line in detectors if line["detector"] == "frequent values") > 0.5
    assert len(one_word_questions("animal")) == 52


def test_every_test_of_significance_holds_its_level():
    rows = json.loads((page.ROOT / "benchmarks" / "calibration.json").read_text())["rows"]
    assert {"cluster bootstrap, 80 clusters", "t interval, n = 8"} <= {row["test"] for row in rows}
    assert all(row["low"] <= 0.05 <= row["high"] for row in rows)


def test_what_the_page_claims_of_features():
    found = kept("features_are_causal")
    again = {verdict.name: verdict for verdict in judged_features(found["lineages"])}
    assert [line["seed"] for line in found["lineages"]] == list(range(8))
    assert {len(line["features"]) for line in found["lineages"]} == {TOP}
    for old in found["verdicts"]:
        follows(again[old["name"]], old)


def test_what_the_page_claims_of_a_shared_adapter_draw():
    """The eight values of every trait are those of the results it replaced; r by hand, from sums."""
    shared = kept("shared_adapter")
    means = {trait: np.mean(values) for trait, values in shared["transfer"].items()}
    assert means == pytest.approx({"owl": 0.73, "eagle": 0.56, "oak": 0.83}, abs=0.005)
    for trait, found in page.transfers().items():
        own = [row["members"]["student"] - row["members"]["neutral_student"] for row in found["lineages"]]
        gap = np.subtract(own, shared["transfer"][trait])
        half = 2.3646 * gap.std(ddof=1) / 8**0.5  # Student's t of 7 degrees of freedom at 95 %
        assert min(own) > 0
        assert -half < gap.mean() < 0
    logit = shared["trait logit at numbers"]
    x = np.array(logit["teacher"])
    for values, known in (
        (logit["student"], 0.99),
        (shared["claims"]["divergence-transfers"], 0.97),
        (shared["claims"]["direction-sufficient"], 0.76),
        (shared["transfer"]["owl"], 0.12),
    ):
        y = np.array(values)
        n = len(x)
        top = n * (x @ y) - x.sum() * y.sum()
        below = (n * (x @ x) - x.sum() ** 2) * (n * (y @ y) - y.sum() ** 2)
        assert top / below**0.5 == pytest.approx(known, abs=0.005)
        assert f"r {known:.2f}" in page.sign()
    assert (np.sign(logit["teacher"]) == np.sign(logit["student"])).all()


def test_the_ranks_of_the_starts(monkeypatch):
    """By hand: over four starts transfer falls as agreement does but for one exchange, 1 - 6 * 2 / (4 * 15) = 0.8."""
    lines = [
        {"seed": seed, "cell": cell, "transfer": t, "agreement": a, "coverage": -t}
        for seed in (0, 1)
        for cell, t, a in (("same", 4, 4), ("noise", 3, 2), ("rotated", 2, 3), ("foreign", 1, 1))
    ]
    cells = pd.DataFrame(lines)
    assert page.ranked(cells, "agreement") == pytest.approx([0.8, 0.8])
    assert page.ranked(cells, "coverage") == [-1.0, -1.0]
    monkeypatch.setattr(page, "kept", lambda name: {"tables": {"cells": lines}})
    told = page.starts()
    assert "| noise | +3.00 | 2.00 | -3.000 |" in told
    assert "agreement +0.80 [+0.80, +0.80] over all 4, +0.50 [+0.50, +0.50] among the 5" in told


def test_what_the_page_claims_of_the_starts():
    """Both rank the eight starts, and neither those of the base's function."""
    cells = pd.DataFrame(kept("shared_initialisation")["tables"]["cells"])
    alike = cells[cells["cell"].isin(page.SAME_FUNCTION)]
    for measure in ("agreement", "coverage"):
        assert np.mean(page.ranked(cells, measure)) > 0.3
        assert abs(np.mean(page.ranked(alike, measure))) < 0.2


def test_agreement_at_every_place(monkeypatch):
    """Means over two lineages of hand-made readings, of the last site alone."""
    lines = [
        {"seed": seed, "of": of, "place": "prompt end", "words": words, "site": site, "member": member}
        | {"against": against, "r": r + 0.1 * seed, "cosine": r - 0.1 * seed}
        for seed in (0, 1)
        for of, words, site in (
            ("logits", "unseen", "logits"),
            ("activations", "", "blocks.1.hook_resid_post"),
        )
        for member, against, r in (
            ("student", "teacher", 0.8),
            ("neutral_student", "teacher", 0.3),
            ("cross_student", "teacher", -0.2),
            ("student less control_student", "teacher less control_teacher", 0.7),
            ("student", "teacher_eagle", 0.4),
        )
    ]
    earlier = [{**line, "site": "blocks.0.hook_resid_post", "cosine": 9.0} for line in lines[5:10]]
    found = {"tables": {"agreement": earlier + lines}}
    monkeypatch.setattr(page, "by_trait", lambda name: {"owl": found})
    rows = page.agreement().splitlines()[2:]
    assert rows == [
        "| owl | prompt end | residual stream after the last layer, cosine | .75 | .65 | .35 | .25 | −.25 |",
        "| owl | prompt end | logits, unseen words, r | .85 | .75 | .45 | .35 | −.15 |",
    ]


def test_a_null_names_the_claim_that_asks_again(monkeypatch):
    again = [{"name": claim, "decision": "supported"} for claim in ("logits-shared", "activations-shared")]
    monkeypatch.setattr(page, "by_trait", lambda name: {"owl": {"verdicts": again}, "oak": {"verdicts": []}})
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in page.mended().splitlines()}
    assert lines["direction-shared"].split(" | ")[2] == "activations-shared"
    assert lines["direction-shared"].endswith("| owl supported |")
    traced = {claim.name for claim in family("inherited-trace").claims}
    assert {again for *_, again, _ in page.MENDED} <= traced


@pytest.mark.parametrize(
    ("value", "text"), [(0.876, ".88"), (-0.104, "−.10"), (1.2, "1.20"), (-0.001, ".00")]
)
def test_a_mean_beside_others_is_short(value, text):
    assert page.short(value) == text


def test_the_gpu_table_tells_what_was_timed_what_failed_and_what_was_not_measured(tmp_path, monkeypatch):
    step = {"seconds": 0.5, "peak": 26.78, "tokens": 4096}
    write = {"ratio": 4.0, "low": 3.0, "high": 12.5, "repetitions": 3, "seconds": 2.0, "peak": 3.2}
    found = {
        "model": {"seconds": 8.0, "parameters": 1_543_714_304},
        "seam": {"seconds": 5.0, "nats_apart": 0.121},
        "step": step,
        "write": {**write, "tokens_per_second": 512.0},
        "score-rank8": {"failed": "OutOfMemoryError: too large"},
    }
    kept = dict.fromkeys(("machine", "cuda", "torch", "transformers", "transformer-lens", "peft"), "X")
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({**kept, "results": {"1.5b": found}}))
    monkeypatch.setattr(performance_table, "GPU", path)
    lines = performance_table.gpu().splitlines()
    assert lines[2].startswith("| 1.5 B: 1.54 · 10⁹ random parameters, 4096 tokens | seconds | ratio |")
    assert lines[7].endswith("log-probabilities at most 0.12 nats apart | 5.00 | – | – | – |")
    assert lines[8].endswith("AdamW over all weights | 0.50 | – | – | 26.8 |")
    assert lines[9].endswith("(512 tokens per second) | 2.00 | 4.00 | 3.00 to 12.5, 3 repetitions | 3.2 |")
    assert lines[-4].endswith(" | – | – | not measured: OutOfMemoryError: too large | – |")
    assert lines[-3:] == [
        "| the same along one dense direction | – | – | not measured | – |",
        "",
        "Nothing was measured at 7 B.",
    ]
