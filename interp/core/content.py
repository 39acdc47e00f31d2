"""Content made canonical: its digest, and its plain JSON.

key = blake2b-64 over tagged, length-prefixed parts (RFC 7693), equal in every process: two inputs share a
digest only when they hold the same values in the same structure, whatever objects carry them.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

PLAIN = (str, int, bool, float, type(None))
"""Types, and no subclasses of theirs, that are hashed as they are."""
ADDED = "added"
"""Metadata of a dataclass's field that came later: it counts where it is not its default, so that older keys stay."""


def digest(*parts: Any) -> str:
    """16 hex characters that depend on the content of `parts` only, and are the same in every process.

    Numbers, text, bytes, paths, containers (dict order does not matter, a list equals a tuple), dataclasses,
    enums, arrays and tensors (dtype, shape and values). An object with a `fingerprint` counts as that fingerprint.
    Anything else is a TypeError, because its repr could differ between processes.

    >>> digest({"lr": 0.1, "seed": 0}) == digest({"seed": 0, "lr": 0.1})
    True
    >>> digest(1) == digest(1.0)
    False
    """
    if len(parts) == 1 and isinstance(parts[0], Digested):
        return parts[0].value
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        _absorb(state, part)
    return state.hexdigest()


@dataclasses.dataclass(frozen=True)
class Digested:
    """A value of a mapping by its digest, which is known already: the mapping's digest is as with the value itself."""

    value: str


def jsonable(value: Any) -> Any:
    """`value` as JSON can hold it: dataclasses become mappings, arrays lists, paths text, NaN and inf null."""
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        value = value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(jsonable(item) for item in value)
    if isinstance(value, (list, tuple, range)):
        return [jsonable(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def json_text(value: Any) -> str:
    """`value` as indented JSON text that any reader accepts.

    Example:
        >>> print(json_text({"alpha": 0.05, "rows": range(2)}), end="")
        {
          "alpha": 0.05,
          "rows": [
            0,
            1
          ]
        }
    """
    return json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _absorb(state: Any, part: Any) -> None:
    """Feed one part to the hash, tagged and with its length so that different structures cannot collide."""
    if type(part) in PLAIN:
        _absorb_leaf(state, part)
    elif isinstance(part, (set, frozenset)):
        _absorb_all(state, "set", sorted(digest(item) for item in part))
    elif isinstance(part, Mapping):
        _absorb_all(state, "map", sorted((_key(key), digest(value)) for key, value in part.items()))
    elif isinstance(part, enum.Enum):
        _absorb_all(state, "enum", [type(part).__name__, part.name])
    elif isinstance(part, (list, tuple, range)):
        _absorb_all(state, "list", part)
    elif isinstance(getattr(part, "fingerprint", None), str) and not _about_another(part):
        _absorb_all(state, "fingerprint", [part.fingerprint])
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = {
            field.name: getattr(part, field.name)
            for field in dataclasses.fields(part)
            if field.compare and not (ADDED in field.metadata and getattr(part, field.name) == field.default)
        }
        _absorb_all(state, "dataclass", [type(part).__name__, fields])
    else:
        _absorb_leaf(state, part)


def _absorb_leaf(state: Any, part: Any) -> None:
    tag, content = _leaf(part)
    state.update(f"{tag}:{len(content)}:".encode())
    state.update(content)


def _key(key: Any) -> str:
    """The digest of a mapping's key, remembered for text."""
    return _text_digest(key) if type(key) is str else digest(key)


@lru_cache(maxsize=4096)
def _text_digest(text: str) -> str:
    return digest(text)


def _about_another(part: Any) -> bool:
    """Whether `fingerprint` is a field: a direction has one of the weights it belongs to, not of what it is."""
    return dataclasses.is_dataclass(part) and any(f.name == "fingerprint" for f in dataclasses.fields(part))


def _absorb_all(state: Any, tag: str, items: Sequence[Any]) -> None:
    state.update(f"{tag}:{len(items)}:".encode())
    for item in items:
        _absorb(state, item)


def _leaf(part: Any) -> tuple[str, bytes | memoryview]:
    """Type tag and bytes of a value without parts of its own."""
    if part is None or isinstance(part, (bool, int)):
        return type(part).__name__, str(part).encode()
    if isinstance(part, float):
        return "float", struct.pack("<d", part)
    if isinstance(part, (str, Path)):
        return "str", str(part).encode()
    if isinstance(part, (bytes, bytearray)):
        return "bytes", bytes(part)
    if hasattr(part, "detach"):
        import torch

        flat = part.detach().cpu().contiguous().reshape(-1)
        return f"tensor {part.dtype} {tuple(part.shape)}", memoryview(flat.view(torch.uint8).numpy())
    if hasattr(part, "tobytes") and hasattr(part, "dtype") and not part.dtype.hasobject:
        return f"array {part.dtype.str} {tuple(part.shape)}", part.tobytes()
    raise TypeError(
        f"cannot digest a {type(part).__name__}; pass its content as numbers, text, arrays or tensors"
    )
