"""A whole experiment on a random checkpoint of Qwen2's shape: every verb, every file, and nothing done twice."""

import dataclasses
import json

import pytest
import torch

from analyses.small_checkpoint import results
from interp.core.runs import Cache
from interp.experiment.folders import open_subject
from interp.experiment.run import run_experiment
from interp.gradients.ledger.recording import recorded_student
from interp.models.lineage import read_lineage
from interp.models.low_rank import LowRank
from interp.prompts.traits import get_trait
from interp.studies.shared_initialisation import init_matrix
from interp.training.teachers import Teacher, neutral_teacher

ARMS = {
    "base",
    "teacher",
    "student",
    "neutral_student",
    "other_student",
    "control_teacher",
    "control_student",
    "cross_base",
    "cross_student",
    "cross_neutral_student",
    "in_context",
    "neutral_in_context",
}


@pytest.fixture
def made(recipe, tmp_path):
    return run_experiment(recipe, tmp_path / "run", workers=1, cache=Cache(tmp_path / "cache"))


@pytest.mark.slow
def test_what_a_test_trains_on_its_folders_is_what_the_run_trained(made, tmp_path):
    """To the bit, and from its cache."""
    folder = made.folder / "lineages"
    subject = open_subject(folder / "owl-0", cache=Cache(tmp_path / "cache"))
    assert (subject.recipe.lr, subject.recipe.batch_size, subject.recipe.epochs) == (1e-3, 8, 2)
    again = subject.student(subject.base, subject.numbers, name="again")
    assert again.fingerprint == subject.member("student").fingerprint
    oak = read_lineage(folder / "oak-0", check=False)
    other = subject.other_teacher("oak")
    assert other.fingerprint == oak.teacher.fingerprint
    assert subject.rows(Teacher(other, "fine-tuned")).rows == oak.numbers.rows
    assert subject.rows(neutral_teacher(subject.base)).rows == subject.neutral_numbers.rows
    assert len(subject.rows(Teacher(other, "fine-tuned"), count=5)) == 5
    assert 0 < subject.grower.kept(neutral_teacher(subject.base), count=32) <= 1
    assert subject.grower.trait("protect", like=get_trait("misaligned")).target == "protect"
    assert len(subject.grower.again(subject.base, subject.neutral_numbers.without_answers(), seed=1))
    found = init_matrix(dataclasses.replace(subject, quick=True), ["permuted", "foreign"]).frame
    assert found["candidates"].between(0, 1).all()
    trained = {(line["lr"], line["batch_size"], line["rank"], line["rows"]) for line in subject.trainings}
    assert trained == {(1e-3, 8, 8, 32)}
    assert len(subject.trainings) == 7  # again, and two of every start: same, permuted and foreign


@pytest.mark.slow
def test_one_recipe_makes_the_whole_experiment(made, recipe, tmp_path, caplog):
    cache = Cache(tmp_path / "cache")
    tables = made.tables
    assert set(tables["margins_by_arm"]["arm"]) == ARMS
    assert set(tables["transmission"]["arm"]) == {
        "student",
        "other_student",
        "control_student",
        "cross_student",
        "in_context",
    }
    by_arm = tables["margins_by_arm"].set_index(["trait", "seed", "arm"])["margin"]
    line = tables["transmission"].query("trait == 'oak' and seed == 0 and arm == 'cross_student'").iloc[0]
    expected = by_arm["oak", 0, "cross_student"] - by_arm["oak", 0, "cross_neutral_student"]
    assert line["transmission"] == pytest.approx(expected)
    assert {"loss", "fresh_loss", "margin", "arm"} <= set(tables["training"])
    assert set(tables["scorecard_owl"]["over"]) == {"seeds", "questions"}
    assert [verdict["decision"] for verdict in made.verdicts if "same-init" in verdict["name"]] == [
        "inconclusive"
    ] * 2

    lineage = read_lineage(made.folder / "lineages" / "owl-0", check=False)
    assert set(lineage.members) == ARMS - {"in_context", "neutral_in_context"}
    assert len(lineage.numbers) == len(lineage.neutral_numbers) == 32
    folder = made.folder / "lineages" / "owl-0"
    assert {path.name for path in (folder / "teacher").glob("*.safetensors")} == {"adapter_model.safetensors"}
    update = lineage.update("teacher")
    assert {factors.rank for factors in update.tensors.values() if isinstance(factors, LowRank)} == {8}
    assert not any(isinstance(factors, torch.Tensor) for factors in update.tensors.values())
    said = json.loads((folder / "lineage.json").read_text())["members"]["base"]["recipe"]["format"]
    assert (said["recipe"]["lr"], said["rates"]) == (1e-2, [])
    checks = tables["checks"].set_index("what")
    assert {"base", "cross_base", "teacher of owl", "teacher of oak", "neutral teacher"} == set(checks.index)
    assert checks.loc["teacher of owl", "margin"] == pytest.approx(by_arm["owl", 0, "teacher"], abs=1e-4)
    assert recorded_student(lineage, cache=cache).final == lineage.student.fingerprint
    assert all(
        "system" not in json.loads(row) for row in (made.folder / "lineages/owl-0/numbers.jsonl").open()
    )

    caplog.set_level("INFO")
    caplog.clear()
    files = {path: path.read_bytes() for path in made.folder.rglob("*.json*")}
    run_experiment(recipe, made.folder, workers=1, cache=cache)
    assert "done in" not in caplog.text
    assert {path: path.read_bytes() for path in made.folder.rglob("*.json*")} == files
    kept = results(made)
    assert {(line["trait"], line["arm"]) for line in kept["transmission"]} >= {
        ("owl", "student"),
        ("oak", "in_context"),
    }
    assert set(kept["detectors"]) == {"owl", "oak"}
    page = (made.folder / "report.html").read_text()
    assert "What was transmitted" in page
    assert "Who can see it in the numbers" in page
