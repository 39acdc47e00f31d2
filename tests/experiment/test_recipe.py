"""Recipes: what is read, what is refused and with which sentence."""

import dataclasses
from pathlib import Path

import pytest

from interp.core.runs import InputError
from interp.evaluation.word_judge import WordJudge
from interp.experiment.guards import make_judge
from interp.experiment.recipe import LEARNING, Experiment, changed_recipe, read_experiment
from interp.prompts.numbers import BANNED
from interp.training.students import Recipe

MODEL = ["base.model=m", "cross_base.model=m"]


def write(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["small", "smollm2", "toy", "qwen"])
def test_every_shipped_recipe_is_read(name):
    experiment = read_experiment(name, changes=MODEL if name == "small" else [])
    assert isinstance(experiment, Experiment)
    assert experiment.name == name
    assert len(experiment.seeds) == 3


def test_a_partial_section_keeps_the_defaults_of_its_section(tmp_path):
    path = write(
        tmp_path, "name: x\nbase: {model: m}\ntraits: [owl]\ncontrols: []\nstudent: {recipe: {lr: 1e-3}}\n"
    )
    student = read_experiment(path).student
    assert student.recipe == dataclasses.replace(LEARNING, lr=1e-3)
    assert student.recipe != Recipe(lr=1e-3)


def test_a_recipe_has_a_quick_version_where_it_says_what_that_is(tmp_path):
    path = write(tmp_path, GOOD + "quick: [data.rows=7, 'seeds=[4]']\n")
    assert (read_experiment(path).seeds, read_experiment(path, quick=True).seeds) == ((0,), (4,))
    asked = read_experiment(path, quick=True, changes=["seeds=[5]"])
    assert (asked.data.rows, asked.seeds) == (7, (5,))
    with pytest.raises(
        InputError, match="no list of KEY=VALUE under quick, so there is no quick version; leave out"
    ):
        read_experiment("qwen", quick=True)


def test_changes_replace_single_values(tmp_path):
    path = write(tmp_path, "name: x\nbase: {model: m}\ntraits: [owl]\ncontrols: [neutral]\n")
    changed = read_experiment(
        path, changes=["data.rows=7", "seeds=[4, 5]", "data.banned=paper", "base.dtype=bfloat16"]
    )
    assert (changed.data.rows, changed.seeds, changed.base.dtype) == (7, (4, 5), "bfloat16")
    assert changed.data.rule.banned == BANNED
    assert read_experiment(path, changes=["data.banned=[1, 2]"]).data.rule.banned == {1, 2}
    assert changed_recipe(LEARNING, ["lr=1e-4", "targets=[q_proj]"]) == dataclasses.replace(
        LEARNING, lr=1e-4, targets=("q_proj",)
    )


GOOD = "name: x\nbase: {model: m}\ntraits: [owl]\ncontrols: [neutral]\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (GOOD + "studnet: {}\n", "key 'studnet' is unknown; nearest: student; rename or remove it"),
        (GOOD + "student: {recipe: {learning_rate: 1}}\n", "student: recipe: key 'learning_rate' is unknown"),
        (GOOD + "data: {rows: many}\n", "data: rows holds 'many': input should be a valid integer"),
        (
            GOOD + "data: {prompts: poems}\n",
            "data: prompts holds 'poems': input should be 'short', 'requests'",
        ),
        (GOOD + "data: 3\n", "data holds 3, where keys of DataSpec belong; write key: value"),
        ("name: x\ntraits: [owl]\n", "key 'base' is missing; add it"),
        (
            "name: x\nbase: {}\ntraits: [owl]\ncontrols: []\n",
            "base.model is empty; name a folder or a hub model",
        ),
        (GOOD.replace("[owl]", "[owl, owl]"), "traits ['owl', 'owl'] are none or repeat one; list each once"),
        (GOOD + "seeds: []\n", "seeds [] are none or repeat one"),
        (
            GOOD.replace("[neutral]", "[cross-base]"),
            "the control cross-base has no cross_base; name another model",
        ),
        (
            GOOD.replace("neutral", "control-teacher") + "teacher: {kind: prompted}\n",
            "the control control-teacher is a fine-tune, and the teacher is prompted; write controls without it",
        ),
        (GOOD + "teacher: {kind: steered}\n", "a steered teacher has no hook; name one, such as blocks.12"),
        (
            GOOD + "cross_base: {}\n",
            "cross_base.model is empty; name a folder or a hub model there or with --set",
        ),
        (
            GOOD + "matrix: true\n",
            "the matrix has no cross_base; name another model of the same architecture",
        ),
        (
            GOOD + "teacher: {rows: absent.jsonl}\n",
            "teacher.rows absent.jsonl is no file; name a JSONL file of rows",
        ),
        (
            GOOD + "teacher: {sae: x}\n",
            "teacher.sae x and teacher.feature None belong together; give both or neither",
        ),
        (
            GOOD + "evaluation: {judge: {kind: local}}\n",
            "the judge has no model; name one in evaluation.judge.model",
        ),
        (GOOD + "student: {recipe: {accumulate: 5}}\n", "accumulate=5 does not divide a batch of 64"),
        (
            GOOD + "teacher: {margin_every: 0}\n",
            "teacher.margin_every 0 steps is never; give at least 1",
        ),
        (
            GOOD.replace("model: m", "model: m, format: {fraction: 2}"),
            "format.fraction 2.0 is no share of the rows; give one such as 0.25",
        ),
        (
            "- a\n- b\n",
            "holds ['a', 'b'] where keys were expected; write those of a shipped recipe: qwen, small, smollm2, toy",
        ),
        ("name: [x\n", "is not YAML"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(tmp_path, text, sentence):
    with pytest.raises(InputError) as caught:
        read_experiment(write(tmp_path, text))
    assert sentence in str(caught.value)


def test_a_wrong_change_or_file_is_one_sentence(tmp_path):
    path = write(tmp_path, GOOD)
    with pytest.raises(
        InputError, match=r"change 'rows' is not KEY=VALUE; write for instance base.model=folder"
    ):
        read_experiment(path, changes=["rows"])
    with pytest.raises(InputError, match="goes into 'name', which holds a single value; name a section"):
        read_experiment(path, changes=["name.first=x"])
    with pytest.raises(
        InputError, match=r"cannot be read .*; pass a recipe's file, or one of qwen, small, smollm2, toy"
    ):
        read_experiment(tmp_path / "absent.yaml")


def test_the_judge_that_is_a_rule_needs_no_model():
    found = read_experiment("toy", changes=["evaluation.guards=true", "evaluation.judge={kind: words}"])
    assert make_judge(found.evaluation.judge, Path("unused")) == WordJudge()
