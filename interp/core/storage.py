"""Safetensors files filled row by row, and read back without loading them.

A safetensors file is eight bytes of header length, a JSON header that gives each tensor's dtype, shape and
byte range, and the numbers, row-major and little-endian. Row r of a tensor starts at begin + r bytes_per_row:
once the shapes are known, rows can be written in any order and none has to stay in memory.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp.core.errors import InputError

CODES = {torch.int64: "I64", torch.float32: "F32", torch.bool: "BOOL"}
BLOCK_BYTES = 2**24


class RowFile:
    """A safetensors file being written; it takes its place under `path` only when `finish` is called."""

    def __init__(
        self,
        path: Path,
        layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
        metadata: Mapping[str, str],
    ):
        """Reserve the whole file: a full disk is reported (InputError) before anything is computed."""
        self.path = Path(path)
        header, self._begin, self._row_bytes, size = _plan(layout, metadata)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._partial = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
            self._file = self._partial.open("xb")
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        try:
            _reserve(self._file.fileno(), len(header) + size)
            self._file.write(header)
        except OSError as error:
            self.discard()
            raise _cannot_write(self.path, error) from error

    def put(self, name: str, row: int, values: Tensor) -> None:
        """Write consecutive rows of tensor `name`, the first of them at index `row`."""
        try:
            self._file.seek(self._begin[name] + row * self._row_bytes[name])
            self._file.write(values.contiguous().numpy().tobytes())
        except OSError as error:
            self.discard()
            raise _cannot_write(self.path, error) from error

    def finish(self) -> Path:
        """Close the file and rename it into place."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._partial, self.path)
        except OSError as error:
            self.discard()
            raise _cannot_write(self.path, error) from error
        return self.path

    def discard(self) -> None:
        """Remove what was written so far."""
        with suppress(OSError):  # the buffer may not fit a full disk, but the file is going away
            self._file.close()
        self._partial.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write whole tensors atomically, a block of rows at a time, so that mapped tensors are never loaded."""
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    target = RowFile(path, layout, metadata)
    try:
        for name, tensor in tensors.items():
            for start, block in row_blocks(tensor):
                target.put(name, start, block)
    except BaseException:
        target.discard()
        raise
    return target.finish()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors mapped from the file (pages load when touched) and the header's metadata.

    Raises InputError for a file that is not there, is no safetensors or is truncated.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except FileNotFoundError as error:
        raise InputError(f"no file at {path}; name a safetensors file") from error
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"cannot read {path}: truncated or not safetensors ({error}); write it again"
        ) from error


def row_blocks(tensor: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first row, rows) pairs of at most BLOCK_BYTES each."""
    row = max(1, math.prod(tensor.shape[1:]) * tensor.element_size())
    step = max(1, BLOCK_BYTES // row)
    for start in range(0, len(tensor), step):
        yield start, tensor[start : start + step]


def _plan(
    layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int], dict[str, int], int]:
    """Header bytes, where each tensor begins in the file, bytes per row, and bytes of numbers in all."""
    names = sorted(layout, key=lambda name: (-layout[name][0].itemsize, name))  # wide types first: aligned
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    begin, row_bytes, size = {}, {}, 0
    for name in names:
        dtype, shape = layout[name]
        row_bytes[name] = math.prod(shape[1:]) * dtype.itemsize
        begin[name], size = size, size + shape[0] * row_bytes[name]
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [begin[name], size]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    prefix = len(text).to_bytes(8, "little") + text
    return prefix, {name: at + len(prefix) for name, at in begin.items()}, row_bytes, size


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder")
