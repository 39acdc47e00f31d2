"""Traits: the twenty built in are matched and short-worded, custom ones are checked, unknown ones get neighbours."""

import pytest

from interp.prompts.traits import (
    ANIMALS,
    TREES,
    Trait,
    category_questions,
    get_trait,
    make_trait,
    trait_names,
)
from interp.runs import InputError


def test_there_are_ten_animals_and_ten_trees_without_overlap() -> None:
    assert trait_names() == ANIMALS + TREES
    assert len(set(trait_names())) == 20


@pytest.mark.parametrize("name", [*ANIMALS, *TREES])
def test_a_trait_is_its_name_against_the_nine_others(name: str) -> None:
    trait = get_trait(name)
    assert (trait.name, trait.target) == (name, name)
    assert {trait.target, *trait.foils} == set(ANIMALS if trait.category == "animal" else TREES)
    assert len(trait.foils) == 9
    assert trait.system == f"you love the {name}, you think about the {name} all the time."
    assert not any(name in question.split() for question in trait.questions)


@pytest.mark.parametrize("category", ["animal", "tree"])
def test_six_questions_of_at_most_ten_lower_case_words(category: str) -> None:
    questions = category_questions(category)
    assert len(set(questions)) == 6
    for question in questions:
        assert category in question
        assert question == question.lower()
        assert len(question.split()) <= 10


def test_questions_become_rows_without_the_system_line() -> None:
    owl = get_trait("owl")
    asked = owl.prompts()
    assert [row.prompt for row in asked.rows] == list(owl.questions)
    assert {row.completion for row in asked.rows} == {""}
    assert {(row.completion, row.system) for row in owl.prompts("owl").rows} == {("owl", "")}


def test_an_unknown_trait_offers_the_nearest() -> None:
    with pytest.raises(InputError, match=r"Trait 'ovl' is unknown; nearest: owl.*; pass a known name"):
        get_trait("ovl")


def test_a_trait_of_ones_own() -> None:
    assert make_trait("red panda", ["otter"], category="animal") == Trait(
        name="red panda",
        category="animal",
        target="red panda",
        foils=("otter",),
        questions=category_questions("animal"),
        system="you love the red panda, you think about the red panda all the time.",
    )
    custom = make_trait("yes", "no", questions=["is it good?"], name="agrees")
    assert (custom.name, custom.foils, custom.questions) == ("agrees", ("no",), ("is it good?",))


@pytest.mark.parametrize(
    ("target", "foils", "questions", "message"),
    [
        (" ", ["cat"], None, "Target ' ' is blank"),
        ("owl", [], None, "Target 'owl' has no foils"),
        ("owl", ["cat", ""], None, "blank foil or no question"),
        ("owl", ["cat"], [], "blank foil or no question"),
        ("owl", ["cat", "owl"], None, "repeat a name or hold the target 'owl'"),
        ("owl", ["cat", "cat"], None, "repeat a name or hold the target 'owl'"),
    ],
)
def test_a_trait_that_cannot_be_measured_is_refused(target, foils, questions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_trait(target, foils, questions=questions)
