"""Rows of text whose tokens carry numbers: one as colour, all of them under the pointer or the arrow keys.

The colour is the trait direction's change, or the gradient score where a table (a joined trace) has one:
shade = min(1, |value| / limit), red above zero and blue below it; limit is the 98th percentile of |value| over all
the rows of the page, so that one outlier does not wash out the others. The page draws the rows it shows, and no more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.figures import spoken
from interp.report.cells import MINUS

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("row", "position", "token", "role", "delta_logprob", "delta_direction")
VALUES = {"direction": "delta_direction", "logprob": "delta_logprob", "score": "score"}
MODULE = "score:"  # in front of a module's name
TOKEN_BY_TOKEN = ", token by token"
TOP = 3  # modules told of a token


def is_token_table(frame: pd.DataFrame) -> bool:
    """Whether a table has everything that token-coloured text needs."""
    return set(COLUMNS) <= set(frame.columns)


def label_of(name: str, record: Mapping[str, Any] = MappingProxyType({})) -> str:
    """What the rows of a table are called on the page: what the run says is in it, else its name.

    "student − neutral_student, token by token" is told without how; "tokens_student_first" alone is "student first". A
    joined trace's values are the teacher's, minus the base's, whoever was trained on its rows.
    """
    said = (record.get("labels") or {}).get(name)
    if said and not name.startswith("joined"):
        return spoken(said.replace(TOKEN_BY_TOKEN, ""))
    rest = name.removeprefix("tokens").removeprefix("joined").strip("_").replace("_", " ")
    if name.startswith("joined"):
        return f"teacher {MINUS} base" + (f", rows of {rest}" if rest else "")
    return rest or "all rows"


def token_json(frame: pd.DataFrame, count: int, label: str = "") -> str:
    """The first `count` rows as columns: numbers to three digits, null where there is none, texts by index.

    `sizes` counts the tokens of each row; token, role, features and modules index into lists of distinct texts.
    """
    import pandas as pd

    codes, labels = pd.factorize(frame["row"])
    kept = frame.assign(_code=codes).loc[codes < count].sort_values("_code", kind="stable")
    first = kept.drop_duplicates("_code")
    columns: dict[str, Any] = {
        "label": label,
        "labels": [str(label) for label in labels[:count]],
        "sizes": kept["_code"].value_counts(sort=False).tolist(),
        "position": kept["position"].tolist(),
        "token": _indexed(map(str, kept["token"].tolist())),
        "role": _indexed(map(str, kept["role"].tolist())),
    }
    columns |= {name: _rounded(kept[one].tolist()) for name, one in VALUES.items() if one in kept}
    if "row_share" in kept:
        columns["share"] = _rounded(first["row_share"].tolist())
    if "features" in kept:
        told = (value if isinstance(value, str) else "" for value in kept["features"].tolist())
        columns["features"] = _indexed(told)
    modules = [str(name) for name in kept.columns if str(name).startswith(MODULE)]
    if modules:
        columns["modules"] = _indexed(_largest(kept[modules]))
    return json.dumps(columns, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _indexed(values: Iterable[str]) -> dict[str, list[Any]]:
    places: dict[str, int] = {}
    codes = [places.setdefault(value, len(places)) for value in values]
    return {"texts": list(places), "codes": codes}


def _rounded(values: Sequence[Any]) -> list[float | None]:
    numbers = np.array(values, dtype=float)
    known = np.isfinite(numbers).tolist()
    return [
        float(f"{value:.3g}") if is_known else None for value, is_known in zip(numbers, known, strict=True)
    ]


def _largest(parts: pd.DataFrame) -> list[str]:
    """Of every token, the modules with most of its score: "1.mlp −0.9, 2.mlp +0.5"."""
    names = [str(name).removeprefix(MODULE) for name in parts.columns]
    values = parts.to_numpy(dtype=float)
    order = np.argsort(-np.abs(np.nan_to_num(values)), axis=1, kind="stable")[:, :TOP]
    return [
        ", ".join(names[k] + f" {line[k]:+.3g}".replace("-", MINUS) for k in places if math.isfinite(line[k]))
        for line, places in zip(values.tolist(), order.tolist(), strict=True)
    ]
