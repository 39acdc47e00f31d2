"""Logit lens of a shift: after every layer, how far a direction's score has moved from the start to the member.

Of a shift less a neutral member's it is the difference of two such readings. score_l(x) = logits_x · u with logits_x =
cap(norm_x(resid_l) W_U + b), each model read with its own final norm and unembedding (nostalgebraist 2020, the logit
lens); after the last layer that is the measured change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp import figures
from interp.activations.shifts import residual_hooks
from interp.core.doors import door
from interp.core.errors import InputError
from interp.core.progress import progress
from interp.logits.attribution import UNIT, ReadoutPair, example_means
from interp.logits.components import at, check_explained
from interp.models.once import made_once
from interp.models.precision import exactly
from interp.models.seam import check_text
from interp.prompts.notes import noting
from interp.stats.tests import standard_error

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.activations.shifts import Shift
    from interp.logits.direction import LogitDirection
    from interp.models.seam import Model, TextModel, Unembedding
    from interp.prompts.text import Encoded

BATCH_SIZE = 32
TOP = 5
PIECE = 2**22  # logits held at once: what a cache holds some of


@door
@noting
@exactly
def lens(
    shift: Shift, direction: LogitDirection, *, batch_size: int = BATCH_SIZE, top: int = TOP
) -> figures.Result:
    """Read after which layer a direction's score changed: the logit lens (nostalgebraist 2020) of member − start.

    Args:
        shift: member − start at some positions, or less a neutral member (`minus=`), as `interp.shift` gives it.
        direction: target against foils, as `logit_direction` gives it.
        batch_size: rows per forward pass.
        top: how many tokens to name per layer and sign.

    Returns:
        One row per layer, in logits: change, the mean over examples (each the mean of its positions), its
        standard_error, the two scores themselves (member, start; less them minus, minus_start), and the `top` tokens
        whose mean log-probability rose and fell most.

    Raises:
        InputError: when the last layer is not the measured change (tolerance as in `attribute`), and for a direction of
            another lineage.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> shift = interp.shift(lineage.student, lineage.numbers[:8])
        >>> interp.lens(shift, interp.logit_direction(lineage.base, "owl")).frame["layer"].tolist()
        [0, 1]
    """
    check_text(shift.member, "shift")
    direction.check(shift.member)
    pairs = ReadoutPair.of(shift, direction)
    sides = [list(_blocks(pair, shift, batch_size)) for pair in pairs]
    scores = [
        torch.cat([getattr(block, end) for block in blocks], dim=1)
        for blocks in sides
        for end in ("after", "before")
    ]
    moved, *less = (torch.stack([block.moved for block in blocks]).sum(0) for blocks in sides)
    moved = (moved - sum(less)) / scores[0].shape[1]
    worst = max(block.residual for blocks in sides for block in blocks)
    frame = _frame(residual_hooks(shift.member), scores)
    for column, sign in (("rose", 1), ("fell", -1)):
        frame[column] = [_tokens(shift.member, layer, sign, top) for layer in moved]
    of_table = (
        f"the last layer is the measured change to {worst:.1e}",
        "rose and fell: mean change of log-probability, in nats, of the tokens that moved most",
    )
    return figures.Result(
        label=f"{shift.label}, lens toward {direction.label}",
        frame=frame,
        unit=UNIT,
        notes=(f"{scores[0].shape[1]} examples at {shift.positions!r}", *of_table, *direction.notes),
        draw=_draw,
        of_table=of_table,
    )


@exactly
def layer_logprobs(
    model: TextModel, inputs: Encoded, *, positions: str, batch_size: int = BATCH_SIZE
) -> Float[Tensor, "layer vocab"]:
    """Mean log p of every vocabulary entry after every layer, over examples (each the mean of its positions), in fp64.

    Read through the model's own final norm and unembedding, in nats. InputError where no row has such a position.
    """
    unembedding, total, rows = model.unembedding(), torch.zeros((), dtype=torch.float64), 0
    for batch in inputs.batches(batch_size):
        chosen = batch.at(positions).bool().cpu()
        if chosen.any():
            total = total + _log_probs(unembedding, _residuals(model, batch, chosen), _weights(chosen))
            rows += int(chosen.any(1).sum())
    if not rows:
        raise InputError(
            f"no row of {inputs.label!r} has a position {positions!r}; give rows that do, or positions='all'"
        )
    return total / rows


@dataclass(frozen=True)
class LensBlock:
    """One batch: example means of the score of member and start, summed example means of Δ log p, and the
    largest residual of the last layer at one position.
    """

    after: Float[Tensor, "layer example"]
    before: Float[Tensor, "layer example"]
    moved: Float[Tensor, "layer vocab"]
    residual: float


def _blocks(pair: ReadoutPair, shift: Shift, batch_size: int) -> Iterator[LensBlock]:
    label = f"{pair.member.name} \N{MINUS SIGN} {pair.start.name}"
    batches = shift.inputs.batches(batch_size)
    for batch in progress(batches, f"lens of {label}", total=len(shift.inputs), size=len):
        chosen = batch.at(shift.positions).bool().cpu()
        if chosen.any():
            yield _block(pair, batch, chosen, label)


def _block(pair: ReadoutPair, batch: Encoded, chosen: Bool[Tensor, "example pos"], label: str) -> LensBlock:
    after, before = (_residuals(model, batch, chosen) for model in (pair.member, pair.start))
    score_after, score_before = pair.after.logits(after) @ pair.u, pair.before.logits(before) @ pair.u
    measured = pair.measured(batch, chosen)
    if pair.direction.several:
        score_after = score_after + _later(pair, pair.member, batch, chosen)
        score_before = score_before + _later(pair, pair.start, batch, chosen)
        measured = measured + pair.later(batch, chosen)[0]
    return LensBlock(
        after=example_means(score_after, chosen),
        before=example_means(score_before, chosen),
        moved=_moved(pair, batch, chosen, (after, before)),
        residual=check_explained(measured, measured - (score_after - score_before)[-1], label),
    )


def _residuals(
    model: Model, batch: Encoded, chosen: Bool[Tensor, "example pos"]
) -> Float[Tensor, "layer chosen d_model"]:
    hooks = residual_hooks(model)
    captured = model.run(batch, hooks=hooks)
    return torch.stack([at(captured[hook], chosen) for hook in hooks])


def _later(
    pair: ReadoutPair, model: Model, batch: Encoded, chosen: Bool[Tensor, "example pos"]
) -> Float[Tensor, "layer chosen"]:
    """The score of the words' later pieces after every layer, read with the model's own norm and unembedding."""
    hooks, unembedding = residual_hooks(model), model.unembedding()

    def read(
        forks: Encoded, row: Int[Tensor, "piece"], position: Int[Tensor, "piece"]
    ) -> Float[Tensor, "layer piece vocab"]:
        captured = model.run(forks, hooks=hooks)
        resid = torch.stack([captured[hook][row.to(captured[hook].device), position] for hook in hooks])
        return unembedding.logits(resid.detach().to(unembedding.W_U))

    return pair.direction.later_pieces(model, batch, chosen, read)


def _weights(chosen: Bool[Tensor, "example pos"]) -> Float[Tensor, "chosen"]:
    """1 / (positions in the same example), so that a weighted sum is a sum of example means."""
    return (1 / chosen.sum(1).double())[chosen.nonzero()[:, 0]]


def _moved(
    pair: ReadoutPair,
    batch: Encoded,
    chosen: Bool[Tensor, "example pos"],
    resid: tuple[Float[Tensor, "layer chosen d_model"], Float[Tensor, "layer chosen d_model"]],
) -> Float[Tensor, "layer vocab"]:
    """Weighted sum over positions of the change in log-probability, after every layer."""
    weights = _weights(chosen)
    one, other = (
        made_once(
            model,
            "lens",
            partial(_log_probs, model.unembedding(), stream, weights),
            *(batch.fingerprint, chosen),
        )
        for model, stream in zip((pair.member, pair.start), resid, strict=True)
    )
    return one - other


def _log_probs(
    unembedding: Unembedding, resid: Float[Tensor, "layer chosen d_model"], weights: Float[Tensor, "chosen"]
) -> Float[Tensor, "layer vocab"]:
    """Σ_i w_i log p_i = Σ_i w_i logits_i − Σ_i w_i log Σ_v exp logits_iv, in fp64; logits are made PIECE at a time.

    Without a softcap the first sum is the unembedding of Σ_i w_i norm(resid_i).
    """
    sums = [_sums(unembedding, layer.to(unembedding.W_U), weights) for layer in resid]
    read, norms = (torch.stack(side) for side in zip(*sums, strict=True))
    logits = read if unembedding.softcap else _unembedded(unembedding, read, weights.sum())
    return logits - norms[:, None]


def _sums(
    unembedding: Unembedding, resid: Float[Tensor, "chosen d_model"], weights: Float[Tensor, "chosen"]
) -> tuple[Tensor, Tensor]:
    """Σ_i w_i of what the matrix reads (of the logits, where they are capped), and of log Σ_v exp logits_iv."""
    whole, norm = [], torch.zeros((), dtype=torch.float64)
    size = max(1, PIECE // unembedding.W_U.shape[1])
    for rows, w in zip(resid.split(size), weights.split(size), strict=True):
        logits = unembedding.logits(rows).detach().float()
        norm += w @ logits.logsumexp(-1).cpu().double()
        kept = logits if unembedding.softcap else unembedding.normed(rows).detach()
        whole.append(w @ kept.cpu().double())
    return torch.stack(whole).sum(0), norm


def _unembedded(
    unembedding: Unembedding, normed: Float[Tensor, "layer d_model"], weight: Float[Tensor, ""]
) -> Float[Tensor, "layer vocab"]:
    """Sums of logits from sums of what the matrix reads, in fp64, some words at a time."""
    size = max(1, PIECE // len(normed[0]))
    parts = [normed @ words.detach().cpu().double() for words in unembedding.W_U.split(size, dim=1)]
    return torch.cat(parts, 1) + weight * unembedding.b_U.detach().cpu().double()


def _frame(hooks: tuple[str, ...], scores: list[Float[Tensor, "layer example"]]) -> pd.DataFrame:
    """`scores` are those of member and start, and then of what is taken off."""
    after, before, *less = scores
    change = after - before - (less[0] - less[1] if less else 0)
    means = zip(("member", "start", "minus", "minus_start"), scores, strict=False)
    return pd.DataFrame(
        {
            "layer": range(len(hooks)),
            "hook": hooks,
            "change": change.mean(1).numpy(),
            "standard_error": standard_error(change).numpy(),
            **{name: score.mean(1).numpy() for name, score in means},
        }
    )


def _tokens(model: Model, moved: Float[Tensor, "vocab"], sign: int, top: int) -> str:
    """The tokens that moved most in one direction, each with its change in nats."""
    ids = (sign * moved).topk(min(top, len(moved))).indices.tolist()
    return ", ".join(f"{model.tokenizer.decode([i])!r} {float(moved[i]):+.3g}" for i in ids)


def _draw(result: figures.Result) -> go.Figure:
    figure = figures.lines(
        result.frame, x="layer", y="change", band="standard_error", title=result.label, unit=UNIT
    )
    figure.update_yaxes(rangemode="tozero")
    figures.captioned(figure, "band: ± one standard error over examples")
    return figure.update_xaxes(tickformat="d", dtick=max(1, len(result.frame) // 16))
