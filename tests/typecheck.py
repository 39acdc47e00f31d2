"""The run-time type checker of the tests: beartype on every annotation that can be checked.

Annotations that exist for the static checker only (names imported under TYPE_CHECKING) and Protocols that are not
runtime-checkable are dropped one by one; everything else, tensor shapes above all, is enforced at each call.
Shapes are bound together by jaxtyping's wrapper, which costs more than many of the functions it wraps; a function
without a shape in its annotations needs none of it and gets beartype alone.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.door import is_bearable
from beartype.roar import BeartypeException
from jaxtyping import AbstractArray, TypeCheckError

CONF = BeartypeConf(
    is_pep484_tower=True,  # an int is a fine float
    violation_param_type=TypeCheckError,
    violation_return_type=TypeCheckError,
)
with_shapes: Any = jaxtyping.jaxtyped
made: dict[tuple[str, types.CodeType], Any] = {}
FUNCTION = "__beartype_func"  # the default under which beartype keeps what it wraps


def install() -> Any:
    """Check the package as it is imported; returns the hook."""
    jaxtyping.jaxtyped = decorated
    return jaxtyping.install_import_hook("interp", f"{__name__}.checked")


def decorated(function: Any = None, *, typechecker: Any = None) -> Any:
    """A function or dataclass whose calls are checked; jaxtyping's own decorator where a shape is annotated."""
    if function is None:
        return functools.partial(decorated, typechecker=typechecker)
    if dataclasses.is_dataclass(function) and "__init__" in vars(function):
        guarded = hasattr(function.__init__, "__door__")
        inner = function.__init__.__wrapped__ if guarded else function.__init__
        function.__init__ = decorated(inner, typechecker=typechecker)
        return _guarded(function) if guarded else function
    if not isinstance(function, types.FunctionType):
        return with_shapes(function, typechecker=typechecker)
    place = (function.__module__, function.__code__)
    if place in made:  # a function within a function, defined again
        return _again(made[place], function)
    declared = function.__annotations__
    hints = {name: _evaluated(hint, function.__globals__) for name, hint in declared.items()}
    if any(map(_has_shape, hints.values())):
        return with_shapes(function, typechecker=typechecker)
    function.__annotations__ = hints
    wrapped = checked(function)
    function.__annotations__ = wrapped.__annotations__ = declared
    if "<locals>" in function.__qualname__ and FUNCTION in (wrapped.__kwdefaults__ or {}):
        made[place] = _again(wrapped, _nothing)
    return wrapped


def _guarded(function: Any) -> Any:
    from interp.core.doors import door

    return door(function)


def _again(wrapped: Any, function: Any) -> Any:
    """The checks of `wrapped` around another function of the same code: beartype keeps the function as a default."""
    twin = types.FunctionType(wrapped.__code__, wrapped.__globals__, wrapped.__name__, wrapped.__defaults__)
    twin.__kwdefaults__ = {**wrapped.__kwdefaults__, FUNCTION: function}
    return functools.update_wrapper(twin, function)


def _nothing() -> None:
    """Stands in the checks that are kept, so that they keep nothing alive."""


def checked(function: Any) -> Any:
    """Decorate `function` so that calls with other types than it declares raise."""
    hints = getattr(function, "__annotations__", {})
    function.__annotations__ = {name: hint for name, hint in hints.items() if _checkable(hint)}
    return beartype(conf=CONF)(function)


def _evaluated(hint: Any, names: dict[str, Any]) -> Any:
    """What a hint in quotes stands for; the text itself where a name exists for the static checker only."""
    try:
        return eval(hint, names) if isinstance(hint, str) else hint  # noqa: S307  the package's own source
    except (NameError, TypeError, AttributeError):
        return hint


def _has_shape(hint: Any) -> bool:
    return (inspect.isclass(hint) and issubclass(hint, AbstractArray)) or any(map(_has_shape, get_args(hint)))


def _checkable(hint: Any) -> bool:
    if isinstance(hint, str):
        return False
    try:
        return _known_checkable(hint)
    except TypeError:  # a hint that cannot be hashed
        return _tried(hint)


def _tried(hint: Any) -> bool:
    try:
        is_bearable(object(), hint, conf=CONF)
    except (BeartypeException, NameError, TypeError):
        return False
    return True


_known_checkable = functools.cache(_tried)
