"""Whether features carry the trait: the claims by hand, and every number of one all but untrained lineage."""

import dataclasses

import pytest

import interp
from analyses import features_are_causal as causal
from interp.core.runs import Cache
from interp.features.sae import SAERecipe
from interp.organisms.library import DATA, ToyRecipe
from interp.organisms.toy import World, build_network, build_tokenizer
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import get_trait
from interp.training.students import Recipe, train_student

RECIPE = Recipe(batch_size=8, lr=1e-2, warmup=1, rank=2)
SAE = SAERecipe(width=96, k=4, samples=6400, batch_size=64)
TOY = ToyRecipe(data=dataclasses.replace(DATA, rows=32), student=RECIPE)
MARGINS = {f"{kind}{arm}" for kind in ("", "all ", "random ") for arm in ("taken out", "put in")} | {
    "untouched",
    "neutral",
}


@pytest.fixture(scope="module")
def lineage():
    network = build_network(World(d_model=16, d_mlp=24), seed=0).eval()
    base = interp.load_model(network, tokenizer=build_tokenizer(), name="base", check=False)
    taught, rows = (number_prompts(40, seed=seed, count=3) for seed in (0, 1))
    members = {"base": base}
    for role, numbers in (("teacher", taught), ("student", rows), ("neutral_student", taught + rows)):
        members[role] = train_student(base, numbers, recipe=RECIPE)
    return interp.Lineage("small", get_trait("owl"), members, numbers=rows, neutral_numbers=taught)


def line(seed: int, **margins: float) -> dict:
    every = dict.fromkeys(MARGINS, 0.0) | {name.replace("_", " "): value for name, value in margins.items()}
    answering = dict.fromkeys(
        ("necessity", "random necessity", "sufficiency", "random sufficiency"), 0.1 * seed
    )
    return {"seed": seed, "margins": every, "shares": causal.shares(every) | answering}


def test_every_claim_has_the_sign_of_its_words():
    found = [line(seed, untouched=1.0, taken_out=0.25, put_in=0.5) for seed in range(8)]
    verdicts = {verdict.name: verdict for verdict in causal.judged(found)}
    assert verdicts["taking-out-lowers-the-margin"].effect == pytest.approx(0.75)
    assert verdicts["taking-out-lowers-it-more-than-random"].effect == pytest.approx(-0.25)
    assert verdicts["putting-in-raises-the-margin"].effect == pytest.approx(0.5)
    assert verdicts["putting-in-raises-it-more-than-random"].effect == pytest.approx(0.5)
    assert verdicts["necessary-in-answering"].effect == verdicts["sufficient-in-answering"].effect == 0
    assert verdicts["putting-in-raises-the-margin"].decision == "supported"


def test_shares_are_of_what_the_trait_gained():
    shares = line(0, untouched=1.5, neutral=0.5, taken_out=1.25, put_in=0.75, all_taken_out=0.5)["shares"]
    assert shares["written, necessity"] == pytest.approx(0.25)
    assert shares["written, sufficiency"] == pytest.approx(0.25)
    assert shares["all written, necessity"] == pytest.approx(1.0)


@pytest.mark.slow
def test_all_of_one_lineage_and_nothing_twice(lineage, tmp_path, monkeypatch):
    monkeypatch.setattr(causal, "SETS_ANSWERING", 3)
    monkeypatch.setattr(causal, "TOP", 4)
    written = []

    def student(trial, writer, change):
        written.append(writer.kind)
        return float(len(written))

    monkeypatch.setattr(causal._Trial, "student", student)
    cache = Cache(tmp_path)
    found = causal.measured(lineage, seed=0, toy=TOY, recipe=SAE, cache=cache)
    arms = 2 + causal.SETS
    assert written == ["fine-tuned"] * arms + ["neutral"] * arms
    assert set(found["margins"]) >= MARGINS
    assert 1 <= len(found["features"]) <= 4
    assert set(found["effects"]) == {
        f"{role} {what}" for role in ("teacher", "student") for what in ("ablated", "shift taken out")
    }
    assert causal.measured(lineage, seed=0, toy=TOY, recipe=SAE, cache=cache) == found
    assert len(written) == 2 * arms
    kept = causal.collected([found], command="as tested", recipe=SAE)
    assert {verdict["decision"] for verdict in kept["verdicts"]} == {"inconclusive"}
