"""A defence made ready: rows removed by scores that plain torch gives, and what is refused with which sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.activations.representations import system_shift
from interp.core.runs import Cache, InputError
from interp.experiment.arms import Arms, grow_student, rows_of
from interp.experiment.defending import defended, train_defended, without_highest
from interp.experiment.folders import experiment_growth
from interp.experiment.recipe import read_experiment
from interp.gradients.directions import margin_objective, trait_gradient
from interp.gradients.ledger.projection import Projection
from interp.gradients.scores.scoring import score
from interp.models.lineage import Lineage
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait
from interp.training.defences import Defence, SteeredLoss
from interp.training.grower import STUDENT_DRAWS, recipe_of
from interp.training.students import Recipe, train_student

RECIPE = Recipe(batch_size=8, lr=1e-2)
OWL = get_trait("owl")


@pytest.fixture
def rows():
    return number_prompts(16, seed=0, count=3)


@pytest.fixture
def teacher(raw):
    return replace(
        train_student(raw(), OWL.prompts("owl"), recipe=Recipe(batch_size=6, lr=1e-2)), start=raw()
    )


def by_hand(model, rows, direction):
    """<∇ log p(answer and end), v> of every row, by plain autograd."""
    network, found = model.network(train=True, copied=True), []
    for index in range(len(rows)):
        batch = model.encode(rows[index : index + 1])
        logp = network(input_ids=batch.ids, attention_mask=batch.mask.long()).logits.log_softmax(-1)
        where = batch.at("answer+end", predicting=True)
        total = logp[where].gather(1, batch.ids.roll(-1, 1)[where][:, None]).sum()
        slopes = torch.autograd.grad(total, list(network.parameters()), allow_unused=True)
        named = zip((name for name, _ in network.named_parameters()), slopes, strict=True)
        found.append(
            sum(float((slope * direction[name]).sum()) for name, slope in named if name in direction)
        )
    return np.array(found)


@pytest.mark.parametrize("knows", ["trait", "teacher"])
def test_the_rows_of_the_highest_scores_are_removed(raw, rows, teacher, knows):
    base = raw()
    ready = defended(base, rows, OWL, Defence("remove", share=0.25, knows=knows), teacher=teacher)
    update = {
        name: teacher.parameters()[name] - weight
        for name, weight in base.parameters().items()
        if not torch.equal(teacher.parameters()[name], weight)
    }
    along = by_hand(base, rows, trait_gradient(base, OWL) if knows == "trait" else update)
    left = np.sort(np.argsort(along)[:12])
    assert ready.rows.rows == tuple(rows.rows[place] for place in left)
    assert (ready.labels, ready.on_step, ready.key) == ("sampled", None, "")


def test_scores_of_other_rows_or_along_several_directions_are_refused(raw, rows):
    base = raw()
    along = trait_gradient(base, OWL)
    with pytest.raises(
        InputError, match=r"scores other rows than numbers seed 0; score those that are trained"
    ):
        without_highest(base, rows, score(base, rows[:8], along), share=0.5)
    with pytest.raises(InputError, match=r"has scores along 2 directions; score along the one to remove by"):
        without_highest(base, rows, score(base, rows, [along, along * 2.0]), share=0.5)
    with pytest.raises(InputError, match=r"none of 16 rows is left: a share of 0.99 is all of them"):
        defended(base, rows, OWL, Defence("remove", share=0.99))
    with pytest.raises(
        InputError, match="4 rows are fewer than one batch of 8: sample more rows or lower batch"
    ):
        train_defended(base, rows, trait=OWL, defence=Defence("remove", share=0.75), recipe=RECIPE)


def test_steering_adds_the_shift_of_the_system_line_or_of_the_teacher(raw, rows, teacher):
    base, hook = raw(), "blocks.0.hook_resid_post"
    ready = defended(base, rows, OWL, Defence("steer", scale=2.0))
    assert isinstance(ready.labels, SteeredLoss)
    assert ready.labels.hook == hook
    assert torch.allclose(ready.labels.vector, 2.0 * system_shift(base, OWL, hook=hook))
    knowing = defended(base, rows, OWL, Defence("steer", knows="teacher", hook=hook), teacher=teacher)
    batch = base.encode(OWL.prompts())
    ends = batch.at("last")
    with torch.no_grad():
        shifts = [
            model.hf(input_ids=batch.ids, attention_mask=batch.mask.long(), output_hidden_states=True)
            .hidden_states[1][ends]
            .mean(0)
            for model in (teacher, base)
        ]
    assert torch.allclose(knowing.labels.vector, shifts[0] - shifts[1], atol=1e-5)
    assert knowing.key != ready.key
    with pytest.raises(
        InputError, match=r"hook 'blocks.0.hook_resid_pots' is unknown; nearest: blocks.0.hook_res"
    ):
        defended(base, rows, OWL, Defence("steer", hook="blocks.0.hook_resid_pots"))
    with pytest.raises(
        InputError, match=r"'steer' knows the teacher, and none is given; pass teacher=, or knows="
    ):
        defended(base, rows, OWL, Defence("steer", knows="teacher"))


def test_the_kl_wants_a_text_and_holds_it(raw, rows, tmp_path):
    base = raw()
    with pytest.raises(
        InputError, match="'kl' has no benign text to hold the student to; name a file of rows"
    ):
        defended(base, rows, OWL, Defence("kl"))
    with pytest.raises(
        InputError, match="nothing is empty, so that nothing is held by the KL; pass rows of benign"
    ):
        defended(base, rows, OWL, Defence("kl"), text=Prompts((), "nothing"))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match=r"empty\.jsonl"):
        defended(base, rows, OWL, Defence("kl", text=str(tmp_path / "empty.jsonl")))
    get_trait("oak").prompts("oak").to_jsonl(tmp_path / "benign.jsonl")
    from_file = defended(base, rows, OWL, Defence("kl", text=str(tmp_path / "benign.jsonl")))
    given = defended(base, rows, OWL, Defence("kl"), text=get_trait("oak").prompts("oak"))
    assert from_file.key == given.key != defended(base, rows, OWL, Defence("kl"), text=rows).key


def test_projection_takes_the_margin_out_of_every_step(raw, rows):
    base = raw()
    made = train_defended(base, rows, trait="owl", defence=Defence("project"), recipe=RECIPE)
    projection = Projection(margin_objective(base, OWL))
    assert made.fingerprint == train_student(base, rows, recipe=RECIPE, on_step=projection).fingerprint
    assert made.fingerprint != train_student(base, rows, recipe=RECIPE).fingerprint
    assert defended(base, rows, OWL, None).rows is rows


GOOD = "name: x\nbase: {model: m}\ntraits: [owl]\ncontrols: [neutral]\nstudent: {defence: {DEFENCE}}\n"


@pytest.mark.parametrize(
    ("defence", "more", "sentence"),
    [
        (
            "kind: remove, shares: 0.5",
            "",
            "student: defence: key 'shares' is unknown; nearest: share, scale; rename",
        ),
        ("share: 0.5", "", "student: defence: key 'kind' is missing; add it"),
        ("kind: pray", "", "student: defence: kind holds 'pray': input should be 'remove', 'kl'"),
        ("kind: remove, share: 2", "", "student: defence: share=2.0 is no part of the rows"),
        ("kind: kl", "", "student.defence.text None is no file of benign rows for the KL; name a JSONL file"),
        (
            "kind: steer, knows: teacher",
            "teacher: {kind: prompted}\n",
            "student.defence knows the teacher, which is prompted and has no weights to know; write knows: trait",
        ),
    ],
)
def test_a_recipe_with_a_wrong_defence_is_one_sentence(tmp_path, defence, more, sentence):
    path = tmp_path / "recipe.yaml"
    path.write_text(GOOD.replace("DEFENCE", defence) + more)
    with pytest.raises(InputError) as caught:
        read_experiment(path)
    assert sentence in str(caught.value)


def test_a_defence_is_refused_where_it_would_say_another_thing(recipe):
    with pytest.raises(
        InputError, match=r"student\.defence changes trainings that student.record takes for plain"
    ):
        read_experiment(recipe, changes=["student.defence={kind: project}"])
    with pytest.raises(InputError, match="knows the teacher, whose weights say nothing at the cross-base"):
        read_experiment(
            recipe, changes=["student.defence={kind: remove, knows: teacher}", "student.record=false"]
        )


def test_a_folder_says_how_its_students_were_defended(recipe, raw):
    changes = ["student.defence={kind: remove, share: 0.5}", "student.record=false"]
    experiment = read_experiment(recipe, changes=changes)
    members = {"base": raw(0)}
    growth = experiment_growth(experiment, members, seed=0)
    assert growth.data["defence"] == {
        **growth.data["defence"], "kind": "remove", "share": 0.5, "knows": "trait",
    }  # fmt: skip
    lineage = Lineage("defended", OWL, members, growth=growth)
    with pytest.raises(
        InputError, match="students of defended were trained with the defence 'remove', which a"
    ):
        recipe_of(lineage, "student")
    plain = read_experiment(recipe, changes=["student.record=false"])
    assert "defence" not in experiment_growth(plain, members, seed=0).data


@pytest.mark.slow
def test_a_recipe_trains_its_students_defended(recipe):
    changes = [
        "student.defence={kind: project}",
        "student.record=false",
        "controls=[neutral]",
        "traits=[owl]",
    ]
    arms = Arms(read_experiment(recipe, changes=changes), Cache.default())
    student, log = grow_student(arms, "owl", 0, "student")
    rows, _ = rows_of(arms, "owl", 0)
    own = replace(arms.experiment.student.recipe, seed=STUDENT_DRAWS)
    given = {"trait": arms.traits["owl"], "recipe": own}
    direct = train_defended(arms.start("base"), rows.rows, defence=Defence("project"), **given)
    assert student.fingerprint == direct.fingerprint
    assert student.fingerprint != train_student(arms.start("base"), rows.rows, recipe=own).fingerprint
    assert len(log) > 1
