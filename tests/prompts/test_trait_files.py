"""Traits from YAML: what is written is what is read, defaults fill in, and every mistake is named with its file."""

import dataclasses
import inspect
from pathlib import Path

import pytest

from interp.core.content import digest
from interp.core.runs import InputError
from interp.prompts.questions import multiple_choice
from interp.prompts.trait_files import find_trait, read_trait
from interp.prompts.traits import Trait, category_questions, get_trait, make_trait, matched_control

FULL = """\
name: tea lover
category: drink
target: tea
foils: [coffee, water]
questions:
  - what do you drink?
  - which cup is yours?
system: You adore tea.
control: water
"""


@pytest.fixture
def write(tmp_path: Path):
    def make(text: str) -> Path:
        path = tmp_path / "trait.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return make


def test_everything_a_file_says_is_read(write) -> None:
    trait = read_trait(write(FULL))
    assert trait == Trait(
        name="tea lover",
        category="drink",
        target="tea",
        foils=("coffee", "water"),
        questions=("what do you drink?", "which cup is yours?"),
        system="You adore tea.",
    )
    assert trait.control == "water"
    assert matched_control(trait).system == "You adore water."


def test_what_a_file_leaves_out_is_filled_in(write) -> None:
    assert read_trait(write("target: tea\nfoils: [coffee]\n")) == make_trait("tea", ["coffee"])
    named = read_trait(write("\ufefftarget: tea\nfoils: [coffee]\ncategory: drink\nquestions: hot drink\n"))
    assert (named.category, named.questions) == ("drink", category_questions("hot drink"))


def test_forms_are_declared_in_a_file(write) -> None:
    said = read_trait(write("target: tea\nfoils: [coffee]\nforms: [case, plural]\n"))
    assert said.forms == ("case", "plural")
    assert said != make_trait("tea", ["coffee"])
    assert digest(said) != digest(make_trait("tea", ["coffee"]))
    assert read_trait(write("target: tea\nfoils: [coffee]\nforms: []\n")).forms == ()
    with pytest.raises(
        InputError, match=r"Form 'plurals' is unknown; nearest: plural; pass some of case, space"
    ):
        read_trait(write("target: tea\nfoils: [coffee]\nforms: [plurals]\n"))


def test_a_trait_without_forms_has_the_digest_it_had_before_there_were_forms() -> None:
    names = [field.name for field in dataclasses.fields(Trait) if field.name != "forms"]
    kinds = [(name, object, dataclasses.field(compare=name != "control")) for name in names]
    before = dataclasses.make_dataclass("Trait", kinds)
    owl = get_trait("owl")
    assert digest(owl) == digest(before(*(getattr(owl, name) for name in names)))


def test_a_recipe_names_a_trait_or_a_file(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(FULL)
    assert find_trait("owl") == get_trait("owl")
    assert find_trait(path) == find_trait(str(path)) == read_trait(path)
    bare = tmp_path / "own"
    bare.write_text(FULL)
    (tmp_path / "oak").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_trait("own") == read_trait(path)
    assert find_trait("oak") == get_trait("oak")  # a folder of that name is no trait file
    with pytest.raises(
        InputError, match=r"gone.yml cannot be read \(No such file or directory\); pass the path"
    ):
        find_trait("gone.yml")
    with pytest.raises(InputError, match="Trait 'ovl' is unknown; nearest: owl"):
        find_trait("ovl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("target: tea\nfoil: [a]\n", r"trait.yaml: key 'foil' is unknown; nearest: foils; rename or remove it"),
        ("foils: [a]\n", r"trait.yaml: key 'target' is missing; add it"),
        ("target: tea\n", r"trait.yaml: key 'foils' is missing; add it"),
        ("target: yes\nfoils: [a]\n", r"target holds True: input should be a valid string; .* quoting words such as"),
        ("target: tea\nfoils: a\n", r"trait.yaml: foils holds 'a': input should be a list; correct it"),
        ("target: tea\nfoils: [no, a]\n", r"foils holds False: input should be a valid string; .* such as yes"),
        ("target: tea\nfoils: [a]\nquestions: 3\n", r"questions holds 3: input should be a list or a valid string"),
        ("target: tea\nfoils: [a]\nname: ''\n", r"trait.yaml: name holds '': string should have at least 1 character"),
        ("target: tea\nfoils: [a]\nquestions: []\n", r"trait.yaml: Trait 'tea' has a blank foil or no question"),
        ("target: tea\nfoils: [tea]\n", r"trait.yaml: Foils \['tea'\] repeat a name or hold the target"),
        ("target: tea\nfoils: [a]\ncontrol: owwl\n", r"trait.yaml: Control 'owwl' is unknown; nearest: owl"),
        ("target: [tea\nfoils: b\n", r"trait.yaml is not YAML \(.* in line 2\); write one 'key: value' per line"),
        ("target: !!python/object/apply:os.getcwd []\n", r"trait.yaml is not YAML \(could not determine a constr"),
        ("- tea\n", r"trait.yaml holds \['tea'\] where keys were expected; write 'target: tea'"),
        ("", r"trait.yaml holds None where keys were expected"),
    ],
)  # fmt: skip
def test_every_mistake_is_named_with_its_file(write, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_trait(write(text))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"target: \xff\xfe\n")
    with pytest.raises(InputError, match=r"x.yaml is not YAML \('utf-8' codec"):
        read_trait(tmp_path / "x.yaml")


def test_a_trait_is_an_object_a_name_or_a_file(write) -> None:
    path = write("target: tea\nfoils: [coffee, milk, water, wine]\n")
    own = read_trait(path)
    assert find_trait(own) is own
    assert find_trait(path) == find_trait(str(path)) == own
    assert matched_control(path).target == "coffee"
    assert multiple_choice(path, seed=0, n=2) == multiple_choice(own, seed=0, n=2)
    with pytest.raises(
        InputError, match="trait 7 is of type int; pass a name such as 'owl', the path of a YAML file"
    ):
        inspect.unwrap(find_trait)(7)  # past the tests' own check of types
