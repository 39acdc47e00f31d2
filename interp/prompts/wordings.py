"""The wordings that prompts are composed of, kept as data in `wordings.yaml` beside this file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from interp.core.records import packaged


def wording(name: str) -> Any:
    """The list or mapping of that name, its lists as tuples."""
    return _wordings()[name]


@cache
def _wordings() -> dict[str, Any]:
    return packaged(Path(__file__).with_suffix(".yaml"))
