"""Which logits the fine-tune moved: the change of every vocabulary entry's log-probability, member minus its own
start (less the same of a neutral member), at the named positions.

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
from interp.activations.shifts import Contrast
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

    from interp.models.seam import TextModel
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
    minus: TextModel | None = None,
    positions: str | None = None,
    batch_size: int = BATCH_SIZE,
) -> figures.Result:
    """Find the tokens that training made likelier or less likely, by default where answers are predicted.

    Args:
        member: a model with a `start`, the model it was trained from.
        prompts: rows of text or chats without system message, or their tokens.
        minus: a neutral member whose own change is taken off, as in `shift`.
        positions: where the next token's distribution is read, a name of `Encoded.at`, by default as in `shift`; "last"
            (of the prompt) is where the answer's first token is predicted, which needs no answer to be there.
        batch_size: rows per forward pass.

    Returns:
        One row per vocabulary entry, largest rise first: `delta`, the mean change of log-probability, member − start
        (less that of `minus`), in nats and, over rows, its `sd`, standard error `se`, paired `t`, two-sided `p` and `q`
        (Benjamini and Hochberg 1995); all but `delta` are NaN for a single row. They generalise to other rows of this
        member, not to other trainings. The notes give the mean KL(member ‖ start), or KL(member ‖ minus) where both
        have one start, per position.

    Raises:
        InputError: as `shift` does, and when no row has such a position.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> interp.moved_tokens(lineage.student, lineage.numbers[:8]).frame.columns[:4].tolist()
        ['token', 'token_id', 'number', 'delta']
    """
    contrast = Contrast.of(member, minus)
    inputs, where = contrast.read(prompts, positions)
    moments, kl, places = Running(), Running(), 0
    for delta, divergence in _rows(contrast, inputs, positions=where, batch_size=batch_size):
        moments = moments.add(delta.mean(0).double().cpu().numpy())
        kl = kl.add(divergence.mean(0, keepdim=True).double().cpu().numpy())
        places += len(delta)
    if moments.count == 0:
        raise InputError(
            f"no row of {inputs.label!r} has a position {where!r}; give rows that do, or pass positions='last' for "
            "where an answer would begin"
        )
    label = f"{contrast.label}, log p at {where}"
    against = "minus" if contrast.models[1] is minus else "start"
    return figures.Result(
        label=label,
        frame=_frame(moments, token_texts(member, len(moments.mean))),
        unit=UNIT,
        notes=(
            f"KL(member ‖ {against}) {kl.mean[0]:.4g} ± {kl.error()[0]:.1g} nats per position "
            "(± standard error over rows)",
            f"{moments.count} rows, {places} positions; a row's value is the mean over its positions",
            "p and q are over rows of this one training; other trainings are other replicates",
        ),
        draw=_draw,
    )


@torch.inference_mode()
def _rows(
    contrast: Contrast, inputs: Encoded, *, positions: str, batch_size: int
) -> Iterator[tuple[Float[Tensor, "pos vocab"], Float[Tensor, "pos"]]]:
    """Per row with such a position: Δ log p of the whole vocabulary, and KL(first ‖ second model), at each of them."""
    batches = inputs.batches(batch_size)
    for batch in progress(batches, f"logits moved, {contrast.label}", total=len(inputs), size=len):
        chosen = batch.at(positions)
        if not chosen.any():
            continue
        logits = [model.logits(batch) for model in contrast.models]
        for row, places in enumerate(chosen):
            if places.any():
                log_p = [each[row][places.to(each.device)].float().log_softmax(-1) for each in logits]
                log_p = [each.to(log_p[0].device) for each in log_p]
                yield contrast.change(log_p), (log_p[0].exp() * (log_p[0] - log_p[1])).sum(-1)


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
