"""The README says what the code makes: blocks in sync, verdicts that follow from values, examples that run."""

import json
import re
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import pytest

import interp
from analyses import performance_table, readme, toy_page
from analyses.readme import PAGE, README, filled
from analyses.results_page import by_trait, kept, transfers
from interp.experiment.transfer_claims import EQUIVALENCE, LEAST_EFFECT, verdicts
from interp.features.sae import SAERecipe
from interp.gradients.nulls.controls import shuffle_numbers
from interp.hypotheses.subject import Measurement
from interp.organisms.library import TOY
from interp.organisms.toy import SHIPPED, World, build_network, build_tokenizer
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import get_trait
from interp.stats.tests import sign_flip_test
from interp.studies.inherited_trace import trace_values
from interp.studies.judged_peers import ADAM
from interp.studies.registry import family
from interp.training.students import Recipe

METHODS = README.parent / "docs" / "methods.md"
RECIPE = Recipe(batch_size=8, lr=1e-2, warmup=2, rank=2)


@pytest.mark.parametrize(
    ("path", "made"),
    [(README, readme.readme_blocks), (PAGE, readme.results_blocks)],
    ids=["README", "results"],
)
def test_every_number_in_a_block_is_made_by_code(path, made):
    text, blocks = path.read_text(), made()
    assert filled(text, blocks) == text
    assert re.findall(r"<!-- (\w+) -->", text) == list(blocks)
    assert text.count("<!-- ") == 2 * len(blocks)
    cells = re.findall(r"^\| .*\| (?:more than|at least|within|every run) .* \|.*$", text, re.MULTILINE)
    assert len(cells) >= {README: 0, PAGE: 3 * 4 + 44 + 13 + 6 + 6}[path]
    assert all(
        re.search(r" \[(9[08] %|all runs): [+−]", cell) for cell in cells
    )  # every interval with its level


@pytest.mark.parametrize("trait", ["owl", "eagle", "oak"])
def test_committed_verdicts_follow_from_committed_margins(trait):
    wide = pd.DataFrame(members(trait))
    again = verdicts(get_trait(trait), wide, [0.0, 1.0])[:3]
    for verdict, old in zip(again, transfers()[trait]["verdicts"], strict=False):
        follows(verdict, old)


def follows(verdict, kept):
    """The verdict is the kept one, to the words: name, what was tested, decision, p, effect, interval and its level."""
    assert (verdict.name, verdict.decision, verdict.n) == (kept["name"], kept["decision"], kept["n"])
    assert (verdict.tested, verdict.level, verdict.reason) == (kept["tested"], kept["level"], kept["reason"])
    assert verdict.effect == pytest.approx(kept["effect"])
    assert verdict.p == (None if kept["p"] is None else pytest.approx(kept["p"]))
    assert verdict.interval == pytest.approx(kept["interval"])


def test_a_claim_of_at_least_x_was_tested_against_x_wherever_one_is_committed():
    """With plain numpy: of the 2^n signs of d − X, the share whose mean reaches the observed one."""
    gains = {trait: [m["student"] - m["neutral_student"] for m in members(trait)] for trait in transfers()}
    digits = kept("digits")["accuracy"]
    claims = {f"{trait} same-init-transfers": (gain, 0.5) for trait, gain in gains.items()}
    claims |= {
        "same-init-reads-digits": (np.subtract(digits["student"], digits["cross_student"]), 0.3),
    }
    found = {}
    for name, (values, least) in claims.items():
        above = np.asarray(values) - least
        signs = np.array(list(product((1, -1), repeat=len(above))))
        found[name] = float((signs @ above >= above.sum() - 1e-9).mean())
    told = {f"{trait} {v['name']}": v["p"] for trait, each in transfers().items() for v in each["verdicts"]}
    told |= {v["name"]: v["p"] for v in kept("digits")["verdicts"]}
    assert found == pytest.approx({name: told[name] for name in claims})
    assert list(found.values()) == pytest.approx([0.5312, 0.75, 0.1445, 0.0029], abs=5e-4)


def members(trait):
    return [row["members"] for row in transfers()[trait]["lineages"]]


@pytest.mark.parametrize(("trait", "effect"), [("owl", 0.49), ("eagle", 0.41), ("oak", 0.76)])
def test_what_the_readme_claims_of_the_toy(trait, effect):
    found = {verdict["name"]: verdict for verdict in transfers()[trait]["verdicts"]}
    assert found["same-init-transfers"]["decision"] == "inconclusive"
    assert found["same-init-transfers"]["effect"] == pytest.approx(effect, abs=0.005)
    assert found["same-init-gains"]["decision"] == "supported"
    assert "after seeds 0 to 7" in found["same-init-gains"]["controls"]["added"]
    assert found["cross-init-does-not"]["decision"] == "supported"
    assert found["trait-logit-moved"]["decision"] == "inconclusive"
    assert all(verdict["n"] == 8 for verdict in found.values())


def test_what_the_readme_claims_of_the_dose():
    doses = pd.DataFrame(by_trait("dose")["owl"]["tables"]["doses"])
    means = doses.groupby("rows")[["transfer", "agreement"]].mean()
    assert means.index.tolist() == [2**k for k in range(9, 16)]
    assert means["agreement"].iloc[0] > 0.5
    assert means["transfer"].iloc[0] < 0.05
    assert means["transfer"].iloc[-1] > 1.5 * means["transfer"].iloc[-2]


FAMILIES = {
    f"{name} {trait}": (name, found)
    for name in ("inherited_trace", "student_arms", "dose")
    for trait, found in by_trait(name).items()
}


@pytest.mark.parametrize("case", FAMILIES)
def test_committed_verdicts_on_fresh_seeds_follow_from_committed_values(case):
    name, found = FAMILIES[case]
    tested = family(name.replace("_", "-"))
    assert found["claims"] == {claim.name: claim.key for claim in tested.claims}
    assert [run["seed"] for run in found["values"]] == list(range(8, 16 if name == "dose" else 20))
    for verdict, old in zip(
        tested.judge([Measurement(run, {}) for run in found["values"]]), found["verdicts"], strict=True
    ):
        follows(verdict, old)


@pytest.mark.parametrize("case", [case for case in FAMILIES if case.startswith("inherited_trace")])
def test_committed_values_of_the_trace_follow_from_its_committed_tables(case):
    found = FAMILIES[case][1]
    for run in found["values"]:
        seen = {name: part[part["seed"] == run["seed"]] for name, part in toy_page.tables(found).items()}
        assert trace_values(seen) == pytest.approx({name: run[name] for name in toy_page.TRACED})


def hand_made(shift=0.0):
    """Tables of two lineages whose means are seen at once; `shift` is added to what is the student's own."""
    agreed = [
        {"of": of, "place": place, "words": words, "site": of, "member": member, "against": other, "r": r, "cosine": r}
        for of, place, words, _ in toy_page.AGREED.values()
        for member, other, r in (
            ("student", "teacher", 0.8 + shift),
            ("neutral_student", "teacher", 0.3),
            ("cross_student", "teacher", -0.2),
            ("student less control_student", "teacher less control_teacher", 0.7),
            ("student", "teacher_eagle", 0.4),
        )
    ]  # fmt: skip
    parts = {"MLP 0": (3.0, 3.0, 0.0, 4.0), "attention 1": (4.0, 4.0, 1.0, -3.0)}
    members = ("teacher", "student", "neutral_student", "cross_student")
    gains = {
        "student": [0.5],
        "neutral_student": [0.1],
        "cross_student": [0.0],
        "other teacher": [-0.1],
        "random": [0.0, 0.2],
    }
    words = {"owl": (0.5, 0.1, 0.0), "cat": (0.2, 0.9, 0.9), "dog": (0.1, 0.9, 0.9)}
    who = ("student", "neutral_student", "cross_student")
    leans = {
        ("base", "owl"): 0.2,
        ("base", "eagle"): 0.05,
        ("cross_base", "owl"): 0.01,
        ("cross_base", "eagle"): 9.0,
    }
    rho = {
        "student with its teacher": 0.4,
        "neutral student with the teacher": 0.1,
        "student with teacher_eagle": 0.2,
    }
    made = {
        "agreement": agreed,
        "components": [
            {"component": part, "member": member, "contribution": value}
            for part, values in parts.items()
            for member, value in zip(members, values, strict=True)
        ],
        "directions": [
            {"direction": name, "gain": gain} for name, each in gains.items() for gain in each
        ],
        "representations": [
            {"source": source, "candidate": word, "member": member, "cosine": value}
            for source in ("system line", "candidate teacher")
            for word, values in words.items()
            for member, value in zip(who, values, strict=True)
        ],
        "leans": [{"start": start, "direction": word, "d": d} for (start, word), d in leans.items()],
        "features": [
            {"place": place, "pairing": pairing, "rho": value + (place != "end")}
            for place in ("end", "slot")
            for pairing, value in rho.items()
        ],
    }  # fmt: skip
    return {
        name: [{"seed": seed, **line} for seed in (8, 9) for line in lines] for name, lines in made.items()
    }


def test_what_a_claim_is_made_of_is_the_mean_over_lineages():
    values = toy_page.traced(toy_page.tables({"tables": hand_made()}))
    four = {"own": 0.8, "lowest": 0.8, "other trait": 0.4, "neutral": 0.3, "other start": -0.2}
    assert list(values) == list(toy_page.TRACED)
    for claim in toy_page.AGREED:
        assert values[claim] == pytest.approx(four)
    cosines = {"own": 1.0, "neutral": 4 / 5, "other start": 0.0}  # (3, 4) with (3, 4), (0, 1) and (4, −3)
    assert values["component-shared"] == pytest.approx(cosines)
    assert values["component-leads"] == {"attention 1": 4.0, "MLP 0": 3.0}
    assert values["slot-direction-sufficient"] == pytest.approx(
        {"own": 0.5, "other trait": -0.1, "neutral": 0.1, "other start": 0.0, "random": 0.1}
    )
    named = {"own": 0.5, "nearest other candidate": 0.2, "neutral": 0.1, "other start": 0.0}
    assert values["representation-named-by-base"] == pytest.approx(named)
    assert values["rows-lean-to-representation"] == pytest.approx(
        {"own": 0.2, "other trait": 0.05, "other start": 0.01}
    )
    assert values["features-shared"] == pytest.approx({"own": 0.4, "other trait": 0.2, "neutral": 0.1})


def test_the_headline_says_decisions_and_what_did_not_show(monkeypatch):
    tested = family("inherited-trace")
    found = {}
    for trait, values in (("owl", 12 * [0.5]), ("oak", 8 * [0.5] + 4 * [-0.5])):
        runs = [
            Measurement({c.name: value if c.name == "component-shared" else 0.5 for c in tested.claims}, {})
            for value in values
        ]
        verdicts = [verdict.to_json() for verdict in tested.judge(runs)]
        found[trait] = {"verdicts": verdicts, "tables": hand_made(0.1 if trait == "oak" else 0.0)}
    monkeypatch.setattr(toy_page, "by_trait", lambda name: found)
    lines = toy_page.inherited().splitlines()
    assert lines[0].startswith("- **Which logits**: S and T correlate at .80 and .90 over words that")
    assert "logits-shared: supported for owl and oak (12 and 12 of 12 lineages)." in lines[0]
    assert lines[1].endswith(
        "part is attention 1 in 2 (owl), attention 1 in 2 (oak) of 2 lineages; in 2 of 2 initialisations one part "
        "leads for all 2 traits. "
        "component-shared: supported for owl (12 of 12 lineages); inconclusive for oak (8 of 12 lineages). "
        "component-leads: supported for owl and oak (12 and 12 of 12 lineages)."
    )
    assert lines[6:8] == ["| moved alike | owl | oak |", "|---|---|---|"]
    cell = lines[8].split(" | ")[1].split("<br>")
    assert cell[:2] == [
        "supported, p 0.0024",
        "+0.50 [98 %: +0.50, +0.50]",
    ]  # ten claims, the smallest p 2^-12 each
    assert cell[2] == "own .80; lowest .80; other trait .40; neutral .30; other start −.20"
    assert lines[-1].endswith("**What did not show**: component-shared (not for oak).")


def test_arms_stand_beside_agreement_and_contrast(monkeypatch):
    tested = family("student-arms")
    runs = [Measurement({claim.name: 0.5 for claim in tested.claims}, {})] * 12
    arms = [
        {"seed": seed, "arm": arm, "agreement": 0.5 + 0.1 * seed, "contrast": 2.0}
        for seed in (0, 1)
        for _, arm in toy_page.ARMS.values()
    ]
    verdicts = [verdict.to_json() for verdict in tested.judge(runs)]
    monkeypatch.setattr(
        toy_page, "by_trait", lambda name: {"owl": {"verdicts": verdicts, "tables": {"arms": arms}}}
    )
    lines = toy_page.arms().splitlines()
    assert lines[2] == (
        "| **adapter-transfers**<br>a LoRA adapter | supported, p 0.00024<br>+0.50 [98 %: +0.50, +0.50]<br>agreement "
        ".55; contrast 2.00 |"
    )
    assert set(toy_page.ARMS) == {claim.name for claim in tested.claims}
    assert lines[-1].endswith("**What did not show**: cross-student-transfers-nothing (no trait).")


def test_numbers_in_the_prose():
    assert (TOY.data.rows, TOY.student.rank, TOY.teacher.recipe.rank, TOY.student.epochs) == (8192, 8, 8, 1)
    assert (LEAST_EFFECT, EQUIVALENCE, SHIPPED) == (0.5, 0.2, 8)
    owl = get_trait("owl")
    assert (len(owl.questions), len(owl.foils)) == (6, 9)
    assert [row["seed"] for row in transfers()["owl"]["lineages"]] == list(range(8))


def test_sign_flips_test_symmetry_and_a_long_tail_to_the_left_is_none():
    tails = 1 - np.random.default_rng(0).exponential(size=(20_000, 8))  # of mean zero
    signs = np.array(list(product((1, -1), repeat=8)))
    p = (signs @ tails.T >= tails.sum(1) - 1e-9).mean(0)
    assert [sign_flip_test(row).p for row in tails[:20]] == pytest.approx(p[:20])
    assert (p <= 0.01).mean() == pytest.approx(0.05, abs=0.006)


def test_the_readme_is_short_and_its_pictures_are_there():
    text = README.read_text()
    assert len(text.splitlines()) <= 180
    pictures = re.findall(r"!\[.+\]\((.+?)\)", text)
    assert len(pictures) == 3
    assert all((README.parent / path).is_file() for path in pictures)


def test_what_the_picture_of_the_chat_model_says_follows_from_the_kept_values():
    found = kept("smollm2_inside")["student"]
    entries = pd.DataFrame(found["entries"])
    divergence = entries["probability"] * entries["delta"]
    assert entries["contribution"].is_monotonic_decreasing
    assert entries["token"].iloc[0] == "owl"
    assert divergence.iloc[0] == pytest.approx(
        entries["contribution"].iloc[0], rel=0.1
    )  # mean of p · Δ, not of each
    assert found["residual"] < 1e-4


def test_what_the_pages_say_of_the_cost_of_scores():
    measured = json.loads(performance_table.BENCHMARKS.read_text())
    ours = r"alignment-\d+m-(dense|rank8|linear|token|activation)\b.*|checkpoint-score-.*"
    ratios = [result["ratio"] for name, result in measured.items() if re.fullmatch(ours, name)]
    on_gpu = json.loads(performance_table.GPU.read_text())["results"]["1.5b"]["score-rank8"]["ratio"]
    assert len(ratios) == 5 + 9 + 2  # larger and smaller network, real checkpoint
    for page in (README, METHODS):
        text = " ".join(page.read_text().split())
        assert (
            f"{min(ratios):.2f} to {max(ratios):.2f} forward and backward passes; on a GPU, in fp32" in text
        )
        assert f"{on_gpu:.1f} training steps in bf16" in text


def test_the_methods_that_missed_the_criteria_are_named_beside_calibration():
    missed = {line["method"] for line in kept("planted")["methods"] if not line["passed"]}
    (line,) = (line for line in README.read_text().splitlines() if "docs/calibration.md" in line)
    assert set(re.findall(r"`(\w+)`", line)) == missed
    page = (README.parent / "docs" / "calibration.md").read_text()
    (said,) = re.findall(r"^.* missed it$", page, re.MULTILINE)
    assert set(re.findall(r"interp\.(\w+)\]", said)) == missed
    planted = {line["method"] for line in kept("planted")["methods"]}
    table = " ".join(line for line in page.splitlines() if line.startswith("| "))
    assert all(name in table for name in planted)


def test_methods_say_how_well_scores_predict_retrained_students():
    rho = pd.DataFrame(kept("judged_scores")["tables"]["scores"]).groupby("scores")["rho"].mean()
    text = " ".join(METHODS.read_text().split())
    toward, along = (f"{rho[name]:.2f}" for name in ("∇m", "teacher's update"))
    assert f"ρ = {toward} along the margin's gradient and {along} along the teacher's update" in text
    assert f"goes through the whole training, at {rho['metagradient']:.2f}" in text


def test_the_example_runs(tiny_example):
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    exec(compile(code, "README", "exec"), tiny_example)
    assert len(tiny_example["prompts"]) == 256
    assert tiny_example["owl"].label == "'owl' − mean of 9 foils"


def test_the_example_on_a_chat_model_runs(small_lineages, monkeypatch):
    small, given = small_lineages[0], {}
    neutral = interp.train_student(small.base, small.neutral_numbers, recipe=RECIPE)
    small = replace(small, members={**small.members, "neutral_student": neutral})

    def lineage(name, *, base):
        given[name] = base
        return small

    monkeypatch.setattr(interp, "load_lineage", lineage, raising=False)
    names = {}
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    exec(compile(code, "README", "exec"), names)
    assert given == {"smollm2/owl": "models/smollm2"}
    assert names["owl"].label == "'owl' − mean of 9 foils"
    assert len(names["questions"]) == len(small.trait.questions) == 6


def test_the_example_of_gradient_alignment_runs(small_lineages, monkeypatch):
    monkeypatch.setattr(interp, "load_lineage", lambda name, *, seed: small_lineages[seed], raising=False)
    monkeypatch.setattr(
        "interp.gradients.ledger.recording.recipe_of", lambda lineage, role, cache=None: RECIPE
    )
    names = {"interp": interp, "lineage": small_lineages[0]}
    code = re.search(r"## Gradient alignment.*?```python\n(.*?)```", METHODS.read_text(), re.DOTALL).group(1)
    exec(compile(code, "README", "exec"), names)
    assert names["scores"].directions[0] == names["teacher"].label
    assert len(names["neutral"]) == len(names["scores"]) == 24


@pytest.mark.slow
def test_the_example_of_features_runs(small_lineages, monkeypatch):
    recipe = SAERecipe(samples=4096, batch_size=32, width=64, k=4)
    monkeypatch.setattr(interp, "train_sae", partial(interp.train_sae, recipe=recipe), raising=False)
    names = {"interp": interp, "lineage": small_lineages[0], "prompts": number_prompts(128, seed=2, count=3)}
    code = re.search(r"## SAE features.*?```python\n(.*?)```", METHODS.read_text(), re.DOTALL).group(1)
    code = code.replace("joined_trace(lineage, 20)", "joined_trace(lineage, 2, dictionary=sae, student=None)")
    exec(compile(code, "README", "exec"), names)
    assert names["sae"].width == 64
    assert len(names["lean"].by_prompt) == 24


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


def test_docstrings_say_how_well_scores_predict_retrained_students():
    frame = pd.DataFrame(kept("judged_scores")["tables"]["scores"])
    rho = frame.groupby("scores")["rho"].mean()
    scored, booked = (" ".join(str(verb.__doc__).split()) for verb in (interp.score, interp.trait_ledger))
    toward, along = "∇m", "teacher's update"
    plain = (
        f"ρ = {rho[toward]:.2f} along the margin's gradient and {rho[along]:.2f} along the teacher's update"
    )
    toward, along = (f"{name}, adapter's metric" for name in (toward, along))
    assert f"{plain}, {rho[toward]:.2f} and {rho[along]:.2f} in the adapter's metric" in scored
    peers = pd.DataFrame(kept("judged_peers")["tables"]["scores"]).groupby("scores")["rho"].mean()
    assert f"the gradient at {peers[ADAM]:.2f} in that of the adapter's Adam" in scored
    assert all(f"`metagradient` at {rho['metagradient']:.2f}" in text for text in (scored, booked))
    assert f"row shares rank the students of random halves at ρ = {rho['ledger']:.2f}" in booked
