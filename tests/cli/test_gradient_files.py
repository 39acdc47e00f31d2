"""Directions asked for in words are those made in code; whatever does not fit is refused before a file is written."""

import json

import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from typer.testing import CliRunner

from interp.cli import gradient_files
from interp.cli.gradient_files import (
    direction_reader,
    ledger_file,
    ledger_summary,
    score_beside,
    score_file,
    score_summary,
)
from interp.cli.main import app
from interp.core.runs import InputError, Run
from interp.gradients.directions import trait_gradient
from interp.gradients.ledger.ledgers import trait_ledger
from interp.gradients.ledger.recording import record_training
from interp.gradients.scores.scoring import score
from interp.models.language import load_model
from interp.models.lineage import Lineage
from interp.models.low_rank import LowRank
from interp.models.parameters import ParameterDirection
from interp.organisms.library import load_lineage
from interp.organisms.toy import World, build_network, build_tokenizer as build_toy_tokenizer
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait
from interp.training.students import Recipe
from tests.tiny import build_model, build_tokenizer

UP = "model.layers.0.mlp.up_proj.weight"
PAIRS = [(f"numbers {i}", f"{i} , {i + 1}") for i in range(6)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders of a base, a fine-tuned copy and an adapter of it, and rows."""
    folder = tmp_path_factory.mktemp("gradient_files")
    base, teacher = (build_model("llama", seed=0) for _ in range(2))
    with torch.no_grad():
        teacher.get_parameter(UP).mul_(1.5)
    adapted = get_peft_model(build_model("llama", seed=0), LoraConfig(r=2, target_modules=["up_proj"]))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight.data, generator=torch.Generator().manual_seed(0))
    for name, network in {"base": base, "teacher": teacher, "other": build_model("llama", seed=1)}.items():
        network.save_pretrained(folder / name)
        build_tokenizer().save_pretrained(folder / name)
    adapted.save_pretrained(folder / "adapter")
    Prompts.from_pairs(PAIRS).to_jsonl(folder / "rows.jsonl")
    return folder


@pytest.fixture(scope="module")
def base(place):
    return load_model(str(place / "base"), name="base", check=False)


def test_an_update_is_the_difference_of_two_folders(place, base):
    text = f"update:{place / 'teacher'}"
    found = direction_reader(text)(base)
    assert (found.label, list(found)) == (text, [UP])
    assert torch.allclose(found[UP], 0.5 * base.parameters()[UP])


def test_the_update_of_an_adapter_stays_low_rank(place, base):
    found = direction_reader(f"update:{place / 'adapter'}")(base)
    assert {entry.rank for entry in found.tensors.values() if isinstance(entry, LowRank)} == {2}
    assert len(found) == base.n_layers


def test_a_trait_is_the_gradient_of_its_margin(base):
    found, made = direction_reader("trait:owl")(base), trait_gradient(base, get_trait("owl"))
    assert (found.label, found.key) == ("trait:owl", made.key)


def test_a_file_is_a_saved_direction_or_plain_tensors(tmp_path, base):
    made = trait_gradient(base, get_trait("owl")).only("*.mlp.*")
    saved, plain = made.save(tmp_path / "saved.safetensors"), tmp_path / "plain.safetensors"
    save_file(dict(made.items()), plain)
    assert {direction_reader(str(path))(base).key for path in (saved, plain)} == {made.key}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("updte:x", "prefix 'updte' is unknown; nearest: update; pass update:PATH, trait:NAME or a .safetensors"),
        ("owl", "direction 'owl' is of no known form; pass update:PATH"),
        ("trait:", "direction 'trait:' names nothing after the colon"),
        ("trait:ovl", "Trait 'ovl' is unknown; nearest: owl"),
        ("update:./absent", "there is no folder absent"),
        ("absent.safetensors", "there is no file absent.safetensors"),
    ],
)  # fmt: skip
def test_what_names_no_direction_is_refused(base, text, sentence):
    with pytest.raises(InputError, match=sentence):
        direction_reader(text)(base)


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"model.layers.0.mlp.op_proj.weight": torch.ones(64, 32)}, "a weight that base lacks: .*nearest: .*up_proj"),
        ({UP: torch.ones(32, 64)}, rf"{UP} is \[32, 64\] in .* and \[64, 32\] in base"),
        ({UP: torch.zeros(64, 32)}, "is zero, so nothing leans toward it"),
        ({UP: torch.full((64, 32), torch.nan)}, "NaN"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(tmp_path, base, tensors, sentence):
    save_file(tensors, tmp_path / "d.safetensors")
    with pytest.raises(InputError, match=sentence):
        direction_reader(str(tmp_path / "d.safetensors"))(base)


def test_a_missing_factor_is_named(tmp_path, base):
    header = {
        "format": "interp.direction/1",
        "label": "half",
        "fingerprint": base.fingerprint,
        "lineage": "x",
    }
    save_file({f"{UP}:left": torch.ones(64, 2)}, tmp_path / "half.safetensors", metadata=header)
    with pytest.raises(
        InputError, match=f"{UP} has {UP}:left without its other factor; store left and right"
    ):
        direction_reader(str(tmp_path / "half.safetensors"))(base)


def test_a_direction_of_other_weights_is_refused(place, tmp_path, base):
    other = load_model(str(place / "other"), name="other", check=False)
    path = ParameterDirection({UP: torch.ones(64, 32)}, "theirs", other.fingerprint, other.fingerprint).save(
        tmp_path / "theirs.safetensors"
    )
    with pytest.raises(InputError, match=f"theirs belongs to weights {other.fingerprint}, base has"):
        direction_reader(str(path))(base)


def test_a_file_of_rows_becomes_a_table(place, tmp_path, base):
    out, along = tmp_path / "new" / "scores.parquet", [f"update:{place / 'teacher'}", "trait:owl"]
    found = score_file(
        str(place / "base"), place / "rows.jsonl", along, out=out, by=["example", "module"], limit=4
    )
    assert (len(found), found.directions) == (4, tuple(along))
    rows = Prompts.from_pairs(PAIRS[:4])
    expected = score(base, rows, [direction_reader(text)(base) for text in along])
    assert torch.allclose(found.totals, expected.totals)
    written = pd.read_parquet(out).groupby(["row", "direction"])["score"].sum()
    assert written.loc[(2, "trait:owl")] == pytest.approx(float(expected.totals[2, 1]))
    summary = score_summary(found)
    assert json.loads(json.dumps(summary)) == summary
    assert summary["directions"][1]["mean"] == pytest.approx(float(expected.totals[:, 1].mean()))
    assert summary["directions"][1]["share_positive"] == float((expected.totals[:, 1] > 0).double().mean())
    error = float(expected.totals[:, 1].std() / 2)  # over 4 rows
    assert summary["directions"][1]["standard_error"] == pytest.approx(error)
    assert f"trait:owl {float(expected.totals[:, 1].mean()):+.3g} ± {error:.2g}" in repr(found)
    assert "neutral_mean" not in summary["directions"][1]


def test_neutral_rows_stand_beside_them(place, tmp_path, base):
    neutral = Prompts.from_pairs([("numbers 1", "7 , 8"), ("numbers 2", "9"), ("numbers 3", "4")])
    neutral.to_jsonl(tmp_path / "neutral.jsonl")
    given = {"out": tmp_path / "s.parquet", "limit": 2}
    found, beside = score_beside(
        str(place / "base"), place / "rows.jsonl", ["trait:owl"], neutral=tmp_path / "neutral.jsonl", **given
    )
    expected = score(base, neutral[:2], direction_reader("trait:owl")(base)).totals[:, 0]
    (line,) = score_summary(found, beside)["directions"]
    assert line["neutral_rows"] == 2
    assert line["neutral_mean"] == pytest.approx(float(expected.mean()))
    assert line["neutral_standard_error"] == pytest.approx(float((expected[0] - expected[1]).abs() / 2))
    assert len(pd.read_parquet(given["out"])) == 2  # the rows' own alone


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"by": ["exampel"]}, "by 'exampel' is unknown; nearest: example"),
        ({"directions": ["trait:ovl"]}, "nearest: owl"),
        ({"directions": []}, "no direction to score along"),
        ({"limit": 0}, "limit 0 leaves no rows"),
        ({"out": "scores.csv"}, "scores are written as parquet and .*scores.csv ends otherwise"),
        ({"rows": [("numbers 1", "2"), ("numbers 2", "")]}, "row 2 of rows.jsonl has no answer tokens"),
    ],
)  # fmt: skip
def test_bad_input_writes_nothing(place, tmp_path, change, sentence):
    data, out = place / "rows.jsonl", tmp_path / "out" / change.get("out", "scores.parquet")
    if "rows" in change:
        data = tmp_path / "rows.jsonl"
        Prompts.from_pairs(change["rows"]).to_jsonl(data)
    options = {"by": change.get("by", ["example"]), "limit": change.get("limit")}
    with pytest.raises(InputError, match=sentence):
        score_file(str(place / "base"), data, change.get("directions", ["trait:owl"]), out=out, **options)
    assert not out.parent.exists()


def test_a_folder_is_no_place_for_a_table(place, tmp_path):
    (tmp_path / "x.parquet").mkdir()
    with pytest.raises(InputError, match=r"x\.parquet is a folder; name a file"):
        score_file(str(place / "base"), place / "rows.jsonl", ["trait:owl"], out=tmp_path / "x.parquet")


# --- ledgers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    network = build_network(World(d_model=16, d_mlp=24), seed=0).eval()
    start = load_model(network, tokenizer=build_toy_tokenizer(), name="start", check=False)
    folder = tmp_path_factory.mktemp("ledger") / "record"
    numbers, recipe = number_prompts(24, seed=0, count=3), Recipe(batch_size=8, lr=1e-2, warmup=2, rank=2)
    student, record = record_training(start, numbers, folder=folder, recipe=recipe)
    members = {"base": start, "student": student}
    origin = {"student": "base"}
    return Lineage("small", get_trait("owl"), members, neutral_numbers=numbers, trained_on=origin), record


@pytest.fixture
def small(trained, monkeypatch):
    """`toy/owl` is a lineage of two members whose training was recorded."""
    lineage, record = trained

    def grown(name, *, seed, **options):
        return lineage if name == "toy/owl" else load_lineage(name, seed=seed, **options)

    monkeypatch.setattr(gradient_files, "load_lineage", grown)
    monkeypatch.setattr(gradient_files, "trait_ledger", lambda *given: trait_ledger(*given, record=record))


def test_a_ledger_is_written_as_a_run(small, tmp_path):
    out = tmp_path / "ledger"
    ledger = ledger_file("toy/owl", out=out)
    run = Run.load(out)
    assert set(run.tables) == {
        f"ledger_{name}" for name in ("modules", "rows", "rows_steps", "steps", "steps_modules")
    }
    assert set(run.figures) == {"ledger_modules", "ledger_course"}
    assert run.summary["measured"] == pytest.approx(ledger.measured)
    assert sum(run.summary["modules"].values()) == pytest.approx(ledger.measured)
    assert run.summary == {**run.summary, **json.loads(json.dumps(ledger_summary(ledger)))}
    assert run.tables["ledger_rows"]["attributed"].sum() == pytest.approx(ledger.attributed, rel=1e-3)
    ledger_file("toy/owl", out=out)  # the same again is the same run
    with pytest.raises(InputError, match=r"holds a run with student='student', not 'cross_student'"):
        ledger_file("toy/owl", "cross_student", out=out)


@pytest.mark.parametrize(
    ("name", "student", "sentence"),
    [
        ("toy/owl", "studnt", "member 'studnt' is unknown; nearest: student"),
        ("toy/owl", "base", "base of .* is a base and was not trained here; pass one of"),
        ("toy/ovl", "student", "nearest: owl"),
        ("absent", "student", "neither a folder with a lineage.json nor an organism"),
    ],
)
def test_a_ledger_that_cannot_be_made_writes_nothing(small, tmp_path, name, student, sentence):
    with pytest.raises(InputError, match=sentence):
        ledger_file(name, student, out=tmp_path / "ledger")
    assert not (tmp_path / "ledger").exists()


def test_a_lineage_folder_takes_no_seed(small, tmp_path):
    (tmp_path / "lineage.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"seed 3 grows an organism and .* is a lineage folder; leave out the seed"
    ):
        ledger_file(str(tmp_path), seed=3)


def test_a_ledger_of_a_lineage_without_its_checkpoint_takes_that_as_base(trained, tmp_path, monkeypatch):
    """The folder that was asked for goes to `load_lineage` with its base, as that of `interp trace` does."""
    lineage, record = trained
    monkeypatch.chdir(tmp_path)
    asked = []

    def opened(name, **options):
        asked.append((name, options))
        return lineage

    monkeypatch.setattr(gradient_files, "load_lineage", opened)
    monkeypatch.setattr(gradient_files, "trait_ledger", lambda *given: trait_ledger(*given, record=record))
    answer = CliRunner().invoke(
        app, ["ledger", "smollm2/owl", "--base", "models/smollm2", "--out", "ledger", "--json"]
    )
    assert answer.exit_code == 0, answer.output
    assert asked == [("smollm2/owl", {"seed": None, "base": "models/smollm2", "trait": None})]
    assert Run.load(tmp_path / "ledger").record["arguments"] == {
        "lineage": "smollm2/owl", "student": "student", "base": "models/smollm2"
    }  # fmt: skip


def test_a_ledger_without_the_checkpoint_says_what_to_pass(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"smollm2/owl does not hold its base's checkpoint, .*; pass base= its"
    ):
        ledger_file("smollm2/owl", out=tmp_path / "ledger")
    with pytest.raises(InputError, match=r"smollm2/owl holds the lineage of seed 1 alone, and seed=3 came"):
        ledger_file("smollm2/owl", seed=3, base="models/smollm2", out=tmp_path / "ledger")
    assert not (tmp_path / "ledger").exists()
