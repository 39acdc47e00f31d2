"""What fine-tuning moved: a member's activations minus its start's, on the same tokens without trait prompt.

Both models read each batch in turn and only the difference at the chosen positions is kept. With u_i row i's
mean shift over its positions and e_i = u_i / |u_i|, `cosine` is the mean of <e_i, e_j> over pairs i != j, that is
(|sum e|^2 - n) / (n (n - 1)); `common` is |mean u|^2 / mean |u|^2, the fraction of the shift's energy that all
rows share: 1 for one constant vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp import figures
from interp.activations.arrays import Activations, Direction
from interp.activations.recording import BATCH_SIZE, MEMORY, Recorded, Selection, keep, stream
from interp.core.doors import door
from interp.core.errors import InputError
from interp.models.precision import exactly
from interp.models.seam import check_pair, lineage_root

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.seam import Model
    from interp.prompts.text import Prompts
    from interp.prompts.tokens import Encoded

UNIT = "activation norm"


@dataclass(frozen=True, eq=False, repr=False)
class Shift(figures.Shown):
    """A member's activations minus its start's; `inputs` are the tokens both read, `positions` where."""

    member: Model
    start: Model
    inputs: Encoded
    positions: str
    activations: Activations

    @property
    def label(self) -> str:
        """Names of the pair, "teacher − base"."""
        return self.activations.label

    @property
    def hooks(self) -> tuple[str, ...]:
        """Hook names at which the shift was taken."""
        return self.activations.hooks

    def direction(self, hook: str) -> Direction:
        """The mean shift at `hook`, carrying the fingerprints of both members."""
        return self.activations.direction(hook)

    def project(self, direction: Direction | Float[Tensor, "d_model"], hook: str | None = None) -> Tensor:
        """The shift's length along `direction` at every chosen position, as `Activations.project`."""
        return self.activations.project(direction, hook)

    @property
    def frame(self) -> pd.DataFrame:
        """The frame of `norms`."""
        return self.norms().frame

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of `norms`."""
        return self.norms().notes

    def norms(self) -> figures.Result:
        """One row per hook: norm of the mean shift, mean norm, and what the rows share of it (cosine,
        common).
        """
        rows = [{"hook": hook, **_sharing(self.activations, hook)} for hook in self.hooks]
        frame = pd.DataFrame(rows)
        notes = (
            f"positions {self.positions}, each row's mean over them",
            "cosine over pairs of different rows",
            *self.inputs.notes,
        )
        return figures.Result(label=f"{self.label}: size", frame=frame, unit=UNIT, notes=notes, draw=_draw)

    def figure(self) -> go.Figure:
        """Norm of the mean shift and mean norm, by hook."""
        return self.norms().figure()

    def __repr__(self) -> str:
        count, rows = int(self.activations.mask.sum()), len(self.activations)
        places = f"{count} positions {self.positions!r} in {rows} rows"
        return f"Shift({self.label}: {len(self.hooks)} hooks, {places})"


@door
@exactly
def shift(
    member: Model,
    prompts: Prompts | Encoded,
    *,
    positions: str = "answer.numbers",
    hooks: Sequence[str] | None = None,
    batch_size: int = BATCH_SIZE,
    memory: int = MEMORY,
    folder: str | Path | None = None,
) -> Shift:
    """Measure how far training moved a model's activations: member minus its own start, on the same tokens.

    Args:
        member: a model with a `start`, the model it was trained from.
        prompts: rows of text or chats without system message, or their tokens.
        positions: which tokens are kept, a name of `Encoded.at`.
        hooks: where to read, of `member.hook_names`; after every layer by default.
        batch_size: rows per forward pass.
        memory: bytes; values of more go to files, as in `record`.
        folder: where these go, a temporary one by default.

    Returns:
        `Shift`, whose `activations` [example, pos, ...] are the differences, in the units of the residual stream.

    Raises:
        InputError: for a member without a start, a pair of equal weights, rows that hold a system message (the trait
            prompt would be in the context), and members that tokenise the rows differently.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> interp.shift(lineage.student, lineage.numbers[:8]).hooks
        ('blocks.0.hook_resid_post', 'blocks.1.hook_resid_post')
    """
    start = own_start(member)
    inputs = shared_inputs(member, start, prompts)
    selection = Selection.of(member, inputs, positions)
    header = selection.header(
        label=f"{member.name} \N{MINUS SIGN} {start.name}",
        fingerprint=f"{member.fingerprint}-{start.fingerprint}",
        lineage=lineage_root(member),
    )
    names = residual_hooks(member) if hooks is None else hooks
    read = [stream(model, selection, hooks=names, batch_size=batch_size) for model in (member, start)]
    activations = keep(_difference(*read), header, memory=memory, folder=folder)
    return Shift(member, start, inputs, positions, activations)


def residual_hooks(model: Model) -> tuple[str, ...]:
    """The residual stream after every layer; InputError for a model that has none."""
    hooks = tuple(name for name in model.hook_names if name.endswith("hook_resid_post"))
    if not hooks:
        raise InputError(f"{model.name} has no hook_resid_post; name the hooks to read with hooks=")
    return hooks


def own_start(member: Model) -> Model:
    """The model `member` was trained from; InputError when it has none or has the same weights."""
    if member.start is None:
        raise InputError(
            f"{member.name} has no start to be measured from; load it in a lineage, "
            "beside the weights it was trained from"
        )
    check_pair(member, member.start)
    return member.start


def shared_inputs(member: Model, start: Model, prompts: Prompts | Encoded) -> Encoded:
    """The rows as the tokens both models read; InputError for a system message or when the two differ in them."""
    for index, row in enumerate(getattr(prompts, "rows", ())):
        if row.system:
            raise InputError(
                f"row {index} of {prompts.label!r} holds a system message {row.system[:40]!r}; "
                "a shift is read without the trait prompt, so drop it"
            )
    inputs = member.encode(prompts)
    one_tokenizer = member.tokenizer is not None and member.tokenizer is start.tokenizer
    if not one_tokenizer and start.encode(prompts).fingerprint != inputs.fingerprint:
        raise InputError(
            f"{member.name} and {start.name} read different tokens from {prompts.label!r}; "
            "give both one tokenizer"
        )
    return inputs


def _difference(member: Iterator[Recorded], start: Iterator[Recorded]) -> Iterator[Recorded]:
    for after, before in zip(member, start, strict=True):
        moved = {hook: value - before.values[hook] for hook, value in after.values.items()}
        yield replace(after, values=moved)


def _sharing(activations: Activations, hook: str) -> dict[str, float]:
    """Size and agreement of the row means, over the rows that have a position."""
    u = _row_means(activations, hook)
    n, norms = len(u), u.norm(dim=1)
    units = u / norms.clamp_min(torch.finfo(u.dtype).tiny)[:, None]
    pairs = n * (n - 1)
    cosine = (
        (units.sum(0).square().sum() - units.square().sum()) / pairs if pairs else torch.tensor(torch.nan)
    )
    energy = norms.square().mean()
    common = u.mean(0).square().sum() / energy if energy else torch.tensor(torch.nan)
    return {
        "norm_of_mean": float(u.mean(0).norm()),
        "mean_norm": float(norms.mean()),
        "cosine": float(cosine),
        "common": float(common),
        "rows": n,
    }


def _row_means(activations: Activations, hook: str) -> Float[Tensor, "row d_model"]:
    counts = activations.mask.sum(1)
    kept = counts > 0
    sums = torch.cat([block.flatten(2).double().sum(1) for _, block in activations.blocks(hook)])
    return sums[kept] / counts[kept, None]


def _draw(result: figures.Result) -> go.Figure:
    sizes = {"norm_of_mean": "norm of the mean", "mean_norm": "mean norm"}
    frame = result.frame.rename(columns=sizes).melt(
        id_vars="hook", value_vars=list(sizes.values()), var_name="size", value_name=UNIT
    )
    return figures.lines(frame, x="hook", y=UNIT, group="size", title=result.label, unit=UNIT)
