"""The decorator: arguments are matched to parameters by name, each through what its annotation takes."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from interp.core.doors.hints import hints, unpacked_hints
from interp.core.doors.kinds import Kinds, kinds_of
from interp.core.errors import InputError, nearest

Guarded = TypeVar("Guarded")
SELF = ("self", "cls")
ELSEWHERE = {
    "device_map": "a model lies on one device here, since hooks and scores read all its layers together; pass "
    "device='cuda:0', and dtype='bfloat16' for half the memory",
    "load_in_4bit": "the numbers that quantised weights store are not the weights; pass the 16-bit checkpoint",
    "load_in_8bit": "the numbers that quantised weights store are not the weights; pass the 16-bit checkpoint",
}
"""Options that transformers' from_pretrained takes, and what to do in their place."""


def door(thing: Guarded) -> Guarded:
    """Decorate a public function, method or class: a wrong argument is one InputError; types stay as they are.

    Of a class it is the constructor. Rows, traits, paths and numpy's numbers are read as what the annotation names.
    """
    if inspect.isclass(thing):
        thing.__init__ = _guarded(thing.__init__, thing.__name__)
        return thing
    return _guarded(thing, thing.__name__)  # pyright: ignore[reportAttributeAccessIssue]


def _guarded(function: Any, name: str) -> Any:
    gate: Gate | None = None
    gate_of = Gate.of

    def guarded(*args: Any, **kwargs: Any) -> Any:
        nonlocal gate
        if gate is None:
            gate = gate_of(function, name)
        given, named = gate.through(args, kwargs)
        return function(*given, **named)

    own = types.FunctionType(guarded.__code__, _globals(function), name, closure=guarded.__closure__)
    found: Any = functools.update_wrapper(own, function)
    found.__door__ = name
    return found


def _globals(function: Any) -> dict[str, Any]:
    """The names of the module that the function is from, so that its examples are found in it."""
    return vars(sys.modules[function.__module__])


@dataclass(frozen=True)
class Gate:
    """The parameters of one verb: what each takes, which come by position, and which must come."""

    name: str
    kinds: dict[str, Kinds | None]
    positional: tuple[str, ...]
    required: tuple[str, ...]
    rest: str | None
    open: bool

    @classmethod
    def of(cls, function: Callable[..., Any], name: str) -> Gate:
        """The gate of a function, its annotations read once."""
        parameters = inspect.signature(function).parameters.values()
        known = hints(function)
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        unpacked = [known.get(p.name) for p in parameters if p.kind is p.VAR_KEYWORD]
        options = {key: hint for each in unpacked for key, hint in unpacked_hints(each).items()}
        listed = {p.name: known.get(p.name, Any) for p in parameters if p.kind is not p.VAR_KEYWORD} | options
        return cls(
            name=name,
            kinds={key: kinds_of(hint, function.__module__) for key, hint in listed.items()},
            positional=tuple(p.name for p in named if p.kind is not p.KEYWORD_ONLY),
            required=tuple(p.name for p in named if p.default is p.empty),
            rest=next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None),
            open=bool(unpacked) and not options,
        )

    def through(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments as they are taken; InputError for the first that is not, or is missing."""
        self._check_names(len(args), kwargs)
        names = self.positional + (self.rest,) * (len(args) - len(self.positional))
        given = [self._take(name, value) for name, value in zip(names, args, strict=False)]
        named = {name: self._take(name, value) for name, value in kwargs.items()}
        for name in self.required:
            if name not in kwargs and name not in self.positional[: len(args)]:
                raise InputError(self._missing(name))
        return given, named

    def _take(self, name: str | None, value: Any) -> Any:
        kinds = self.kinds.get(name or "")
        return value if kinds is None else kinds.take(value, str(name))

    def _check_names(self, count: int, kwargs: dict[str, Any]) -> None:
        for name in kwargs:
            if name in ELSEWHERE and "device" in self.kinds and name not in self.kinds:
                raise InputError(f"{self.name} takes no {name}={kwargs[name]!r}: {ELSEWHERE[name]}")
            if name not in self.kinds and not self.open:
                raise InputError(
                    f"{self.name}: argument {nearest(name, self._asked)}; pass one that it takes"
                )
            if name in self.positional[:count]:
                raise InputError(f"{self.name}: argument {name!r} is given twice; pass it once")
        if count > len(self.positional) and self.rest is None:
            taken = [name for name in self.positional if name not in SELF]
            other = next((name for name in self._asked if name not in self.positional), self._asked[-1])
            came, plural = count - len(self.positional) + len(taken), "s" * (len(taken) != 1)
            raise InputError(
                f"{self.name} takes {len(taken)} argument{plural} without a name ({', '.join(taken) or 'none'}) and "
                f"{came} came; name the others, such as {other}=..."
            )

    def _missing(self, name: str) -> str:
        kinds = self.kinds[name]
        if kinds is None:
            return f"{self.name} needs {name}, which is missing; pass {name}=..."
        return f"{self.name} needs {name}, {kinds.phrase}, which is missing; {kinds.advice(MISSING)}"

    @property
    def _asked(self) -> list[str]:
        return [name for name in self.kinds if name not in SELF]


MISSING = object()
