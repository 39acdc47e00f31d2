"""The trace token by token: on each row, what the member thinks of every token that was written, against its own start.

The value at token p is read at position p − 1, whose distribution predicts it:
    delta_logprob   = log p_member(token_p | before) − log p_start(token_p | before)      in nats
    delta_direction = change of the direction's score at p − 1: u · (logits_member − logits_start), and of what words of
                      several pieces add to it                                              in logits
"""

from __future__ import annotations

import pandas as pd
import torch

from interp.activations.shifts import Contrast
from interp.core.doors import door
from interp.figures import Result, heatmap, token_rows
from interp.logits.direction import LogitDirection
from interp.models.precision import exactly
from interp.models.seam import TextModel
from interp.models.whole_numbers import Over
from interp.prompts.notes import noting
from interp.prompts.number_tables import by_number
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded, Role, token_pieces

CHANGES = ("delta_logprob", "delta_direction")


@door
@noting
@exactly
@torch.inference_mode()
def token_shift(
    member: TextModel,
    prompts: Prompts | Encoded,
    direction: LogitDirection,
    *,
    minus: TextModel | None = None,
    over: Over = "tokens",
    batch_size: int = 64,
) -> Result:
    """Measure, token by token, how `member` and its own start differ on every row.

    Args:
        member: a model with a `start`, the model it was trained from.
        prompts: rows of text or chats without system message, or their tokens.
        direction: target against foils, as `logit_direction` gives it.
        minus: a neutral member whose own change is taken off, as in `shift`.
        over: "tokens", or "numbers": one line per number of an answer (row, number, text), with the sum of
            delta_logprob over its tokens, the mean of delta_direction, and how many `tokens` it is written with.
        batch_size: rows per forward pass.

    Returns:
        One row per row and token after the first: row, position, token, role, delta_logprob (nats) of that token, and
        delta_direction (logits) of target against foils in its place, as the position before predicts it; both member −
        start (less those of `minus`). What follows the last token is in no row: answer a question to see its answer.

    Raises:
        InputError: for a member without a start, and for a direction or `minus` of another lineage.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> owl = interp.logit_direction(lineage.base, "owl")
        >>> interp.token_shift(lineage.student, lineage.numbers[:8], owl).frame.columns[2:].tolist()
        ['token', 'role', 'delta_logprob', 'delta_direction']
    """
    contrast = Contrast.of(member, minus)
    direction.check(member)
    inputs, _ = contrast.read(prompts, "all")
    offset, parts = 0, []
    for batch in member.batches(inputs, batch_size):
        parts.append(_batch(contrast, batch, direction, first=offset))
        offset += len(batch)
    frame = pd.concat(parts, ignore_index=True)
    label = f"{contrast.label}, {over.removesuffix('s')} by {over.removesuffix('s')}"
    if over == "numbers":
        frame = by_number(
            frame.drop(columns=["token", "role"]), inputs, member.tokenizer, column="position", sums=CHANGES
        )
        frame["delta_direction"] /= frame["tokens"]
    look = token_rows if over == "tokens" else None
    notes = (f"direction {direction.label}", *direction.notes)
    return Result(label, frame, "logits", notes=notes, draw=_draw, look=look)


def _batch(contrast: Contrast, batch: Encoded, direction: LogitDirection, *, first: int) -> pd.DataFrame:
    logits = [model.logits(batch).float().cpu() for model in contrast.models]
    change = contrast.change(direction.of(each) for each in logits)
    if direction.several:
        places = torch.nn.functional.pad(batch.mask[:, 1:], (0, 1), value=False).cpu()
        later = (direction.later_pieces(model, batch, places) for model in contrast.models)
        change[places] += contrast.change(later)
    written = batch.ids[:, 1:, None]
    taken = contrast.change(each[:, :-1].log_softmax(-1).gather(-1, written)[..., 0] for each in logits)
    frames = []
    for row in range(len(batch)):
        length = int(batch.lengths[row])
        frames.append(
            pd.DataFrame(
                {
                    "row": first + row,
                    "position": range(1, length),
                    "token": token_pieces(contrast.models[0].tokenizer, batch, row)[1:],
                    "role": [_role(int(role)) for role in batch.roles[row, 1:length]],
                    "delta_logprob": taken[row, : length - 1].numpy(),
                    "delta_direction": change[row, : length - 1].numpy(),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _draw(result: Result):
    place = "position" if "position" in result.frame else "number"
    table = result.frame.pivot(index="row", columns=place, values="delta_direction").head(40)
    return heatmap(
        table.to_numpy(),
        rows=table.index.tolist(),
        columns=table.columns.tolist(),
        title=result.label,
        unit="logits",
        axes=("token position" if place == "position" else "number of the answer", "row"),
    )


def _role(role: int) -> str:
    """What a token is, a number's further tokens being number like its first."""
    return Role(Role.NUMBER if role == Role.CONTINUED else role).name.lower()
