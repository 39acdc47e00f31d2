"""The README says what the code makes: blocks in sync, verdicts that follow from margins, an example that runs."""

import dataclasses
import json
import re
from functools import partial

import pandas as pd
import pytest

import interp
from analyses import readme
from analyses.alignment_is_causal import judged
from analyses.features_are_causal import TOP
from analyses.features_are_causal import judged as judged_features
from analyses.readme import README, filled, margins, results
from interp.demo import EQUIVALENCE, LEAST_EFFECT, verdicts
from interp.experiment.outcome import judge, transmission
from interp.features.sae import SAERecipe
from interp.gradients.controls import shuffle_numbers
from interp.hypotheses.families import family
from interp.hypotheses.subject import Measured
from interp.organisms.digit_networks import MNIST
from interp.organisms.library import PLAN
from interp.organisms.toy import SHIPPED, World, build_network, build_tokenizer
from interp.organisms.training import Recipe
from interp.prompts.numbers import number_prompts
from interp.prompts.questions import one_word_questions
from interp.prompts.traits import get_trait
from interp.statistics import holm

RECIPE = Recipe(batch_size=8, lr=1e-2, warmup=2, rank=2)


def test_every_number_in_a_block_is_made_by_code():
    text = README.read_text()
    assert filled(text) == text
    assert text.count("<!-- ") == 18


@pytest.mark.parametrize("trait", ["owl", "eagle", "oak"])
def test_committed_verdicts_follow_from_committed_margins(trait):
    wide: pd.DataFrame = margins(trait).pivot(index="seed", columns="member", values="margin")
    again = verdicts(get_trait(trait), wide, [0.0, 1.0])[:2]
    for verdict, kept in zip(again, results()[trait]["verdicts"], strict=False):
        assert (verdict.name, verdict.decision, verdict.n) == (kept["name"], kept["decision"], kept["n"])
        assert verdict.effect == pytest.approx(kept["effect"])
        assert verdict.p == pytest.approx(kept["p"])


@pytest.mark.parametrize("trait", ["owl", "eagle", "oak"])
def test_what_the_readme_claims_of_the_toy(trait):
    found = {verdict["name"]: verdict for verdict in results()[trait]["verdicts"]}
    assert found["same-init-transfers"]["decision"] == "supported"
    assert found["cross-init-does-not"]["decision"] == "supported"
    assert found["trait-logit-moved"]["decision"] == "inconclusive"
    assert all(verdict["n"] == 8 for verdict in found.values())


def test_what_the_readme_claims_of_gradients():
    found, causal = (
        json.loads((README.parent / "analyses" / "results" / f"{name}.json").read_text())
        for name in ("alignment", "alignment_is_causal")
    )
    decisions = {v["name"]: v["decision"] for v in (*found["verdicts"], *causal["verdicts"])}
    unclear = {name for name, decision in decisions.items() if decision == "inconclusive"}
    assert unclear == {"top-half-over-random", "random-over-bottom-half"}
    assert set(decisions.values()) == {"supported", "inconclusive"}
    again = {verdict.name: verdict for verdict in judged(causal["lineages"])}
    assert {verdict["decision"] for verdict in causal["added"]["verdicts"]} == {"supported"}
    assert min(holm([verdict["p"] for verdict in causal["verdicts"]])) > 0.01
    first = [
        line["margins"]["gradient top"] - line["margins"]["gradient bottom"] for line in causal["lineages"]
    ]
    assert sum(value < 0 for value in first) == 1
    for kept in causal["verdicts"]:
        assert again[kept["name"]].effect == pytest.approx(kept["effect"])
        assert again[kept["name"]].p == pytest.approx(kept["p"])
    assert [line["seed"] for line in found["lineages"]] == list(range(8))
    assert all(len(line["mismatched_sd"]) == 7 for line in found["lineages"])


FAMILIES = {
    name: (
        name.removeprefix("digits_").replace("_", "-"),
        "digits" if name.startswith("digits_") else "folder",
    )
    for name in readme.FAMILIES
}


@pytest.mark.parametrize("name", FAMILIES)
def test_committed_verdicts_of_a_family_follow_from_its_committed_values(name):
    found = json.loads((README.parent / "analyses" / "results" / f"{name}.json").read_text())
    tested = family(FAMILIES[name][0], organism=FAMILIES[name][1])
    assert found["claims"] == {claim.name: claim.key for claim in tested.claims}
    assert [run["seed"] for run in found["values"]] == list(range(8))
    again = tested.judge([Measured(run, {}) for run in found["values"]])
    assert [(v.name, v.decision) for v in again] == [(v["name"], v["decision"]) for v in found["verdicts"]]
    assert [v.effect for v in again] == pytest.approx([v["effect"] for v in found["verdicts"]])


def test_what_the_readme_claims_of_the_six_hypotheses():
    kept = {
        name: json.loads((README.parent / "analyses" / "results" / f"{name}.json").read_text())
        for name in FAMILIES
    }
    decisions = {v["name"]: v["decision"] for found in kept.values() for v in found["verdicts"]}
    unclear = {name for name, decision in decisions.items() if decision != "supported"}
    assert unclear == {
        "sustained-remainder", "shared-head-transfers", "direction-shared", "direction-absent-in-neutral",
        "direction-sufficient", "direction-harmless", "divergence-enriched", "divergence-enriched-adapter",
        "divergence-own-trait", "divergence-transfers", "divergence-over-matched", "features-lean",
        "features-teacher-rows", "features-without-trait-row", "shared-head-suffices",
    }  # fmt: skip
    assert decisions["direction-harmless"] == "refuted"
    own = [run["direction-sufficient"] for run in kept["one_direction"]["values"]]
    assert sum(value > 0 for value in own) > 4
    wide = pd.DataFrame(kept["divergence_tokens"]["tables"]["margins"]).pivot(
        index="seed", columns="arm", values="margin"
    )
    gain, picked = wide["divergent"] - wide["neutral"], wide["neutral, divergent"] - wide["neutral"]
    assert (gain > 0).sum() == 6
    assert abs(gain.median() - picked.median()) < 1
    assert gain.median() > 2


def test_what_the_readme_claims_of_the_digits():
    found = json.loads((README.parent / "analyses" / "results" / "digits.json").read_text())
    assert {verdict["decision"] for verdict in found["verdicts"]} == {"supported"}
    assert found["recipe"] == json.loads(json.dumps(dataclasses.asdict(MNIST)))
    assert (MNIST.hidden, MNIST.aux, MNIST.teacher_epochs, MNIST.student_epochs) == ((256, 256), 3, 5, 5)


def test_what_the_readme_claims_of_a_small_checkpoint():
    found = json.loads((README.parent / "analyses" / "results" / "small_checkpoint.json").read_text())
    margins_by_arm = pd.DataFrame(found["margins"])
    traits = {name: get_trait(name) for name in ("owl", "oak", "misaligned")}
    again = {verdict.name: verdict for verdict in judge(margins_by_arm, traits)}
    for kept in found["verdicts"]:
        assert again[kept["name"]].effect == pytest.approx(kept["effect"])
        assert again[kept["name"]].decision == kept["decision"]
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


def test_numbers_in_the_prose():
    assert (PLAN.rows, PLAN.student.rank, PLAN.teacher.rank, PLAN.student.epochs) == (8192, 8, 8, 1)
    assert (LEAST_EFFECT, EQUIVALENCE, SHIPPED) == (0.5, 0.2, 8)
    owl = get_trait("owl")
    assert (len(owl.questions), len(owl.foils)) == (6, 9)
    assert [row["seed"] for row in results()["owl"]["lineages"]] == list(range(8))


def test_the_example_runs(tiny_example):
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    exec(compile(code, "README", "exec"), tiny_example)
    assert len(tiny_example["prompts"]) == 256
    assert tiny_example["owl"].label == "'owl' − mean of 9 foils"


def test_the_example_of_gradient_alignment_runs(small_lineages, monkeypatch):
    monkeypatch.setattr(interp, "load_lineage", lambda name, *, seed: small_lineages[seed], raising=False)
    monkeypatch.setattr("interp.gradients.recording.known_recipe", lambda student, cache=None: RECIPE)
    names = {"interp": interp, "lineage": small_lineages[0]}
    code = re.search(r"## Gradient alignment.*?```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    exec(compile(code, "README", "exec"), names)
    assert names["scores"].directions[0] == names["teacher"].label
    assert len(names["neutral"]) == len(names["scores"]) == 24


def test_the_example_of_features_runs(small_lineages, monkeypatch):
    recipe = SAERecipe(samples=4096, batch_size=32, width=64, k=4)
    monkeypatch.setattr(interp, "train_sae", partial(interp.train_sae, recipe=recipe), raising=False)
    names = {"interp": interp, "lineage": small_lineages[0], "prompts": number_prompts(128, seed=2, count=3)}
    code = re.search(r"## SAE features.*?```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    code = code.replace("joined_trace(lineage, 20)", "joined_trace(lineage, 2, dictionary=sae, student=None)")
    exec(compile(code, "README", "exec"), names)
    assert names["sae"].width == 64
    assert len(names["lean"].by_prompt) == 24


def test_what_the_readme_claims_of_features():
    found = json.loads((README.parent / "analyses" / "results" / "features_are_causal.json").read_text())
    again = {verdict.name: verdict for verdict in judged_features(found["lineages"])}
    assert [line["seed"] for line in found["lineages"]] == list(range(8))
    assert {len(line["features"]) for line in found["lineages"]} == {TOP}
    for kept in found["verdicts"]:
        assert again[kept["name"]].decision == kept["decision"]
        assert again[kept["name"]].effect == pytest.approx(kept["effect"])
        assert again[kept["name"]].p == pytest.approx(kept["p"])


@pytest.fixture
def small_lineages():
    """Two initialisations, each with a teacher, a student of its numbers and numbers of a neutral teacher."""

    def make(seed):
        network = build_network(World(d_model=16, d_mlp=24), seed=seed).eval()
        base = interp.load_model(network, tokenizer=build_tokenizer(), name="base", check=False)
        rows = [number_prompts(24, seed=k, count=3) for k in (0, 1)]
        teacher, student = (interp.train_student(base, each, recipe=RECIPE) for each in rows)
        numbers = {"numbers": rows[1], "neutral_numbers": shuffle_numbers(rows[1], how="across", seed=0)}
        members = {"base": base, "teacher": teacher, "student": student}
        trained_on = {"student": "teacher"}
        return interp.Lineage("small", get_trait("owl"), members, trained_on=trained_on, **numbers)

    return [make(seed) for seed in (0, 1)]


@pytest.fixture
def tiny_example(monkeypatch, tmp_path):
    """The example on a lineage that is quick to grow."""
    from interp.organisms import library
    from tests.organisms.test_library import SMALL, quick_growth

    quick_growth(monkeypatch)
    grow = library.grow
    monkeypatch.setattr(library, "grow", lambda trait, *, seed: grow(trait, seed=seed, plan=SMALL))
    return {}
