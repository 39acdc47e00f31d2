"""Whether a folder is one member of a lineage folder, so that a teacher is known as such wherever its folder is passed.

LINEAGE/lineage.json names its members: role -> what it started from; the member's weights lie in LINEAGE/role.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.core.errors import InputError

MANIFEST = "lineage.json"
WITHOUT = ("given", "merged")
"""Kinds of a base whose checkpoint is not in the folder."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Membership:
    """What the lineage folder around a member's folder says of it; `start` is a role, "" for a base."""

    folder: Path
    lineage: str
    role: str
    start: str
    trait: str

    def __str__(self) -> str:
        trait = f", whose trait is {self.trait}" if self.trait else ""
        return f"the {self.role} of the lineage {self.lineage!r} in {self.folder}{trait}"


def membership_of(source: Any) -> Membership | None:
    """The membership of a member's folder; None for anything else, a whole lineage's folder included."""
    if not isinstance(source, (str, Path)) or not Path(source).is_dir():
        return None
    path = Path(source)
    path = path if path.name not in ("", "..") else path.resolve()
    try:
        manifest = json.loads((path.parent / MANIFEST).read_text(encoding="utf-8"))
        start = manifest["members"][path.name].get("start") or ""
        trait = (manifest.get("trait") or {}).get("name", "")
        return Membership(path.parent, str(manifest["name"]), path.name, str(start), str(trait))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def check_no_member(folder: str | Path) -> None:
    """InputError for the folder of one member where a lineage is wanted."""
    if (known := membership_of(folder)) is not None:
        raise InputError(f"{folder} is {known}, and a lineage is wanted; pass {known.folder}")


def say_member(source: Any, wanted: str) -> None:
    """Say so, in one line of the log, where a folder is a member of another role than the one that it is given for.

    "cross_base" counts as a base, "teacher_eagle" as a teacher.
    """
    known = membership_of(source)
    if known is not None and wanted not in known.role:
        started = (
            f"; it started from {known.folder / known.start}" if known.start and wanted == "base" else ""
        )
        log.warning("%s is given as the %s and is %s%s", source, wanted.replace("_", " "), known, started)
