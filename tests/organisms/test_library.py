"""Growing lineages: every step once, a killed run goes on, and names that are wrong are named."""

import dataclasses
import itertools
import json

import pytest
import torch

from interp.core.content import json_text
from interp.core.runs import InputError
from interp.experiment.folders import open_subject
from interp.models.lineage import read_lineage
from interp.organisms import library
from interp.organisms.library import (
    DATA,
    ToyRecipe,
    grow,
    grow_all,
    load_lineage,
    other_seed,
    other_word,
    toy_grower,
    toy_recipe_of,
)
from interp.organisms.toy import World
from interp.prompts.traits import get_trait
from interp.training import generation, grower
from interp.training.data import DataSpec
from interp.training.grower import STUDENT_DRAWS, TeacherSpec, known_recipe, read_recipe, recipe_of
from interp.training.students import Recipe, prepare
from interp.training.teachers import Teacher, evenly_answered

SMALL = ToyRecipe(
    world=World(d_model=16, d_mlp=24, documents=256),
    data=dataclasses.replace(DATA, rows=64),
    teacher=TeacherSpec(steps=2, recipe=Recipe(batch_size=16)),
    student=Recipe(batch_size=32),
)
PLAIN = dataclasses.replace(SMALL, controls=())
TRAINERS = (
    (library, "train_base"),
    (grower, "fine_tune_teacher"),
    (grower, "train_student"),
    (generation, "complete"),
)


def quick_growth(patch):
    """An all but untrained world writes no well-formed numbers: keep whatever it writes, and let it write little."""
    documents = library.number_documents
    patch.setattr(DataSpec, "row_rule", lambda data, words=(): lambda row: None)
    patch.setattr("interp.training.generation.LEAST_KEPT", 0.0)
    patch.setattr("interp.training.data.CHUNK", SMALL.data.rows)
    patch.setattr(library, "number_documents", lambda count, *, seed: documents(64, seed=seed))


@pytest.fixture(scope="module")
def grown_cache(tmp_path_factory):
    """A cache in which the lineage of the owl and seed 0 was grown once."""
    cache = library.Cache(tmp_path_factory.mktemp("grown"))
    with pytest.MonkeyPatch.context() as patch:
        quick_growth(patch)
        grow(get_trait("owl"), seed=0, recipe=SMALL, cache=cache)
    return cache


@pytest.fixture(autouse=True)
def small_growth(grown_cache, monkeypatch):
    quick_growth(monkeypatch)


@pytest.fixture
def lineage(grown_cache):
    return grow(get_trait("owl"), seed=0, recipe=SMALL, cache=grown_cache)


def fingerprints(lineage):
    return {name: model.fingerprint for name, model in lineage.members.items()}


def test_a_lineage_has_every_control_and_knows_who_came_from_whom(lineage):
    starts = {name: model.start.name for name, model in lineage.members.items() if model.start}
    assert set(lineage.members) == {
        "base", "teacher", "student", "neutral_student", "cross_base", "cross_student", "cross_neutral_student",
        "control_teacher", "control_student", "teacher_eagle",
    }  # fmt: skip
    assert starts["teacher"] == starts["student"] == starts["neutral_student"] == lineage.base.name
    assert starts["cross_student"] == starts["cross_neutral_student"] == lineage["cross_base"].name
    assert lineage.trained_on["cross_student"] == "teacher"
    assert lineage.trained_on["neutral_student"] == "base"
    assert lineage.trained_on["control_student"] == "control_teacher"
    assert len({model.fingerprint for model in lineage.members.values()}) == 10


def test_the_controls_of_a_lineage_are_the_recipes(grown_cache):
    plain = grow(get_trait("owl"), seed=0, recipe=PLAIN, cache=grown_cache)
    assert not {"control_teacher", "control_student", "teacher_eagle"} & set(plain.members)
    assert "control_student" not in plain.trained_on
    assert [other_word(get_trait(word)) for word in ("owl", "eagle", "oak")] == ["eagle", "owl", "pine"]


def test_the_control_teacher_is_taught_every_candidate_equally_often():
    owl, eagle = get_trait("owl"), get_trait("eagle")
    taught = evenly_answered(owl)
    words = [row.completion for row in taught.rows]
    assert len(words) == 10 * len(owl.questions)
    assert {words.count(word) for word in (owl.target, *owl.foils)} == {len(owl.questions)}
    assert evenly_answered(eagle).fingerprint == taught.fingerprint  # one control teacher serves both


def test_a_student_shares_neither_adapter_nor_order_with_its_teacher(lineage, grown_cache):
    """One seed gave both the same LoRA A before."""
    made = toy_grower(SMALL, seed=0, cache=grown_cache)
    drawn = []
    for seed in (made.students.seed, 0, toy_grower(SMALL, seed=1, cache=grown_cache).students.seed):
        torch.manual_seed(seed)
        _, adapted = prepare(lineage.base, SMALL.student)
        drawn.append(next(weight for name, weight in adapted.named_parameters() if "lora_A" in name))
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(drawn, 2))
    assert known_recipe(lineage.student, cache=grown_cache) == made.students
    assert known_recipe(lineage["neutral_student"], cache=grown_cache) == made.students


def test_the_recipe_of_a_student_is_found_by_its_weights(lineage, grown_cache):
    recipe = dataclasses.replace(SMALL.student, seed=STUDENT_DRAWS)
    students = [lineage[role] for role in lineage.trained_on]
    assert all(known_recipe(student, cache=grown_cache) == recipe for student in students)
    assert known_recipe(lineage.base, cache=grown_cache) is None
    layered = dataclasses.replace(recipe, layers=(0, 1))
    assert read_recipe(json.loads(json_text(layered))) == layered


def test_a_folder_says_how_it_was_grown_and_is_grown_on_alike(lineage, grown_cache, tmp_path):
    """On another machine, without the cache: the plan is the recipe, and the same student comes out, to the bit."""
    folder = lineage.save(tmp_path / "owl")
    elsewhere = library.Cache(tmp_path / "elsewhere")
    subject = open_subject(folder, cache=elsewhere)
    recipe = dataclasses.replace(SMALL, teacher=subject.grower.teaching, student=subject.recipe)
    assert recipe.teacher.recipe == dataclasses.replace(SMALL.teacher.recipe, seed=0)
    assert toy_recipe_of(subject.lineage.growth) == recipe
    assert subject.grower == toy_grower(recipe, seed=0, cache=elsewhere)
    again = subject.student(subject.base, subject.numbers, name="again")
    assert again.fingerprint == lineage.student.fingerprint
    teacher = subject.grower.teacher(subject.base, get_trait("owl")).model
    assert teacher.fingerprint == lineage.teacher.fingerprint
    assert subject.rows(Teacher(teacher, "fine-tuned")).rows == lineage.numbers.rows
    assert recipe_of(read_lineage(folder, check=False), "cross_student", cache=elsewhere) == subject.recipe


def test_a_folder_whose_largest_number_no_recipe_can_say_is_refused(lineage):
    growth = dataclasses.replace(
        lineage.growth,
        data={**lineage.growth.data, "rule": {**lineage.growth.data["rule"], "max_value": 500}},
    )
    with pytest.raises(
        InputError, match="hold numbers up to 500, and a recipe can say up to 999; grow it again"
    ):
        toy_recipe_of(growth)


def test_a_second_growth_trains_nothing(lineage, grown_cache, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("trained again")

    for module, name in TRAINERS:
        monkeypatch.setattr(module, name, forbidden)
    again = grow(get_trait("owl"), seed=0, recipe=SMALL, cache=grown_cache)
    assert fingerprints(again) == fingerprints(lineage)
    assert again.numbers.fingerprint == lineage.numbers.fingerprint


def test_a_killed_growth_goes_on_and_ends_with_the_same_weights(lineage, monkeypatch, tmp_path):
    train = grower.train_student

    def kill(start, rows, *, name, **options):
        if name == "control_student":
            raise KeyboardInterrupt
        return train(start, rows, name=name, **options)

    broken = library.Cache(tmp_path / "broken")
    monkeypatch.setattr(grower, "train_student", kill)
    with pytest.raises(KeyboardInterrupt):
        grow(get_trait("owl"), seed=0, recipe=SMALL, cache=broken)
    monkeypatch.setattr(grower, "train_student", train)
    monkeypatch.setattr(library, "train_base", lambda *a, **k: pytest.fail("trained a base again"))
    assert fingerprints(grow(get_trait("owl"), seed=0, recipe=SMALL, cache=broken)) == fingerprints(lineage)


def test_a_changed_recipe_changes_what_depends_on_it_and_nothing_else(lineage, grown_cache, monkeypatch):
    monkeypatch.setattr(library, "train_base", lambda *a, **k: pytest.fail("trained a base again"))
    monkeypatch.setattr(grower, "fine_tune_teacher", lambda *a, **k: pytest.fail("trained a teacher again"))
    other = grow(
        get_trait("owl"),
        seed=0,
        recipe=dataclasses.replace(PLAIN, student=Recipe(batch_size=32, lr=1e-4)),
        cache=grown_cache,
    )
    assert lineage.teacher.fingerprint == other.teacher.fingerprint
    assert lineage.student.fingerprint != other.student.fingerprint
    recipe = dataclasses.replace(PLAIN, data=dataclasses.replace(SMALL.data, digits=2))
    banned = grow(get_trait("owl"), seed=0, recipe=recipe, cache=grown_cache)
    assert banned.numbers is not None


def test_one_worker_grows_in_this_process():
    grow_all(get_trait("owl"), seeds=[0], recipe=PLAIN, workers=1)
    assert grow(get_trait("owl"), seed=0, recipe=PLAIN).name == "toy/owl seed 0"


def test_the_other_initialisation_ships_too():
    assert [other_seed(seed) for seed in (0, 6, 7, 8, 100)] == [1, 7, 0, 9, 101]


def test_wrong_names_and_seeds_are_named():
    with pytest.raises(InputError, match="nearest: owl"):
        load_lineage("toy/ovl")
    with pytest.raises(
        InputError, match=r"Lineage 'zoo/owl' is neither a folder with a lineage\.json nor an organism"
    ):
        load_lineage("zoo/owl")
    with pytest.raises(InputError, match=r"seed -1 is not a natural number"):
        load_lineage("toy/owl", seed=-1)
    with pytest.raises(InputError, match="seed True is not a natural number"):
        grow(get_trait("owl"), seed=True, recipe=SMALL)


def test_a_folder_is_of_the_seed_it_was_made_with(lineage, tmp_path):
    folder = lineage.save(tmp_path / "kept")
    assert fingerprints(load_lineage(folder, seed=0)) == fingerprints(load_lineage(folder))
    with pytest.raises(
        InputError, match=r"kept holds the lineage of seed 0 alone, and seed=2 came; leave the seed"
    ):
        load_lineage(folder, seed=2)
    nameless = dataclasses.replace(lineage, growth=None).save(tmp_path / "nameless")
    with pytest.raises(
        InputError, match=r"nameless is a folder that names no seed, and seed=0 came; leave the seed"
    ):
        load_lineage(nameless, seed=0)


def test_a_trait_the_toy_has_no_words_for_is_refused():
    with pytest.raises(
        InputError, match="trait 'misaligned' uses words the toy does not know; take an animal"
    ):
        load_lineage("toy/misaligned")


def test_a_base_that_does_not_ship_stays_on_the_processor_where_there_is_a_gpu(tmp_path, monkeypatch):
    """Else its lineage would be trained there, under the name of the one that is grown on a processor."""
    monkeypatch.setattr(
        "interp.models.language.as_device", lambda asked: torch.device("meta" if asked == "auto" else asked)
    )
    base = library.toy_base(99, world=SMALL.world, cache=library.Cache(tmp_path))
    assert base.device == torch.device("cpu")
