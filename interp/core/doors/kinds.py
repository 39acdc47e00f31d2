"""What an annotation takes: the alternatives of a type, each with what fits it and what can be read as it.

The outermost type is checked, and the elements of lists and dicts; shapes and contents are the verbs' own affair. True
is no integer, an integer is a number. numpy's scalars count as Python's and its vectors as lists; a text where a list
of texts is asked is a list of one.
"""

from __future__ import annotations

import inspect
import os
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from interp.core.doors.hints import evaluated
from interp.core.doors.nouns import NOUNS, advice, shown, wanted
from interp.core.errors import InputError

MISS: Any = object()
READERS = ("Prompts", "Trait")
"""Nouns whose `of(value, argument=...)` reads other shapes of themselves, or raises an InputError that says which."""

TELLING = {"Model": ("name", "fingerprint", "start")}
"""The members that tell a thing from anything else, where a verb may do without some of the protocol."""


@dataclass(frozen=True)
class Kind:
    """One alternative: what it is called, the types in it, what fits, and how something else is read as it."""

    phrase: str
    names: tuple[str, ...]
    fits: Callable[[Any], bool]
    read: Callable[[Any, str], Any] | None = None
    by_type: bool = False


@dataclass(frozen=True)
class Kinds:
    """Everything that a parameter takes."""

    kinds: tuple[Kind, ...]
    seen: set[type] = field(default_factory=set, compare=False)

    def take(self, value: Any, argument: str) -> Any:
        """The value, as it is or as what it is read as; InputError when it is neither."""
        if type(value) in self.seen:
            return value
        for kind in self.kinds:
            if kind.fits(value):
                if kind.by_type:
                    self.seen.add(type(value))
                return value
        for kind in self.kinds:
            found = MISS if kind.read is None else kind.read(value, argument)
            if found is not MISS:
                return found
        told = self.advice(value, argument)
        raise InputError(f"{argument} is {shown(value)}, where {self.phrase} is needed; {told}")

    def has(self, value: Any) -> bool:
        """Whether it is taken."""
        return any(kind.fits(value) for kind in self.kinds)

    @property
    def phrase(self) -> str:
        """What is asked, in words."""
        return (
            " or ".join(dict.fromkeys(kind.phrase for kind in self.kinds if kind.phrase != "None")) or "None"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The types in it."""
        return tuple(dict.fromkeys(name for kind in self.kinds for name in kind.names))

    def advice(self, value: Any, argument: str = "") -> str:
        """What to do when `value` came as `argument`."""
        if any(kind.phrase.startswith("one of ") for kind in self.kinds):
            return "pass one of them"
        return advice(value, list(self.names), argument)


def kinds_of(hint: Any, module: str) -> Kinds | None:
    """What `hint`, written in `module`, takes; None for one that takes anything."""
    hint = evaluated(hint, module)
    if get_origin(hint) in (Union, types.UnionType):
        parts = [kinds_of(part, module) for part in get_args(hint)]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts):
            return None
        return Kinds(tuple(sorted((kind for part in found for kind in part.kinds), key=_is_list)))
    kind = _kind(hint, module)
    return None if kind is None else Kinds((kind,))


def _is_list(kind: Kind) -> bool:
    """Nouns read a text before it is taken as a list of one."""
    return kind.phrase.startswith("a list")


def _kind(hint: Any, module: str) -> Kind | None:
    if hint is None or hint is type(None):
        return Kind("None", (), lambda value: value is None, by_type=True)
    if get_origin(hint) is Annotated:
        return _equipped(*get_args(hint), module=module)
    if get_origin(hint) is Literal:
        return _choice(get_args(hint))
    origin = get_origin(hint) or hint
    if hasattr(hint, "array_type"):  # a shape of jaxtyping's
        return _instance(hint.array_type)
    if origin in (Any, object) or not inspect.isclass(origin):
        return None
    if origin is Callable:
        return Kind("a function", (), callable)
    if issubclass(origin, Mapping):
        return _mapping(origin, get_args(hint), module)
    if issubclass(origin, tuple) and hasattr(origin, "_fields"):
        return _instance(origin)
    if issubclass(origin, (Collection, Iterable)) and origin.__module__ in ("collections.abc", "builtins"):
        return (
            _instance(origin)
            if issubclass(origin, (str, bytes))
            else _several(origin, get_args(hint), module)
        )
    return _scalar(origin) or (
        _protocol(origin) if getattr(origin, "_is_protocol", False) else _instance(origin)
    )


def _instance(kind: type) -> Kind:
    name = kind.__name__

    def read(value: Any, argument: str) -> Any:
        return kind.of(value, argument=argument)  # pyright: ignore[reportAttributeAccessIssue]

    reader = read if name in READERS else None
    return Kind(wanted(name), (name,), lambda value: isinstance(value, kind), reader, by_type=True)


def _scalar(kind: type) -> Kind | None:
    name = kind.__name__
    if kind in (int, float):
        fits = (int,) if kind is int else (int, float)

        def number(value: Any, argument: str) -> Any:
            import numpy as np

            numbers = np.integer if kind is int else (np.integer, np.floating)
            return value.item() if isinstance(value, numbers) else MISS

        return Kind(
            wanted(name), (name,), lambda v: isinstance(v, fits) and type(v) is not bool, number, by_type=True
        )
    if kind is bool:
        return Kind(wanted(name), (name,), lambda value: isinstance(value, bool), _truth, by_type=True)
    if kind is Path:
        return Kind(wanted(name), (name,), lambda value: isinstance(value, Path), _path, by_type=True)
    return None


def _truth(value: Any, argument: str) -> Any:
    import numpy as np

    return bool(value) if isinstance(value, np.bool_) else MISS


def _path(value: Any, argument: str) -> Any:
    return Path(value) if isinstance(value, (str, os.PathLike)) else MISS


def _choice(options: tuple[Any, ...]) -> Kind:
    phrase = f"one of {', '.join(map(repr, options))}"
    names = tuple(str(option) for option in options)
    return Kind(
        phrase,
        names,
        lambda v: any(type(v) is type(o) and v == o for o in options),
    )


def _protocol(kind: type) -> Kind:
    """What has the members of the protocol, whether or not it says so; properties are not computed for that."""
    bases = [base for base in kind.__mro__ if getattr(base, "_is_protocol", False)]
    members = {
        name
        for base in bases
        for name in (*vars(base), *inspect.get_annotations(base))
        if name == "__call__" or not name.startswith("_")
    }
    members &= set(TELLING.get(kind.__name__, members))

    def fits(value: Any) -> bool:
        own = getattr(value, "__dict__", ())
        return all(name in own or hasattr(type(value), name) for name in members)

    return Kind(wanted(kind.__name__), (kind.__name__,), fits)


def _equipped(hint: Any, name: str, *members: str, module: str) -> Kind | None:
    """What fits the type and has the named members, such as a model that reads text and so has a tokenizer."""
    kind = _kind(hint, module)

    def fits(value: Any) -> bool:
        return (
            kind is not None
            and kind.fits(value)
            and all(getattr(value, m, None) is not None for m in members)
        )

    return None if kind is None else Kind(wanted(name), (name,), fits)


def _mapping(kind: type, inner: tuple[Any, ...], module: str) -> Kind:
    keys, values = (kinds_of(part, module) for part in inner) if len(inner) == 2 else (None, None)

    def fits(value: Any) -> bool:
        if not isinstance(value, kind) or (keys is not None and not all(map(keys.has, value))):
            return False
        return values is None or all(map(values.has, value.values()))

    def read(value: Any, argument: str) -> Any:
        if (
            values is None
            or not isinstance(value, kind)
            or (keys is not None and not all(map(keys.has, value)))
        ):
            return MISS
        return {key: values.take(item, f"{argument}[{key!r}]") for key, item in value.items()}

    names = () if values is None else values.names
    return Kind("a dict" + _of(names), names, fits, read)


def _several(kind: type, inner: tuple[Any, ...], module: str) -> Kind:
    """A list, tuple or set; a tuple of so many parts takes as many."""
    parts = (
        None
        if kind is not tuple or inner[-1:] in ((), (...,))
        else [kinds_of(part, module) for part in inner]
    )
    each = kinds_of(inner[0], module) if parts is None and inner else None

    def holds(value: Any) -> bool:
        if parts is not None:
            return len(value) == len(parts) and all(
                p is None or p.has(v) for p, v in zip(parts, value, strict=True)
            )
        return each is None or isinstance(value, Iterator) or _all_fit(each, value)

    def fits(value: Any) -> bool:
        return isinstance(value, kind) and not isinstance(value, (str, bytes)) and holds(value)

    def read(value: Any, argument: str) -> Any:
        unordered = isinstance(value, (set, frozenset)) and not issubclass(kind, Set)
        items = MISS if unordered else _listed(value, each)
        if items is MISS:
            return MISS
        if each is not None:
            items = [each.take(item, f"{argument}[{index}]") for index, item in enumerate(items)]
        made = kind(items) if kind in (tuple, list, set, frozenset) else items
        return made if holds(made) else MISS

    found = [p for p in parts or [each] if p is not None]
    names = tuple(dict.fromkeys(name for part in found for name in part.names))
    phrase = f"{'a list' if parts is None else f'a tuple of {len(parts)}'}{_of(names)}"
    return Kind(phrase, names, fits, read)


def _all_fit(each: Kinds, value: Collection[Any]) -> bool:
    """By the types that occur, where types decide: a list of a million texts is looked at once."""
    return all(kind in each.seen for kind in set(map(type, value))) or all(
        type(item) in each.seen or _fits_once(each, item) for item in value
    )


def _fits_once(each: Kinds, item: Any) -> bool:
    for kind in each.kinds:
        if kind.fits(item):
            if kind.by_type:
                each.seen.add(type(item))
            return True
    return False


def _listed(value: Any, each: Kinds | None) -> Any:
    """The items of a list-like value; MISS for one that is none, or has no order."""
    if isinstance(value, str):
        return [value] if each is not None and each.has(value) else MISS
    if isinstance(value, (list, tuple)):
        return list(value)
    if getattr(value, "ndim", None) == 1 and hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, (Sequence, Set)) and not isinstance(value, bytes) else MISS


def _of(names: tuple[str, ...]) -> str:
    known = [name if name in NOUNS or name[:1].isupper() else repr(name) for name in names]
    return f" of {' or '.join(known)}" if known else ""
