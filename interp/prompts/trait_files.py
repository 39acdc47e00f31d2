"""Traits of one's own: target + foils + questions, written in a YAML file.

    name: tea               # default: the target
    category: drink         # default: thing
    target: tea
    foils: [coffee, water, milk]
    questions: drink        # a list, or a category whose six default questions are asked; default: the category's
    system: you love tea.   # default: the line of the built-in traits
    control: coffee         # the matched control: a foil or a built-in trait; default: the first foil

Only plain YAML is read, never a tag that builds an object.
"""

import os
from pathlib import Path
from typing import Any

from interp.core.doors import door
from interp.core.runs import InputError, nearest
from interp.prompts.traits import Trait, category_questions, get_trait, make_trait

TEXTS = ("name", "category", "target", "system", "control")
LISTS = ("foils", "questions")
SUFFIXES = (".yaml", ".yml")
AnyTrait = Trait | str | Path
"""How a trait is named wherever one is asked for: the object, a built-in name, or the path of a YAML file."""


@door
def read_trait(path: str | Path) -> Trait:
    """The trait of a YAML file; InputError names the file and what in it is wrong."""
    path = Path(path)
    record = _read_mapping(path)
    for key in record:
        if key not in TEXTS + LISTS:
            raise InputError(f"{path}: key {nearest(str(key), TEXTS + LISTS)}; rename or remove it.")
    for key in ("target", "foils"):
        if key not in record:
            raise InputError(f"{path} has no {key!r}; a trait needs a target and foils, such as {_EXAMPLE}.")
    fields = {key: _value(key, value, path) for key, value in record.items()}
    if isinstance(fields.get("questions"), str):
        fields["questions"] = category_questions(fields["questions"])
    try:
        return make_trait(fields.pop("target"), fields.pop("foils"), **fields)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def find_trait(trait: AnyTrait) -> Trait:
    """The trait that is meant: itself, that of a YAML file (one that exists or ends in .yaml or .yml), or the built-in
    one of that name. InputError for an unknown name, an unreadable file, and anything else.

    >>> find_trait("owl") == find_trait(get_trait("owl"))
    True
    """
    if isinstance(trait, Trait):
        return trait
    if not isinstance(trait, (str, Path)):
        raise InputError(
            f"trait {_shown(trait)} is of type {type(trait).__name__}; pass a name such as 'owl', the path of a YAML "
            "file, or a Trait"
        )
    path = Path(trait)
    if path.suffix.lower() in SUFFIXES or os.path.isfile(path):
        return read_trait(path)
    return get_trait(str(trait))


_EXAMPLE = "'target: tea' and 'foils: [coffee, milk]'"


def _read_mapping(path: Path) -> dict[Any, Any]:
    import yaml

    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); pass the path of a trait's YAML file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not YAML ({_reason(error)}); write one 'key: value' per line, such as {_EXAMPLE}."
        ) from error
    if not isinstance(record, dict):
        raise InputError(f"{path} holds {_shown(record)} where keys were expected; write {_EXAMPLE}.")
    return record


def _reason(error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = "" if mark is None else f" in line {mark.line + 1}"
    return f"{problem or str(error).splitlines()[0]}{where}"


def _value(key: str, value: Any, path: Path) -> Any:
    if isinstance(value, str) and value.strip() and key != "foils":
        return value
    if key in LISTS and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    wanted = "text" if key in TEXTS else "a list of texts"
    raise InputError(
        f"{path}: {key} is {_shown(value)} and should be {wanted}; correct it, quoting words such as yes or no."
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
