"""What moved where text is read: token shifts weighted by probability, and which entries head the differences.

    moved on text   c_r(v) = mean over row r's places of p_member(v) · Δ log p(v), as in `interp.moved_tokens`
    diff mining     share of all places at which v is among the k entries of the largest difference of logits

Rows of c_r, positive parts of the entries that rose most, are split by non-negative matrix factorisation (Lee and
Seung, Nature 401, 1999) into groups of entries that rise in the same rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from interp.discovery.comparing import Compared, Reading
from interp.logits.moved import logprob_rows
from interp.models.once import marked_logits

BATCH_SIZE = 8
TOP_K = 100  # of diff mining
RISEN = 200  # entries that are grouped
GROUPS = 6
SHOWN = 8  # entries of a group


def moved_on_text(asked: Compared) -> Reading:
    """Probability-weighted change of log-probability, mean over rows, in nats; groups of entries that rise together."""
    rows = []
    for log_p in logprob_rows(asked.contrast, asked.inputs, positions="all", batch_size=BATCH_SIZE):
        change = log_p[0].exp() * asked.contrast.change(log_p)
        rows.append(change.mean(0).float().cpu().numpy())
    table = np.stack(rows)
    return Reading(
        "moved on text", table.astype(float).mean(0), "nats", clusters=risen_groups(asked, table), rows=table
    )


@torch.inference_mode()
def diff_mining(asked: Compared, *, top: int = TOP_K) -> Reading:
    """How often an entry is among the `top` largest differences of logits, over all places.

    Ties, such as of entries that never are, are broken by the mean difference: at most a quarter of a place in all.
    """
    counts, total, places = torch.zeros(asked.width), torch.zeros(asked.width, dtype=torch.float64), 0
    ids = torch.tensor(asked.entries)
    for batch in asked.inputs.batches(BATCH_SIZE):
        where = batch.at("all")
        pair = [marked_logits(model, batch, where).float().cpu()[:, ids] for model in asked.contrast.models]
        moved = asked.contrast.change(pair)
        first = moved.topk(min(top, len(ids)), dim=1).indices
        counts += torch.bincount(ids[first].flatten(), minlength=asked.width)
        total[ids] += moved.double().sum(0)
        places += len(moved)
    mean = total / places
    below = mean / (4 * mean.abs().max().clamp_min(torch.finfo(mean.dtype).tiny))
    return Reading("diff mining", ((counts + below) / places).double().numpy(), "share of places")


def risen_groups(asked: Compared, table: Float[np.ndarray, "row entry"]) -> pd.DataFrame:
    """Groups of entries that rise in the same rows: group, share of all that rose, tokens; none where nothing did."""
    from sklearn.decomposition import NMF

    ids = np.array(asked.entries)
    rising = np.clip(table[:, ids].astype(float), 0, None)
    chosen = np.argsort(-rising.sum(0), kind="stable")[:RISEN]
    part = rising[:, chosen]
    if not part.any():
        return pd.DataFrame(columns=["group", "share", "tokens"])
    count: Any = min(GROUPS, *part.shape)
    made: Any = NMF(count, init="nndsvda", max_iter=2000)
    scale = part.max()
    weights, loads = made.fit_transform(part / scale), made.components_
    sizes = weights.sum(0) * loads.sum(1) * scale
    lines = []
    for rank, group in enumerate(np.argsort(-sizes, kind="stable"), start=1):
        first = np.argsort(-loads[group], kind="stable")[:SHOWN]
        named = [repr(asked.texts[ids[chosen[k]]]) for k in first if loads[group, k] > 0]
        lines.append({"group": rank, "share": sizes[group] / part.sum(), "tokens": ", ".join(named)})
    return pd.DataFrame(lines)
