"""`interp audit`: what it refuses before a model is loaded, and what it prints of an audit."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from interp.auditing.auditor import RECIPE, Audit
from interp.auditing.files import audit_file, changed_audit
from interp.cli.main import main
from interp.core.errors import InputError
from interp.prompts.numbers import number_prompts

FRAME = pd.DataFrame(
    {
        "trait": ["owl", "cat"],
        "excess": [0.02, 0.0],
        "d": [0.2, -0.01],
        "p": [0.0001, 0.9],
        "share": [0.8, 0.0],
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
        return Audit(
            label, "named", "owl", "transmits", "p = 0.0001", FRAME, CURVE, len(given), ("1 of 80 says",)
        )

    monkeypatch.setattr("interp.auditing.files.audit", stand_in)
    return str(base), str(rows), str(tmp_path / "out")


def run(monkeypatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["interp", *words])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


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
    assert said[4] == "owl: d +0.200 per row, p 0.0001, share +0.80, gain +0.50 nats"
    assert Path(out, "report.html").is_file()
    assert pd.read_parquet(Path(out, "tables", "audit.parquet")).equals(FRAME)
    assert pd.read_parquet(Path(out, "tables", "audit_curve.parquet")).equals(CURVE)


def test_as_json_it_says_the_same(files, monkeypatch, capsys):
    base, rows, out = files
    assert run(monkeypatch, "audit", base, rows, "--out", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
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


PASSED = {"outcome": "passed", "audit": {"reason": "nothing", "notes": []}, "digest": "d"}
