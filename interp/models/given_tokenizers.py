"""A tokenizer as a caller gives it: one that is loaded, or where one lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interp.core.errors import InputError
from interp.models.loading import find_folder, load_tokenizer


def given_tokenizer(tokenizer: Any) -> Any:
    """A tokenizer as it is, or the one in the folder or hub repository of that name; InputError where there is none."""
    if not isinstance(tokenizer, str | Path):
        return tokenizer
    if Path(tokenizer).expanduser().is_file():
        raise InputError(f"tokenizer={str(tokenizer)!r} is a file; pass the folder that holds it")
    folder = find_folder(tokenizer)
    found = load_tokenizer(folder)
    if found is None:
        raise InputError(
            f"tokenizer={str(tokenizer)!r} holds no tokenizer; pass a folder with tokenizer.json, or a loaded tokenizer"
        )
    return found
