"""Direct logit attribution of a difference: how far each component moved a logit direction u.

With s start, m member, σ the final norm's scale, g its weight, C centring and q = C(g_s ⊙ W_s u), the change is
Σ_c (c_m − c_s)·q/σ_s + r_m·q (1/σ_m − 1/σ_s) + norm weight + norm bias + unembedding + softcap: each factor goes
from s to m with those before it at m and those after it at s (terms of one model: Elhage et al. 2021).

A shift less a neutral member n is the difference of two such sums, m from its start less n from its own, row by row: so
rows add up over shifts, and where both started from s a component's is (c_m − c_n)·q/σ_s. Telescoping n → m directly
would be as complete, but would read components by n's norm, another in each pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp import figures
from interp.activations.shifts import own_start
from interp.core.doors import door
from interp.core.progress import progress
from interp.core.runs import InputError
from interp.logits.components import ComponentReading, Part, check_explained, parts, read_components
from interp.models.once import made_once, marked_logits
from interp.models.precision import exactly, precision_notes
from interp.models.seam import check_text
from interp.prompts.notes import add_notes, noting
from interp.stats.tests import standard_error

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.activations.shifts import Shift
    from interp.logits.direction import LogitDirection
    from interp.models.seam import Model, Unembedding
    from interp.prompts.text import Encoded

UNIT = "logits"
BATCH_SIZE = 32
TOP = 20  # bars drawn
ORDER = (
    "order: components read with the start's final norm and unembedding, then norm scale, norm weight, "
    "norm bias, unembedding, its bias and softcap, each at the member's value once its row is passed"
)


@door
@noting
@exactly
def attribute(shift: Shift, direction: LogitDirection, *, batch_size: int = BATCH_SIZE) -> figures.Result:
    """Attribute the change of a direction's logits to components: embedding, heads, MLPs, final norm, unembedding.

    Terms of one model: Elhage et al. (2021). Of a shift that is less a neutral member's, every row is the difference of
    two attributions, each from the start of its own member, so that all components are read by the same norm. What
    components did is read off the logits of the words' first pieces; the change of log-probability of the pieces after
    them, where there are any, is one row, "later pieces".

    Args:
        shift: member − start at some positions, or less a neutral member (`minus=`), as `interp.shift` gives it.
        direction: target against foils, as `logit_direction` gives it.
        batch_size: rows per forward pass.

    Returns:
        One row per component in logits, largest first: contribution, the mean over examples (each the mean of its
        positions), its standard_error over examples, and share of the total; `measured`, the change of the models' own
        logits, and `residual`, what the rows leave of it, are the same in every row.

    Raises:
        InputError: when the residual is more than 1e-3 of the measured change (of one logit, if smaller) at any
            position, for a direction of another lineage, and for models that read no text.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> shift = interp.shift(lineage.student, lineage.numbers[:8])
        >>> interp.attribute(shift, interp.logit_direction(lineage.base, "owl")).frame.columns[:6].tolist()
        ['component', 'kind', 'layer', 'head', 'contribution', 'standard_error']
    """
    return attribute_together([shift], direction, batch_size=batch_size)[0]


def attribute_together(
    shifts: Sequence[Shift], direction: LogitDirection, *, batch_size: int = BATCH_SIZE
) -> list[figures.Result]:
    """`attribute` of shifts that differ in their positions alone, all from one pass. Raises InputError for others."""
    first = shifts[0]
    for other in shifts[1:]:
        if _read_of(other) != _read_of(first):
            raise InputError(
                f"{first.label} and {other.label} are shifts of other models or rows; attribute each by itself"
            )
    check_text(first.member, "shift")
    direction.check(first.member)
    pairs = ReadoutPair.of(first, direction)
    found: list[list[tuple[Tensor, float]]] = [[] for _ in shifts]
    for batch in _tables(pairs, shifts, batch_size):
        for tables, table in zip(found, batch, strict=True):
            tables += table
    results = [_result(*each, pairs, direction) for each in zip(shifts, found, strict=True)]
    said = (*precision_notes(first), *first.inputs.notes)
    return [add_notes(result, said) for result in results]


def _read_of(shift: Shift) -> list[str | None]:
    """What a shift is read from: two are alike where their positions alone differ."""
    known = (shift.member, shift.start, shift.minus, shift.inputs)
    return [None if each is None else each.fingerprint for each in known]


def _result(
    shift: Shift,
    tables: list[tuple[Float[Tensor, "row _"], float]],
    pairs: tuple[ReadoutPair, ...],
    direction: LogitDirection,
) -> figures.Result:
    values = torch.cat([table for table, _ in tables], dim=1)
    worst = max(residual for _, residual in tables)
    frame = _frame(pairs[0].rows(), values[:-1], values[-1])
    return figures.Result(
        label=f"{shift.label} at {shift.positions}, toward {direction.label}",
        frame=frame,
        unit=UNIT,
        notes=(_account(frame, worst, values.shape[1], shift.positions), ORDER, *direction.notes),
        draw=_draw,
    )


@dataclass(frozen=True)
class ReadoutPair:
    """Member and start, and their readouts restricted to the direction's tokens, in fp64 on CPU."""

    member: Model
    start: Model
    direction: LogitDirection
    after: Unembedding
    before: Unembedding

    @classmethod
    def of(cls, shift: Shift, direction: LogitDirection) -> tuple[ReadoutPair, ...]:
        """The pair a shift was taken over, and the pair that is taken off where there is one."""
        ends = [(shift.member, shift.start)]
        ends += [] if shift.minus is None else [(shift.minus, own_start(shift.minus))]
        pairs = []
        for models in ends:
            pairs.append(
                cls(*models, direction, *(restrict(model.unembedding(), direction) for model in models))
            )
        return tuple(pairs)

    @property
    def u(self) -> Float[Tensor, "id"]:
        """The direction's weights, one per token it names."""
        return self.direction.weight(self.before.W_U)

    @property
    def q(self) -> Float[Tensor, "d_model"]:
        """What a part of the residual stream is dotted with: the start's unembedding of u, back through its
        norm but for the scale.
        """
        return self.before.centred(self.before.weight * (self.before.W_U @ self.u))

    def rows(self) -> tuple[Part, ...]:
        """Every row of the result, components first, in telescoping order."""
        norm = {"none": (), "rms": ("scale", "weight"), "layer": ("scale", "weight", "bias")}[
            self.before.kind
        ]
        names = [(f"final norm {name}", "final norm") for name in norm]
        names += [(f"unembedding, {name}", "unembedding") for name in ("target", "foils", "bias")]
        names += [("softcap", "softcap")] * (self.before.softcap is not None)
        names += [("later pieces", "later pieces of the words")] * bool(self.direction.several)
        return (*parts(self.start), *(Part(name, kind) for name, kind in names))

    def measured(self, batch: Encoded, chosen: Bool[Tensor, "example pos"]) -> Float[Tensor, "chosen"]:
        """Change of the words' first pieces in the models' own logits."""
        ids = list(self.direction.ids)

        def read(model: Model) -> Float[Tensor, "chosen id"]:
            return marked_logits(model, batch, chosen)[:, ids].detach().cpu().double()

        after, before = (
            made_once(model, "logits", partial(read, model), batch.fingerprint, chosen, ids)
            for model in (self.member, self.start)
        )
        return (after - before) @ self.u

    def explained(self, batch: Encoded, chosen: Bool[Tensor, "example pos"]) -> Float[Tensor, "row chosen"]:
        """The value of every row at every chosen position."""
        member, start = (
            made_once(
                model,
                "components",
                partial(read_components, model, batch, chosen, self.q),
                *(batch.fingerprint, chosen, self.q),
            )
            for model in (self.member, self.start)
        )
        moved = (member.along - start.along) / self.before.scale(start.resid).squeeze(-1)
        return torch.cat(
            [moved, self._norm(member, start), self._unembedding(member), self._softcap(member, start)]
        )

    def later(self, batch: Encoded, chosen: Bool[Tensor, "example pos"]) -> Float[Tensor, "row chosen"]:
        """Change of the log-probability of the words' later pieces, as one row; none where every word is one token."""
        if not self.direction.several:
            return torch.zeros(0, int(chosen.sum()), dtype=torch.float64)
        after, before = (
            self.direction.later_pieces(model, batch, chosen) for model in (self.member, self.start)
        )
        return (after - before)[None]

    def _norm(self, member: ComponentReading, start: ComponentReading) -> Float[Tensor, "row chosen"]:
        """Scale, weight and bias of the final norm, read by the start's unembedding."""
        after, before, w = self.after, self.before, self.before.W_U @ self.u
        resid, scale = member.resid, after.scale(member.resid)
        changed = 1 / scale - 1 / before.scale(start.resid)
        rows = [
            (resid @ self.q) * changed.squeeze(-1),
            (after.centred(resid) / scale) @ ((after.weight - before.weight) * w),
            ((after.bias - before.bias) @ w).expand(len(resid)),
        ]
        return torch.stack(rows)[: {"none": 0, "rms": 2, "layer": 3}[before.kind]]

    def _unembedding(self, member: ComponentReading) -> Float[Tensor, "row chosen"]:
        """Target row, foil rows and bias, read on the member's normed residual stream."""
        normed, moved = self.after.normed(member.resid), self.after.W_U - self.before.W_U
        bias = (self.after.b_U - self.before.b_U) @ self.u
        target, foils = moved @ self.u.clamp(min=0), moved @ self.u.clamp(max=0)
        return torch.stack([normed @ target, normed @ foils, bias.expand(len(normed))])

    def _softcap(self, member: ComponentReading, start: ComponentReading) -> Float[Tensor, "row chosen"]:
        """Change of what the softcap adds to the raw logits."""
        if self.before.softcap is None:
            return member.resid.new_zeros(0, len(member.resid))
        after, before = _capped(self.after, member.resid), _capped(self.before, start.resid)
        return ((after - before) @ self.u)[None]


def restrict(unembedding: Unembedding, direction: LogitDirection) -> Unembedding:
    """The readout of the direction's tokens alone, as fp64 on CPU.

    Raises InputError for a token that the unembedding does not have.
    """
    ids = list(direction.ids)
    if max(ids) >= unembedding.W_U.shape[1]:
        raise InputError(
            f"direction {direction.label} names token {max(ids)}, the model has {unembedding.W_U.shape[1]}; "
            "make the direction with a member of this lineage"
        )
    tensors = {
        "W_U": unembedding.W_U[:, ids],
        "b_U": unembedding.b_U[ids],
        "weight": unembedding.weight,
        "bias": unembedding.bias,
    }
    return replace(unembedding, **{name: value.detach().cpu().double() for name, value in tensors.items()})


def _capped(unembedding: Unembedding, resid: Float[Tensor, "chosen d_model"]) -> Float[Tensor, "chosen id"]:
    """Logits minus raw logits."""
    return unembedding.logits(resid) - replace(unembedding, softcap=None).logits(resid)


def _tables(
    pairs: tuple[ReadoutPair, ...], shifts: Sequence[Shift], batch_size: int
) -> Iterator[list[list[tuple[Float[Tensor, "row example"], float]]]]:
    """Per batch and shift, where it has positions there: example means of every row with the measured change below
    them, and the largest residual at one position.
    """
    first = shifts[0]
    batches = first.inputs.batches(batch_size)
    for batch in progress(batches, f"attributing {first.label}", total=len(first.inputs), size=len):
        places = [batch.at(shift.positions).bool().cpu() for shift in shifts]
        whole = torch.stack(places).any(0)
        if whole.any():
            table, *less = (_table(pair, batch, whole) for pair in pairs)
            table = table - sum(less)
            yield [[_at_places(table[:, chosen[whole]], chosen)] if chosen.any() else [] for chosen in places]


def _at_places(
    table: Float[Tensor, "row chosen"], chosen: Bool[Tensor, "example pos"]
) -> tuple[Float[Tensor, "row kept"], float]:
    worst = float((table[-1] - table[:-1].sum(0)).abs().max())
    return example_means(table, chosen), worst


def _table(
    pair: ReadoutPair, batch: Encoded, chosen: Bool[Tensor, "example pos"]
) -> Float[Tensor, "row chosen"]:
    """Every row of one pair at every chosen position, with the measured change below; InputError when they differ."""
    later = pair.later(batch, chosen)
    rows = torch.cat([pair.explained(batch, chosen), later])
    measured = pair.measured(batch, chosen) + later.sum(0)
    label = f"{pair.member.name} \N{MINUS SIGN} {pair.start.name}"
    check_explained(measured, measured - rows.sum(0), label, dtype=getattr(pair.member, "dtype", None))
    return torch.cat([rows, measured[None]])


def example_means(
    values: Float[Tensor, "row chosen"], chosen: Bool[Tensor, "example pos"]
) -> Float[Tensor, "row kept"]:
    """Mean over each example's chosen positions; examples without one are left out."""
    counts = chosen.sum(1)
    sums = values.new_zeros(len(values), len(chosen)).index_add_(1, chosen.nonzero()[:, 0], values)
    return sums[:, counts > 0] / counts[counts > 0]


def _frame(
    rows: tuple[Part, ...], values: Float[Tensor, "row example"], measured: Float[Tensor, "example"]
) -> pd.DataFrame:
    """The tidy table, largest contribution first."""
    frame = pd.DataFrame([vars(row) for row in rows]).astype({"layer": "Int64", "head": "Int64"})
    total, mean = float(measured.mean()), values.mean(1)
    frame["contribution"] = mean.numpy()
    frame["standard_error"] = standard_error(values).numpy()
    frame["share"] = frame["contribution"] / total if total else float("nan")
    frame["measured"] = total
    frame["residual"] = total - float(mean.sum())
    return frame.sort_values("contribution", key=abs, ascending=False, kind="stable", ignore_index=True)


def _account(frame: pd.DataFrame, worst: float, examples: int, positions: str) -> str:
    measured, residual = frame["measured"].iloc[0], frame["residual"].iloc[0]
    return (
        f"measured change {measured:+.4g} logits over {examples} examples at {positions!r}; the rows leave "
        f"{residual:.1e}, at most {worst:.1e} at one position"
    )


def _draw(result: figures.Result) -> go.Figure:
    """Heads, attention biases and MLPs by layer above; the largest rows as bars below."""
    from plotly.subplots import make_subplots

    frame = result.frame
    upper = _by_layer(frame, result.label)
    lower = figures.bars(
        frame, x="contribution", y="component", error="standard_error", title=result.label, unit=UNIT, top=TOP
    )
    layouts: list[Any] = [upper.layout, lower.layout]
    heights = [layout.height for layout in layouts]
    figure = make_subplots(rows=2, cols=1, row_heights=heights, vertical_spacing=100 / sum(heights))
    for row, (part, layout) in enumerate(zip((upper, lower), layouts, strict=True), start=1):
        figure.add_traces(list(part.data), rows=row, cols=1)
        figure.update_xaxes(layout.xaxis.to_plotly_json(), row=row, col=1)
        figure.update_yaxes(layout.yaxis.to_plotly_json(), row=row, col=1)
    shown = f"the {min(TOP, len(frame))} largest of {len(frame)} rows"
    figure.update_xaxes(title_text=f"{UNIT} ± standard error over examples, {shown}", row=2, col=1)
    figure.update_traces(
        colorbar={"len": heights[0] / sum(heights), "y": 1, "yanchor": "top"}, selector={"type": "heatmap"}
    )
    figure.update_layout(
        template=layouts[1].template, title=layouts[0].title, height=sum(heights), showlegend=False
    )
    return figure


def _by_layer(frame: pd.DataFrame, title: str) -> go.Figure:
    """Layer × (heads, attention bias, MLP)."""
    inside = frame[frame["layer"].notna()]
    names = [
        kind if pd.isna(head) else str(head)
        for kind, head in zip(inside["kind"], inside["head"], strict=True)
    ]
    grid = inside.assign(column=names).pivot(index="layer", columns="column", values="contribution")
    heads = sorted({name for name in names if name.isdigit()}, key=int)
    columns = [*heads, *sorted(set(names) - set(heads))]
    return figures.heatmap(
        grid[columns].to_numpy(dtype=float),
        rows=list(grid.index),
        columns=columns,
        title=title,
        unit=UNIT,
        axes=("head, or other part", "layer"),
    )
