"""Which logits the fine-tune moved: the change of every vocabulary entry's log-probability, member minus its own
start, at the positions that predict the named tokens.

d_r(v) = mean over row r's positions of [log p_member(v | x) − log p_start(v | x)] on identical tokens. The row is
the unit: mean, sd and a paired t test are over rows, by Welford's update (Technometrics 4, 1962), so no logits are
kept; q-values are Benjamini and Hochberg's (1995) over the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp import figures
from interp.activations.shifts import own_start, shared_inputs
from interp.core.doors import door
from interp.core.progress import progress
from interp.core.runs import InputError
from interp.models.precision import exactly
from interp.models.vocabulary import is_number, token_texts
from interp.prompts.notes import noting
from interp.stats.moments import Running
from interp.stats.tests import benjamini_hochberg

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.seam import Model, TextModel
    from interp.prompts.text import Encoded, Prompts

UNIT = "nats"
BATCH_SIZE = 32
SHOWN = 15  # bars drawn at either end


@door
@noting
@exactly
def moved_tokens(
    member: TextModel,
    prompts: Prompts | Encoded,
    *,
    positions: str = "answer.numbers",
    batch_size: int = BATCH_SIZE,
) -> figures.Result:
    """Find the tokens that training made likelier or less likely where the named tokens are predicted.

    Args:
        member: a model with a `start`, the model it was trained from.
        prompts: rows of text or chats without system message, or their tokens.
        positions: whose predictions are read, a name of `Encoded.at`; "last" (of the prompt) stands for where the
            answer's first token is predicted, which needs no answer to be there.
        batch_size: rows per forward pass.

    Returns:
        One row per vocabulary entry, largest rise first: `delta`, the mean change of log-probability, member − start,
        in nats and, over rows, its `sd`, standard error `se`, paired `t`, two-sided `p` and `q` (Benjamini and Hochberg
        1995); all but `delta` are NaN for a single row. They generalise to other rows of this member, not to other
        trainings. The notes give the mean KL(member ‖ start) per position.

    Raises:
        InputError: as `shift` does, and when no row has such a position.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> interp.moved_tokens(lineage.student, lineage.numbers[:8]).frame.columns[:4].tolist()
        ['token', 'token_id', 'number', 'delta']
    """
    start = own_start(member)
    inputs = shared_inputs(member, start, prompts)
    moments, kl, places = Running(), Running(), 0
    for delta, divergence in _rows(member, start, inputs, positions=positions, batch_size=batch_size):
        moments = moments.add(delta.mean(0).double().cpu().numpy())
        kl = kl.add(divergence.mean(0, keepdim=True).double().cpu().numpy())
        places += len(delta)
    if moments.count == 0:
        raise InputError(
            f"no row of {inputs.label!r} has a token {positions!r} to be predicted; give rows that do"
        )
    label = f"{member.name} \N{MINUS SIGN} {start.name}, log p at {positions}"
    return figures.Result(
        label=label,
        frame=_frame(moments, token_texts(member, len(moments.mean))),
        unit=UNIT,
        notes=(
            f"KL(member ‖ start) {kl.mean[0]:.4g} ± {kl.error()[0]:.1g} nats per position (± standard error over rows)",
            f"{moments.count} rows, {places} positions; a row's value is the mean over its positions",
            "p and q are over rows of this one training; other trainings are other replicates",
        ),
        draw=_draw,
    )


@torch.inference_mode()
def _rows(
    member: Model, start: Model, inputs: Encoded, *, positions: str, batch_size: int
) -> Iterator[tuple[Float[Tensor, "pos vocab"], Float[Tensor, "pos"]]]:
    """Per row with such a position: Δ log p of the whole vocabulary, and KL(member ‖ start), at each of them."""
    batches = inputs.batches(batch_size)
    for batch in progress(batches, f"logits moved in {member.name}", total=len(inputs), size=len):
        chosen = batch.at(positions, predicting=positions != "last")
        if not chosen.any():
            continue
        after, before = member.logits(batch), start.logits(batch)
        for row, places in enumerate(chosen):
            if places.any():
                log_p = after[row][places.to(after.device)].float().log_softmax(-1)
                delta = log_p - before[row][places.to(before.device)].float().log_softmax(-1).to(log_p.device)
                yield delta, (log_p.exp() * delta).sum(-1)


def _frame(moments: Running, texts: list[str]) -> pd.DataFrame:
    p = moments.p()
    frame = pd.DataFrame(
        {
            "token": texts,
            "token_id": np.arange(len(texts)),
            "number": [is_number(text) for text in texts],
            "delta": moments.mean,
            "sd": moments.sd(),
            "se": moments.error(),
            "t": moments.t(),
            "p": p,
            "q": p if np.isnan(p).any() else benjamini_hochberg(p),
        }
    )
    return frame.sort_values("delta", ascending=False, kind="stable", ignore_index=True)


def _draw(result: figures.Result) -> go.Figure:
    """The entries that rose and fell most; whiskers are one sd over rows."""
    frame = result.frame
    shown = frame if len(frame) <= 2 * SHOWN else pd.concat([frame.head(SHOWN), frame.tail(SHOWN)])
    pairs = zip(shown["token"], shown["token_id"], strict=True)
    named = shown.assign(**{"token (id)": [f"{text!r} ({index})" for text, index in pairs]})
    title = f"{result.label} (whiskers: ± 1 sd over rows)"
    return figures.bars(named, x="delta", y="token (id)", error="sd", title=title, unit=UNIT)
