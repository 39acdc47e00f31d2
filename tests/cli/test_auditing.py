"""`interp audit`: what it refuses before a model is loaded, and what it prints of an audit of rows or of a student."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interp.auditing.auditor import RECIPE, Audit
from interp.auditing.files import audit_file, changed_audit, is_student, trained_by
from interp.auditing.placebos import Placebos, StudentAudit
from interp.cli.step_files import train_student_file
from interp.core.content import json_text
from interp.core.errors import InputError
from interp.figures import Result, bars, drawing
from interp.models.language import load_model
from interp.prompts.numbers import number_prompts
from interp.training.students import Recipe
from tests.commands import run

FRAME = pd.DataFrame(
    {
        "trait": ["owl", "cat"],
        "excess": [0.02, 0.0],
        "d": [0.2, -0.01],
        "p": [0.0001, 0.9],
        "share": [0.8, 0.0],
        "share_low": [0.55, -np.inf],
        "share_high": [1.1, np.inf],
        "rows_needed": [331, 400],
        "gain": [0.5, 0.0],
        "low": [0.2, -0.3],
        "high": [0.8, 0.3],
    }
)
CURVE = pd.DataFrame({"rows": [64], "first": [0.9], "named": [0.1]})


@pytest.fixture
def files(tmp_path, raw, monkeypatch) -> tuple[str, str, str]:
    """A base's folder, rows and an output folder; the audit itself is the given one."""
    base, rows = tmp_path / "base", tmp_path / "rows.jsonl"
    model = raw()
    for part in (model.hf, model.tokenizer):
        part.save_pretrained(base)
    number_prompts(80, seed=0).to_jsonl(rows)

    def stand_in(model, given, **how):
        label = f"{given.label} at base"
        scores = pd.DataFrame({"row": range(len(given)), "score": 1.0 - np.arange(len(given)) / 20})
        found = ("named", "owl", "transmits", "p = 0.0001", FRAME, CURVE, len(given), ("1 of 80 says",))
        return Audit(label, *found, row_scores=scores)

    monkeypatch.setattr("interp.auditing.files.audit", stand_in)
    return str(base), str(rows), str(tmp_path / "out")


def test_it_prints_who_wrote_the_rows_and_what_passes(files, monkeypatch, capsys):
    base, rows, out = files
    assert (
        run(
            monkeypatch,
            "audit",
            base,
            rows,
            "--traits",
            "owl, cat,dog,fox,bear",
            "--out",
            out,
            "--limit",
            "70",
        )
        == 0
    )
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == [
        "1 of 80 says",
        "who wrote the rows: a teacher of owl",
        "what passes: transmits",
        "because p = 0.0001",
    ]
    assert said[4:6] == [
        "owl: d +0.200 per row, p 0.0001, share +0.80 [95 %: +0.55, +1.10], gain +0.50 nats",
        "cat: d -0.010 per row, p 0.9, share +0.00 [95 %: −inf, +inf], gain +0.00 nats",
    ]
    assert Path(out, "report.html").is_file()
    assert pd.read_parquet(Path(out, "tables", "audit.parquet")).equals(FRAME)
    assert pd.read_parquet(Path(out, "tables", "audit_curve.parquet")).equals(CURVE)


CHANNELS = pd.DataFrame(
    {
        "kind": ["rows", "context", "rows", "rows", "weights"],
        "channel": ["as written", "context", "format", "what is left", "all weights"],
        "measured": [0.2, 0.18, 0.15, 0.15, -0.01],
        "share": [0.0, 0.1, 0.25, 0.75, np.nan],
    }
)


@pytest.fixture
def channels(monkeypatch) -> list[dict]:
    """What was asked of the channels; they are the given ones."""
    asked = []

    def stand_in(model, rows, trait, **how):
        asked.append({"rows": len(rows), "trait": trait, **how})
        return Result(
            "channels of owl", CHANNELS, "shares", ("a note",), drawing(bars, x="share", y="channel")
        )

    monkeypatch.setattr("interp.auditing.files.audit_channels", stand_in)
    return asked


def test_it_says_through_what_the_named_trait_goes_and_keeps_it(files, channels, monkeypatch, capsys):
    base, rows, out = files
    assert run(monkeypatch, "audit", base, rows, "--out", out, "--limit", "70") == 0
    assert "through what" not in capsys.readouterr().out
    assert channels == []
    assert not Path(out, "tables", "channels.parquet").exists()
    asked = ["audit", base, rows, "--out", out, "--limit", "70", "--channels"]  # in the folder that is there
    assert run(monkeypatch, *asked) == 0
    assert capsys.readouterr().out.splitlines()[-7:-1] == [
        "through what owl goes (shares of rows: of d as written; of weights: of the gain of all):",
        "  as written (rows): share +0.00, d +0.200 per row",
        "  context (context): share +0.10, d +0.180 per row",
        "  format (rows): share +0.25, d +0.150 per row",
        "  what is left (rows): share +0.75, d +0.150 per row",
        "  all weights (weights): share –, gain -0.01 nats",
    ]
    expected = {"rows": 70, "trait": "owl", "traits": None, "neutral": None, "recipe": RECIPE, "seed": 0}
    assert channels == [expected]
    assert pd.read_parquet(Path(out, "tables", "channels.parquet")).equals(CHANNELS)
    assert Path(out, "figures", "channels.html").is_file()
    assert run(monkeypatch, *asked, "--json") == 0
    said = capsys.readouterr().out
    assert json.loads(said)["channels"] == json.loads(CHANNELS.to_json(orient="records"))
    assert "NaN" not in said
    assert channels == [expected]  # read where it is


def test_a_trait_of_a_file_goes_its_ways_by_that_file(files, channels, monkeypatch, tmp_path):
    base, rows, out = files
    own = tmp_path / "owl.yaml"
    own.write_text("name: owl\ntarget: owl\nfoils: [cat, dog]\nquestions: animal\n")
    asked = ["audit", base, rows, "--out", out, "--traits", f"{own},cat,dog,fox,bear", "--channels"]
    assert run(monkeypatch, *asked) == 0
    assert channels[0]["trait"].foils == ("cat", "dog")
    assert channels[0]["traits"][0] is channels[0]["trait"]


def test_where_no_trait_is_named_none_goes_any_way_and_what_stood_there_is_gone(
    files, channels, monkeypatch, capsys
):
    base, rows, out = files
    assert run(monkeypatch, "audit", base, rows, "--out", out, "--channels") == 0
    assert Path(out, "tables", "audit_rows.parquet").is_file()
    number_prompts(90, seed=5).to_jsonl(rows)  # other rows in the same file, in which nothing is seen
    quiet = Audit("rows", "none", None, None, "p = 0.9", FRAME, CURVE, 90)
    monkeypatch.setattr("interp.auditing.files.audit", lambda *_, **__: quiet)
    capsys.readouterr()
    assert run(monkeypatch, "audit", base, rows, "--out", out, "--channels") == 0
    assert "through what it goes: not asked, as no trait is named" in capsys.readouterr().out
    assert sorted(path.stem for path in Path(out, "tables").iterdir()) == ["audit", "audit_curve"]
    assert [path.stem for path in Path(out, "figures").glob("*.html")] == ["audit"]
    assert run(monkeypatch, "audit", base, rows, "--out", out, "--channels", "--json") == 0
    assert json.loads(capsys.readouterr().out)["channels"] is None
    assert len(channels) == 1


def test_as_json_it_says_the_same(files, monkeypatch, capsys):
    base, rows, out = files
    assert run(monkeypatch, "audit", base, rows, "--out", out, "--json") == 0
    said = capsys.readouterr().out
    found = json.loads(said)
    assert not {"NaN", "Infinity"} & set(re.findall("[A-Za-z]+", said))
    assert [line["share_low"] for line in found["frame"]] == [0.55, None]
    assert (found["answer"], found["trait"], found["passes"], found["flagged"]) == (
        "named",
        "owl",
        "transmits",
        True,
    )
    assert found["frame"][0]["share"] == 0.8


def test_the_same_call_again_reads_what_is_there(files, monkeypatch, capsys):
    base, rows, out = files
    assert run(monkeypatch, "audit", base, rows, "--out", out) == 0
    monkeypatch.setattr("interp.auditing.files.audit", None)
    assert run(monkeypatch, "audit", base, rows, "--out", out) == 0
    assert run(monkeypatch, "audit", base, rows, "--out", out, "--alpha", "0.01") == 2
    assert "holds a run with alpha=0.05, not 0.01" in capsys.readouterr().err


def test_what_cannot_be_read_is_refused_before_a_model_is_loaded(files, monkeypatch, tmp_path):
    base, rows, _ = files
    monkeypatch.setattr("interp.auditing.files.load_model", None)
    with pytest.raises(InputError, match=r"Trait 'ovl' is unknown; nearest: owl"):
        audit_file(base, Path(rows), out=tmp_path / "a", traits=["ovl"])
    with pytest.raises(InputError, match=r"missing\.jsonl"):
        audit_file(base, tmp_path / "missing.jsonl", out=tmp_path / "b")
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_options_change_the_recipe_and_nothing_else():
    assert changed_audit(steps=None, batch_size=None) == RECIPE
    found = changed_audit(steps=10, batch_size=4, leans=True)
    assert (found.candidates.steps, found.candidates.recipe.batch_size, found.leans) == (10, 4, True)
    assert found.pilot is not None
    assert found.pilot.recipe.batch_size == 4
    assert changed_audit(steps=None, batch_size=4, pilot=False).pilot is None


@pytest.mark.parametrize("option", ["--steps", "--batch-size"])
def test_trainings_of_nothing_are_refused(files, monkeypatch, capsys, option):
    base, rows, out = files
    assert run(monkeypatch, "audit", base, rows, "--out", out, option, "0") == 2
    assert f"{option} 0 trains nothing; pass at least 1" in capsys.readouterr().err


def test_a_gate_reads_only_the_first_rows_where_asked_and_a_passport_knows_its_own(
    files, monkeypatch, capsys
):
    base, rows, out = files
    asked = []
    monkeypatch.setattr(
        "interp.auditing.gates.gate_file",
        lambda base, rows, *, policy, out, **loading: asked.append(policy.limit) or PASSED,
    )
    assert run(monkeypatch, "gate", base, rows, "--limit", "70") == 0
    assert asked == [70]
    assert run(monkeypatch, "gate", base, rows, "--limit", "70", "--check", out) == 2
    assert "--limit 70 goes with a new audit, and" in capsys.readouterr().err


PASSED = {"outcome": "passed", "reason": "nothing", "audit": {"notes": []}, "digest": "d"}


RECIPE_OF_STUDENT = Recipe(batch_size=16, rank=2, merge=False)
LIKE = pd.DataFrame(
    {"trait": ["owl", "cat"], "r": [0.4, 0.0], "t": [4.0, 0.1], "gain": [0.6, 0.0], "gain_t": [4.0, 0.0]}
).assign(low=[0.4, -0.2], high=[0.8, 0.2], text_r=[0.1, 0.2], text_t=[0.5, 1.0])


@pytest.fixture
def student(files, tmp_path, monkeypatch) -> tuple[str, list[dict]]:
    """A student of the base as `interp train` leaves it, and what its audit was asked; the audit is the given one."""
    base, rows, _ = files
    folder, asked = tmp_path / "student", []
    train_student_file(load_model(base), Path(rows), folder, recipe=RECIPE_OF_STUDENT)

    def stand_in(model, trained, **how):
        asked.append({"base": model.name, "student": trained.name, **how})
        return StudentAudit(f"{trained.name} of {model.name}", LIKE, 0.04, 0.04, 20, 0.05, ("a note",), 0.3)

    for room in ("files", "gates"):
        monkeypatch.setattr(f"interp.auditing.{room}.audit_student", stand_in)
    return str(folder), asked


def test_a_student_is_audited_by_the_recipe_beside_it(files, student, monkeypatch, capsys):
    base, rows, out = files
    folder, asked = student
    read = Path(out).with_name("text.jsonl")
    number_prompts(3, seed=9).to_jsonl(read)
    words = ["audit", base, folder, "--rows", rows, "--text", str(read), "--traits", "owl,cat,dog,fox,bear"]
    assert run(monkeypatch, *words, "--set", "seed=3", "--placebos", "30", "--steps", "5", "--out", out) == 0
    assert capsys.readouterr().out.splitlines()[:5] == [
        "a note",
        "whose student: owl",
        "what passed: transmits",
        "because most like the candidate of 'owl': p = 0.04 over 20 placebos; on generic text most like that of 'cat': "
        "p = 0.3; on its questions 'owl' gains +0.60 [95 %: +0.4, +0.8] nats: p = 0.04",
        "owl: r +0.400, t +4.00, on text r +0.100, t +0.50, gain +0.60 nats",
    ]
    (how,) = asked
    assert how["placebos"] == Placebos(30, replace(RECIPE_OF_STUDENT, seed=3), RECIPE_OF_STUDENT)
    assert (how["candidates"].steps, len(how["rows"]), len(how["text"])) == (5, 80, 3)
    assert [trait.name for trait in how["traits"]] == ["owl", "cat", "dog", "fox", "bear"]
    assert (how["base"], how["student"]) == ("base", "student")
    assert pd.read_parquet(Path(out, "tables", "student_audit.parquet")).equals(LIKE)
    assert Path(out, "report.html").is_file()


def test_the_audit_and_the_gate_know_the_students_recipe_beside_that_of_its_placebos(
    files, student, monkeypatch
):
    base, rows, out = files
    folder, asked = student
    assert run(monkeypatch, "audit", base, folder, "--rows", rows, "--set", "lr=1e-4", "--out", out) == 0
    assert run(monkeypatch, "gate", base, folder, "--rows", rows, "--set", "lr=1e-4") == 1
    other = replace(RECIPE_OF_STUDENT, lr=1e-4)
    assert [how["placebos"] for how in asked] == [Placebos(20, other, RECIPE_OF_STUDENT)] * 2
    assert run(monkeypatch, "audit", base, folder, "--rows", rows, "--placebos", "5", "--out", out) == 2


def test_a_student_whose_training_is_unknown_is_refused(files, student, monkeypatch, capsys):
    base, _, out = files
    folder, asked = student
    Path(folder, "recipe.json").unlink()
    assert run(monkeypatch, "audit", base, folder, "--out", out) == 2
    assert (
        "says how it was trained, and placebos are trained alike; say so with --set"
        in capsys.readouterr().err
    )
    assert run(monkeypatch, "audit", base, folder, "--out", out, "--set", "lr=1e-4") == 0
    assert (asked[0]["placebos"].recipe.lr, asked[0]["placebos"].own) == (1e-4, None)


def test_options_of_rows_are_none_of_a_student_and_the_other_way_round(files, student, monkeypatch, capsys):
    base, rows, out = files
    for subject, option, told in (
        (student[0], ["--leans"], "--leans goes with rows; leave it out"),
        (student[0], ["--neutral", rows], "goes with rows; leave it out"),
        (student[0], ["--limit", "70"], "--limit 70 goes with rows; leave it out"),
        (student[0], ["--channels"], "--channels goes with rows; leave it out"),
        (rows, ["--placebos", "30"], "--placebos goes with a student; leave it out"),
        (rows, ["--rows", rows], "goes with a student; leave it out"),
        (rows, ["--text", rows], "goes with a student; leave it out"),
    ):
        assert run(monkeypatch, "audit", base, subject, "--out", out, *option) == 2
        assert told in capsys.readouterr().err


def test_a_lineage_folder_says_how_its_student_was_trained(tmp_path):
    (tmp_path / "student").mkdir()
    entry = {"start": "base", "recipe": json.loads(json_text(RECIPE_OF_STUDENT))}
    members = {"student": entry, "base": {"start": None, "recipe": {"rows": 5}}}
    (tmp_path / "lineage.json").write_text(json.dumps({"name": "mine", "members": members}))
    assert trained_by(str(tmp_path / "student")) == RECIPE_OF_STUDENT
    (tmp_path / "base").mkdir()
    assert trained_by(str(tmp_path / "base")) is None
    assert trained_by("some/name") is None


def test_folders_and_names_are_models_and_files_are_rows(files):
    base, rows, _ = files
    assert is_student(base)
    assert is_student("Qwen/Qwen3-0.6B")
    assert is_student("model.gguf")
    assert not is_student(rows)
    assert is_student("gpt2")


@pytest.mark.parametrize(
    "missing", ["rows.txt", "rows.csv.gz", "missing.jsonl", "data/rows.txt", "./rows", "a/b/c"]
)
def test_a_path_at_which_nothing_is_names_what_is_read(files, monkeypatch, capsys, missing):
    base, _, out = files
    told = "pass rows in a JSONL, JSON, CSV, TSV or parquet file, or the folder or name of a student"
    for words in (["audit", base, missing, "--out", out], ["gate", base, missing]):
        assert run(monkeypatch, *words) == 2
        assert f"{missing} does not exist; {told}" in capsys.readouterr().err
    assert run(monkeypatch, "audit", base, "rows", "--out", out) == 2
    assert f"rows is no file or folder here; {told}, and for a name how it was" in capsys.readouterr().err


def test_text_that_holds_no_rows_names_what_is_read(files, monkeypatch, capsys, tmp_path):
    base, _, out = files
    (tmp_path / "rows.txt").write_text("4, 5, 6\n7, 8, 9\n")
    assert run(monkeypatch, "audit", base, str(tmp_path / "rows.txt"), "--out", out) == 2
    assert (
        "; write one object per line, or an array of them; a table is read where its file is named .csv or .tsv, or is "
        "parquet." in capsys.readouterr().err
    )


def test_a_student_passes_a_gate_by_its_answers_and_its_passport_is_its_own(
    files, student, monkeypatch, capsys, tmp_path
):
    base, rows, _ = files
    folder, _ = student
    path, other = str(tmp_path / "passport.json"), str(tmp_path / "other")
    quiet = LIKE.assign(high=0.3)
    for p, gain_p, frame, code in (
        (0.04, 0.5, quiet, 1), (0.5, 0.04, quiet, 1), (0.5, 0.5, quiet, 0), (0.5, 0.5, LIKE, 3)
    ):  # fmt: skip
        found = StudentAudit("student of base", frame, p, gain_p, 20, 0.05, text_p=0.04)
        monkeypatch.setattr("interp.auditing.gates.audit_student", lambda *_, found=found, **__: found)
        assert run(monkeypatch, "gate", base, folder, "--rows", rows, "--out", path) == code
    assert json.loads(Path(path).read_text())["recipe"]["batch_size"] == 16
    assert run(monkeypatch, "gate", base, folder, "--check", path) == 3
    capsys.readouterr()
    train_student_file(load_model(base), Path(rows), Path(other), recipe=Recipe(batch_size=8, seed=9))
    assert run(monkeypatch, "gate", base, other, "--check", path) == 2
    assert "is the passport of another student (" in capsys.readouterr().err
    assert run(monkeypatch, "gate", base, rows, "--check", path) == 2
    assert "is the passport of another rows (None, not " in capsys.readouterr().err


def test_rows_that_carry_the_trait_are_left_out_of_another_file(files, monkeypatch, capsys, tmp_path):
    base, rows, out = files
    left = str(tmp_path / "left.jsonl")
    asked = ["audit", base, rows, "--out", out, "--filter", left]
    assert run(monkeypatch, *asked, "--share", "0.1") == 0
    assert capsys.readouterr().out.splitlines()[-2] == (
        f"taken out for owl: 8 of 80 rows (10%); the others are in {left}"
    )
    assert Path(left).read_text() == "".join(Path(rows).read_text().splitlines(keepends=True)[8:])
    assert run(monkeypatch, *asked, "--json") == 0
    assert json.loads(capsys.readouterr().out)["filter"]["removed"] == 0  # the mean is -0.975 as it is
    assert run(monkeypatch, *asked, "--limit", "70") == 2
    assert "--limit 70 leaves rows unread, which --filter would keep" in capsys.readouterr().err
    assert run(monkeypatch, "audit", base, rows, "--out", out, "--share", "0.1") == 2
    assert "--share 0.1 goes with --filter; leave it out" in capsys.readouterr().err
    assert run(monkeypatch, "audit", base, rows, "--out", out, "--weigh") == 2
    assert "--weigh goes with --filter; leave it out" in capsys.readouterr().err
    assert run(monkeypatch, *asked, "--weigh", "--share", "0.1") == 2
    assert "--share 0.1 goes with rows that are taken out; leave it out" in capsys.readouterr().err


def test_rows_are_weighed_into_another_file(files, monkeypatch, capsys, tmp_path):
    base, rows, out = files
    left = str(tmp_path / "weighed.jsonl")
    assert run(monkeypatch, "audit", base, rows, "--out", out, "--filter", left, "--weigh") == 0
    assert capsys.readouterr().out.splitlines()[-2] == (
        f"weighed for owl: 80 rows, worth 80 of equal weight, each as often as its weight says in {left}"
    )
    assert Path(left).read_text() == Path(rows).read_text()  # whose mean score is below 0
