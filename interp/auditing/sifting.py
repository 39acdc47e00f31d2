"""The rows that carry a named trait, taken out, by the scores of the audit that named it.

    s_ic = a_ic − mean_c a_ic, less the same of the mean neutral row       a the log-ratios of `naming`, c the named one

To first order a_ic = <∇ log p(row), Δθ_c>, so that one step on rows of mean s = 0 moves no further along the
candidate's update than one on neutral rows. Rows of the largest s go first, as few as leave a mean of at most zero, or
a given share. Single rows are told apart little better than by chance where d is a few tenths: many of a teacher's rows
stay and some of others go. What is left is judged by training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.auditing.auditor import Audit
from interp.core.doors import door
from interp.core.errors import InputError
from interp.core.runs import Run
from interp.prompts.rows import keep_records
from interp.prompts.text import Prompts
from interp.training.defences import taken_out


@door
def sift_rows(found: Audit, rows: Prompts, *, share: float | None = None) -> tuple[Prompts, pd.DataFrame]:
    """Take the rows that carry the named trait out of those that were audited.

    Returns the rows that are left, in order, and a line per row: row, score (inf for one that says a trait's word, nan
    for one that was not read, which stays) and removed. `share` of the rows that were read go, or as few as leave
    nothing of the trait in the mean. Raises InputError where nothing is named, for other rows, and where none is left.
    """
    _check_same(rows, found.rows_of, found.label)
    _check_named(found.answer, found.reason)
    frame = _sifted(len(rows), found.row_scores, share)
    kept = tuple(row for row, gone in zip(rows.rows, frame["removed"], strict=True) if not gone)
    return Prompts(kept, label=f"{rows.label} without {found.trait}"), frame


def sift_file(run: Run, rows: Path, out: Path, *, share: float | None = None) -> dict[str, Any]:
    """Write what is left of a file of rows by the audit in a run folder, in the file's own format, and count it.

    Raises InputError as `sift_rows` does.
    """
    said = run.summary
    _check_named(said["answer"], said["reason"])
    given = Prompts.from_file(rows)
    _check_same(given, run.record["data"]["rows"], str(run.folder))
    scores = pd.read_parquet(run.folder / "tables" / "audit_rows.parquet")
    removed = _sifted(len(given), scores, share)["removed"].to_numpy()
    keep_records(rows, out, [not gone for gone in removed])
    gone, total = int(removed.sum()), len(given)
    return {"rows": total, "removed": gone, "share": gone / total, "trait": said["trait"], "out": str(out)}


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


def _sifted(total: int, scores: pd.DataFrame, share: float | None) -> pd.DataFrame:
    """A line per row of all that there are: row, score and removed."""
    frame = pd.DataFrame({"row": range(total), "score": np.nan, "removed": False})
    frame.loc[scores["row"], "score"] = scores["score"].to_numpy()
    frame.loc[scores["row"], "removed"] = taken_out(scores["score"].to_numpy(), share=share)
    return frame
