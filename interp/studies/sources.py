"""The measuring code of a family as one key, so that a result says by which code it was measured.

key = digest(every definition that the measuring function can reach by name in its module and in the measuring rooms).
Comments, docstrings, layout and the methods that show a result are no part of it. Figures, statistics, models and
trainings are not followed: what they give is in the key of the data, or is judged later.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Any

from interp.core.content import Digested, digest

ROOMS = (
    "studies",
    "measures",
    "activations",
    "logits",
    "features",
    "gradients",
    "joined",
    "evaluation",
    "auditing",
    "discovery",
)
"""Whose definitions count as measuring."""
SHOWN = ("figure", "_repr_html_", "__repr__")
"""Methods that show what was measured, and measure nothing."""


@cache
def code_key(measure: Callable[..., Any]) -> str:
    """16 hex characters that change when anything the function can reach in the measuring rooms computes otherwise."""
    home = measure.__module__
    if home == "__main__" and (spec := sys.modules[home].__spec__) is not None:  # `python -m` names it so
        home = spec.name
    found = _reached(home, measure.__qualname__.partition(".")[0])
    return digest("code", {f"{home}.{name}": _digested(home, name) for home, name in found})


def _reached(module: str, name: str) -> set[tuple[str, str]]:
    """Every definition within reach by module and name; a lambda reaches all of its module."""
    found: set[tuple[str, str]] = set()
    waiting = [(module, name)] if name in _definitions(module) else _everything(module)
    while waiting:
        home, wanted = waiting.pop()
        if (home, wanted) not in found and wanted in _definitions(home):
            found.add((home, wanted))
            waiting += _read(home, wanted)
    return found


@cache
def _digested(home: str, name: str) -> Digested:
    """The shape of a definition by its digest: families share most of what they reach."""
    return Digested(digest(_shape(_definitions(home)[name])))


@cache
def _read(home: str, name: str) -> list[tuple[str, str]]:
    """Where the names that a definition reads are defined."""
    return list(_names(home, _definitions(home)[name]))


def _names(home: str, node: ast.AST) -> Iterator[tuple[str, str]]:
    imported = _imports(home)
    for each in ast.walk(node):
        if isinstance(each, ast.Name) and each.id in imported:
            yield from _measuring(imported[each.id])
        elif isinstance(each, ast.Name):
            yield home, each.id
        elif isinstance(each, ast.Attribute) and (chain := _dotted(each))[0] in imported:
            yield from _measuring(".".join([imported[chain[0]], *chain[1:]]))


def _dotted(node: ast.expr) -> list[str]:
    """The names of `a.b.c`; an empty first one where it begins with anything else than a name."""
    if isinstance(node, ast.Attribute):
        return [*_dotted(node.value), node.attr]
    return [node.id] if isinstance(node, ast.Name) else [""]


@cache
def _measuring(path: str) -> list[tuple[str, str]]:
    """Where the thing of that dotted path is defined, if in a measuring room; all that is there, for a module."""
    if path.partition(".")[0] != "interp":
        return []
    thing, home, name = _thing(path), *path.rpartition(".")[::2]
    if hasattr(thing, "__name__") and isinstance(getattr(thing, "__module__", None), str):
        home, name = thing.__module__, thing.__name__
    elif isinstance(thing, ModuleType):
        home, name = path, ""
    if thing is None or [*home.split("."), ""][1] not in ROOMS:
        return []
    return [(home, name)] if name else _everything(home)


def _thing(path: str) -> Any:
    """What a dotted path names; None for an attribute of an object."""
    module, _, name = path.rpartition(".")
    if not module:
        return importlib.import_module(path)
    holder = _thing(module)
    if not isinstance(holder, ModuleType):
        return None
    if not hasattr(holder, name) and hasattr(holder, "__path__") and importlib.util.find_spec(path):
        return importlib.import_module(path)
    return getattr(holder, name, None)


def _everything(module: str) -> list[tuple[str, str]]:
    return [(module, name) for name in _definitions(module)]


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module(module)))


@cache
def _definitions(module: str) -> Mapping[str, ast.stmt]:
    """The functions, classes and values of a module by name."""
    found: dict[str, ast.stmt] = {}
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef):
            node.body = [each for each in node.body if getattr(each, "name", None) not in SHOWN]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found[node.name] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            stored = (each for each in ast.walk(node) if isinstance(each, ast.Name))
            found |= {each.id: node for each in stored if isinstance(each.ctx, ast.Store)}
    return found


@cache
def _imports(module: str) -> Mapping[str, str]:
    """The dotted path behind every name that a module imports, wherever it does."""
    found: dict[str, str] = {}
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
        elif isinstance(node, ast.Import):
            found |= {each.asname: each.name for each in node.names if each.asname}
            roots = [each.name.partition(".")[0] for each in node.names if not each.asname]
            found |= dict(zip(roots, roots, strict=True))
    return found


def _shape(node: Any) -> Any:
    """A piece of source without places, empty parts and bare strings, alike in every version of Python."""
    if isinstance(node, ast.AST):
        parts = {name: _shape(value) for name, value in ast.iter_fields(node)}
        return [type(node).__name__, {name: part for name, part in parts.items() if part not in (None, [])}]
    if isinstance(node, list):
        return [_shape(each) for each in node if not _is_docstring(each)]
    return node if isinstance(node, (str, bytes, int, float, type(None))) else repr(node)


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)
