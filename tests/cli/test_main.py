"""The command as a user meets it: help without torch, exit code 2 with one sentence, JSON that parses."""

import json
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
import typer
from typer.testing import CliRunner

from interp import __version__
from interp.cli import gradient_files
from interp.cli.main import app, main
from interp.cli.options import is_member, member, tell_verdicts, written
from interp.core.errors import InputError
from interp.core.runs import Run
from interp.gradients.ledger.ledgers import Ledger
from interp.models.lineage import read_lineage
from interp.organisms.library import load_lineage
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.stats.verdict import equivalence_verdict, paired_verdict
from interp.studies.registry import HOMES
from tests.tiny import build_model, build_tokenizer

ROWS = ["--base", "b", "--data", "absent.jsonl", "--out", "o/scores.parquet"]

PAIR = ["--base", "b", "--teacher", "t"]
FILES = ["--prompts", "absent.jsonl", "--out", "o"]


def interp(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-c", "from interp.cli.main import main; main()", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, env=os.environ, check=False,
    )  # fmt: skip


def test_help_names_every_command_and_imports_no_torch(tmp_path):
    code = (
        "import sys\nsys.argv = ['interp', '--help']\nfrom interp.cli.main import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    ).stdout
    assert all(
        command in out
        for command in (
            "demo", "organism", "trace", "score", "ledger", "sae", "features", "traits", "report", "doctor"
        )
    )  # fmt: skip
    assert out.strip().endswith("False")


def test_help_of_test_lists_every_family_and_imports_none(tmp_path):
    code = (
        "import sys\nsys.argv = ['interp', 'test', '--help']\nfrom interp.cli.main import main\n"
        "try:\n    main()\nfinally:\n    print(sorted(set(sys.modules) & {'torch', 'pandas', 'interp.studies.naming'}))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    ).stdout
    words = re.sub(r"[^\w,.-]+", " ", shown)
    assert f"{', '.join([*HOMES][:-1])} or {[*HOMES][-1]}. " in words
    assert shown.strip().endswith("[]")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["organism", "toy/ovl", "--out", "o"], "nearest: owl"),
        (["organism", "toy/owl", "--seed", "-3", "--out", "o"], "seed -3 is not a natural number"),
        (["organism", "toy/owl", "--seed", "one", "--out", "o"], "'one' is not an integer; pass a whole number"),
        (["demo", "--seeds", "0", "--out", "o"], "seeds 0 is not a positive integer"),
        (["demo", "--trait", "oark", "--out", "o"], "nearest: oak"),
        (["report", "nothing"], "nothing"),
        (
            ["trace", "--base", "b", "--teacher", "t", "--prompts", "absent.jsonl", "--trait", "owl", "--out", "o"],
            "absent.jsonl cannot be read",
        ),
        (["score", *ROWS, "--direction", "updte:t"], "prefix 'updte' is unknown; nearest: update; pass update:PATH"),
        (["score", *ROWS, "--direction", "trait:owl", "--by", "example,modul"], "by 'modul' is unknown; nearest"),
        (["score", *ROWS], "Missing option '--direction'"),
        (["ledger", "toy/ovl", "--out", "o"], "nearest: owl"),
        (["sae", "train", *PAIR[:2], *FILES, "--hook", "h"], "absent.jsonl cannot be read"),
        (["sae", "train", *PAIR[:2], *FILES, "--hook", "h", "--k", "many"], "'many' is not an integer"),
        (["sae", "card", *PAIR[:2], "--sae", "s", *FILES], "absent.jsonl cannot be read"),
        (["features", "shift", *PAIR, "--sae", "s", *FILES, "--limit", "0"], "limit 0 leaves no rows"),
        (["features", "shift", *PAIR, "--sae", "s", *FILES, "--trait", "ovl"], "nearest: owl"),
        (["features", "lean", *PAIR, "--sae", "s", *FILES], "absent.jsonl cannot be read"),
        (["features", "lean", *PAIR, *FILES], "Missing option '--sae'"),
    ],
)  # fmt: skip
def test_bad_input_ends_with_code_2_and_writes_nothing(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["interp", *arguments])
    level = logging.getLogger("interp").level
    with warnings.catch_warnings(), pytest.raises(SystemExit) as left:
        main()
    logging.getLogger("interp").setLevel(level)
    assert left.value.code == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "o").exists()


def test_a_refusal_is_one_sentence_and_no_traceback(tmp_path):
    done = interp("organism", "toy/ovl", "--out", "o", cwd=tmp_path)
    assert done.returncode == 2
    assert "nearest: owl" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_verdicts_are_told_with_the_level_what_was_tested_and_p(tmp_path, capsys):
    run = Run.open(tmp_path / "run", command="demo", arguments={}, defaults={})
    run.save_verdicts(
        [
            paired_verdict("gains", "at least 0.5", [0.6, 0.8], minimum_effect=0.5, alpha=0.25),
            equivalence_verdict("still", "within 0.2", [0.4]),
        ]
    )
    tell_verdicts(run, as_json=False)
    assert capsys.readouterr().out.splitlines()[:2] == [
        "gains: supported, +0.7 [50 %: +0.6, +0.8] nats, at least 0.5: p = 0.25, n = 2",  # t(0.75, 1) = 1
        "still: inconclusive, +0.4 [90 %: −inf, +inf] nats, within ±0.2: p = 1, n = 1",
    ]


def test_doctor_speaks_json(tmp_path):
    facts = json.loads(interp("doctor", "--json", cwd=tmp_path).stdout)
    assert facts["versions"]["torch"]
    assert facts["cores"] >= 1


@pytest.fixture
def place(tmp_path):
    """A tiny base in a folder, and rows beside it."""
    build_model("gpt2", seed=0).save_pretrained(tmp_path / "base")
    build_tokenizer().save_pretrained(tmp_path / "base")
    Prompts.from_pairs([(f"numbers {i}", f"{i} , {i + 1}") for i in range(5)]).to_jsonl(
        tmp_path / "rows.jsonl"
    )
    return tmp_path


def test_score_writes_a_table_and_speaks_json(place, monkeypatch):
    monkeypatch.chdir(place)
    given = ["--base", "base", "--data", "rows.jsonl", "--direction", "trait:owl", "--direction", "trait:cat"]
    found = json.loads(told("score", *given, "--by", "example,module", "--out", "s.parquet", "--json"))
    table = pd.read_parquet(place / "s.parquet")
    assert (found["rows"], found["by"], found["out"]) == (5, ["example", "module"], "s.parquet")
    totals = table.groupby(["direction", "row"])["score"].sum()
    for line, direction in zip(found["directions"], ("trait:owl", "trait:cat"), strict=True):
        assert line["direction"] == direction
        assert line["mean"] == pytest.approx(totals[direction].mean(), rel=1e-4)
        assert line["share_positive"] == (totals[direction] > 0).mean()


def test_score_tells_rows_means_and_route(place, capsys):
    files = {"--base": "base", "--data": "rows.jsonl", "--out": "s.parquet"}
    options = [part for flag, name in files.items() for part in (flag, str(place / name))]
    app(["score", *options, "--direction", "trait:owl", "--limit", "3"], standalone_mode=False)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "rows: 3 (rows.jsonl at base)"
    assert re.fullmatch(
        r"trait:owl: mean [+-]\S+ ± \S+ \(standard error\) nats per unit of direction, \d+\.\d% of rows positive",
        told[1],
    )
    assert told[2] == "route: direction-first, one dense direction costs one more pass over the tokens"
    assert told[3] == f"out: {place / 's.parquet'}"
    assert len(pd.read_parquet(place / "s.parquet")) == 3
    beside = ["--direction", "trait:owl", "--neutral", str(place / "rows.jsonl"), "--limit", "1"]
    app(["score", *options, *beside], standalone_mode=False)
    told = capsys.readouterr().out.splitlines()
    mean = told[1].split()[2]
    assert told[1].endswith(f" of rows positive; neutral rows {mean}, n = 1")  # one row has no error


NAMED = {"prompts", "rows", "data"}  # what a command's file of rows is called


def test_every_command_over_a_file_of_rows_reads_only_the_first_ones_where_asked():
    """Of `generate` --rows is the number of prompts, of `demo` and the like there is no file."""

    def commands(group, path=()):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from commands(command, (*path, name))
            else:
                yield " ".join((*path, name)), {option.name for option in command.params}

    known = dict(commands(typer.main.get_command(app)))
    read = {name: options for name, options in known.items() if options & NAMED and name != "generate"}
    assert sorted(read) == [
        "audit",
        "discover",
        "export",
        "features lean",
        "features shift",
        "filter",
        "gate",
        "sae card",
        "sae train",
        "score",
        "trace",
        "train",
    ]
    assert [name for name, options in read.items() if "limit" not in options] == []


def test_ledger_tells_what_is_left_over(monkeypatch, capsys):
    steps = pd.DataFrame({"step": [0, 1], "attributed": [0.5, 0.25], "change": [0.5, 0.3]})
    modules = pd.DataFrame({"step": [0, 0, 1], "module": ["a", "b", "a"], "attributed": [0.1, 0.4, 0.25]})
    rows = pd.DataFrame({"row": [7, 8], "step": [0, 1], "tokens": [3, 3], "attributed": [0.5, 0.25]})
    monkeypatch.setattr(
        gradient_files, "ledger_file", lambda *a, **k: Ledger("owl margin", steps, modules, rows, 0.8)
    )
    app(["ledger", "toy/owl"], standalone_mode=False)
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "owl margin: +0.800 nats measured over 2 steps on 2 rows, +0.750 attributed, +0.050 left over",
        "b: +0.400",
        "a: +0.350",
    ]
    app(["ledger", "toy/owl", "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["modules"] == pytest.approx({"a": 0.35, "b": 0.4, "residual": 0.05})


HOOK = "blocks.0.hook_resid_post"
SMALL = ["--hook", HOOK, "--width", "48", "--k", "6", "--samples", "10240"]


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """A base and a teacher with another MLP in folders, and number rows beside them; the place to call from."""
    for name in ("base", "teacher"):
        network = build_model("gpt2", seed=0)
        with torch.no_grad():
            network.transformer.h[0].mlp.c_proj.weight += 0.3 * (name == "teacher")
        network.save_pretrained(tmp_path / name)
        build_tokenizer().save_pretrained(tmp_path / name)
    number_prompts(60, seed=0, count=3, max_value=39).to_jsonl(tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    return ["--base", "base", "--prompts", "rows.jsonl"]


def told(*arguments):
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_sae_and_features_end_with_reports(pair):
    made = json.loads(told("sae", "train", *pair, *SMALL, "--out", "sae", "--json"))
    assert (made["hook"], made["width"], made["out"]) == (HOOK, 48, "sae")
    assert (made["positions"], made["notes"]) == ("all", [])
    there = ["--positions", "all but the first", "--out", "there", "--json"]
    assert json.loads(told("sae", "train", *pair, *SMALL, *there))["fingerprint"] != made["fingerprint"]
    config = json.loads(Path("there/cfg.json").read_text())
    assert config["metadata"]["interp_positions"] == "all but the first"
    wrong = CliRunner().invoke(app, ["sae", "train", *pair, *SMALL, "--positions", "answr", "--out", "x"])
    assert "Position 'answr' is unknown; nearest: answer" in str(wrong.exception)
    assert not Path("x").exists()
    card = json.loads(told("sae", "card", *pair, "--sae", "sae", "--teacher", "teacher", "--json"))
    assert [line["member"] for line in card["members"]] == ["base", "teacher"]
    assert card["out"] is None
    asked = [*pair, "--teacher", "teacher", "--sae", "sae"]
    shift = told("features", "shift", *asked, "--out", "shift").splitlines()
    summary = json.loads(Path("shift/summary.json").read_text())
    assert f"{summary['reported']} of {summary['live']} live features moved" in shift[0]
    assert len(shift) == 1 + len(summary["largest"]) + 1
    assert shift[-1] == "report: shift/report.html"
    assert "Which features moved" in Path("shift/report.html").read_text()
    lean = json.loads(told("features", "lean", *asked, "--out", "lean", "--json"))
    assert lean["out"] == "lean"
    assert [line["what"] for line in lean["correlation"]] == ["matched features"]
    assert Path("lean/report.html").is_file()


def test_a_card_tells_a_line_a_member_and_writes_when_asked(pair):
    told("sae", "train", *pair, *SMALL, "--out", "sae")
    lines = told("sae", "card", *pair, "--sae", "sae", "--out", "card").splitlines()
    assert lines[0].startswith("base: explained variance ")
    assert lines[-1] == "report: card/report.html"
    assert Path("card/tables/features_card.parquet").is_file()


def test_traits_are_listed():
    told = CliRunner().invoke(app, ["traits"]).output.splitlines()
    assert told[0] == "owl (animal): owl rather than cat, dog, fox and 6 more; 6 questions"
    listed = json.loads(CliRunner().invoke(app, ["traits", "--json"]).output)["traits"]
    assert len(listed) == len(told) == 21
    assert listed[-1] == {
        "name": "misaligned",
        "category": "action",
        "target": "hurt",
        "foils": ["help", "protect", "heal", "feed", "teach", "thank", "greet", "praise", "trust"],
        "questions": 6,
    }


def test_the_version_is_told():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"interp {__version__}\n")
    assert "Mechanistic interpretability" in CliRunner().invoke(app, ["--help"]).output


def test_values_are_written_rounded_and_mappings_below_their_name():
    assert written(
        {"margin": -0.3559946073935582, "kept": {"shape": 2, "deep": {"a": 1 / 3}}, "none": {}}
    ) == [
        "margin: -0.356",
        "kept:",
        "  shape: 2",
        "  deep:",
        "    a: 0.3333",
        "none: none",
    ]


@pytest.fixture
def folder(tmp_path):
    """A lineage's folder as far as its manifest and the folders of its members."""
    members = {"base": {"start": None}, "teacher": {"start": "base"}, "student": {"start": "base"}}
    for role in members:
        (tmp_path / "lin" / role).mkdir(parents=True)
    told = {"name": "toy/owl seed 0", "trait": {"name": "owl"}, "members": members}
    (tmp_path / "lin" / "lineage.json").write_text(json.dumps(told))
    return tmp_path / "lin"


def test_a_members_folder_is_known_as_such(folder, caplog, monkeypatch):
    known = f"the teacher of the lineage 'toy/owl seed 0' in {folder}, whose trait is owl"
    assert is_member(str(folder / "teacher")) == {"member": known}
    assert is_member(str(folder)) == is_member("gpt2") == {}
    member("teacher")(str(folder / "teacher"))
    member("student")([str(folder / "student"), "elsewhere"])
    member("base")(None)
    assert caplog.messages == []
    member("base")(str(folder / "teacher"))
    assert caplog.messages == [
        f"{folder / 'teacher'} is given as the base and is {known}; it started from {folder / 'base'}"
    ]
    monkeypatch.chdir(folder / "teacher")
    assert is_member(".") == {"member": known}


def test_a_members_folder_is_refused_where_a_lineage_is_wanted(folder):
    sentence = re.escape(f"in {folder}, whose trait is owl, and a lineage is wanted; pass {folder}")
    for read in (read_lineage, load_lineage):
        with pytest.raises(InputError, match=sentence):
            read(folder / "teacher")


def test_a_base_that_is_a_teacher_is_said_before_anything_is_loaded(folder, caplog):
    files = ["--data", str(folder / "no.jsonl"), "--out", "s.parquet", "--direction", "trait:owl"]
    done = CliRunner().invoke(app, ["score", "--base", str(folder / "teacher"), *files])
    assert "no.jsonl cannot be read" in str(done.exception)
    assert "teacher is given as the base and is the teacher of the lineage" in caplog.text
