"""The device that is compared with the processor, and how far two results are apart.

A result is taken apart into arrays with a name each. Numbers may differ by TOLERANCE (TRAINED where a training lies
between) times the largest number of their array, or of FLOOR where all of it is smaller; texts must be the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from interp.models.parameters import ParameterDirection
from interp.prompts.text import Prompts

DEVICE = os.environ.get("INTERP_TEST_DEVICE") or "cuda"
"""`INTERP_TEST_DEVICE=cpu` compares the processor with itself, which tests these tests where there is no GPU."""
TOLERANCE, TRAINED = 1e-4, 2e-3
FLOOR = 0.1  # logits of some tens are known to 1e-6, and so are the differences between them
needs_device = pytest.mark.skipif(
    torch.device(DEVICE).type == "cuda" and not torch.cuda.is_available(),
    reason="there is no GPU here; INTERP_TEST_DEVICE=cpu compares the processor with itself",
)


def agree_on_both(
    measure: Callable[[Any, Path], Any], subjects: tuple[Any, Any], folder: Path, *, tolerance: float
) -> None:
    """Measure on the device and on the processor, each with an empty folder and cache, and compare all numbers."""
    found = []
    for place, subject in zip(("device", "processor"), subjects, strict=True):
        (own := folder / place).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("INTERP_CACHE", str(own / "cache"))
            found.append(dict(arrays(measure(subject, own))))
    there, here = found
    assert there.keys() == here.keys()
    assert sum(values.size for values in here.values()), "the result holds nothing to compare"
    for name, expected in here.items():
        same(there[name], expected, name=name, tolerance=tolerance)


def same(found: np.ndarray, expected: np.ndarray, *, name: str, tolerance: float) -> None:
    """Both arrays are the same within the tolerance; what is not finite is so in both."""
    if expected.dtype.kind not in "fiub":
        assert found.tolist() == expected.tolist(), name
        return
    finite = expected[np.isfinite(expected)]
    reach = max(FLOOR, float(np.abs(finite).max(initial=0.0)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * reach, err_msg=name)


def arrays(found: Any, name: str = "result") -> Iterator[tuple[str, np.ndarray]]:
    """What a result holds, by name; columns are sorted, since rows of equal value may change places."""
    if isinstance(found, torch.Tensor):
        yield name, found.detach().double().cpu().numpy()
    elif isinstance(found, pd.DataFrame):
        for column in found.select_dtypes("float"):
            yield f"{name}.{column}", np.sort(found[column].to_numpy(dtype=float))
    elif isinstance(found, Mapping):
        for key, value in found.items():
            yield from arrays(value, f"{name}.{key}")
    elif isinstance(found, (list, tuple)):
        for index, value in enumerate(found):
            yield from arrays(value, f"{name}[{index}]")
    elif isinstance(found, (bool, int, float, str, np.ndarray, np.generic)):
        yield name, np.asarray(found)
    else:
        yield from arrays(held(found), name)


def held(found: Any) -> Any:
    """What an object of the package holds: the texts of its rows, its tensors by name, or its table."""
    if isinstance(found, Prompts):
        return [f"{row.prompt} -> {row.completion}" for row in found.rows]
    if isinstance(found, ParameterDirection):
        return dict(found.items())
    for name in ("frame", "vector", "values"):
        if hasattr(found, name):
            return getattr(found, name)
    raise TypeError(f"{type(found).__name__} is nothing that these tests can compare")


def moved(model: Any, start: Any) -> dict[str, torch.Tensor]:
    """How far every weight of a trained model lies from its start's."""
    before = start.parameters()
    return {name: value - before[name] for name, value in model.parameters().items()}
