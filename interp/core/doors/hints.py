"""What a function's annotations stand for, with the names that its module imports for the static checker only."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from typing import Any, Unpack, get_args, get_origin

Place = tuple[str, str | None]  # a module, and the name in it unless the module itself is meant


def hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of the parameters as types; one that cannot be read is left as text."""
    module = function.__module__
    return {
        name: evaluated(hint, module) for name, hint in function.__annotations__.items() if name != "return"
    }


def unpacked_hints(hint: Any) -> dict[str, Any]:
    """The keys and types of `**options: Unpack[SomeTypedDict]`; none for other options."""
    if get_origin(hint) is not Unpack:
        return {}
    (options,) = get_args(hint)
    return {key: evaluated(each, options.__module__) for key, each in options.__annotations__.items()}


def evaluated(hint: Any, module: str) -> Any:
    """A hint in quotes as the type that the module means by it."""
    text = getattr(hint, "__forward_arg__", hint)
    if not isinstance(text, str):
        return hint
    try:
        return eval(text, vars(sys.modules[module]), _Late(module))  # noqa: S307  the package's own source
    except (NameError, TypeError, AttributeError, ImportError, SyntaxError):
        return text


class _Late(dict[str, Any]):
    """Names imported under TYPE_CHECKING, imported when they are first asked for."""

    def __init__(self, module: str) -> None:
        self._places = _typing_imports(module)

    def __missing__(self, name: str) -> Any:
        if name not in self._places:
            raise KeyError(name)
        module, attribute = self._places[name]
        found = import_module(module)
        return found if attribute is None else getattr(found, attribute)


@cache
def _typing_imports(module: str) -> dict[str, Place]:
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, SyntaxError):
        return {}
    blocks = [
        node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]
    return {name: place for block in blocks for node in block.body for name, place in _imported(node)}


def _imported(node: ast.stmt) -> Iterator[tuple[str, Place]]:
    if isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            yield alias.asname or alias.name, (node.module, alias.name)
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0], (alias.name, None)
