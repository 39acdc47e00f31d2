"""Folders as training runs: which are meant, what of their making is missing or unlike, and growing alike."""

from __future__ import annotations

import dataclasses
import json
import logging

import pytest

from interp.core.content import jsonable
from interp.core.runs import Cache, InputError
from interp.experiment.folders import chat_context, find_trainings, open_subject, own_trainings
from interp.hypotheses.claims import Hypothesis
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement
from interp.models.language import load_model
from interp.models.lineage import Lineage, read_lineage
from interp.models.members import Growth
from interp.organisms.library import TOY, toy_grower, toy_growth, toy_recipe_of
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait
from interp.studies import testing
from interp.training.grower import STUDENT_DRAWS
from interp.training.students import STUDENT, Recipe
from tests.models.test_lineage import nudged
from tests.tiny import build_tokenizer

RECIPE = Recipe(lr=3e-3, batch_size=2, epochs=2, rank=3, warmup=1)
ROWS = Prompts.from_pairs([(f"give {k}", f"{k}, 3") for k in range(4)])
CLAIM = Hypothesis("grows", "it grows", "after − before", "nothing", 0.0, 0.01, "difference", "cm")
OPTIONAL = dataclasses.replace(CLAIM, name="grows abroad")


@pytest.fixture
def write(tiny, tmp_path):
    """Writes the folder of a tiny lineage that says it was trained by RECIPE."""

    def make(name, *, trait="owl", seed=0, growth=True, students=("student", "neutral_student"), unlike=None):
        hf, tokenizer = tiny("llama")
        roles = ("base", "teacher", *students)
        members = {
            role: load_model(
                hf if role == "base" else nudged(hf, 1 + k + seed / 8 + len(trait)),
                tokenizer=tokenizer, name=role, check=False,
            )
            for k, role in enumerate(roles)
        }  # fmt: skip
        given = toy_growth(dataclasses.replace(TOY, student=RECIPE), seed=seed)
        recipes = {role: given.recipes.get(role) for role in roles}
        recipes |= {} if unlike is None else {"neutral_student": jsonable(unlike)}
        chat = {"template": "own", "opening": "<bos> <user> ", "date": None}
        made = Growth(recipes, given.data, chat) if growth else None
        rows = {"numbers": ROWS, "neutral_numbers": ROWS[:3]}
        trained_on = {"student": "teacher"}
        lineage = Lineage(name, get_trait(trait), members, **rows, trained_on=trained_on, growth=made)
        return lineage.save(tmp_path / name)

    return make


class TestWhichFoldersAreMeant:
    def test_a_folder_its_parent_a_run_or_a_pattern(self, write, tmp_path):
        first, second = write("lineages/owl-1", seed=1), write("lineages/owl-0", seed=0)
        (tmp_path / "lineages" / "notes").mkdir()
        for meant in (tmp_path / "lineages", tmp_path, f"{tmp_path}/lineages/owl-*", [first, second, first]):
            assert [(each.folder, each.seed) for each in find_trainings(meant)] == [(second, 0), (first, 1)]
        assert [each.folder for each in find_trainings(str(first))] == [first]

    def test_other_places_are_refused(self, tmp_path):
        with pytest.raises(
            InputError, match=r"is neither an organism nor a lineage folder \(lineage\.json\), nor"
        ):
            find_trainings(tmp_path / "absent-*")

    def test_several_traits_are_no_replicates(self, write, tmp_path):
        write("owl-0"), write("oak-0", trait="oak")
        with pytest.raises(InputError) as error:
            find_trainings(tmp_path)
        assert str(error.value) == (
            "these folders hold lineages of several traits (oak 1, owl 1), which share bases and neutral students and "
            f"so are no independent trainings; pass those of one trait, such as '{tmp_path}/oak-*'"
        )

    def test_one_training_counts_once(self, write, tmp_path):
        write("a"), write("b")
        with pytest.raises(
            InputError, match=r"b and .*a hold the same training, which counts once; leave one of"
        ):
            find_trainings(tmp_path)

    def test_a_folder_that_does_not_say_how_it_was_made(self, write):
        folder = write("bare", growth=False)
        with pytest.raises(InputError) as error:
            find_trainings(folder)
        assert str(error.value) == (
            f"{folder}/lineage.json does not say how its members were trained (no data, members.student.recipe, "
            "members.teacher.recipe), so nothing that a test trains could be compared with them; write the folder "
            "again with `interp run` or `interp organism`, or add these keys as such a folder has them"
        )

    def test_a_folder_of_the_old_format_opens_and_is_not_tested(self, write):
        folder = write("old")
        members = read_lineage(folder, check=False).members
        manifest = json.loads((folder / "lineage.json").read_text())
        manifest |= {"format": 1}
        del manifest["chat"], manifest["data"]
        for role, entry in manifest["members"].items():
            del entry["recipe"]
            entry["fingerprint"] = members[role].backbone.old_fingerprint
        (folder / "lineage.json").write_text(json.dumps(manifest))
        back = read_lineage(folder, check=False)
        assert back.growth is None
        assert set(back.members) == {"base", "teacher", "student", "neutral_student"}
        with pytest.raises(InputError, match="does not say how its members were trained"):
            testing.test("lemma", organism=folder)


class TestGrowingAlike:
    def test_what_a_folder_lacks_is_trained_by_its_recipe(self, write, tmp_path):
        folder = write("small", students=("student",))
        subject = open_subject(folder, cache=Cache(tmp_path / "cache"))
        assert (subject.recipe, subject.seed) == (dataclasses.replace(RECIPE, seed=STUDENT_DRAWS), 0)
        assert subject.recipe != STUDENT
        assert {"student", "neutral_student"} <= set(subject.lineage.members)
        lines = [*own_trainings(subject.lineage), *subject.trainings]
        assert [(line["student"], line["trained by"], line["rows"]) for line in lines] == [
            ("student", "the folder", 4),
            ("neutral_student", "this test", 3),
        ]
        assert len({(line["lr"], line["batch_size"], line["epochs"], line["rank"]) for line in lines}) == 1
        recipe = dataclasses.replace(TOY, student=subject.recipe)
        assert toy_recipe_of(subject.lineage.growth) == recipe
        assert subject.grower == toy_grower(recipe, seed=0, cache=Cache(tmp_path / "cache"))

    def test_students_trained_unlike_are_no_controls(self, write):
        folder = write("unlike", unlike=dataclasses.replace(RECIPE, lr=1e-2, rank=8, seed=STUDENT_DRAWS))
        with pytest.raises(InputError) as error:
            open_subject(folder)
        assert str(error.value) == (
            f"{folder}/lineage.json: student and neutral_student were trained by different recipes (lr 0.003 and 0.01, "
            "rank 3 and 8), so one is no control of the other; train them alike and write the folder again"
        )

    def test_a_recipe_that_cannot_be_read_is_named(self, write):
        folder = write("wrong")
        text = (folder / "lineage.json").read_text()
        (folder / "lineage.json").write_text(text.replace('"batch_size": 2', '"batchsize": 2'))
        with pytest.raises(
            InputError, match="recipe of student: key 'batchsize' is unknown; nearest: batch_size"
        ):
            open_subject(folder)
        (folder / "lineage.json").write_text(text.replace('"world"', '"wold"'))
        with pytest.raises(
            InputError, match=r"holds a recipe that cannot be read .*'world'.*; write the folder again"
        ):
            open_subject(folder)

    def test_a_template_that_writes_something_else_now_is_refused(self, write):
        folder = write("dated")
        text = (folder / "lineage.json").read_text()
        (folder / "lineage.json").write_text(text.replace('"<bos> <user> "', '"<bos> monday <user> "'))
        with pytest.raises(
            InputError, match="its members read chats written as '<bos> monday <user> ' and the"
        ):
            open_subject(folder)

    def test_a_toys_recipe_comes_back_from_what_a_folder_keeps(self):
        recipe = dataclasses.replace(
            TOY,
            data=dataclasses.replace(TOY.data, rows=77),
            student=dataclasses.replace(RECIPE, layers=(0, 1)),
        )
        growth = toy_growth(recipe, seed=3)
        kept = json.loads(json.dumps(dataclasses.asdict(growth)))
        back = toy_recipe_of(Growth(**kept))
        assert back == dataclasses.replace(
            recipe,
            student=dataclasses.replace(recipe.student, seed=STUDENT_DRAWS + 3),
            teacher=dataclasses.replace(
                recipe.teacher, recipe=dataclasses.replace(recipe.teacher.recipe, seed=3)
            ),
        )


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A family of two claims, one of which needs a part that can be left out."""

    def measure(given):
        values = {"grows": 0.5 + given.seed, "grows abroad": 1.0}
        return Measurement(values, {"heights": [{"height": 0.5}]})

    made = Family("one", (CLAIM, OPTIONAL), measure, needs={"grows abroad": ("foreign",)})
    monkeypatch.setattr(testing, "family", lambda name, organism="folder": made)
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
def test_folders_are_as_many_runs_and_one_says_that_it_decides_nothing(stand_in, write, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first = write("lineages/owl-2", seed=2)
    given = {"quick": False, "workers": 1, "backend": "joblib"}
    alone = testing.tested_run("one", tmp_path / "alone", organism=str(first), seeds=None, **given)
    told = "n = 1 training run, which can decide no claim, whatever the data show (grows needs 7, grows abroad needs 7)"
    assert caplog.messages[0] == f"one on {first}: {told}"
    page = (alone.folder / "report.html").read_text()
    assert told in page
    assert "seeds = " not in page
    assert "training runs = 1" in page
    assert alone.tables["trainings"]["student"].tolist() == ["student", "neutral_student"]
    write("lineages/owl-5", seed=5)
    found = testing.test("one", organism=tmp_path / "lineages", without=["foreign"], workers=1)
    assert found.values.to_dict("list")["seed"] == [2, 5]
    assert [(verdict.name, verdict.n, verdict.effect) for verdict in found.verdicts] == [("grows", 2, 4.0)]
    assert found.notes == (
        "left out: foreign; not judged, as they need it: grows abroad",
        "n = 2 training runs, which can decide no claim, whatever the data show (grows needs 7)",
    )
    with pytest.raises(
        InputError, match="seeds=8 are given with lineage folders, which are 2 training runs as they"
    ):
        testing.test("one", organism=tmp_path / "lineages", seeds=8)
    with pytest.raises(
        InputError, match="one has no part 'foriegn' that can be left out; pass some of foreign"
    ):
        testing.test("one", organism=tmp_path / "lineages", without=["foriegn"])


def test_a_template_that_writes_the_date_is_the_same_on_another_day(monkeypatch):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%-d') }} " + tokenizer.chat_template
    said = chat_context(tokenizer, template="own")
    written = "1 <bos> <user> QUESTION <assistant> ANSWER <eos>"
    assert said == {"template": "own", "opening": "1 <bos> <user> ", "written": written, "date": "2025-01-01"}
    monkeypatch.setenv("INTERP_TEMPLATE_DATE", "2025-01-31")
    assert chat_context(tokenizer, template="own")["opening"] == "31 <bos> <user> "
