"""Whether alignment matters: from rows to figure on an all but untrained lineage, and the claims by hand."""

import pytest

import interp
from analyses import alignment_is_causal as causal
from interp.core.runs import Cache
from interp.organisms.toy import World, build_network, build_tokenizer
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import get_trait
from interp.training.students import Recipe, train_student

RECIPE = Recipe(batch_size=8, lr=1e-2, warmup=1, rank=2)
ARMS = {arm for pair in (causal.CLAIMS | causal.ADDED).values() for arm in pair}


@pytest.fixture(scope="module")
def lineage():
    network = build_network(World(d_model=16, d_mlp=24), seed=0).eval()
    base = interp.load_model(network, tokenizer=build_tokenizer(), name="base", check=False)
    taught, rows = (number_prompts(40, seed=seed, count=3) for seed in (0, 1))
    members = {"base": base, "teacher": train_student(base, taught, recipe=RECIPE)}
    return interp.Lineage("small", get_trait("owl"), members, numbers=rows, neutral_numbers=taught)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return Cache(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="module")
def results(lineage, cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERP_CACHE", str(cache.root))
        return causal.collected(*run(lineage, cache), recipe=RECIPE, command="as tested")


def run(lineage, cache):
    """What the analysis measures on one lineage, as the lists it keeps."""
    given = {"seed": 0, "recipe": RECIPE, "cache": cache}
    return [causal.measured(lineage, **given)], [causal.same_questions(lineage, **given)]


def by_hand(**changes):
    """Results of three lineages whose margins are 0 in every arm but those given."""
    margins = [dict.fromkeys(ARMS, 0.0) | {arm: v[k] for arm, v in changes.items()} for k in range(3)]
    lines = [{"seed": seed, "margins": each} for seed, each in enumerate(margins)]
    return causal.collected(lines, lines, recipe=RECIPE, command="by hand")


@pytest.mark.slow
def test_every_arm_is_trained_and_every_claim_judged(results):
    (line,), (more,) = results["lineages"], results["added"]["lineages"]
    assert set(line["margins"]) | set(more["margins"]) == ARMS
    assert [verdict["name"] for verdict in results["verdicts"]] == list(causal.CLAIMS)
    assert [verdict["name"] for verdict in results["added"]["verdicts"]] == list(causal.ADDED)
    assert {verdict["decision"] for verdict in results["verdicts"]} == {
        "inconclusive"
    }  # one lineage shows nothing
    assert results["recipe"]["rank"] == 2
    assert "torch" in results["versions"]


@pytest.mark.slow
def test_halves_are_balanced_and_the_random_ones_serve_both_scores(results):
    (line,) = results["lineages"]
    for balance in line["balance"].values():
        assert balance["score"] > 0
        assert balance["tokens"] == pytest.approx(0.0, abs=1e-12)
    assert line["margins"]["gradient random"] == line["margins"]["update random"]


@pytest.mark.slow
def test_the_added_placebo_is_yoked_to_the_same_removal(results):
    (line,), (more,) = results["lineages"], results["added"]["lineages"]
    assert more["margins"]["removed"] == line["margins"]["removed"]
    assert more["length"] > 0
    assert 0 < more["shortened"] <= 1
    assert -1 <= more["cosine"] <= 1


@pytest.mark.slow
def test_a_second_run_trains_nothing(lineage, results, cache, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(interp, "train_student", forbidden)
    assert run(lineage, cache) == (results["lineages"], results["added"]["lineages"])


def test_differences_have_the_sign_of_the_claim():
    found = by_hand(**{"gradient top": [1.0, 2.0, 3.0], "same-questions placebo": [-1.0, -1.0, -4.0]})
    effects = {v["name"]: v["effect"] for v in (*found["verdicts"], *found["added"]["verdicts"])}
    assert effects.pop("top-half-transfers-more") == effects.pop("top-half-over-random") == pytest.approx(2.0)
    assert effects.pop("removal-over-same-questions-placebo") == pytest.approx(-2.0)
    assert set(effects.values()) == {0.0}


def test_the_figure_shows_every_lineage_of_every_difference():
    found = by_hand(**{"gradient top": [1.0, 2.0, 3.0]})
    dots = causal.figure(found).data[::2]
    assert len(dots) == len(causal.CLAIMS | causal.ADDED)
    assert list(dots[0].y) == [1.0, 2.0, 3.0]
    assert list(dots[-1].y) == [0.0, 0.0, 0.0]
    low, high = found["verdicts"][0]["interval"]
    assert causal.figure(found).data[1].error_y.array[0] == pytest.approx((high - low) / 2)


def test_the_placebo_of_a_trait_asks_the_questions_of_the_trait():
    for trait in (get_trait("owl"), get_trait("eagle")):
        other = causal.sibling(trait)
        assert other.questions == trait.questions
        assert other.target != trait.target


@pytest.mark.slow
def test_a_quick_run_keeps_nothing(lineage, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(interp.organisms, "grow", lambda trait, *, seed, recipe: lineage)
    quick = causal.dataclasses.replace(interp.organisms.QUICK_TOY, student=RECIPE)
    monkeypatch.setattr(interp.organisms, "QUICK_TOY", quick)
    out = tmp_path / "results.json"
    monkeypatch.setattr("sys.argv", ["alignment_is_causal", "--quick", "--out", str(out)])
    caplog.set_level("INFO", logger=causal.log.name)
    causal.main()
    assert not out.exists()
    assert "removal-over-same-questions-placebo: inconclusive" in caplog.text
