"""The public face of a package: its names are listed once, in the stub beside it, and imported when first used.

__getattr__, __dir__, __all__ = face(__name__, __file__)
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import lazy_loader


def face(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose stub (`__init__.pyi`) imports its public names.

    An unknown name is an AttributeError with the nearest public names, those of the rooms below it included.
    """
    find, names, public = lazy_loader.attach_stub(package, file)

    def get(name: str) -> Any:
        if name in public:
            return find(name)
        close = [] if name.startswith("__") else _nearest(name, _below(package, file, public))
        raise AttributeError(
            f"module {package!r} has no attribute {name!r}; it has {', '.join(close) or f'what dir({package}) lists'}"
        )

    return get, names, public


def _below(package: str, file: str, public: list[str]) -> list[str]:
    """The public names of a package, and as "room.name" those of the rooms it lists."""
    folder = Path(file).parent
    rooms = [name for name in public if (folder / name / "__init__.pyi").is_file()]
    return [
        *public,
        *(f"{room}.{one}" for room in rooms for one in import_module(f"{package}.{room}").__all__),
    ]


def _nearest(name: str, paths: list[str]) -> list[str]:
    """Up to three paths whose last part is most like `name`."""
    last = {path: path.rpartition(".")[2] for path in reversed(paths)}
    close = difflib.get_close_matches(name, dict.fromkeys(last.values()), n=3)
    return [next(path for path in paths if last[path] == one) for one in close]
