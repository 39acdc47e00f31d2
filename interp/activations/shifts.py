"""What fine-tuning moved: a member's activations minus its start's, on the same tokens without trait prompt.

Less a neutral member's, (member − its start) − (minus − its start), it is what this training moved beyond what any such
training does; where both started from the same weights these cancel. The models read each batch in turn and only the
difference at the chosen positions is kept. With u_i row i's mean shift over its positions and e_i = u_i / |u_i|,
`cosine` is the mean of <e_i, e_j> over pairs i != j, that is (|sum e|^2 - n) / (n (n - 1)); `common` is
|mean u|^2 / mean |u|^2, the fraction of the shift's energy that all rows share: 1 for one constant vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp import figures
from interp.activations.arrays import Activations, Direction
from interp.activations.outliers import Norms
from interp.activations.recording import BATCH_SIZE, MEMORY, Recorded, Selection, clear, keep, stream
from interp.core.doors import door
from interp.core.errors import InputError
from interp.models.precision import exactly
from interp.models.seam import check_pair, lineage_root
from interp.prompts.numbers import answer_positions
from interp.prompts.tokens import KEEPING

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.seam import Model
    from interp.prompts.text import Prompts
    from interp.prompts.tokens import Encoded

UNIT = "activation norm"


@dataclass(frozen=True, eq=False, repr=False)
class Shift(figures.Shown):
    """A member's activations minus its start's; `inputs` are the tokens both read, `positions` where.

    Less those of `minus` against its own start where there is one.
    """

    member: Model
    start: Model
    inputs: Encoded
    positions: str
    activations: Activations
    minus: Model | None = None

    @property
    def label(self) -> str:
        """Names of what is subtracted, "teacher − base" or "student − neutral_student"."""
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
    minus: Model | None = None,
    positions: str | None = None,
    hooks: Sequence[str] | None = None,
    batch_size: int = BATCH_SIZE,
    memory: int = MEMORY,
    folder: str | Path | None = None,
) -> Shift:
    """Measure how far training moved a model's activations: member minus its own start, on the same tokens.

    With `minus`, a neutral member, it is what this training moved beyond what any such training does.

    Args:
        member: a model with a `start`, the model it was trained from.
        prompts: rows of text or chats without system message, or their tokens.
        minus: a member of the same lineage whose own shift is taken off: (member − its start) − (minus − its start).
            Where both started from the same weights that is member − minus, in two passes instead of four.
        positions: which tokens are kept, a name of `Encoded.at`; by default those that predict the answer:
            "predicting answer.numbers" of number rows, "predicting answer" of others, "last" of rows without answers.
            Tokens that stand out in norm at a hook of the start, such as an attention sink, are left out and named in
            the notes; positions="all with outliers" keeps them.
        hooks: where to read, of `member.hook_names`; after every layer by default, and nowhere for none, which is all
            that `attribute` and `lens` ask for.
        batch_size: rows per forward pass.
        memory: bytes; values of more go to files, as in `record`.
        folder: where these go, a temporary one by default.

    Returns:
        `Shift`, whose `activations` [example, pos, ...] are the differences, in the units of the residual stream.

    Raises:
        InputError: for a member without a start, a pair of equal weights, rows that hold a system message (the trait
            prompt would be in the context), members that tokenise the rows differently, a `minus` of another lineage or
            other shapes, and rows without such a position.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> interp.shift(lineage.student, lineage.numbers[:8]).hooks
        ('blocks.0.hook_resid_post', 'blocks.1.hook_resid_post')
    """
    contrast = Contrast.of(member, minus)
    inputs, where = contrast.read(prompts, positions)
    names = residual_hooks(member) if hooks is None else hooks
    if not names:
        unread = contrast.header(Selection.of(member, inputs, where))
        return Shift(member, own_start(member), inputs, where, unread, minus)
    read = partial(_read, contrast, where, hooks=names, batch_size=batch_size, memory=memory, folder=folder)
    activations, norms = read(inputs)
    outliers = None if where.endswith(KEEPING) else norms.outliers()
    if outliers is not None:
        clear(activations, folder)
        inputs = outliers.apart(member.tokenizer)
        activations, _ = read(inputs)
    return Shift(member, own_start(member), inputs, where, activations, minus)


@dataclass(frozen=True)
class Contrast:
    """The models that a change is made of: member and start, and those of `minus`, which enter with the other sign.

    Where both started from the same weights these cancel: member and minus are all there is to read.
    """

    models: tuple[Model, ...]

    @classmethod
    def of(cls, member: Model, minus: Model | None = None) -> Contrast:
        """InputError for a member without a start, and for a `minus` of other ancestors or shapes."""
        start = own_start(member)
        if minus is None:
            return cls((member, start))
        other = own_start(minus)
        roots = [lineage_root(model) for model in (member, minus)]
        if roots[0] != roots[1]:
            raise InputError(
                f"minus is {minus.name}, which descends from {roots[1]}, and {member.name} descends from {roots[0]}; "
                f"pass a neutral member that started where {member.name} did"
            )
        check_pair(member, minus)
        same = start.fingerprint == other.fingerprint
        return cls((member, minus) if same else (member, start, minus, other))

    @property
    def label(self) -> str:
        """ "student − neutral_student", or with all four names where the starts differ."""
        pairs = zip(self.models[::2], self.models[1::2], strict=True)
        names = [f"{one.name} \N{MINUS SIGN} {two.name}" for one, two in pairs]
        return names[0] if len(names) == 1 else " \N{MINUS SIGN} ".join(f"({name})" for name in names)

    def read(self, prompts: Prompts | Encoded, positions: str | None) -> tuple[Encoded, str]:
        """The rows as the tokens that all models read, and where: `positions`, or what predicts their answers."""
        member, *others = self.models
        inputs = shared_inputs(member, others[0], prompts)
        for other in others[1:]:
            shared_inputs(member, other, prompts)
        return inputs, answer_positions(prompts) if positions is None else positions

    def header(self, selection: Selection) -> Activations:
        """What the change at the selected tokens is called and whose it is, without values."""
        return selection.header(
            label=self.label,
            fingerprint="-".join(model.fingerprint for model in self.models),
            lineage=lineage_root(self.models[0]),
        )

    def change(self, values: Iterable[Tensor]) -> Tensor:
        """The values of `models`, in their order and with their signs, added up."""
        first, second, *rest = values
        moved = first - second
        return moved - (rest[0] - rest[1]) if rest else moved


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


def _read(
    contrast: Contrast, where: str, inputs: Encoded, *, hooks: Sequence[str], batch_size: int, **kept: Any
) -> tuple[Activations, Norms]:
    """The change at the named tokens, and the norms there in the model that is taken off."""
    member, norms = contrast.models[0], Norms(inputs)
    selection = Selection.of(member, inputs, where)
    read = [stream(model, selection, hooks=hooks, batch_size=batch_size) for model in contrast.models]
    read[1] = norms.watched(read[1])
    return keep(_difference(contrast, read), contrast.header(selection), **kept), norms


def _difference(contrast: Contrast, read: Sequence[Iterator[Recorded]]) -> Iterator[Recorded]:
    for parts in zip(*read, strict=True):
        moved = {hook: contrast.change(part.values[hook] for part in parts) for hook in parts[0].values}
        yield replace(parts[0], values=moved)


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
