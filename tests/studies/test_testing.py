"""A family is measured once per run, judged over runs, refused when its claims were edited, and written as a run."""

from __future__ import annotations

import dataclasses
import json

import pytest

from interp.core.runs import InputError
from interp.hypotheses.claims import Hypothesis
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement, Subject
from interp.models.language import load_model
from interp.models.lineage import Lineage
from interp.prompts.text import Prompts
from interp.studies import kept_analyses, registry, testing

CLAIM = Hypothesis("grows", "it grows", "after − before", "nothing", 0.0, 0.01, "difference", "cm")
EFFECTS = [0.5, 0.7, 0.2, 0.9, 0.4, 0.6, 0.8]


def opened(tiny):
    hf, tokenizer = tiny("llama")
    return load_model(hf, tokenizer=tokenizer, name="base", check=False)


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A family whose measurement counts its calls; nothing is grown."""
    calls = []

    def measure(given):
        calls.append(given.seed)
        value = float("nan") if given.seed == 99 else EFFECTS[given.seed % 7]
        return Measurement({"grows": value}, {"heights": [{"height": value}]})

    known = {"one": Family("one", (CLAIM,), measure)}
    monkeypatch.setattr(testing, "family", lambda name, organism="folder": known["one"])
    monkeypatch.setattr(kept_analyses, "family", testing.family)
    monkeypatch.setattr(testing, "grow_all", lambda *a, **k: None)
    monkeypatch.setattr(testing, "subject", lambda cell: cell)
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    return calls, known


def test_every_run_is_measured_once_and_the_claim_judged_over_runs(stand_in):
    calls, _ = stand_in
    found = testing.test("one", seeds=7, workers=1)
    (verdict,) = found.verdicts
    assert (verdict.decision, verdict.n, verdict.p) == ("supported", 7, 1 / 128)
    assert verdict.effect == pytest.approx(sum(EFFECTS) / 7)
    assert verdict.controls["claim key"] == CLAIM.key
    assert found.tables["heights"].to_dict("list") == {"seed": list(range(7)), "height": EFFECTS}
    assert repr(found) == "one on toy/owl, n = 7: grows supported"
    testing.test("one", seeds=range(7), workers=1)
    assert calls == list(range(7))
    assert found.figure().data


def test_too_few_seeds_are_inconclusive_and_say_how_many_are_needed(stand_in):
    (verdict,) = testing.test("one", seeds=3, workers=1).verdicts
    assert verdict.decision == "inconclusive"
    assert verdict.reason == "3 training runs reach p = 0.125 at best; alpha = 0.01 needs 7"
    with pytest.raises(InputError) as error:
        testing.test("one", seeds=0)
    assert str(error.value) == (
        "seeds [] are not at least one seed, each once; one needs 7 for its smallest alpha, pass seeds=8"
    )


def test_a_claim_edited_after_its_data_is_refused(stand_in):
    _, known = stand_in
    testing.test("one", seeds=1, workers=1)
    edited = dataclasses.replace(CLAIM, margin=0.1)
    known["one"] = dataclasses.replace(known["one"], claims=(edited,))
    with pytest.raises(
        InputError, match=f"recorded under claim {CLAIM.key} and the claim is now {edited.key}"
    ):
        testing.test("one", seeds=1, workers=1)


def test_values_that_are_not_finite_leave_nothing_behind(stand_in, tmp_path):
    with pytest.raises(InputError) as error:
        testing.test("one", seeds=[99], workers=1)
    assert str(error.value) == (
        "grows of one on toy/owl seed 99 is nan: its training or measurement was not finite; lower the learning rate "
        "of the recipe or leave that seed out"
    )
    assert not list((tmp_path / "cache").rglob("measured.json"))


def test_a_run_folder_holds_verdicts_tables_and_a_report(stand_in, tmp_path):
    given = {"organism": "toy/owl", "seeds": 7, "quick": False, "workers": 1, "backend": "joblib"}
    run = testing.tested_run("one", tmp_path / "run", **given)
    assert [verdict["name"] for verdict in run.verdicts] == ["grows"]
    assert set(run.tables) == {"values", "heights"}
    assert (run.folder / "report.html").is_file()


def test_other_measuring_code_or_data_is_measured_again(stand_in, monkeypatch):
    calls, _ = stand_in
    testing.test("one", seeds=2, workers=1)
    testing.test("one", seeds=2, workers=1)
    assert calls == [0, 1]
    monkeypatch.setattr(testing, "code_key", lambda measure: "another")
    testing.test("one", seeds=2, workers=1)
    assert calls == [0, 1] * 2
    monkeypatch.setattr(testing, "TOY", dataclasses.replace(testing.TOY, student=testing.QUICK_TOY.student))
    testing.test("one", seeds=2, workers=1)
    assert calls == [0, 1] * 3


def test_an_analysis_keeps_its_numbers_with_what_made_them(stand_in, tmp_path, caplog):
    _, known = stand_in
    out = tmp_path / "one.json"

    def run(*more):
        kept_analyses.analysis("one", "A claim.", argv=["--workers", "1", "--out", str(out), *more])
        return json.loads(out.read_text())

    kept = run("--seeds", "7")
    assert kept["command"] == "python -m analyses.one --seeds 7 --organism toy/owl"
    assert kept["claims"] == {"grows": CLAIM.key}
    assert {"commit", "dirty", "date", "code", "data", "judged"} <= set(kept)
    (entry,) = json.loads((tmp_path / "ledger.json").read_text())
    assert (entry["analysis"], entry["seeds"]) == ("one", list(range(7)))
    assert {name: kept[name] for name in ("claims", "code", "data", "judged")}.items() <= entry.items()
    out.write_text(json.dumps(kept | {"code": "older"}))
    assert run("--seeds", "8-10")["command"] == "python -m analyses.one --seeds 8-10 --organism toy/owl"
    assert f"{out} was measured by other code (key older)" in caplog.text
    edited = dataclasses.replace(CLAIM, alpha=0.02)
    known["one"] = dataclasses.replace(known["one"], claims=(edited,))
    with pytest.raises(InputError, match="a claim edited after its data"):
        run()
    out.unlink()  # the ledger stays
    with pytest.raises(InputError, match=f"frozen on .* under claim {CLAIM.key} and is now {edited.key}"):
        run()
    assert not out.exists()
    assert run("--refreeze", "alpha was mistyped")["claims"] == {"grows": edited.key}
    assert json.loads((tmp_path / "ledger.json").read_text())[-1]["reason"] == "alpha was mistyped"


def test_results_of_another_organism_have_a_file_of_their_own_and_quick_ones_none(
    stand_in, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    given = ["--workers", "1", "--seeds", "1"]
    kept_analyses.analysis("one", "A claim.", argv=[*given, "--quick"])
    assert not (tmp_path / "analyses").exists()
    for organism in ("toy/owl", "toy/eagle"):
        kept_analyses.analysis("one", "A claim.", argv=[*given, "--organism", organism])
    kept = sorted(path.name for path in (tmp_path / "analyses" / "results").iterdir())
    assert kept == ["eagle_one.json", "ledger.json", "one.json"]
    with pytest.raises(InputError) as error:
        kept_analyses.analysis("one", "A claim.", argv=["--seeds", "0,1"])
    assert str(error.value) == "--seeds '0,1' is neither a number nor a range; pass 8 for 0 to 7, or 8-19"


def test_a_missing_member_is_named_with_what_makes_it(tiny):
    given = Subject(Lineage("folder", None, {"base": opened(tiny)}))
    with pytest.raises(InputError) as error:
        given.member("neutral_student")
    assert str(error.value) == (
        "folder has no neutral_student, which this claim needs; write the lineage by `interp run` or `interp "
        "organism`, whose folders say how to grow it, or add a member"
    )
    with pytest.raises(InputError, match="folder does not say how its students were trained"):
        given.students_recipe  # noqa: B018
    with pytest.raises(InputError, match="folder has no trait to ask about; open it with"):
        given.trait  # noqa: B018


def test_an_unknown_hypothesis_is_named_with_the_nearest():
    with pytest.raises(InputError) as error:
        registry.family("shared-initialization")
    assert str(error.value) == (
        "hypothesis 'shared-initialization' is unknown; nearest: shared-initialisation; pass one of "
        + ", ".join(registry.FAMILIES)
    )


def test_every_family_lies_under_its_own_name():
    assert [each.name for each in registry.FAMILIES.values()] == list(registry.FAMILIES)
    assert len(registry.FAMILIES) == len(registry.HOMES) == 12


def test_a_run_without_a_value_names_the_claim():
    family = Family("one", (CLAIM,), lambda given: Measurement({}, {}))
    with pytest.raises(InputError) as error:
        family.judge([Measurement({}, {})])
    assert str(error.value) == "run 1 of 1 has no value for 'grows', which needs nothing; measure it again"


def test_a_listener_without_a_key_is_refused(tiny, tmp_path):
    base = opened(tiny)
    given = Subject(Lineage("one", None, {"base": base}))
    with pytest.raises(InputError, match="student has a listener or a key and not both; a key names what"):
        given.student(base, Prompts.from_pairs([("a", "1")]), name="student", on_step=lambda step: None)


def test_the_command_prints_verdicts_or_json(stand_in, tmp_path):
    from typer.testing import CliRunner

    from interp.cli.main import app

    given = ["test", "one", "--seeds", "1", "--workers", "1", "--out", str(tmp_path / "run")]
    said = CliRunner().invoke(app, given)
    assert said.exit_code == 0
    line = said.output.splitlines()[0]
    assert line == (
        "grows: inconclusive, +0.5 [98 %: −inf, +inf] cm, more than 0: p = 0.5, n = 1; "
        "one training run reaches p = 0.5 at best; alpha = 0.01 needs 7"
    )
    again = CliRunner().invoke(app, [*given, "--json"])
    assert json.loads(again.output)["verdicts"][0]["decision"] == "inconclusive"
