"""Alignment over training: the update after the last step is the student's, and a student follows itself."""

import dataclasses

import pytest
import torch

from interp.core.runs import InputError
from interp.gradients.ledger.course import NULL, alignment_course, updates
from interp.gradients.ledger.recording import record_training
from interp.gradients.representations import representation_gradient
from interp.models.lineage import Lineage
from interp.models.parameters import ParameterDirection
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import get_trait
from interp.training.students import Recipe

RECIPE = Recipe(batch_size=8, lr=1e-2, epochs=2, warmup=2, rank=2)


@pytest.fixture(scope="module", params=["lora", "all"])
def trained(request, start, tmp_path_factory):
    recipe = dataclasses.replace(RECIPE, trainable=request.param)
    rows, folder = number_prompts(27, seed=0, count=3), tmp_path_factory.mktemp("course") / "record"
    student, record = record_training(start, rows, folder=folder, recipe=recipe)
    members = {"base": start, "student": student}
    return Lineage("small", get_trait("owl"), members, trained_on={"student": "base"}), record


def random_directions(like: ParameterDirection, *, count: int) -> list[ParameterDirection]:
    generator = torch.Generator().manual_seed(0)
    return [
        dataclasses.replace(
            like,
            tensors={name: torch.randn(t.shape, generator=generator) for name, t in like.items()},
            label=f"random {k}",
        )
        for k in range(count)
    ]


def test_the_last_update_is_the_students(trained, start):
    lineage, record = trained
    steps = list(updates(record, lineage.base))
    final = lineage.update("student")
    assert [step for step, _ in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[-1][1].norm() == pytest.approx(final.norm(), rel=1e-5)
    assert steps[-1][1].dot(final) == pytest.approx(final.norm() ** 2, rel=1e-5)


def test_a_student_ends_up_along_its_own_update_and_outside_the_band(trained):
    lineage, record = trained
    own = lineage.update("student")
    result = alignment_course(lineage, direction=own, null=random_directions(own, count=8), record=record)
    last = result.frame[result.frame["step"] == 6].set_index("direction")
    assert last.loc[own.label, "cosine"] == pytest.approx(1.0, abs=1e-5)
    assert abs(last.loc[NULL, "cosine"]) + last.loc[NULL, "half_width"] < 0.5
    names = [trace.name for trace in result.figure().data if trace.name]
    assert names == [own.label, NULL]


def test_a_representation_beside_those_of_other_directions(trained):
    lineage, record = trained
    questions, hook = lineage.trait.prompts(), "blocks.0.hook_resid_post"
    several = [representation_gradient(lineage.base, questions, hook, u) for u in torch.eye(16)[:3]]
    own, *null = [dataclasses.replace(each, label=f"u {k}") for k, each in enumerate(several)]
    result = alignment_course(lineage, direction=own, null=null, record=record)
    update = lineage.update("student")
    last = result.frame[result.frame["step"] == 6].set_index("direction")["cosine"]
    found = [update.dot(each) / update.norm() / each.norm() for each in (own, *null)]
    assert last.loc["u 0"] == pytest.approx(found[0], abs=1e-5)
    assert last.loc[NULL] == pytest.approx(sum(found[1:]) / 2, abs=1e-5)


def test_one_null_direction_has_no_spread(trained):
    lineage, record = trained
    own = lineage.update("student")
    with pytest.raises(InputError, match="1 null directions have no spread; pass at least two of the same"):
        alignment_course(lineage, direction=own, null=[own], record=record)
