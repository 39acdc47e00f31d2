"""Features from files: a dictionary trained and read back, run folders that agree with the verbs, and bad input."""

import dataclasses
import json

import pandas as pd
import pytest
import torch

from interp.cli.feature_files import card_file, lean_files, shift_files, shift_summary, train_sae_file
from interp.core.runs import InputError, Run
from interp.features.cards import feature_card
from interp.features.examples import feature_examples
from interp.features.lean import feature_lean
from interp.features.quality import quality_card
from interp.features.sae import SAERecipe
from interp.features.sae_files import load_sae
from interp.features.shift import feature_shift
from interp.models.lineage import open_lineage
from interp.prompts.numbers import answer_positions, number_prompts
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait
from interp.report import write_report
from tests.tiny import build_model, build_tokenizer

HOOK = "blocks.0.hook_resid_post"
RECIPE = SAERecipe(width=48, k=6, samples=20_000, batch_size=256)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, a teacher and a student in folders, rows beside them, and a dictionary of the base."""
    folder = tmp_path_factory.mktemp("place")
    for name, amount in {"base": 0.0, "teacher": 0.3, "student": 0.05}.items():
        network = build_model("llama", seed=0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            weight = network.model.layers[0].mlp.down_proj.weight
            weight += amount * torch.randn(weight.shape, generator=generator)
        network.save_pretrained(folder / name)
        build_tokenizer().save_pretrained(folder / name)
    number_prompts(60, seed=0, count=3, max_value=39).to_jsonl(folder / "rows.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERP_CACHE", str(folder / "cache"))
        train_sae_file(
            str(folder / "base"), folder / "rows.jsonl", hook=HOOK, out=folder / "sae", recipe=RECIPE
        )
    return folder


def names(place, *members):
    return {name: str(place / name) for name in members}


def given(place):
    return [str(place / name) for name in ("base", "teacher", "sae")]


@pytest.fixture(scope="module")
def rows(place):
    return Prompts.from_jsonl(place / "rows.jsonl")


@pytest.fixture(scope="module")
def lineage(place):
    return open_lineage(**names(place, "base", "teacher", "student"))


@pytest.fixture(scope="module")
def dictionary(place, lineage):
    return load_sae(place / "sae", model=lineage.base)


def test_a_trained_dictionary_is_read_back(dictionary):
    assert (dictionary.width, dictionary.d_in, dictionary.hook) == (48, 32, HOOK)


def test_a_card_of_every_member(place, rows, lineage, dictionary, tmp_path):
    out = tmp_path / "card"
    card, run = card_file(
        str(place / "sae"),
        str(place / "base"),
        place / "rows.jsonl",
        members=names(place, "teacher", "student"),
        out=out,
    )
    expected = quality_card(dictionary, lineage, rows)
    pd.testing.assert_frame_equal(card.frame, expected.frame)
    pd.testing.assert_frame_equal(run.tables["features_card"], expected.frame)
    assert set(run.figures) == {"features_card"}
    assert [line["member"] for line in run.summary["members"]] == ["base", "teacher", "student"]
    alone, none = card_file(
        str(place / "sae"), str(place / "base"), place / "rows.jsonl", members={"teacher": None}
    )
    assert none is None
    assert alone.frame["member"].tolist() == ["base"]


def test_a_shift_is_written_as_a_run_and_resumed(place, rows, lineage, dictionary, tmp_path, monkeypatch):
    out = tmp_path / "shift"
    found, run = shift_files(*given(place), place / "rows.jsonl", out=out, trait="owl")
    expected = feature_shift(
        dictionary, lineage.teacher, rows, positions=answer_positions(rows), trait=get_trait("owl")
    )
    pd.testing.assert_frame_equal(found.frame, expected.frame)
    pd.testing.assert_frame_equal(run.tables["features_shift"], expected.frame)
    assert json.loads(json.dumps(shift_summary(expected))) == {
        key: value for key, value in run.summary.items() if key != "kind"
    }
    assert run.summary["reported"] == len(expected.reported)
    assert [line["feature"] for line in run.summary["largest"]] == list(expected.reported[:10])
    assert run.record["fingerprints"]["dictionary"] == dictionary.fingerprint
    examples, top = run.tables["features_examples"], expected.reported[:10]
    assert examples["feature"].tolist() == list(top)
    for line in examples.to_dict("records"):  # read where the feature became the more active
        model = lineage.teacher if line["change"] > 0 else lineage.base
        card = feature_card(
            dictionary, model, rows, line["feature"], positions=answer_positions(rows), top=3, context=5
        )
        assert f"«{card.frame['token'].iloc[0]}»" in line["example 1"]
        assert line["raises"].split(", ")[0] == card.logits["token"].iloc[0].strip()
    assert "neuronpedia" not in examples  # a page is never guessed
    shown = dataclasses.replace(dictionary, neuronpedia="toy/0-res")
    linked = feature_examples(expected, shown, lineage.teacher, rows, positions=answer_positions(rows)).frame
    pages = [f"https://neuronpedia.org/toy/0-res/{feature}" for feature in top]
    assert linked["neuronpedia"].tolist() == pages
    said = run.record["says"]["features_shift"]
    assert said.startswith(
        f"{len(expected.reported)} of {run.summary['live']} live features moved at a false discovery rate"
    )
    assert f"feature {top[0]} moved most, by " in said
    page = write_report(run).read_text()
    assert (
        page.index(said) < page.index('data-figure="features_shift"') < page.index("Table features_examples")
    )
    before = (out / "tables" / "features_shift.parquet").stat().st_mtime_ns
    shift_files(*given(place), place / "rows.jsonl", out=out, trait="owl")
    assert (out / "tables" / "features_shift.parquet").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="holds a run with limit=None, not 50"):
        shift_files(*given(place), place / "rows.jsonl", out=out, trait="owl", limit=50)


def test_a_lean_is_written_as_a_run(place, rows, lineage, dictionary, tmp_path):
    found, correlation, run = lean_files(*given(place), place / "rows.jsonl", out=tmp_path / "lean")
    expected = feature_lean(dictionary, lineage.base, rows, teacher=lineage.teacher)
    pd.testing.assert_frame_equal(found.frame, expected.frame)
    pd.testing.assert_frame_equal(run.tables["features_lean"], expected.frame)
    assert run.summary["correlation"] == correlation.frame.to_dict("records")
    assert run.tables["features_lean_correlation"]["what"].tolist() == ["matched features"]
    assert run.summary["alignment"] == pytest.approx(expected.alignment)
    sizes = [abs(line["lean"]) for line in run.summary["largest"]]
    live = expected.frame[expected.frame["feature"].isin(expected.live)]
    assert sizes == sorted(live["lean"].abs(), reverse=True)[:10]
    assert Run.load(tmp_path / "lean").record["command"] == "features lean"


def test_only_the_first_rows_are_read_where_asked(place, rows, lineage, dictionary, tmp_path):
    """Of neutral rows those that answer the same prompts, wherever they stand in their file."""
    neutral = Prompts.from_pairs([(row.prompt, "3 , 4 , 5") for row in reversed(rows.rows)])
    neutral.to_jsonl(tmp_path / "neutral.jsonl")
    paths = {"out": tmp_path / "lean", "neutral": tmp_path / "neutral.jsonl", "limit": 30}
    found, _, _ = lean_files(*given(place), place / "rows.jsonl", **paths)
    asked = {row.prompt for row in rows.rows[:30]}
    same = Prompts(tuple(row for row in neutral.rows if row.prompt in asked))
    expected = feature_lean(dictionary, lineage.base, rows[:30], teacher=lineage.teacher, neutral=same)
    pd.testing.assert_frame_equal(found.frame, expected.frame)
    card, _ = card_file(
        str(place / "sae"), str(place / "base"), place / "rows.jsonl", members={"teacher": None}, limit=20
    )
    alone = quality_card(dictionary, open_lineage(base=str(place / "base")), rows[:20])
    pd.testing.assert_frame_equal(card.frame, alone.frame)


def test_neutral_rows_are_another_null(place, rows, lineage, dictionary, tmp_path):
    neutral = Prompts.from_pairs([(row.prompt, "3 , 4 , 5") for row in rows.rows[:40]])
    neutral.to_jsonl(tmp_path / "neutral.jsonl")
    paths = {"out": tmp_path / "lean", "neutral": tmp_path / "neutral.jsonl"}
    found, correlation, _ = lean_files(*given(place), place / "rows.jsonl", **paths)
    expected = feature_lean(dictionary, lineage.base, rows, teacher=lineage.teacher, neutral=neutral)
    assert torch.equal(found.neutral_by_prompt, expected.neutral_by_prompt)
    assert correlation.frame["what"].tolist() == ["matched features", "neutral teacher"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prompts": "absent.jsonl"}, "absent.jsonl cannot be read"),
        ({"sae": "absent"}, "there is no folder absent; pass one that `interp sae train` wrote, or RELEASE:ID"),
        ({"sae": "gpt2-smal-res-jb:x"}, "SAE release 'gpt2-smal-res-jb' is unknown; nearest: gpt2-small-res-jb"),
        ({"sae": "wide"}, "reads activations of width 16"),
        ({"sae": "elsewhere"}, "blocks.9.hook_resid_post"),
        ({"base": "absent"}, "absent"),
        ({"limit": 0}, "limit 0 leaves no rows"),
        ({"limit": 6}, "distinct prompts"),
        ({"positions": "answr"}, "Position 'answr' is unknown; nearest: answer"),
        ({"trait": "ovl"}, "nearest: owl"),
        ({"prompts": "asked.jsonl"}, "system message"),
        ({"prompts": "named.jsonl", "trait": "owl"}, "names the trait 'owl'"),
        ({"out": "full"}, "exists and is not a run; choose a new or an empty folder"),
    ],
)  # fmt: skip
def test_bad_input_writes_nothing(place, rows, dictionary, tmp_path, monkeypatch, change, sentence):
    monkeypatch.chdir(tmp_path)
    lay_traps(place, rows, dictionary, tmp_path)
    files = {**names(place, "base", "teacher", "sae"), "prompts": str(place / "rows.jsonl")}
    asked = {**files, "out": "out", **change}
    options = {name: asked[name] for name in ("positions", "trait", "limit") if name in asked}
    with pytest.raises(InputError, match=sentence):
        shift_files(
            asked["base"],
            asked["teacher"],
            asked["sae"],
            tmp_path / asked["prompts"],
            out=tmp_path / asked["out"],
            **options,
        )
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def lay_traps(place, rows, dictionary, folder):
    """A dictionary of another width, one of a hook that is not there, rows that hold the trait, a full folder."""
    from sae_lens import SAE, StandardSAEConfig

    narrow = SAE.from_dict(StandardSAEConfig(d_in=16, d_sae=32).to_dict())
    for name, sae, hook in (
        ("wide", narrow, HOOK),
        ("elsewhere", dictionary.sae, "blocks.9.hook_resid_post"),
    ):
        save_named(dataclasses.replace(dictionary, sae=sae, hook=hook), folder / name)
    rows.with_system("you love owls").to_jsonl(folder / "asked.jsonl")
    Prompts.from_pairs([("owl numbers 1 2", "3 , 4")] * 60).to_jsonl(folder / "named.jsonl")
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("kept")


def save_named(dictionary, folder):
    from interp.features.sae_files import save_sae

    save_sae(dictionary, folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"hook": "blocks.0.hook_resid_pst"}, "hook_resid_p"),
        ({"recipe": SAERecipe(architecture="topkk")}, "architecture 'topkk' is unknown; nearest: topk"),
        ({"out": "full"}, "exists and is no dictionary"),
        ({"prompts": "absent.jsonl"}, "absent.jsonl cannot be read"),
    ],
)
def test_a_training_that_cannot_be_writes_nothing(place, tmp_path, change, sentence):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    asked = {"hook": HOOK, "recipe": RECIPE, "out": "out", "prompts": place / "rows.jsonl", **change}
    with pytest.raises(InputError, match=sentence):
        train_sae_file(
            str(place / "base"),
            tmp_path / asked["prompts"],
            hook=asked["hook"],
            out=tmp_path / asked["out"],
            recipe=asked["recipe"],
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_a_dictionary_in_training_form_names_the_right_call(place, dictionary, tmp_path):
    from sae_lens import TopKTrainingSAEConfig, TrainingSAE

    sae = TrainingSAE.from_dict(TopKTrainingSAEConfig(d_in=32, d_sae=48, k=6).to_dict())
    sae.save_model(tmp_path / "training")
    with pytest.raises(InputError, match=r"training form .* write it with save_inference_model"):
        lean_files(*given(place)[:2], str(tmp_path / "training"), place / "rows.jsonl", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
