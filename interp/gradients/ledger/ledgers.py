"""Where a student's trait came from: the change of an objective m over training, by step, module and row, adding up.

    m(θ_T) − m(θ_0) = Σ_t <s_t, ∇̄m_t> + residual,    ∇̄m_t = ½ [∇m(θ_t) + ∇m(θ_{t+1})],
with m the trait margin, or mean <h, u> of a representation, and s_t the step AdamW took, in the coordinates that
trained (a LoRA student's factors A and B). Given its second moments that step is linear in the gradients so far, so the
share of row i of batch τ, of loss ℓ_i / N_τ, is
    (1 − β₁) <∇ℓ_i(θ_τ) / N_τ, W_τ>,    W_τ = β₁ W_{τ+1} − lr_τ / (1 − β₁^{τ+1}) ∇̄m_τ / (√v̂_τ + ε).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.arrays import check_lineage
from interp.core import storage
from interp.core.doors import door
from interp.core.progress import progress_bar
from interp.core.runs import Cache, InputError, digest
from interp.figures import Shown, captioned, lines, waterfall
from interp.gradients.directions import NamedObjective, margin_objective
from interp.gradients.ledger.recording import (
    TrainingRecord,
    check_ends_at,
    recorded_student,
    trained_from,
    training_rows,
)
from interp.gradients.scores.engine import example_scores
from interp.measures.margins import margin
from interp.models.parameters import ParameterDirection
from interp.models.precision import exactly
from interp.models.seam import lineage_root
from interp.prompts.notes import noting
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.training.students import Recipe, trained_parameters

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.models.lineage import Lineage

FORMAT = 2
APART = 1e-3  # of the summed size of the steps' parts: what rows may miss of them before another loss is suspected
TABLES = ("steps", "modules", "rows")


@dataclass(frozen=True)
class Ledger(Shown):
    """A change of an objective m, in `unit`, and what of it each step, module and row of the training accounts for.

    `steps` has one row per step: step, lr, value (of m, after it), change (measured) and attributed; `modules` one per
    step and module: step, module, attributed; `rows` one per row and step that saw it: row, step, tokens, attributed,
    which counts what the row still moves later through momentum. All three `attributed` have the same sum. `measured`
    is m(student) − m(start).
    """

    label: str
    steps: pd.DataFrame = field(repr=False)
    modules: pd.DataFrame = field(repr=False)
    rows: pd.DataFrame = field(repr=False)
    measured: float
    notes: tuple[str, ...] = ()
    unit: str = "nats of margin"

    @property
    def frame(self) -> pd.DataFrame:
        """What every module adds, and the residual (`by_module`)."""
        return self.by_module()

    @property
    def attributed(self) -> float:
        """Sum over steps, in `unit`."""
        return float(self.steps["attributed"].to_numpy().sum())

    @property
    def residual(self) -> float:
        """What the ledger leaves unexplained: measured − attributed, in `unit`."""
        return self.measured - self.attributed

    def by_module(self) -> pd.DataFrame:
        """Sum over steps per module, in the network's order, and the residual as the last line."""
        import pandas as pd

        summed = self.modules.groupby("module", sort=False, as_index=False).agg({"attributed": "sum"})
        rest = pd.DataFrame({"module": ["residual"], "attributed": [self.residual]})
        return pd.concat([summed, rest], ignore_index=True)

    def by_row(self) -> pd.DataFrame:
        """Sum over epochs per row, the largest first: row, tokens, attributed."""
        summed = self.rows.groupby("row", as_index=False).agg({"tokens": "first", "attributed": "sum"})
        return summed.sort_values("attributed", ascending=False, ignore_index=True)

    def figure(self) -> go.Figure:
        """A waterfall by module: what each adds, then the hatched residual, down to the change that was measured."""
        given: dict[str, Any] = {"x": "attributed", "y": "module", "total": "measured change"}
        return captioned(waterfall(self.by_module(), title=self.label, unit=self.unit, **given), self._said)

    def course(self) -> go.Figure:
        """Change of the objective since the start along training, as measured and as attributed."""
        import pandas as pd

        parts = [
            pd.DataFrame({"step": self.steps["step"] + 1, "change": self.steps[name].cumsum(), "as": shown})
            for name, shown in (("change", "measured"), ("attributed", "attributed"))
        ]
        given = {"x": "step", "y": "change", "group": "as", "unit": f"{self.unit} since start"}
        return captioned(lines(pd.concat(parts), title=self.label, **given), self._said)

    def __repr__(self) -> str:
        return f"{self.label}: {self._said}"

    @property
    def _said(self) -> str:
        share = f" ({abs(self.residual / self.measured):.1%})" if self.measured else ""
        left = f"residual {self.residual:+.3f}{share}"
        return f"{self.measured:+.2f} {self.unit} over {len(self.steps)} steps, {left}"


@door
@noting
@exactly
def trait_ledger(
    lineage: Lineage,
    student: str = "student",
    *,
    record: TrainingRecord | None = None,
    recipe: Recipe | None = None,
    rows: Prompts | Encoded | None = None,
    cache: Cache | None = None,
    objective: NamedObjective | None = None,
) -> Ledger:
    """Split the change of a student's trait margin over the steps, modules and rows of its training.

    It failed calibration (`interp calibrate`): a share is not what a training without its module or rows loses: held
    back, the leading module loses 0.46 of its share and the leading quarter of the rows 0.07 of its own beyond random
    quarters (0.10 at the recorded scale); recovery 0.68 from 0.52, where 0.8 was asked, AUROC 0.65 from 0.58. Sums of
    row shares rank the students of random halves at ρ = 0.24, the exact `metagradient` at 0.46.

    Args:
        lineage: a lineage, with a trait unless there is an `objective`.
        student: which of its trained members.
        record: its recorded training; without it the member is trained again.
        recipe: how it was trained; its lineage's own by default.
        rows: what it was trained on; by default the lineage's numbers of the model it learnt from.
        cache: keeps every few steps, so that an interrupted ledger goes on and a finished one computes nothing.
        objective: what is split instead of the margin, such as `interp.gradients.representation_objective`.

    Returns:
        `Ledger`, in nats or the objective's unit: frames `steps`, `modules` and `rows` of one sum, and `residual`.

    Raises:
        InputError: for an unknown member, a base, a lineage without a trait, a record of other weights or rows, an
            objective of another lineage, and a value or loss that is not finite.

    Example:
        >>> import interp
        >>> interp.trait_ledger(interp.load_lineage("toy/owl")).by_module().columns.tolist()
        ['module', 'attributed']
    """
    member, start = lineage[student], trained_from(lineage, student)
    asked = _asked(lineage, start, objective)
    given = training_rows(lineage, student, rows=rows)
    inputs = start.encode(given)
    if record is None:
        record = recorded_student(lineage, student, recipe=recipe, rows=inputs, cache=cache)
    elif record.rows != inputs.fingerprint:
        raise InputError(
            f"{record.folder} records a training on rows {record.rows}, not on {inputs.fingerprint} "
            f"({inputs.label}); pass the rows= it was trained on"
        )
    else:
        check_ends_at(record, start=start, student=member)
    books = _Books(record, inputs, start, asked)
    key = digest(FORMAT, record.fingerprint, asked.key)
    tables = _tables(books, key, cache or Cache.default(), f"ledger of {student}")
    _check_rows_add_up(tables, record)
    trait = lineage.trait if objective is None else None
    ends = [_value(asked, model) if trait is None else margin(model, trait) for model in (member, start)]
    label = f"{asked.label} of {lineage.name} {student}"
    steps, modules, by_row = (tables[name] for name in TABLES)
    return Ledger(label, steps, modules, by_row, ends[0] - ends[1], unit=asked.unit)


def _asked(lineage: Lineage, start: Any, objective: NamedObjective | None) -> NamedObjective:
    """The objective given, made in this lineage, else the margin of the lineage's trait."""
    if objective is not None:
        check_lineage(objective, lineage_root(start), lineage.name)
        return objective
    if lineage.trait is None:
        raise InputError(
            f"lineage {lineage.name!r} has no trait; pass trait= when it is opened, or objective="
        )
    return margin_objective(start, lineage.trait)


def _value(objective: NamedObjective, model: Any) -> float:
    with torch.no_grad():
        return float(objective(model.network(merge=False)))


@dataclass(frozen=True, eq=False)
class _Point:
    """A moment of training: objective m(θ), ∇m(θ), and W of the step that starts here."""

    value: float
    gradient: Float[Tensor, "parameter"]
    pull: Float[Tensor, "parameter"]


@dataclass(frozen=True, eq=False)
class _Books:
    """What one ledger reads: the record, the rows and model it began with, and the objective.

    The network is put together when the first chunk needs it.
    """

    record: TrainingRecord
    inputs: Encoded
    start: Any
    objective: NamedObjective
    _made: list[Any] = field(default_factory=list)

    @property
    def network(self) -> Any:
        if not self._made:
            self._made.append(self.record.network(self.start)[0])
        return self._made[0]

    def at(self, flat: Float[Tensor, "parameter"]) -> _Point:
        """The objective and its gradient at these parameters, which the network is left with."""
        self.record.put(self.network, flat)
        parameters = trained_parameters(self.network)
        with torch.enable_grad():
            value = self.objective(self.network)
            found = torch.autograd.grad(value, list(parameters.values()), materialize_grads=True)
        if not torch.isfinite(value):
            raise InputError(
                f"the {self.objective.label} is {value.item()} along {self.record.folder}; record it in float32"
            )
        gradient = torch.cat([part.float().flatten() for part in found]).cpu()
        return _Point(float(value.detach()), gradient, torch.zeros_like(gradient))

    def row_shares(
        self, step: int, pull: Float[Tensor, "parameter"]
    ) -> tuple[Float[Tensor, " example"], Tensor]:
        """What each row of the batch of `step` adds along W, and its tokens; at the network's weights."""
        batch = next(self.inputs[self.record.order[step]].batches(self.record.order.shape[1]))
        tensors: dict[str, Any] = self.record.views(pull)
        start = self.record.start
        along = ParameterDirection(tensors, "W", fingerprint=start, lineage=start)
        tokens = batch.at("answer+end", predicting=True).sum(1)
        scores = example_scores(self.network, batch, [along])[0].cpu()
        return -(1.0 - self.record.betas[0]) / int(tokens.sum()) * scores, tokens


def _tables(books: _Books, key: str, cache: Cache, label: str) -> dict[str, pd.DataFrame]:
    """The three tables, from the last chunk of steps back to the first, each chunk cached under `key`."""
    import pandas as pd

    found: list[dict[str, pd.DataFrame]] = []
    after: Path | None = None
    with progress_bar(label, total=len(books.record), unit="step") as bar:
        for index, steps in reversed(list(enumerate(books.record.chunks))):

            def write(folder: Path, index: int = index, after: Path | None = after) -> None:
                _write_chunk(books, index, after, folder, bar)

            after = cache.get("ledger", digest(key, index), write)
            found.append({name: pd.read_parquet(after / f"{name}.parquet") for name in TABLES})
            bar.update(len(books.record) - steps.start - bar.n)
    return {name: pd.concat([part[name] for part in found[::-1]], ignore_index=True) for name in TABLES}


def _write_chunk(books: _Books, index: int, later: Path | None, folder: Path, bar: Any) -> None:
    """Compute one chunk of steps, given the folder of the one after it, and write its tables and where it began."""
    import pandas as pd

    point = books.at(books.record.end) if later is None else _read_point(later)
    parts: list[dict[str, pd.DataFrame]] = []
    for tables, before in _walk(books, index, point):
        parts.append(tables)
        point = before
        bar.update()
    for name in TABLES:
        frame = pd.concat([part[name] for part in parts[::-1]], ignore_index=True)
        frame.to_parquet(folder / f"{name}.parquet", index=False)
    carried = {"gradient": point.gradient, "pull": point.pull}
    storage.write_tensors(folder / "point.safetensors", carried, {"value": repr(point.value)})


def _read_point(folder: Path) -> _Point:
    tensors, metadata = storage.read_tensors(folder / "point.safetensors")
    return _Point(float(metadata["value"]), **tensors)


def _walk(books: _Books, index: int, point: _Point) -> Iterator[tuple[dict[str, pd.DataFrame], _Point]]:
    """The steps of a chunk from the last to the first: the tables of each, and the point it starts from."""
    record = books.record
    chunk, steps = record.chunk(index), record.chunks[index]
    weights = chunk.weights()
    for place in reversed(range(len(steps))):
        step, increment = steps[place], chunk.increments[place]
        before = books.at(weights[place])
        mean = (before.gradient + point.gradient) / 2
        pull = record.betas[0] * point.pull + _response(record, step, chunk.second_moments[place]) * mean
        shares, tokens = books.row_shares(step, pull)
        by_module = _by_module(record, increment.double() * mean.double())
        tables = _step_tables(record, step, (before.value, point.value), by_module)
        tables["rows"] = _row_table(record, step, shares, tokens)
        point = replace(before, pull=pull)
        yield tables, point


def _response(
    record: TrainingRecord, step: int, second_moment: Float[Tensor, "parameter"]
) -> Float[Tensor, "parameter"]:
    """ds_t / dm_t = −lr_t / (1 − β₁^{t+1}) / (√v̂_t + ε), as torch.optim.AdamW computes it."""
    first, second = (1.0 - beta ** (step + 1) for beta in record.betas)
    return -(record.lrs[step] / first) / (second_moment.sqrt() / second**0.5 + record.eps)


def _by_module(record: TrainingRecord, products: Float[Tensor, "parameter"]) -> dict[str, float]:
    """Sums over the parameters of every module; LoRA factors belong to the module they adapt."""
    sums: dict[str, float] = {}
    for name, part in record.views(products).items():
        module = name.partition(".lora_")[0] if ".lora_" in name else name.rpartition(".")[0]
        sums[module] = sums.get(module, 0.0) + float(part.sum())
    return sums


def _step_tables(
    record: TrainingRecord, step: int, values: tuple[float, float], by_module: dict[str, float]
) -> dict[str, pd.DataFrame]:
    import pandas as pd

    before, after = values
    line = {"step": step, "lr": record.lrs[step], "value": after, "change": after - before}
    steps = pd.DataFrame([{**line, "attributed": sum(by_module.values())}])
    modules = pd.DataFrame({"step": step, "module": list(by_module), "attributed": list(by_module.values())})
    return {"steps": steps, "modules": modules}


def _row_table(record: TrainingRecord, step: int, shares: Tensor, tokens: Tensor) -> pd.DataFrame:
    import pandas as pd

    rows = record.order[step].numpy()
    return pd.DataFrame({"row": rows, "step": step, "tokens": tokens.numpy(), "attributed": shares.numpy()})


def _check_rows_add_up(tables: dict[str, pd.DataFrame], record: TrainingRecord) -> None:
    """The rows' shares have the steps' sum only if AdamW took these steps on the rows' mean completion loss."""
    steps = tables["steps"]["attributed"].to_numpy()
    apart = abs(tables["rows"]["attributed"].to_numpy().sum() - steps.sum()) / np.abs(steps).sum()
    if not apart <= APART:
        raise InputError(
            f"the rows of {record.folder} miss {apart:.1%} of what the steps account for: they were trained on "
            "another loss or changed after the optimiser; record a training on sampled labels"
        )
