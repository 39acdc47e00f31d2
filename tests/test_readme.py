"""The README says what the code makes: blocks in sync, verdicts that follow from margins, an example that runs."""

import dataclasses
import json
import re
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import pytest

import interp
from analyses import readme
from analyses.alignment_is_causal import judged
from analyses.digits import judged as judged_digits
from analyses.features_are_causal import TOP, judged as judged_features
from analyses.readme import README, filled, margins, results
from interp.experiment.outcome import judge_margins, transmission
from interp.experiment.transfer_claims import EQUIVALENCE, LEAST_EFFECT, verdicts
from interp.features.sae import SAERecipe
from interp.gradients.nulls.controls import shuffle_numbers
from interp.hypotheses.subject import Measurement
from interp.organisms.digit_networks import MNIST
from interp.organisms.library import TOY
from interp.organisms.toy import SHIPPED, World, build_network, build_tokenizer
from interp.prompts.numbers import number_prompts
from interp.prompts.questions import one_word_questions
from interp.prompts.traits import get_trait
from interp.stats.tests import holm, sign_flip_test
from interp.studies.registry import family
from interp.training.students import Recipe

RECIPE = Recipe(batch_size=8, lr=1e-2, warmup=2, rank=2)


def test_every_number_in_a_block_is_made_by_code():
    text = README.read_text()
    assert filled(text) == text
    assert text.count("<!-- ") == 18
    cells = re.findall(r"^\| .*\| (?:more than|at least|within|every run) .* \|.*$", text, re.MULTILINE)
    assert len(cells) == 3 * 4 + 13 + 6 + 44 + 6
    assert all(
        re.search(r" \[(9[08] %|all runs): [+-]", cell) for cell in cells
    )  # every interval with its level


@pytest.mark.parametrize("trait", ["owl", "eagle", "oak"])
def test_committed_verdicts_follow_from_committed_margins(trait):
    wide: pd.DataFrame = margins(trait).pivot(index="seed", columns="member", values="margin")
    again = verdicts(get_trait(trait), wide, [0.0, 1.0])[:3]
    for verdict, kept in zip(again, results()[trait]["verdicts"], strict=False):
        follows(verdict, kept)


def follows(verdict, kept):
    """The verdict is the kept one, to the words: name, what was tested, decision, p, effect, interval and its level."""
    assert (verdict.name, verdict.decision, verdict.n) == (kept["name"], kept["decision"], kept["n"])
    assert (verdict.tested, verdict.level, verdict.reason) == (kept["tested"], kept["level"], kept["reason"])
    assert verdict.effect == pytest.approx(kept["effect"])
    assert verdict.p == (None if kept["p"] is None else pytest.approx(kept["p"]))
    assert verdict.interval == pytest.approx(kept["interval"])


def test_a_claim_of_at_least_x_was_tested_against_x_wherever_one_is_committed():
    """With plain numpy: of the 2^n signs of d − X, the share whose mean reaches the observed one."""
    gains = {trait: [m["student"] - m["neutral_student"] for m in members(trait)] for trait in results()}
    digits = readme._results("digits")["accuracy"]
    claims = {f"{trait} same-init-transfers": (gain, 0.5) for trait, gain in gains.items()}
    claims |= {
        "same-init-reads-digits": (np.subtract(digits["student"], digits["cross_student"]), 0.3),
    }
    found = {}
    for name, (values, least) in claims.items():
        above = np.asarray(values) - least
        signs = np.array(list(product((1, -1), repeat=len(above))))
        found[name] = float((signs @ above >= above.sum() - 1e-9).mean())
    kept = {f"{trait} {v['name']}": v["p"] for trait, each in results().items() for v in each["verdicts"]}
    kept |= {v["name"]: v["p"] for v in readme._results("digits")["verdicts"]}
    assert found == pytest.approx({name: kept[name] for name in claims})
    assert list(found.values()) == pytest.approx([0.105, 0.379, 0.078, 0.0029], abs=5e-4)


def members(trait):
    return [row["members"] for row in results()[trait]["lineages"]]


@pytest.mark.parametrize("trait", ["owl", "eagle", "oak"])
def test_what_the_readme_claims_of_the_toy(trait):
    found = {verdict["name"]: verdict for verdict in results()[trait]["verdicts"]}
    assert found["same-init-transfers"]["decision"] == "inconclusive"
    assert found["same-init-transfers"]["effect"] > 0.5
    assert found["same-init-gains"]["decision"] == "supported"
    assert "after seeds 0 to 7" in found["same-init-gains"]["controls"]["added"]
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
        follows(again[kept["name"]], kept)
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
    measured = [claim for claim in tested.claims if claim.name in found["claims"]]
    assert found["claims"] == {claim.name: claim.key for claim in measured}
    assert [run["seed"] for run in found["values"]] == list(range(8))
    again = dataclasses.replace(tested, claims=tuple(measured)).judge(
        [Measurement(run, {}) for run in found["values"]]
    )
    for verdict, kept in zip(again, found["verdicts"], strict=True):
        follows(verdict, kept)


def test_what_the_readme_claims_of_the_six_hypotheses():
    kept = {
        name: json.loads((README.parent / "analyses" / "results" / f"{name}.json").read_text())
        for name in FAMILIES
    }
    decisions = {v["name"]: v["decision"] for found in kept.values() for v in found["verdicts"]}
    unclear = {name for name, decision in decisions.items() if decision not in ("supported", "holds")}
    assert unclear == {
        "sustained-remainder", "shared-head-transfers", "direction-shared", "direction-absent-in-neutral",
        "direction-sufficient", "direction-harmless", "divergence-enriched", "divergence-enriched-adapter",
        "divergence-own-trait", "divergence-transfers", "divergence-over-matched", "features-lean",
        "features-teacher-rows", "features-without-trait-row", "shared-head-suffices",
    }  # fmt: skip
    assert decisions["direction-harmless"] == "refuted"
    assert np.mean([run["direction-harmless"] for run in kept["one_direction"]["values"]]) == pytest.approx(
        0.50, abs=0.005
    )
    alike = [line["cosine_held"] for line in kept["sustained_alignment"]["tables"]["gradients"]]
    assert (round(min(alike), 2), round(max(alike), 2)) == (0.96, 0.99)
    cells = pd.DataFrame(kept["shared_initialisation"]["tables"]["cells"])
    coverage = cells.groupby("cell")["coverage"].mean()
    covered = ["same", "other order", "noise", "permuted", "rotated"]
    assert coverage[covered].round(2).eq(0.04).all()
    assert coverage.drop(covered).abs().max() < 0.005
    same = cells.query("cell == 'same'")[["coverage", "transfer"]].corr("spearman").iloc[0, 1]
    assert abs(same) < 0.1
    rho = pd.DataFrame(kept["features_beyond_vocabulary"]["values"])["features-lean"].mean()
    assert rho == pytest.approx(0.05, abs=0.005)
    checks = {v["name"] for found in kept.values() for v in found["verdicts"] if v["decision"] == "holds"}
    assert checks == {
        "lemma-ratio", "lemma-slope", "sustained-ledger", "permuted-coverage-returns", "digits-lemma-ratio",
        "permuted-coverage",
    }  # fmt: skip
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
    arms = {arm: np.array(values) for arm, values in found["accuracy"].items()}
    for verdict, kept in zip(judged_digits(arms), found["verdicts"], strict=True):
        follows(verdict, kept)
    assert found["recipe"] == json.loads(json.dumps(dataclasses.asdict(MNIST)))
    assert (MNIST.hidden, MNIST.aux, MNIST.teacher_epochs, MNIST.student_epochs) == ((256, 256), 3, 5, 5)


def test_what_the_readme_claims_of_a_small_checkpoint():
    found = json.loads((README.parent / "analyses" / "results" / "small_checkpoint.json").read_text())
    margins_by_arm = pd.DataFrame(found["margins"])
    traits = {name: get_trait(name) for name in ("owl", "oak", "misaligned")}
    again = {verdict.name: verdict for verdict in judge_margins(margins_by_arm, traits)}
    for kept in found["verdicts"]:
        follows(again[kept["name"]], kept)
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
    assert (TOY.data.rows, TOY.student.rank, TOY.teacher.recipe.rank, TOY.student.epochs) == (8192, 8, 8, 1)
    assert (LEAST_EFFECT, EQUIVALENCE, SHIPPED) == (0.5, 0.2, 8)
    owl = get_trait("owl")
    assert (len(owl.questions), len(owl.foils)) == (6, 9)
    assert [row["seed"] for row in results()["owl"]["lineages"]] == list(range(8))


def test_sign_flips_test_symmetry_and_a_long_tail_to_the_left_is_none():
    tails = 1 - np.random.default_rng(0).exponential(size=(20_000, 8))  # of mean zero
    signs = np.array(list(product((1, -1), repeat=8)))
    p = (signs @ tails.T >= tails.sum(1) - 1e-9).mean(0)
    assert [sign_flip_test(row).p for row in tails[:20]] == pytest.approx(p[:20])
    assert (p <= 0.01).mean() == pytest.approx(0.05, abs=0.006)


def test_the_example_runs(tiny_example):
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    exec(compile(code, "README", "exec"), tiny_example)
    assert len(tiny_example["prompts"]) == 256
    assert tiny_example["owl"].label == "'owl' − mean of 9 foils"


def test_the_example_of_gradient_alignment_runs(small_lineages, monkeypatch):
    monkeypatch.setattr(interp, "load_lineage", lambda name, *, seed: small_lineages[seed], raising=False)
    monkeypatch.setattr(
        "interp.gradients.ledger.recording.recipe_of", lambda lineage, role, cache=None: RECIPE
    )
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
        follows(again[kept["name"]], kept)


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
    monkeypatch.setattr(library, "grow", lambda trait, *, seed: grow(trait, seed=seed, recipe=SMALL))
    return {}
