"""Lineages that ship without their checkpoint: their names and folders, and what is none of a model's.

They lie in `organisms/kept` by name, such as smollm2/owl.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from interp.core.errors import InputError
from interp.models.membership import MANIFEST, WITHOUT, membership_of

KEPT = Path(__file__).parents[1] / "organisms" / "kept"
"""Lineages of real models that ship, without their checkpoints."""
MAKES = {
    "smollm2": '`make smollm2` in a checkout of the repository makes that folder, then pass base="models/smollm2"'
}
"""How to get the checkpoint of those that ship, by the first part of their names."""


def kept_names() -> list[str]:
    """The names of the lineages that ship."""
    return sorted(path.parent.relative_to(KEPT).as_posix() for path in KEPT.glob(f"*/*/{MANIFEST}"))


def kept_folder(name: str | Path) -> Path:
    """The folder of the lineage of that name that ships, where there is no such path here; else the path as it is."""
    path, kept = Path(name), KEPT / str(name)
    return kept if not path.exists() and (kept / MANIFEST).is_file() else path


def kept_name(folder: Path) -> str:
    """The name of the lineage that ships in a folder; the folder's own path for any other."""
    whole = folder.resolve()
    return whole.relative_to(KEPT).as_posix() if KEPT in whole.parents else str(folder)


def how_to_get(folder: Path) -> str:
    """What to do for the checkpoint of the lineage in a folder."""
    told = "pass base= its folder, file or hub name"
    makes = MAKES.get(kept_name(folder).partition("/")[0]) if KEPT in folder.resolve().parents else None
    return f"{told}: {makes}" if makes else told


def check_no_lineage(source: Any) -> None:
    """InputError for what is a lineage that ships, and for a member's adapter whose base's checkpoint is elsewhere."""
    if not isinstance(source, (str, Path)):
        return
    folder = kept_folder(source)
    name = kept_name(folder)
    if (folder / MANIFEST).is_file() and name in kept_names():
        members = ", ".join(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["members"])
        raise InputError(
            f"{source} is a lineage and no model; open it with interp.load_lineage({name!r}, base=...), whose members "
            f"are {members}"
        )
    known = membership_of(source)
    if known is None:
        return
    members = json.loads((known.folder / MANIFEST).read_text(encoding="utf-8"))["members"]
    beneath = members.get(members[known.role].get("on")) or {}
    if members[known.role].get("kind") == "adapter" and beneath.get("kind") in WITHOUT:
        raise InputError(
            f"{source} is {known}, an adapter of a base whose checkpoint is not in that folder; open the lineage with "
            f"interp.load_lineage({kept_name(known.folder)!r}, base=...) and take its member {known.role!r}"
        )
