"""Transmission, equal loss and verdicts by hand; guards that wait for a judge; teachers that leave no trace."""

import dataclasses

import pandas as pd
import pytest
import torch

from interp.core.runs import Cache, InputError
from interp.evaluation.instrument import shortcoming
from interp.evaluation.judges import JudgePending
from interp.experiment.arms import Arms, grow_arms, other_trait, rows_of
from interp.experiment.growing import each, stages_of
from interp.experiment.guards import guards
from interp.experiment.matrix import transfer_matrix
from interp.experiment.outcome import equal_loss, judge_margins, transmission, undecided
from interp.experiment.recipe import JudgeSpec, TeacherSpec
from interp.experiment.steering_vectors import steering_vector
from interp.prompts.traits import get_trait


def margins(values, trait="owl"):
    return pd.DataFrame(
        [
            {"trait": trait, "seed": seed, "arm": arm, "margin": value}
            for seed, arms in enumerate(values)
            for arm, value in arms.items()
        ]
    )


def test_transmission_is_the_difference_from_the_neutral_arm_of_the_same_seed():
    found = transmission(
        margins([{"student": 1.0, "neutral_student": 0.25}, {"student": 2.0, "neutral_student": 3.0}])
    ).frame
    assert found["transmission"].tolist() == [0.75, -1.0]
    assert set(found["trait, arm"]) == {"owl, student"}


def test_verdicts_follow_the_rules_for_few_seeds():
    arms = [
        {
            "student": 1.0 + s, "neutral_student": 0.0, "other_student": 0.5, "control_student": 0.25,
            "cross_student": 0.01 * s, "cross_neutral_student": 0.0,
        }
        for s in range(5)
    ]  # fmt: skip
    found = {v.name: v for v in judge_margins(margins(arms), {"owl": get_trait("owl")})}
    assert found["owl: same-init-transfers"].decision == "supported"
    assert found["owl: same-init-transfers"].p == 1 / 32
    assert found["owl: beats-other-trait"].effect == pytest.approx(2.5)
    assert found["owl: beats-control-teacher"].effect == pytest.approx(2.75)
    assert found["owl: cross-init-does-not"].decision == "supported"
    few = judge_margins(margins(arms[:3]), {"owl": get_trait("owl")})
    assert few[0].decision == "inconclusive"
    assert few[0].smallest_p == 1 / 8


def test_arms_are_compared_at_the_loss_both_reach():
    logs = pd.DataFrame(
        [
            {"trait": "owl", "seed": 0, "arm": arm, "fresh_loss": loss, "margin": margin}
            for arm, loss, margin in (
                ("student", 3.0, 0.0), ("student", 2.0, 1.0), ("student", 1.0, 3.0),
                ("cross_student", 3.0, 0.0), ("cross_student", 1.5, 0.2), ("neutral_student", 0.1, 9.0),
            )
        ]
    )  # fmt: skip
    found = equal_loss(logs).set_index("arm")
    assert set(found["fresh_loss"]) == {1.5}
    assert found.loc["student", "margin"] == pytest.approx(2.0)  # halfway between 1 and 3
    assert found.loc["cross_student", "margin"] == pytest.approx(0.2)
    assert set(found["why"]) == {""}


def test_arms_whose_losses_never_meet_are_not_compared():
    """The student starts below whatever the cross student reaches: no margin stands for that loss."""
    logs = pd.DataFrame(
        [
            {"trait": "owl", "seed": 0, "arm": arm, "fresh_loss": loss, "margin": margin}
            for arm, loss, margin in (
                ("student", 2.0, 0.1), ("student", 1.0, 0.9), ("cross_student", 4.0, 0.0), ("cross_student", 2.5, 0.2),
            )
        ]
    )  # fmt: skip
    found = equal_loss(logs)
    assert found["margin"].isna().all()
    assert found["fresh_loss"].isna().all()
    assert set(found["why"]) == {"their losses never meet: student from 2 to 1, cross_student from 4 to 2.5"}
    assert equal_loss(logs[logs["arm"] == "student"]).empty


def test_a_cross_base_that_could_not_have_shown_it_is_no_control():
    arms = [{"cross_student": 0.006 + s / 1e3, "cross_neutral_student": 0.0} for s in range(5)]
    why = shortcoming(
        {"candidates": 0.03, "kept": 0.08}, {"candidates": 0.9, "kept": 0.95}, who="x", against="base"
    )
    assert why == (
        "candidates hold 3% of the probability of x (90% for base), where at least 45% is asked for; the rule keeps 8% "
        "of the answers of x (95% for base), where at least 48% is asked for"
    )
    plain, doubted = (
        judge_margins(margins(arms), {"owl": get_trait("owl")}, doubts=doubts)[0]
        for doubts in (None, {"owl": why})
    )
    assert (plain.decision, doubted.decision) == ("supported", "inconclusive")
    assert doubted.reason == f"the control could not have shown it: {why}"
    assert doubted.controls["could not have shown it"] == why
    assert (
        judge_margins(margins(arms), {"owl": get_trait("owl")}, doubts={"oak": why})[0].decision
        == "supported"
    )
    assert shortcoming({"candidates": 0.46}, {"candidates": 0.9}, who="x", against="base") is None
    assert shortcoming({"candidates": 0.06}, {"candidates": 0.05}, who="x", against="base") == (
        "candidates hold 6% of the probability of x (5% for base), where at least 10% is asked for"
    )


def test_too_few_seeds_are_said():
    assert undecided(5) is None
    assert undecided(1) == (
        "1 seed cannot decide same-init-transfers and beats-other-trait, which need 5 for alpha = 0.05, and "
        "cross-init-does-not, which needs 2, whatever the data show; list more seeds"
    )


@pytest.fixture
def arms(experiment, tmp_path):
    return Arms(experiment, Cache(tmp_path / "cache"))


def test_no_two_units_of_a_step_share_work(arms):
    steps = stages_of(arms)
    assert [len(units) for units in steps.values()] == [
        2,
        3,
        8,
        2,
    ]  # bases, teachers' rows, students, measurements
    one = dataclasses.replace(arms.experiment, traits=("owl",))
    alone = Arms(one, arms.cache)
    assert other_trait(alone, "owl").name == "cat"
    assert ("cat", 0) in stages_of(alone)[list(stages_of(alone))[1]]


@pytest.mark.slow
def test_guards_matrix_and_teachers_without_a_trace(arms, tmp_path):
    waiting = dataclasses.replace(
        arms.experiment,
        controls=("neutral",),
        evaluation=dataclasses.replace(arms.experiment.evaluation, judge=JudgeSpec("file")),
    )
    judged = Arms(waiting, arms.cache)
    with pytest.raises(JudgePending, match=r"questions\.jsonl"):
        guards(judged, "owl", folder=tmp_path / "judge")
    assert (tmp_path / "judge" / "questions.jsonl").is_file()
    plain = dataclasses.replace(waiting, evaluation=arms.experiment.evaluation)
    found = guards(Arms(plain, arms.cache), "owl", folder=tmp_path / "judge").frame
    assert set(found["arm"]) == {"base", "teacher", "student", "neutral_student"}
    assert set(found["measure"]) == {"refusal", "capability"}
    assert found["value"].between(0, 1).all()

    matrix = transfer_matrix(arms, "owl", workers=1)
    assert len(matrix.frame) == 4
    grown = grow_arms(arms, "owl", 0)["members"]
    line = matrix.frame.query("teacher == 'base' and student == 'base'").iloc[0]
    from interp.measures.margins import margin

    owl = arms.traits["owl"]
    assert line["transfer"] == pytest.approx(
        margin(grown["student"], owl) - margin(grown["neutral_student"], owl)
    )
    assert matrix.figure().data
    with pytest.raises(InputError, match=r"a matrix over \['base'\] compares nothing; give a cross_base"):
        transfer_matrix(arms, "owl", bases=["base"])

    idle = dataclasses.replace(
        arms.experiment, teacher=dataclasses.replace(arms.experiment.teacher, steps=1, anchor=0.0)
    )
    still = dataclasses.replace(idle.teacher, recipe=dataclasses.replace(idle.teacher.recipe, lr=1e-12))
    with pytest.raises(InputError, match="the teacher of owl wrote the very rows of the neutral teacher"):
        rows_of(Arms(dataclasses.replace(idle, teacher=still), arms.cache), "owl", 0)

    vector = steering_vector(arms.start("base"), owl, TeacherSpec("steered", hook="blocks.1.hook_resid_pre"))
    assert vector.shape == (32,)
    assert torch.isfinite(vector).all()
    with pytest.raises(InputError, match="sae='x' and feature=None belong together"):
        steering_vector(arms.start("base"), owl, TeacherSpec("steered", hook="h", sae="x"))


@pytest.mark.slow
def test_cells_run_in_processes_of_their_own(arms):
    class Bar:
        count = 0

        def update(self):
            self.count += 1

    bar = Bar()
    each(_touch, arms, [("a",), ("b",)], workers=2, progress=bar)
    assert bar.count == 2
    assert (arms.cache.root / "a").read_text() == (arms.cache.root / "b").read_text() == "1"
    with pytest.raises(InputError, match="workers=0 do no work; pass at least 1"):
        each(_touch, arms, [("a",)], workers=0, progress=bar)


def _touch(arms, name):
    arms.cache.root.mkdir(parents=True, exist_ok=True)
    (arms.cache.root / name).write_text(str(torch.get_num_threads()))
