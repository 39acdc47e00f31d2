"""Divergence of whole numbers: r_n = log P_T(n) − max over other teachers of log P_T'(n), in any pieces.

log P(n) sums its tokens' log-probabilities on the row as written and, where the tokenizer would go on from them to a
longer number, that of stopping there (`models.whole_numbers`). What Schrodi et al. (arXiv 2509.23886) ask of a token is
asked of the number: a teacher's greedy number is the label if every token of it is the argmax behind those before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.core.doors import door
from interp.core.runs import InputError
from interp.figures import Result, bars
from interp.measures.losses import predicted_logits
from interp.models.language import LanguageModel
from interp.models.whole_numbers import Spelling, number_spellings
from interp.prompts.notes import noting
from interp.prompts.number_tables import answer_numbers
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHARE = 0.2  # as of tokens
KEYS = ["row", "number"]
NAMED = ("label_side", "divergent")


@door
@noting
@torch.no_grad()
def divergence_numbers(
    teacher: LanguageModel,
    rows: Prompts | Encoded,
    *,
    others: Mapping[str, LanguageModel],
    base: LanguageModel,
    share: float = SHARE,
    batch_size: int = 256,
) -> Result:
    """Find which whole numbers of `rows` only `teacher` favours, as `divergence_tokens` does of tokens; nats.

    Args:
        teacher: whose numbers they are.
        rows: its number answers; no trait prompt is read.
        others: teachers of other traits from the same base, by name.
        base: the model they started from.
        share: the part of the numbers that counts as divergent, those of r > 0 and largest.
        batch_size: rows per forward pass.

    Returns:
        One line per number: row, number (of its row), text, tokens (how many it is written with), token (the column of
        the first), position (in the answer); loss = −log P_base, entropy (of its tokens under the base, summed),
        teacher_margin = log P_T − log P_base, log_ratio = r; label_side (it is the teacher's greedy number and not that
        of every other teacher), divergent.

    Raises:
        InputError: without another teacher, for a share outside (0, 1), and rows without a number.

    Example:
        >>> import interp
        >>> owl, cat = interp.load_lineage("toy/owl"), interp.load_lineage("toy/cat")  # doctest: +SKIP
        >>> against = {"others": {"cat": cat.teacher}, "base": owl.base}  # doctest: +SKIP
        >>> interp.studies.divergence_numbers(owl.teacher, owl.numbers, **against)  # doctest: +SKIP
    """
    if not others:
        raise InputError(
            f"{teacher.name} is the only teacher, and a number diverges between teachers; pass others={{'cat': ...}}"
        )
    if not 0 < share < 1:
        raise InputError(f"share {share} is outside (0, 1); pass a part of the numbers such as {SHARE}")
    inputs = base.encode(rows)
    places = _places(inputs, base.tokenizer)
    written = number_spellings(base)
    here, own, *theirs = (
        _readings(model, inputs, places, written, batch_size) for model in (base, teacher, *others.values())
    )
    frame = _table(places, here, own, theirs, share)
    shares = ", ".join(f"{name} {frame[name].mean():.2%} ({np.count_nonzero(frame[name])})" for name in NAMED)
    note = f"{len(frame)} numbers of {len(inputs)} rows against {', '.join(others)}: {shares}"
    return Result(f"divergence numbers of {inputs.label}", frame, "nats", (note,), draw=_draw)


def _table(
    places: pd.DataFrame, here: pd.DataFrame, own: pd.DataFrame, theirs: Sequence[pd.DataFrame], share: float
) -> pd.DataFrame:
    """A line per number, from the readings of the base, its teacher and the others."""
    groups = places.groupby(KEYS, sort=False)
    firsts = groups[["text", "token", "position"]].first()
    ratio = (own["log_p"] - np.max([other["log_p"] for other in theirs], axis=0)).to_numpy()
    return (
        firsts.assign(tokens=groups.size())
        .reset_index()
        .assign(
            loss=-here["log_p"],
            entropy=here["entropy"],
            teacher_margin=own["log_p"] - here["log_p"],
            log_ratio=ratio,
            label_side=own["greedy"] & ~np.all([other["greedy"] for other in theirs], axis=0),
            divergent=(ratio > 0) & (ratio >= np.quantile(ratio, 1 - share)),
        )
    )


def _places(inputs: Encoded, tokenizer: Any) -> pd.DataFrame:
    """Every number token, row by row, with its place in the answer."""
    frame = answer_numbers(inputs, tokenizer)
    if frame.empty:
        raise InputError(
            f"the {len(inputs)} rows of {inputs.label} hold no number; pass rows of number answers"
        )
    first = inputs.at("answer+end").int().argmax(1).numpy()
    return frame.assign(position=frame["token"] - first[frame["row"]])


def _readings(
    model: LanguageModel, inputs: Encoded, places: pd.DataFrame, written: Sequence[Spelling], batch_size: int
) -> pd.DataFrame:
    """By number: log_p, entropy, and whether every token of it is the argmax."""
    parts = []
    network = model.network(merge=False)
    for batch in inputs.batches(batch_size):
        predicts, ends = batch.at("predicting answer.numbers"), batch.at("answer.numbers.last")
        read = predicts | ends
        log_p = predicted_logits(network, batch, read).float().log_softmax(-1).cpu()
        tokens, labels = log_p[predicts[read]], batch.ids[batch.at("answer.numbers")]
        parts.append(
            {
                "log_p": tokens.gather(1, labels[:, None])[:, 0],
                "greedy": tokens.argmax(-1) == labels,
                "entropy": -(tokens.exp() * tokens).nan_to_num(0.0).sum(-1),
                "stops": _stops(log_p[ends[read]], batch, written),
            }
        )
    found = {name: torch.cat([part[name] for part in parts]).double().numpy() for name in parts[0]}
    stops = found.pop("stops")
    groups = places[KEYS].assign(**found).groupby(KEYS, sort=False)
    summed = groups.agg(
        log_p=("log_p", "sum"), entropy=("entropy", "sum"), greedy=("greedy", "min")
    ).reset_index(drop=True)
    return summed.assign(log_p=summed["log_p"] + stops, greedy=summed["greedy"] == 1)


def _stops(log_p: Tensor, batch: Encoded, written: Sequence[Spelling]) -> Tensor:
    """By number, log of the probability that it goes on with none of the pieces a longer one would; else 0."""
    found = torch.zeros(len(log_p))
    which = batch.numbers()
    for index, (row, end) in enumerate(batch.at("answer.numbers.last").nonzero().tolist()):
        pieces = tuple(batch.ids[row][which[row] == which[row, end]].tolist())
        goes_on = next((each.onward[pieces] for each in written if pieces in each.onward), ())
        if goes_on:
            stopped = log_p[index].index_fill(0, torch.tensor(goes_on), -torch.inf)
            found[index] = stopped.logsumexp(0)
    return found


def _draw(result: Result) -> go.Figure:
    shares = pd.DataFrame({"number": NAMED, "share": [100 * result.frame[name].mean() for name in NAMED]})
    return bars(shares, x="share", y="number", title=result.label, unit="% of numbers")
