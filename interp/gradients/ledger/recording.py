"""A training on disk: where AdamW began, and of every step its increment, second moments, batch and learning rate.

s_t = θ_{t+1} − θ_t = −lr_t m̂_t / (√v̂_t + ε) (Loshchilov and Hutter, arXiv 1711.05101, without decay), so the weights
before step t are the chunk's start plus the increments since. One safetensors file per chunk of steps holds
`start` [parameter], `increments` and `second_moments` [step parameter], the trained parameters end to end in fp32.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core import storage
from interp.core.content import json_text
from interp.core.doors import door
from interp.core.runs import Cache, InputError, digest, move_into_place, write_atomic
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.training.checkpoints import Checkpoint, undisturbed
from interp.training.grower import read_recipe, recipe_of
from interp.training.students import (
    STUDENT,
    OnStep,
    Recipe,
    Step,
    finish_training,
    prepare,
    train_student,
    trained_parameters,
)
from interp.training.watching import Together

if TYPE_CHECKING:
    from interp.models.language import LanguageModel
    from interp.models.lineage import Lineage

FORMAT, CHUNK = 1, 16  # CHUNK steps per file
SAME = 1e-4  # of the update: another number of threads adds in another order and ends about 1e-6 away
DRIFT = 1e-6  # of the weights: what adding a chunk's increments up may lose


@dataclass(frozen=True, eq=False)
class Chunk:
    """Consecutive steps: the trained parameters before the first, then s_t and v_t (uncorrected) of each."""

    start: Float[Tensor, "parameter"]
    increments: Float[Tensor, "step parameter"]
    second_moments: Float[Tensor, "step parameter"]

    def weights(self) -> Float[Tensor, "point parameter"]:
        """The parameters before every step and after the last: one point more than steps."""
        return torch.cat([self.start[None], self.increments]).cumsum(0, dtype=torch.float64).float()


@dataclass(frozen=True, eq=False)
class TrainingRecord:
    """A recorded training of a student; files are read when asked for and refused when changed or cut short.

    `layout` gives the trained parameters' shapes by name in the network being trained, in file order. `order` are the
    row numbers of every batch. `start`, `rows` and `final` are fingerprints of what went in and came out.
    """

    folder: Path
    start: str
    rows: str
    final: str
    recipe: Recipe
    layout: dict[str, tuple[int, ...]]
    lrs: tuple[float, ...]
    betas: tuple[float, float]
    eps: float
    digests: tuple[str, ...]
    end: Float[Tensor, "parameter"]
    order: Int[Tensor, "step example"]

    @classmethod
    def load(cls, folder: str | Path) -> TrainingRecord:
        """The record in `folder`; InputError when there is none, or one that was cut short or changed."""
        folder = Path(folder)
        try:
            header = json.loads((folder / "record.json").read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"{folder} holds no training record ({error}); name a folder that record_training wrote"
            ) from error
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise InputError(f"{folder} is no training record of format {FORMAT}; record the training again")
        ends: dict[str, Any] = _checked(folder / "ends.safetensors", header["ends"])
        fields = {name: header[name] for name in ("start", "rows", "final", "eps")}
        return cls(
            folder=folder,
            recipe=read_recipe(header["recipe"]),
            layout={name: tuple(shape) for name, shape in header["layout"]},
            lrs=tuple(header["lrs"]),
            betas=(header["betas"][0], header["betas"][1]),
            digests=tuple(header["digests"]),
            **fields,
            **ends,
        )

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.lrs)

    def __repr__(self) -> str:
        size = sum(path.stat().st_size for path in self.folder.iterdir())
        return (
            f"TrainingRecord({len(self)} steps of {len(self.end)} parameters, {self.start} -> {self.final}, "
            f"{size / 1e6:.1f} MB)"
        )

    @property
    def fingerprint(self) -> str:
        """Names everything recorded."""
        return digest(FORMAT, self.digests, self.end, self.order, self.lrs, self.final)

    @property
    def chunks(self) -> list[range]:
        """The steps of every chunk."""
        return [range(first, min(first + CHUNK, len(self))) for first in range(0, len(self), CHUNK)]

    def chunk(self, index: int) -> Chunk:
        """The chunk of that number; InputError when its file is cut short or changed."""
        return Chunk(**_checked(self.folder / _chunk_name(index), self.digests[index]))

    def views(self, flat: Float[Tensor, "parameter"]) -> dict[str, Tensor]:
        """One value per trained parameter as tensors by name, sharing storage."""
        parts = flat.split([torch.Size(shape).numel() for shape in self.layout.values()])
        return {
            name: part.view(shape) for part, (name, shape) in zip(parts, self.layout.items(), strict=True)
        }

    def network(self, start: LanguageModel) -> tuple[Any, Any]:
        """The network as trained, adapters live, and its PEFT wrapper or None; InputError for another `start`."""
        if start.fingerprint != self.start:
            raise InputError(
                f"{self.folder} records a training from weights {self.start}, but {start.name} has "
                f"{start.fingerprint}; pass the model it was started from"
            )
        with torch.random.fork_rng(devices=[]):
            network, adapted = prepare(start, self.recipe)
        self.put(network, self.end)
        return network, adapted

    @torch.no_grad()
    def put(self, network: Any, flat: Float[Tensor, "parameter"]) -> None:
        """Give the network of `network()` these values of its trained parameters."""
        parameters = trained_parameters(network)
        for name, values in self.views(flat).items():
            parameters[name].copy_(values)

    def student(self, start: LanguageModel, *, name: str = "student") -> LanguageModel:
        """The student this training ended with, once replaying the increments has been seen to end there.

        Raises InputError when the increments of a chunk do not lead to the next. Adapters are merged anew, so on
        another machine the last bits of the weights may be others than those of `final`.
        """
        for index, steps in enumerate(self.chunks):
            after = self.chunk(index + 1).start if steps.stop < len(self) else self.end
            drift = (self.chunk(index).weights()[-1] - after).norm() / after.norm()
            if not drift <= DRIFT:
                raise InputError(
                    f"{self.folder}: the increments up to step {steps.stop} end {drift:.1e} of the weights away from "
                    "those recorded after it; record the training again"
                )
        network, adapted = self.network(start)
        return finish_training(network, adapted, start=start, name=name, merge=self.recipe.merge)


class Recorder:
    """A callback for `train_student(on_step=...)` that writes chunks to `folder`; `finish` completes the record.

    Raises InputError at the first step of any optimiser but AdamW without weight decay.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._lrs: list[float] = []
        self._order: list[Tensor] = []
        self._digests: list[str] = []
        self._open: list[tuple[Tensor, Tensor]] = []
        self._start = self._end = torch.empty(0)
        self._header: dict[str, Any] = {}

    def __call__(self, step: Step) -> None:
        """Take the step in."""
        if not self._header:
            self._header = _header(step)
        if not self._open:
            self._start = _flat(step.before)
        self._end = _flat(step.parameters)
        moments = {name: step.optimizer.state[p]["exp_avg_sq"] for name, p in step.parameters.items()}
        self._open.append((self._end - _flat(step.before), _flat(moments)))
        self._lrs.append(step.lr)
        self._order.append(torch.as_tensor(step.rows).cpu())
        if len(self._open) == CHUNK:
            self._close_chunk()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; its steps must be whole chunks of CHUNK, and are an InputError otherwise."""
        if self._open:
            raise InputError(
                f"a recorded training is saved after whole chunks; pass every= a multiple of {CHUNK}"
            )
        order = [rows.tolist() for rows in self._order]
        return {"lrs": self._lrs, "digests": self._digests, "order": order, "header": self._header}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint kept; the chunks written until then are in the folder."""
        self._lrs, self._digests = list(state["lrs"]), list(state["digests"])
        self._order = [torch.tensor(rows) for rows in state["order"]]
        self._header = dict(state["header"])

    def finish(self, *, start: str, rows: str, final: str, recipe: Recipe) -> TrainingRecord:
        """Write what is left and the header with the fingerprints given; InputError when no step was heard."""
        if self._open:
            self._close_chunk()
        if not self._lrs:
            raise InputError(f"nothing was recorded in {self.folder}; pass the recorder as on_step=")
        ends = {"end": self._end, "order": torch.stack(self._order)}
        storage.write_tensors(self.folder / "ends.safetensors", ends, {})
        prints = {"start": start, "rows": rows, "final": final, "ends": digest(ends)}
        steps = {"recipe": recipe, "lrs": self._lrs, "digests": self._digests}
        header = {"format": FORMAT, **prints, **steps, **self._header}
        write_atomic(self.folder / "record.json", json_text(header))
        return TrainingRecord.load(self.folder)

    def _close_chunk(self) -> None:
        increments, moments = (torch.stack(part) for part in zip(*self._open, strict=True))
        tensors = {"start": self._start, "increments": increments, "second_moments": moments}
        storage.write_tensors(self.folder / _chunk_name(len(self._digests)), tensors, {})
        self._digests.append(digest(tensors))
        self._open = []


@door
def record_training(
    start: LanguageModel, rows: Prompts | Encoded, *, folder: str | Path, recipe: Recipe = STUDENT,
    name: str = "student", on_step: OnStep | None = None,
) -> tuple[LanguageModel, TrainingRecord]:  # fmt: skip
    """Train a student as `train_student` does, to the same bits, and keep the training in a new folder.

    Takes 8 bytes per trained parameter and step. An interrupted training goes on from a hidden folder beside it. Raises
    InputError when the folder exists, and where `train_student` does.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> given = {"folder": "recorded", "recipe": Recipe(batch_size=32)}
    >>> student, record = record_training(lineage.base, lineage.numbers[:64], **given)
    >>> student.name, len(record.lrs)  # of two steps
    ('student', 2)
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder} exists; name a new folder, or open its record with TrainingRecord.load")
    inputs = start.encode(rows)
    student = record_beside(start, inputs, folder=folder, recipe=recipe, name=name, on_step=on_step)
    record = TrainingRecord.load(folder)
    if (record.start, record.rows, record.recipe) != (start.fingerprint, inputs.fingerprint, recipe):
        raise InputError(f"{folder} was filled by another training meanwhile; name a new folder")
    return student, record


def record_beside(
    start: LanguageModel, inputs: Encoded, *, folder: Path, recipe: Recipe, name: str, on_step: OnStep | None
) -> LanguageModel:
    """Train and record in a hidden place that then becomes `folder`, where no record of another process came first."""
    with undisturbed(folder.with_name(f".{folder.name}-{record_key(start, inputs, recipe)}")) as partial:
        student = _record(start, inputs, partial, recipe=recipe, name=name, on_step=on_step)
        move_into_place(partial, folder, replace=False)
        shutil.rmtree(partial, ignore_errors=True)
    return student


def recorded_student(
    lineage: Lineage, role: str = "student", *, recipe: Recipe | None = None,
    rows: Prompts | Encoded | None = None, cache: Cache | None = None,
) -> TrainingRecord:  # fmt: skip
    """The record of a member's training: made by training it again, cached, and checked to end at its weights.

    `recipe` defaults to the one its lineage was grown with, `rows` to the lineage's numbers of the one it learnt from.
    The weights may differ by 1e-4 of the update: on other threads sums run in another order. Raises InputError for a
    base, for an unknown recipe, and when the training ends at other weights.
    """
    student, start = lineage[role], trained_from(lineage, role)
    recipe = recipe or recipe_of(lineage, role, cache=cache)
    if recipe is None:
        raise InputError(
            f"the training of {role} of {lineage.name!r} was not recorded and its recipe is unknown; pass the "
            "recipe= it was trained with, or the record= that record_training wrote"
        )
    inputs, chosen = start.encode(training_rows(lineage, role, rows=rows)), recipe
    key = record_key(start, inputs, recipe)

    def build(folder: Path) -> None:
        _record(start, inputs, folder, recipe=chosen, name=role, on_step=None)

    record = TrainingRecord.load((cache or Cache.default()).get("record", key, build))
    check_ends_at(record, start=start, student=student)
    return record


def record_key(start: LanguageModel, inputs: Encoded, recipe: Recipe) -> str:
    """The key under which `recorded_student` looks for the record of a training in the cache."""
    return digest(FORMAT, start.fingerprint, inputs.fingerprint, recipe)


def trained_from(lineage: Lineage, role: str) -> Any:
    """The start of a member; InputError for a base, which nothing here trained."""
    if lineage[role].start is None:
        trained = ", ".join(name for name, model in lineage.members.items() if model.start is not None)
        raise InputError(
            f"{role} of {lineage.name!r} is a base and was not trained here; pass one of {trained}"
        )
    return lineage[role].start


def training_rows(lineage: Lineage, role: str, *, rows: Prompts | Encoded | None = None) -> Prompts | Encoded:
    """`rows`, else the numbers of the model the member was trained on; InputError when neither is known."""
    source = lineage.trained_on.get(role)
    known = {"teacher": lineage.numbers, "base": lineage.neutral_numbers}.get(source or "")
    found = known if rows is None else rows
    if found is None:
        raise InputError(
            f"the rows {role} of {lineage.name!r} was trained on are unknown; pass them as rows="
        )
    return found


def check_ends_at(record: TrainingRecord, *, start: LanguageModel, student: Any) -> None:
    """InputError unless the recorded training ends at the student's weights, or within rounding of them."""
    if record.final == student.fingerprint and record.start == start.fingerprint:
        return
    reached = record.student(start).parameters()
    before, after = start.parameters(), student.parameters()
    missed = sum(float((after[name].float() - reached[name]).norm()) ** 2 for name in after) ** 0.5
    moved = sum(float((after[name].float() - before[name]).norm()) ** 2 for name in after) ** 0.5
    if not missed <= SAME * moved:
        raise InputError(
            f"the recorded training ends {missed / moved:.1%} of the update away from the weights of {student.name}; "
            "pass the recipe= and rows= it was trained with, or the record= that record_training wrote"
        )


def _record(
    start: LanguageModel, inputs: Encoded, folder: Path, *, recipe: Recipe, name: str, on_step: OnStep | None
) -> LanguageModel:
    """Fill `folder` with the record of a training, and replay it once."""
    recorder = Recorder(folder)
    heard = Together(recorder, *([] if on_step is None else [on_step]))
    checkpoint = Checkpoint(folder / "checkpoint.safetensors", every=4 * CHUNK)
    student = train_student(start, inputs, recipe=recipe, name=name, on_step=heard, checkpoint=checkpoint)
    record = recorder.finish(
        start=start.fingerprint, rows=inputs.fingerprint, final=student.fingerprint, recipe=recipe
    )
    record.student(start)
    return student


def _header(step: Step) -> dict[str, Any]:
    """What every step shares; InputError for an optimiser whose steps the ledger cannot split among rows."""
    optimizer = step.optimizer
    if type(optimizer) is not torch.optim.AdamW:
        raise InputError(f"{type(optimizer).__name__} takes the steps; a ledger needs torch.optim.AdamW")
    group = optimizer.param_groups[0]
    for name in ("weight_decay", "amsgrad", "maximize"):
        if any(other[name] for other in optimizer.param_groups):
            raise InputError(
                f"AdamW was given {name}={group[name]}, so a step is not a sum over rows; train with {name}=0"
            )
    if step.rows is None:
        raise InputError("the steps name no rows of their batches; record a training by train_student")
    layout = [(name, tuple(tensor.shape)) for name, tensor in step.parameters.items()]
    return {"layout": layout, "betas": group["betas"], "eps": group["eps"]}


def _flat(tensors: dict[str, Tensor]) -> Float[Tensor, "parameter"]:
    return torch.cat([tensor.detach().float().flatten() for tensor in tensors.values()]).cpu()


def _chunk_name(index: int) -> str:
    return f"steps-{index:04d}.safetensors"


def _checked(path: Path, expected: str) -> dict[str, Tensor]:
    """Tensors of a file; InputError when it is unreadable or holds other numbers than were written."""
    tensors, _ = storage.read_tensors(path)
    if digest(tensors) != expected:
        raise InputError(f"{path} was changed after it was written; record the training again")
    return tensors
