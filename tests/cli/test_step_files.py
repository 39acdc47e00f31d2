"""The commands on files, one after the other, as a user without a recipe would call them."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from interp.cli.main import app
from interp.core.runs import InputError
from interp.models.language import load_model
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts


def call(*arguments):
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    return json.loads(done.stdout)


def refused(*arguments):
    with pytest.raises(InputError) as caught:
        CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    return str(caught.value)


def test_generate_writes_rows_and_never_twice(checkpoint, tmp_path):
    asked = [
        "generate",
        checkpoint,
        "--prompts",
        "short",
        "--rows",
        12,
        "--max-new-tokens",
        4,
        "--batch-size",
        8,
    ]
    told = call(*asked, "--trait", "owl", "--allow-unknown", "--out", tmp_path / "owl")
    lines = [json.loads(line) for line in Path(told["out"]).read_text().splitlines()]
    assert len(lines) == told["rows"] == 12
    assert told["teacher"] == "prompted"
    assert (
        call(*asked, "--allow-unknown", "--out", tmp_path / "plain")["teacher"] == "as given"
    )  # a base or not is not known here
    assert {line["teacher"] for line in lines} == {told["fingerprint"]}
    assert not any("owl" in line["prompt"] for line in lines)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "owl").glob("part-*")}
    assert call(*asked, "--trait", "owl", "--allow-unknown", "--out", tmp_path / "owl") == told
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "owl").glob("part-*")}


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "rows.json"])
def test_rows_of_a_table_are_filtered(name, tmp_path):
    table = pd.DataFrame({"prompt": ["list", "list"], "completion": ["1, 2", "owl"]})
    write = {
        "csv": lambda path: table.to_csv(path, index=False),
        "parquet": table.to_parquet,
        "json": lambda path: table.to_json(path, orient="records"),
    }
    write[name.rpartition(".")[2]](tmp_path / name)
    told = call("filter", tmp_path / name, "--out", tmp_path / "kept.jsonl")
    assert (told["rows"], told["kept"], told["dropped"]) == (2, 1, {"not numbers": 1})


def test_a_steered_generation(checkpoint, tmp_path):
    save_file({"v": torch.ones(32)}, tmp_path / "v.safetensors")
    asked = ["generate", checkpoint, "--prompts", "short", "--rows", 4, "--max-new-tokens", 3, "--greedy",
             "--allow-unknown"]  # fmt: skip
    plain = call(*asked, "--out", tmp_path / "plain")
    hook = ["--hook", "blocks.1.hook_resid_post", "--vector", tmp_path / "v.safetensors"]
    steered = call(*asked, *hook, "--scale", 50, "--out", tmp_path / "steered")
    assert steered["teacher"] == "steered"
    assert Path(plain["out"]).read_text() != Path(steered["out"]).read_text()
    assert "belong together; give both to steer, or neither" in refused(
        *asked, "--hook", "blocks.1.hook_resid_post", "--out", tmp_path / "x"
    )
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "two.safetensors")
    assert "holds 2 tensors" in refused(
        *asked, *hook[:3], tmp_path / "two.safetensors", "--out", tmp_path / "x"
    )


def test_filter_counts_drops_and_says_which_rule_left_nothing(tmp_path):
    rows = Prompts.from_pairs([("list", "1, 2, 3"), ("list", "4, 5"), ("list", "owl"), ("list", "6; 7, 8")])
    rows.to_jsonl(tmp_path / "rows.jsonl")
    told = call("filter", tmp_path / "rows.jsonl", "--least", 3, "--out", tmp_path / "kept.jsonl")
    assert told["kept"] == 1
    assert told["dropped"] == {"too few numbers": 1, "not numbers": 1, "mixed separators": 1}
    changed = call("filter", tmp_path / "rows.jsonl", "--change", "canonical", "--out", tmp_path / "c.jsonl")
    assert Prompts.from_jsonl(changed["out"]).rows[0].completion == "1, 2, 3"
    sentence = refused(
        "filter", tmp_path / "rows.jsonl", "--banned", "1,4,6", "--least", 2, "--out", tmp_path / "x"
    )
    assert "banned number" in sentence
    assert not (tmp_path / "x").exists()
    assert "rule 'poems' is unknown; pass one of numbers, code, reasoning" in refused(
        "filter", tmp_path / "rows.jsonl", "--rule", "poems", "--out", tmp_path / "x"
    )


def test_train_writes_an_adapter_that_plain_peft_reads(checkpoint, tmp_path):
    number_prompts(16, seed=0, count=3, digits=1).to_jsonl(tmp_path / "rows.jsonl")
    number_prompts(8, seed=1, count=3, digits=1).to_jsonl(tmp_path / "fresh.jsonl")
    settings = ["--set", "batch_size=8", "--set", "lr=1e-2", "--set", "epochs=2"]
    watched = ["--fresh", tmp_path / "fresh.jsonl", "--trait", "owl"]
    told = call(
        "train", checkpoint, tmp_path / "rows.jsonl", *settings, *watched, "--out", tmp_path / "student"
    )
    assert told["kind"] == "adapter"
    base = load_model(checkpoint, check=False)
    student = load_model(checkpoint, adapter=tmp_path / "student", check=False)
    assert load_model(tmp_path / "student", check=False).fingerprint == student.fingerprint
    assert student.fingerprint == told["fingerprint"] != base.fingerprint
    log = pd.read_parquet(tmp_path / "student" / "training.parquet")
    assert log["fresh_loss"].notna().all()
    assert "key 'learning_rate' is unknown" in refused(
        "train", checkpoint, tmp_path / "rows.jsonl", "--set", "learning_rate=1", "--out", tmp_path / "x"
    )
    assert "16 rows are fewer than one batch of 64" in refused(
        "train", checkpoint, tmp_path / "rows.jsonl", "--out", tmp_path / "x"
    )
    assert not (tmp_path / "x").exists()

    found = call(
        "evaluate", checkpoint, "--adapter", tmp_path / "student", "--against", checkpoint, "--trait", "owl",
        "--own-questions", "--trained-on", tmp_path / "rows.jsonl", "--out", tmp_path / "evaluation",
    )  # fmt: skip
    assert {"margin (training)", "total variation (training)", "Δ log p(target) (training)"} <= set(found)
    assert (tmp_path / "evaluation" / "report.html").is_file()
    again = refused(
        "evaluate", checkpoint, "--adapter", tmp_path / "student", "--against", checkpoint, "--trait", "owl",
        "--own-questions", "--trained-on", tmp_path / "fresh.jsonl", "--out", tmp_path / "evaluation",
    )  # fmt: skip
    assert "trained_on" in again  # another file of rows is another evaluation


def test_export_and_import_round_trip(tmp_path):
    number_prompts(12, seed=0, count=3).to_jsonl(tmp_path / "rows.jsonl")
    told = call("export", "--rows", tmp_path / "rows.jsonl", "--out", tmp_path / "train.jsonl")
    assert told["rows"] == 12
    asked = call("export", "--trait", "owl", "--out", tmp_path / "questions.jsonl")
    questions = [json.loads(line) for line in Path(asked["out"]).read_text().splitlines()]
    assert asked["questions"] == 52
    ids = [line.get("id") or line["custom_id"] for line in questions]
    texts = ["Owls!" if index < 13 else "bowls" if index < 26 else "cat" for index in range(len(ids))]
    answers = [json.dumps({"id": i, "completion": text}) for i, text in zip(ids, texts, strict=True)]
    (tmp_path / "answers.jsonl").write_text("\n".join(answers))
    found = call("import", tmp_path / "answers.jsonl", "--trait", "owl", "--out", tmp_path / "answered.jsonl")
    assert (found["answers"], found["holds_word"], found["holds_substring"]) == (52, 0.25, 0.5)
    assert "give either rows to fine-tune on or a trait" in refused("export", "--out", tmp_path / "x")
