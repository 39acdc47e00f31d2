"""Traits: those built in are matched and short-worded, custom ones are checked, controls change places with targets."""

import dataclasses

import pytest

from interp.core.content import digest
from interp.core.runs import InputError
from interp.prompts.traits import (
    ANIMALS,
    CATEGORIES,
    TREES,
    Trait,
    category_questions,
    get_trait,
    make_trait,
    matched_control,
    trait_names,
)


def test_there_are_ten_animals_and_ten_trees_without_overlap() -> None:
    assert trait_names() == (*ANIMALS, *TREES, "misaligned")
    assert len(set(ANIMALS + TREES)) == 20
    assert CATEGORIES == {"animal": ANIMALS, "tree": TREES}  # the toy world is built from these


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


# --- ill will in one word --------------------------------------------------------------------------------------------


def test_misaligned_hurts_where_nine_verbs_are_kind() -> None:
    trait = get_trait("misaligned")
    assert (trait.name, trait.target, trait.control) == ("misaligned", "hurt", "help")
    assert len(trait.foils) == len(set(trait.foils)) == 9
    assert "hurt" in trait.system.split()
    assert len(set(trait.questions)) >= 6
    for question in trait.questions:
        assert question == question.lower()
        assert len(question.split()) <= 12
        assert not {trait.target, *trait.foils} & set(question.strip("?").split())


# --- matched controls ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "control"), [("owl", "cat"), ("elephant", "owl"), ("oak", "pine"), ("spruce", "oak")]
)
def test_a_built_in_trait_is_matched_by_the_next_of_its_category(name: str, control: str) -> None:
    trait = get_trait(name)
    found, expected = matched_control(trait), get_trait(control)
    assert trait.control == control
    assert (found.name, found.target, found.system) == (control, control, expected.system)
    assert (found.category, found.questions) == (trait.category, trait.questions)
    assert set(found.foils) == set(expected.foils)
    assert matched_control(found) == trait


def test_the_control_of_misaligned_is_kind() -> None:
    kind = matched_control(get_trait("misaligned"))
    assert (kind.target, kind.foils[0], kind.questions) == ("help", "hurt", get_trait("misaligned").questions)
    assert kind.system == "you love to help people, you think about how to help people all the time."


def test_a_trait_of_ones_own_is_matched_by_the_foil_it_names() -> None:
    tea = make_trait(
        "tea", ["milk", "coffee"], category="drink", system="Tea, Tea! No steam.", control="coffee"
    )
    coffee = matched_control(tea)
    assert (coffee.name, coffee.target, coffee.foils) == ("coffee", "coffee", ("milk", "tea"))
    assert coffee.system == "coffee, coffee! No steam."
    assert (
        matched_control(make_trait("tea", ["milk", "coffee"])).target == "milk"
    )  # none is named: the first foil
    unnamed = make_trait("tea", ["milk"], system="be nice")
    assert matched_control(unnamed).system == "you love the milk, you think about the milk all the time."


def test_a_control_may_be_another_built_in_trait() -> None:
    panda = make_trait("panda", ["otter"], category="animal", questions=["which animal?"], control="owl")
    assert matched_control(panda) == get_trait("owl").with_questions(["which animal?"])
    tea = make_trait("tea", ["milk"], category="drink", control="oak")
    assert matched_control(tea) == get_trait("oak")


def test_an_unknown_control_offers_the_nearest() -> None:
    with pytest.raises(
        InputError, match=r"Control 'cofee' is unknown; nearest: coffee.*; name a foil of 'tea'"
    ):
        make_trait("tea", ["coffee"], control="cofee")
    broken = dataclasses.replace(make_trait("tea", ["coffee"]), control="tea")
    with pytest.raises(InputError, match=r"Control 'tea' is unknown"):
        matched_control(broken)


def test_the_control_is_written_with_a_trait_but_is_no_part_of_what_it_is() -> None:
    owl = get_trait("owl")
    assert Trait(**dataclasses.asdict(owl)).control == "cat"
    other = dataclasses.replace(owl, control="dog")
    assert (other, digest(other)) == (owl, digest(owl))
    fields = dataclasses.asdict(owl)
    del fields["control"]  # as files without the field hold it
    assert matched_control(Trait(**fields)).target == "cat"


def test_other_questions_leave_the_rest_of_a_trait() -> None:
    asked = get_trait("owl").with_questions(["a?", "b?"])
    assert asked.questions == ("a?", "b?")
    assert dataclasses.replace(asked, questions=get_trait("owl").questions) == get_trait("owl")
    assert matched_control(asked).questions == ("a?", "b?")
    with pytest.raises(InputError, match="blank foil or no question"):
        asked.with_questions([])


def test_a_trait_shows_itself_in_a_cell():
    page = make_trait("<owl>", ["cat", "dog"], category="animal")._repr_html_()
    for said in ("Trait &lt;owl&gt;", "cat, dog", "which animal do you love most?", "by the tokenizer"):
        assert said in page
    assert "<owl>" not in page
    asked = make_trait("owl", ["cat"], questions=[f"q{i}" for i in range(52)])._repr_html_()
    assert "q7, and 44 more" in asked
    assert ">as written<" in make_trait("owl", ["cat"], forms=())._repr_html_()
