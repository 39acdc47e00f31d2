"""The types that weights are saved in, read from the headers of safetensors, and those they are loaded in.

config.json may name another type than the file holds: transformers rounds to the config's, and here the file's holds.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def saved_dtype(folder: Path) -> torch.dtype | None:
    """The narrowest type that holds every floating weight of a model folder as it is saved; None without any."""
    from safetensors import safe_open

    found: set[str] = set()
    for path in _weight_files(folder):
        with safe_open(path, "pt") as file:
            found |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return widest(FLOATS[name] for name in found if name in FLOATS)


def widest(dtypes: Iterable[torch.dtype]) -> torch.dtype | None:
    """The narrowest type that holds all of them; None of none."""
    given = list(dtypes)
    return reduce(torch.promote_types, given) if given else None


def can_hold(dtype: torch.dtype, other: torch.dtype) -> bool:
    """Whether a type holds every number of another as it is."""
    return torch.promote_types(dtype, other) == dtype


def loading_dtype(folder: Path) -> torch.dtype | None:
    """What to load a folder's weights in so that they stay as saved: the config's type where that holds them.

    Otherwise the type of the file, which one log line says. None leaves it to transformers.
    """
    named, saved = _named(folder), saved_dtype(folder)
    if saved is None or (named is not None and can_hold(named, saved)):
        return None
    if named is not None:
        log.warning(
            "%s: config.json says %s and the weights are saved in %s, in which they are loaded; dtype=%r rounds them",
            folder,
            name_of(named),
            name_of(saved),
            name_of(named),
        )
    return saved


def member_dtype(
    role: str, source: Path | nn.Module, start: Any, asked: torch.dtype | None = None
) -> torch.dtype:
    """What to load a lineage's member in: its start's type where that holds the member as it is, else one that does.

    `asked` comes first. A start that was narrowed on loading narrows its members alike. A warning says what is rounded.
    """
    own = saved_dtype(source) if isinstance(source, Path) else widest(_floating(source))
    dtype: torch.dtype = asked or start.dtype
    if asked is None and own is not None and not is_narrowed(start.dtype, start.source):
        dtype = torch.promote_types(dtype, own)
    if own is not None and not can_hold(dtype, own):
        log.warning(
            "%s has weights in %s and is loaded in %s, as %s is, so that small changes are lost; load both with "
            "dtype='float32' to keep them",
            role,
            name_of(own),
            name_of(dtype),
            start.name,
        )
    return dtype


def _floating(module: nn.Module) -> Iterable[torch.dtype]:
    """The types of a module's floating weights."""
    return {weight.dtype for weight in module.parameters() if weight.dtype in FLOATS.values()}


def is_narrowed(dtype: torch.dtype, source: str) -> bool:
    """Whether a model of that type was rounded when it was loaded from its folder."""
    folder = Path(source)
    if not source or not (folder / "config.json").is_file():
        return False
    saved = saved_dtype(folder)
    return saved is not None and not can_hold(dtype, saved)


def name_of(dtype: torch.dtype) -> str:
    """A type as one writes it, such as float32."""
    return str(dtype).removeprefix("torch.")


def _named(folder: Path) -> torch.dtype | None:
    """The type that config.json names, or its text part does."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for each in (config, config.get("text_config") or {}):
        dtype = getattr(torch, str(each.get("dtype") or each.get("torch_dtype")), None)
        if isinstance(dtype, torch.dtype):
            return dtype
    return None


def _weight_files(folder: Path) -> list[Path]:
    """The files transformers reads: the whole one before those of the index."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if (folder / INDEX).is_file():
        named = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        return [path for name in sorted(set(named)) if (path := folder / name).is_file()]
    return sorted(folder.glob("*.safetensors"))
