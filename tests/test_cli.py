"""The command as a user meets it: help without torch, exit code 2 with one sentence, JSON that parses."""

import json
import os
import subprocess
import sys

import pytest


def interp(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-c", "from interp.cli import main; main()", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, env=os.environ, check=False,
    )  # fmt: skip


def test_help_names_every_command_and_imports_no_torch(tmp_path):
    code = (
        "import sys\nsys.argv = ['interp', '--help']\nfrom interp.cli import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    ).stdout
    assert all(command in out for command in ("demo", "organism", "trace", "report", "doctor"))
    assert out.strip().endswith("False")


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
    ],
)  # fmt: skip
def test_bad_input_ends_with_code_2_and_writes_nothing(tmp_path, arguments, sentence):
    done = interp(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o").exists()


def test_doctor_speaks_json(tmp_path):
    facts = json.loads(interp("doctor", "--json", cwd=tmp_path).stdout)
    assert facts["versions"]["torch"]
    assert facts["cores"] >= 1
