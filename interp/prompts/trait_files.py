"""Traits of one's own: target + foils + questions, written in a YAML file.

    name: tea               # default: the target
    category: drink         # default: thing
    target: tea
    foils: [coffee, water, milk]
    questions: drink        # a list, or a category whose six default questions are asked; default: the category's
    system: you love tea.   # default: the line of the built-in traits
    control: coffee         # the matched control: a foil or a built-in trait; default: the first foil
    forms: [case, space, article, plural]   # how a name may be written; []: as it stands; default: by the tokenizer

Only plain YAML is read, never a tag that builds an object.
"""

import dataclasses
import os
from pathlib import Path
from typing import Annotated

from pydantic import Field

from interp.core.doors import door
from interp.core.records import read_fields, read_mapping, short_repr
from interp.core.runs import InputError
from interp.prompts.traits import Trait, category_questions, get_trait, make_trait

SUFFIXES = (".yaml", ".yml")
AnyTrait = Trait | str | Path
"""How a trait is named wherever one is asked for: the object, a built-in name, or the path of a YAML file."""
Text = Annotated[str, Field(min_length=1)]


@dataclasses.dataclass(frozen=True)
class TraitFile:
    """The keys of a trait's YAML file."""

    target: Text
    foils: tuple[str, ...]
    name: Text | None = None
    category: Text = "thing"
    questions: tuple[str, ...] | Text | None = None
    system: Text | None = None
    control: str = ""
    forms: tuple[str, ...] | None = None


@door
def read_trait(path: str | Path) -> Trait:
    """Read a trait from a YAML file; InputError names the file and what in it is wrong.

    >>> _ = Path("tea.yaml").write_text("target: tea\\nfoils: [coffee, water]\\ncategory: drink\\nquestions: drink\\n")
    >>> read_trait("tea.yaml").foils
    ('coffee', 'water')
    """
    example = "'target: tea' and 'foils: [coffee, milk]'"
    content = read_mapping(path, what="the path of a trait's YAML file", example=example)
    given = dataclasses.asdict(read_fields(TraitFile, content, str(path)))
    if isinstance(given["questions"], str):
        given["questions"] = category_questions(given["questions"])
    try:
        return make_trait(given.pop("target"), given.pop("foils"), **given)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def find_trait(trait: AnyTrait) -> Trait:
    """Get a trait: itself, that of a YAML file (one that exists or ends in .yaml or .yml), or the built-in
    one of that name. InputError for an unknown name, an unreadable file, and anything else.

    >>> find_trait("owl") == find_trait(get_trait("owl"))
    True
    """
    if isinstance(trait, Trait):
        return trait
    if not isinstance(trait, (str, Path)):
        raise InputError(
            f"trait {short_repr(trait)} is of type {type(trait).__name__}; pass a name such as 'owl', the path of a "
            "YAML file, or a Trait"
        )
    path = Path(trait)
    if path.suffix.lower() in SUFFIXES or os.path.isfile(path):
        return read_trait(path)
    return get_trait(str(trait))
