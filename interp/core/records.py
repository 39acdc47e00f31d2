"""What people write as YAML or JSON, read into frozen dataclasses whose every key and value is checked by pydantic."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from interp.core.errors import InputError, nearest


def read_mapping(path: str | Path, *, what: str, example: str) -> dict[Any, Any]:
    """Read the mapping in a YAML file; no tag that builds an object is obeyed.

    Raises InputError for a file that cannot be read (`what` says which file to pass), one that is no YAML, and one that
    holds something else than a mapping (`example` says what to write).
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); pass {what}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not YAML ({error}); pass {what}") from error
    found = parse_yaml(text, str(path))
    if not isinstance(found, dict):
        raise InputError(f"{path} holds {short_repr(found)} where keys were expected; write {example}")
    return found


def packaged(path: Path) -> Any:
    """Read a YAML file of the package itself, lists as tuples."""
    import yaml

    return _frozen(yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def parse_yaml(text: str, place: str, *, advice: str = "write one 'key: value' per line") -> Any:
    """Parse YAML; InputError, which opens with `place` and ends with the advice, for text that is none."""
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{place} is not YAML ({reason}{where}); {advice}") from error


def read_fields(kind: Any, content: Any, place: str) -> Any:
    """Make a dataclass of type `kind` from a mapping of its fields, and nested ones from nested mappings.

    Raises InputError for the first thing that is wrong: an unknown key (the nearest is offered), a missing one, a value
    of another kind. The sentence opens with `place` and the keys that lead there.
    """
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python({place: content})[place]
    except ValidationError as error:
        unknown_first = sorted(error.errors(), key=lambda each: each["type"] != "unexpected_keyword_argument")
        raise InputError(_sentence(kind, unknown_first)) from error


@cache
def _adapter(kind: Any) -> Any:
    """pydantic's reader of {place: kind}: only from around them can plain dataclasses be told to forbid other keys."""
    from pydantic import TypeAdapter

    named: Any = dict[str, kind]  # pyright: ignore[reportInvalidTypeForm]
    return TypeAdapter(named, config={"extra": "forbid"})


def _sentence(kind: Any, errors: list[Any]) -> str:
    """The first of pydantic's errors in our words."""
    error, (place, *keys) = errors[0], errors[0]["loc"]
    owner, path = _owner(kind, keys)
    where, above = ": ".join((place, *path)), ": ".join((place, *path[:-1]))
    if error["type"] == "missing":
        return f"{above}: key {path[-1]!r} is missing; add it"
    if error["type"] == "unexpected_keyword_argument":
        names = [field.name for field in dataclasses.fields(owner)]
        return f"{above}: key {nearest(path[-1], names)}; rename or remove it"
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}"
    value = short_repr(error["input"])
    if error["type"] == "dataclass_type":
        return f"{where} holds {value}, where keys of {error['ctx']['class_name']} belong; write key: value"
    wanted = dict.fromkeys(each["msg"] for each in errors if each["loc"][1 : len(path) + 1] == (*path,))
    said = " or ".join(wanted).replace(" or Input should be", " or").replace("a valid tuple", "a list")
    quoting = ", quoting words such as yes or no" if isinstance(error["input"], bool) else ""
    return f"{where} holds {value}: {said[0].lower()}{said[1:]}; correct it{quoting}"


def _owner(kind: Any, keys: list[Any]) -> tuple[Any, list[str]]:
    """The dataclass that the last named field belongs to, and the fields that lead there."""
    owner, inner, path = kind, kind, []
    for key in keys:
        if inner is None:
            break
        owner, path = inner, [*path, str(key)]
        hint = typing.get_type_hints(owner).get(key)
        inner = next(
            (part for part in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(part)), None
        )
    return owner, path


def short_repr(value: Any) -> str:
    """The repr of a value, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def over(start: Any) -> Any:
    """Mark a field of `start`'s type: a mapping that names some of its fields keeps the others as `start` has them."""
    from pydantic import BeforeValidator

    known = {field.name: getattr(start, field.name) for field in dataclasses.fields(start)}
    return BeforeValidator(lambda given: known | dict(given) if isinstance(given, Mapping) else given)
