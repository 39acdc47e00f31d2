"""The demo end to end: what its folder holds, what one lineage may not decide, and that a second run adds nothing."""

import json

import pandas as pd
import pytest

from interp.experiment.demonstration import demo, verdicts
from interp.features.sae import SAERecipe
from interp.prompts.traits import get_trait
from interp.training import generation, grower

FILES = (
    "verdicts.json",
    "summary.json",
    "report.html",
    "tables/margins.parquet",
    "tables/tokens_student.parquet",
    "tables/features_teacher.parquet",
    "tables/joined_student.parquet",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One quick demo and a second one beside it, over one cache; the second may not train."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERP_CACHE", str(tmp_path_factory.mktemp("demo-cache")))
        patch.setenv("BROWSER_PATH", "/nonexistent")
        patch.setattr("interp.experiment.demonstration.QUICK_SEEDS", 1)
        patch.setattr("interp.experiment.demonstration.QUICK_ROWS", 512)
        patch.setattr("interp.experiment.demonstration.PROMPTS", 48)
        patch.setattr("interp.experiment.demonstration.QUICK_DICTIONARY", SAERecipe(samples=10_240))
        patch.setattr(
            "interp.experiment.demonstration.grow_all", lambda *a, **k: None
        )  # it starts processes; tested elsewhere
        first = demo(tmp_path_factory.mktemp("first") / "demo", quick=True)
        for module, name in (
            (grower, "fine_tune_teacher"),
            (grower, "train_student"),
            (generation, "complete"),
        ):
            patch.setattr(module, name, lambda *a, **k: pytest.fail("trained again"))
        return first, demo(tmp_path_factory.mktemp("second") / "demo", quick=True)


def test_the_folder_holds_what_the_design_says(runs):
    folder = runs[0].folder
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"run.json", *FILES, "figures/margins.html", "tables/moved_teacher.parquet"} <= present
    assert {row["name"] for row in json.loads((folder / "verdicts.json").read_text())} == {
        "same-init-transfers",
        "same-init-gains",
        "cross-init-does-not",
        "trait-logit-moved",
    }


def test_the_summary_holds_the_margin_of_every_member(runs):
    rows = runs[0].summary["lineages"]
    assert [row["seed"] for row in rows] == [0]
    assert all(len(row["members"]) == 7 for row in rows)
    assert all(row["members"]["teacher"] > row["members"]["base"] + 3 for row in rows)


def test_the_joined_trace_is_of_the_rows_that_moved_the_student_most(runs):
    tables = runs[0].tables
    joined, quality = tables["joined_student"], tables["features_quality"].set_index("member")
    assert joined["row"].nunique() == 20
    assert joined.groupby("row", sort=False)["row_share"].first().is_monotonic_decreasing
    modules = [name for name in joined if name.startswith("score:")]
    answered = joined[joined["score"].notna()]
    assert abs(answered[modules].sum(axis=1) - answered["score"]).max() < 1e-5
    assert list(quality.index) == ["base", "teacher", "student", "neutral_student"]


def test_one_lineage_decides_no_sign(runs):
    found = {row["name"]: row for row in runs[0].verdicts}
    assert (
        found["same-init-transfers"]["decision"] == found["trait-logit-moved"]["decision"] == "inconclusive"
    )
    assert found["same-init-transfers"]["n"] == 1
    assert found["same-init-transfers"]["smallest_p"] == 0.5


def test_a_second_demo_ends_with_the_same_bytes(runs):
    one, two = (run.folder for run in runs)
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def margins(student, cross):
    """A hand-made table of eight lineages with neutral twins at zero."""
    zero = [0.0] * 8
    return pd.DataFrame(
        {
            "base": zero,
            "teacher": [9.0] * 8,
            "student": student,
            "neutral_student": zero,
            "cross_base": zero,
            "cross_student": cross,
            "cross_neutral_student": zero,
        }
    )


def test_planted_margins_give_the_verdicts_they_should():
    up, flat = [0.6, 0.7, 0.5, 0.9, 0.6, 0.8, 0.7, 0.6], [0.05, -0.05, 0.02, -0.02, 0.04, -0.04, 0.03, -0.03]
    found = verdicts(get_trait("owl"), margins(up, flat), [0.3] * 8)
    assert [verdict.decision for verdict in found] == ["supported"] * 4
    assert [verdict.tested for verdict in found] == [
        "at least 0.5",
        "more than 0",
        "within ±0.2",
        "more than 0",
    ]
    assert [verdict.p for verdict in found[:2]] == [2 / 256, 1 / 256]  # one lineage has just the 0.5
    assert found[1].controls["added"] == "on 2026-11-29, after seeds 0 to 7 had been seen"
    small = [0.2, 0.9, 0.3, 0.8, 0.4, 0.7, 0.5, 0.6]  # positive in every lineage, 0.55 on average
    found = verdicts(get_trait("owl"), margins(small, flat), [0.3] * 8)
    assert [verdict.decision for verdict in found[:2]] == ["inconclusive", "supported"]
    found = verdicts(get_trait("owl"), margins(flat, up), [-0.3] * 8)
    assert [verdict.decision for verdict in found] == ["refuted", "inconclusive", "refuted", "refuted"]
