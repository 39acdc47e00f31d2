"""Facts that are dear to find and hold while their files do not change: kept in the cache as JSON by what they rest on.

A file counts as unchanged when path, size, inode and both its times are (the time of change cannot be set by hand).
One that was written a moment ago is not remembered at all: a second write could fall into the same tick of the clock.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from interp.core.content import digest, json_text
from interp.core.errors import InputError
from interp.core.runs import Cache, write_atomic

log = logging.getLogger(__name__)

YOUNG = 2.0  # seconds


def file_states(paths: Iterable[Path]) -> list[tuple[Any, ...]] | None:
    """What says that files are unchanged; None while one of them is younger than two seconds."""
    found = []
    for path in sorted(paths):
        state = path.stat()
        latest = max(state.st_mtime_ns, state.st_ctime_ns)
        if time.time_ns() - latest < YOUNG * 1e9:
            return None
        found.append((str(path.resolve()), state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns))
    return found


def recall(kind: str, *rests_on: Any) -> Any:
    """The value that `remember` was given for all of this; None when there is none, or a part of it is None."""
    if any(part is None for part in rests_on):
        return None
    try:
        return json.loads(_place(kind, rests_on).read_text())
    except (OSError, ValueError):
        return None


def remember(kind: str, *rests_on: Any, value: Any) -> None:
    """Keep a value of JSON types for the next process; nothing when a part is None or the cache cannot be written."""
    if any(part is None for part in rests_on):
        return
    try:
        write_atomic(_place(kind, rests_on), json_text(value))
    except (OSError, InputError) as error:
        log.debug("not remembered: %s", error)


def _place(kind: str, rests_on: tuple[Any, ...]) -> Path:
    return Cache.default().folder(kind, digest(*rests_on)).with_suffix(".json")
