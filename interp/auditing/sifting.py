"""The rows that carry a named trait, taken out or weighed down, by the scores of the audit that named it.

    s_ic = a_ic − mean_c a_ic, less the same of the mean neutral row       a the log-ratios of `naming`, c the named one
    w_i = exp(−β s_i) / mean exp(−β s),   β ≥ 0 the least with Σ w_i s_i ≤ 0

To first order a_ic = <∇ log p(row), Δθ_c>, so that one step on rows of mean s = 0 moves no further along the
candidate's update than one on neutral rows. Rows of the largest s go first, as few as leave a mean of at most zero, or
a given share. Or all stay, with the weights nearest to equal ones (least Σ w log w) of which that is true: at d of a
few tenths they cost d² of the rows' worth, (Σ w)² / Σ w² ≈ n exp(−d²), where taking out costs more. Trainers take rows
and no weights, so a weight is how often a row is written, drawn systematically: its weight rounded up or down, as often
as makes it right in the mean, and as many rows as there were.

Single rows are told apart little better than by chance where d is a few tenths: many of a teacher's rows stay and some
of others go. What is left is judged by training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.auditing.auditor import Audit
from interp.core.doors import door
from interp.core.errors import InputError
from interp.core.runs import Run
from interp.prompts.rows import keep_records
from interp.prompts.text import Prompts
from interp.training.defences import taken_out


@door
def sift_rows(
    found: Audit, rows: Prompts, *, share: float | None = None, weigh: bool = False, seed: int = 0
) -> tuple[Prompts, pd.DataFrame]:
    """Take the rows that carry the named trait out of those that were audited, or write them less often (`weigh`).

    Returns the rows that are left, in order, and a line per row: row, score (inf for one that says a trait's word, nan
    for one that was not read), weight, copies (0 for one that goes) and removed. A row that was not read stays once.
    `share` of the rows that were read go, or as few as leave nothing of the trait in the mean. With `weigh` the weights
    of those that were read leave nothing of it, their mean is 1, and copies are drawn by `seed`. Raises InputError
    where nothing is named, for other rows, where none is left, and for a share of rows that are weighed.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> found = interp.audit(lineage.base, lineage.numbers)  # doctest: +SKIP
        >>> left, lines = interp.auditing.sift_rows(found, lineage.numbers)  # doctest: +SKIP
        >>> lines.columns.tolist()  # doctest: +SKIP
        ['row', 'score', 'weight', 'copies', 'removed']
    """
    _check_same(rows, found.rows_of, found.label)
    _check_named(found.answer, found.reason)
    frame = _sifted(len(rows), found.row_scores, share=share, weigh=weigh, seed=seed)
    left = tuple(row for row, times in zip(rows.rows, frame["copies"], strict=True) for _ in range(times))
    return Prompts(left, label=f"{rows.label} {'weighed for' if weigh else 'without'} {found.trait}"), frame


def sift_file(
    run: Run, rows: Path, out: Path, *, share: float | None = None, weigh: bool = False, seed: int = 0
) -> dict[str, Any]:
    """Write what is left of a file of rows by the audit in a run folder, in the file's own format, and count it.

    Raises InputError as `sift_rows` does.
    """
    said = run.summary
    _check_named(said["answer"], said["reason"])
    given = Prompts.from_file(rows)
    _check_same(given, run.record["data"]["rows"], str(run.folder))
    scores = pd.read_parquet(run.folder / "tables" / "audit_rows.parquet")
    frame = _sifted(len(given), scores, share=share, weigh=weigh, seed=seed)
    keep_records(rows, out, frame["copies"].tolist())
    gone, total, w = int(frame["removed"].to_numpy().sum()), len(given), frame["weight"].to_numpy()
    told = {
        "rows": total,
        "removed": gone,
        "share": gone / total,
        "worth": float(w.sum() ** 2 / (w**2).sum()),
    }
    return {**told, "weighed": weigh, "trait": said["trait"], "out": str(out)}


def weights_of(scores: Float[np.ndarray, "row"]) -> Float[np.ndarray, "row"]:
    """The weights of mean 1 that leave no positive mean score, as near to equal as can be; 0 for an infinite score.

    Raises InputError where no row has a score below 0, so that no weights do.
    """
    from scipy.optimize import brentq

    finite = np.isfinite(scores)
    known = scores[finite]
    if not len(known) or (known.min() >= 0 and known.max() > 0):
        raise InputError(
            f"none of {len(scores)} rows is left: each by itself is likelier of the trait's teacher, or says its word; "
            "leave all of them out, or pass share="
        )

    def tilted(beta: float) -> np.ndarray:
        return np.exp(-beta * (known - known.min()))

    beta, reach = 0.0, 1 / max(known.std(), np.finfo(float).tiny)
    if known.mean() > 0:
        while tilted(reach) @ known > 0:
            reach *= 2
        beta = float(brentq(lambda beta: tilted(beta) @ known, 0.0, reach))  # pyright: ignore[reportArgumentType]
    weights = np.zeros(len(scores))
    weights[finite] = tilted(beta) / tilted(beta).sum() * len(scores)
    return weights


def copies_of(weights: Float[np.ndarray, "row"], *, seed: int) -> Int[np.ndarray, "row"]:
    """How often each row is written: its weight rounded up or down, right in the mean; in all the sum of weights."""
    ends = np.cumsum(weights)
    total = round(float(ends[-1]))
    marks = np.random.default_rng(seed).random() + np.arange(total)
    return np.diff(np.searchsorted(marks, ends * (total / ends[-1])), prepend=0)


def _check_same(rows: Prompts, audited: str, label: str) -> None:
    if rows.fingerprint != audited:
        raise InputError(
            f"{rows.label} are other rows than {label} was made of; pass those that were audited"
        )


def _check_named(answer: str, reason: str) -> None:
    if answer != "named":
        raise InputError(
            f"no trait is named ({answer}: {reason}), so there is none to take out; audit more rows or other traits"
        )


def _sifted(total: int, scores: pd.DataFrame, *, share: float | None, weigh: bool, seed: int) -> pd.DataFrame:
    """A line per row of all that there are: row, score, weight, copies and removed."""
    if weigh and share is not None:
        raise InputError(f"share={share!r} takes rows out, and weighed rows stay; leave one of the two out")
    frame = pd.DataFrame({"row": range(total), "score": np.nan, "weight": 1.0, "copies": 1})
    values, places = scores["score"].to_numpy(), scores["row"]
    weights = weights_of(values) if weigh else (~taken_out(values, share=share)).astype(float)
    frame.loc[places, "score"], frame.loc[places, "weight"] = values, weights
    frame.loc[places, "copies"] = copies_of(weights, seed=seed) if weigh else weights.astype(int)
    return frame.assign(removed=frame["copies"] == 0)
