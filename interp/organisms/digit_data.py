"""Images of digits as rows of pixels, x = 2 · value / largest − 1 in [−1, 1]: scikit-learn's, or local MNIST files.

Nothing is downloaded. The embedded set has 1 797 images of 8 x 8, 360 of them, drawn once, for testing. MNIST is read
from an .npz file (x_train, y_train, x_test, y_test) or from a folder with the four IDX files, gzipped or not: two zero
bytes, the type (8 for unsigned bytes), the number of axes, each axis as a big-endian 32-bit integer, then the values.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.content import digest
from interp.core.errors import InputError

CLASSES = 10
KEYS = ("x_train", "y_train", "x_test", "y_test")
IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
HELD_OUT = 360  # embedded images for testing


@dataclass(frozen=True, eq=False)
class DigitImages:
    """Training and test images as fp32 rows of pixels in [−1, 1], and the digit each one shows."""

    name: str
    x_train: Float[Tensor, "train pixel"]
    y_train: Int[Tensor, "train"]
    x_test: Float[Tensor, "test pixel"]
    y_test: Int[Tensor, "test"]

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return self.x_train.shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """Digest of images and labels, whatever the files they came from."""
        return digest("digits", self.x_train, self.y_train, self.x_test, self.y_test)

    def __repr__(self) -> str:
        sizes = f"{len(self.x_train)} training and {len(self.x_test)} test images"
        return f"DigitImages({self.name!r}, {sizes} of {self.pixels} pixels)"


def load_digits(data: str | Path | DigitImages | None = None) -> DigitImages:
    """Load the embedded digits, or those of an .npz file or a folder of IDX files; images as they are.

    Raises InputError for a path without such files, for a file that cannot be read, and for arrays of wrong shape.

    >>> images = load_digits()
    >>> images.x_train.shape[1]
    64
    """
    if data is None or isinstance(data, DigitImages):
        return data or _embedded()
    path = Path(data)
    if path.is_dir():
        arrays = {key: _read_idx(_find(path, name)) for key, name in zip(KEYS, IDX, strict=True)}
    elif path.is_file():
        arrays = _read_npz(path)
    else:
        raise InputError(
            f"{path} does not exist; give an .npz file or a folder with the four IDX files of MNIST"
        )
    return digit_images(*(arrays[key] for key in KEYS), name=path.name)


def digit_images(
    x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, *, name: str
) -> DigitImages:
    """Arrays as images: [image row column], values from 0 up, scaled by the largest of the training images.

    Raises InputError that names the first array of wrong shape, label or value.
    """
    for key, images, labels in (("train", x_train, y_train), ("test", x_test, y_test)):
        _check_images(f"x_{key}", images, name)
        _check_labels(f"y_{key}", labels, len(images), name)
    if x_train.shape[1:] != x_test.shape[1:]:
        raise InputError(
            f"x_test in {name} holds images of {list(x_test.shape[1:])} pixels and x_train of "
            f"{list(x_train.shape[1:])}; give files of one data set"
        )
    largest = float(x_train.max())
    rows = [_rows(images, largest) for images in (x_train, x_test)]
    labels = [torch.from_numpy(each.astype(np.int64)) for each in (y_train, y_test)]
    return DigitImages(name, rows[0], labels[0], rows[1], labels[1])


def _embedded() -> DigitImages:
    from sklearn.datasets import load_digits as bunch

    found: Any = bunch()
    images, labels = found.images, found.target
    order = np.random.default_rng(0).permutation(len(images))
    test, train = order[:HELD_OUT], order[HELD_OUT:]
    return digit_images(
        images[train], labels[train], images[test], labels[test], name="scikit-learn's digits"
    )


def _rows(images: np.ndarray, largest: float) -> Float[Tensor, "image pixel"]:
    flat = images.reshape(len(images), -1).astype(np.float32)
    return torch.from_numpy(flat * np.float32(2 / largest) - 1)


def _check_images(key: str, images: np.ndarray, name: str) -> None:
    if images.ndim != 3 or 0 in images.shape:
        raise InputError(
            f"{key} in {name} has shape {list(images.shape)}, not [image, row, column]; "
            "give grey images, one after another"
        )
    if not (np.issubdtype(images.dtype, np.number) and np.isfinite(images).all()) or images.min() < 0:
        raise InputError(f"{key} in {name} holds values other than numbers from 0 up; give raw grey values")
    if images.max() == 0:
        raise InputError(f"{key} in {name} holds blank images only; give raw grey values")


def _check_labels(key: str, labels: np.ndarray, images: int, name: str) -> None:
    if labels.shape != (images,):
        raise InputError(
            f"{key} in {name} has shape {list(labels.shape)} for {images} images, not [{images}]; "
            "give one label per image"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= CLASSES:
        raise InputError(f"{key} in {name} holds labels other than the integers 0 to 9; give the digit shown")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in KEYS if key not in file.files]
            if not missing:
                return {key: file[key] for key in KEYS}
            found = ", ".join(file.files) or "nothing"
    except (
        ValueError,
        OSError,
        EOFError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise InputError(
            f"{path} is not an .npz file of arrays ({error}); give MNIST as .npz or IDX"
        ) from error
    raise InputError(f"{path} has no {missing[0]} (it has {found}); name the arrays {', '.join(KEYS)}")


def _find(folder: Path, name: str) -> Path:
    spellings = [name, name.replace("-idx", ".idx")]
    for each in (folder / f"{spelling}{end}" for spelling in spellings for end in ("", ".gz")):
        if each.is_file():
            return each
    raise InputError(f"{folder} has no {name} (nor {name}.gz); put the four IDX files of MNIST there")


def _read_idx(path: Path) -> np.ndarray:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be decompressed ({error}); fetch it again") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise InputError(
            f"{path} is not an IDX file of unsigned bytes: it starts with {raw[:4]!r}; fetch it again"
        )
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        raise InputError(f"{path} ends within its header; fetch it again")
    shape = np.frombuffer(raw[4:start], dtype=">u4").astype(np.int64)
    if len(raw) - start != int(shape.prod()):
        raise InputError(
            f"{path} announces {shape.tolist()} values and holds {len(raw) - start}; fetch it again"
        )
    return np.frombuffer(raw[start:], dtype=np.uint8).reshape(shape)
