"""What a recording holds, and a direction in it: values with the fingerprint of the weights that made them.

Values are packed: row i keeps its chosen tokens at places 0 .. n_i - 1 of the second axis, `mask` says how
many, `where` from which columns of the input. Projection is <a, v> / |v|: the activation's length along v, in
its own units.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core import storage
from interp.core.content import digest
from interp.core.errors import InputError, nearest
from interp.figures import Table
from interp.models.seam import lineage_root as lineage_root

FORMAT = "interp.activations/1"
FIELDS = ("label", "fingerprint", "inputs", "lineage")


class Descended(Protocol):
    """What `check_lineage` needs of a direction, at a hook or over the vocabulary: its label and lineage."""

    @property
    def label(self) -> str: ...

    @property
    def lineage(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector at a hook, with the weights it was read from; `lineage` is their ancestor's fingerprint."""

    vector: Float[Tensor, "d_model"]
    hook: str
    label: str
    fingerprint: str
    lineage: str

    def __repr__(self) -> str:
        return f"Direction({self.label} at {self.hook}, norm {self.vector.norm():.3g})"


@dataclass(frozen=True, eq=False, repr=False)
class Activations:
    """Recorded values per hook name, packed to the chosen positions, on CPU in fp32.

    `fingerprint` is of the weights, `inputs` of the tokens and positions read, `lineage` of the weights the
    model descends from. Values past a row's last chosen token are zero and False in `mask`; `where` holds -1
    there.
    """

    values: dict[str, Float[Tensor, "example pos ..."]]
    mask: Bool[Tensor, "example pos"]
    label: str
    fingerprint: str
    inputs: str
    where: Int[Tensor, "example pos"]
    lineage: str = ""

    def __sub__(self, other: Activations) -> Activations:
        """Difference row by row, labelled "self − other"; InputError on another lineage, inputs or hooks."""
        self.check_same(other)
        values = {hook: value - other.values[hook] for hook, value in self.values.items()}
        label = f"{self.label} \N{MINUS SIGN} {other.label}"
        return replace(
            self, values=values, label=label, fingerprint=f"{self.fingerprint}-{other.fingerprint}"
        )

    def __getitem__(self, hook: str) -> Float[Tensor, "example pos ..."]:
        """Values at one hook; InputError with the nearest recorded name."""
        if hook not in self.values:
            raise InputError(f"recorded hook {nearest(hook, self.values)}")
        return self.values[hook]

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def hooks(self) -> tuple[str, ...]:
        """Recorded hook names."""
        return tuple(self.values)

    @property
    def nbytes(self) -> int:
        """Bytes of values, in memory or mapped from disk."""
        return sum(value.numel() * value.element_size() for value in self.values.values())

    def flat(self, hook: str) -> Float[Tensor, "chosen ..."]:
        """The chosen positions of all rows, one after the other."""
        return self[hook][self.mask]

    def mean(self, hook: str) -> Float[Tensor, "..."]:
        """Mean over the chosen positions, each counting once; read a block of rows at a time."""
        total = torch.zeros(self[hook].shape[2:], dtype=torch.float64)
        for start, block in self.blocks(hook):
            total += block[self.mask[start : start + len(block)]].double().sum(0)
        return (total / self.mask.sum()).float()

    def blocks(self, hook: str) -> Iterator[tuple[int, Float[Tensor, "row pos ..."]]]:
        """(first row, consecutive rows) pairs of a few megabytes, for reading values mapped from disk."""
        yield from storage.row_blocks(self[hook])

    def direction(self, hook: str) -> Direction:
        """The mean over chosen positions as a direction at `hook`."""
        return Direction(self.mean(hook), hook, f"mean {self.label}", self.fingerprint, self.lineage)

    def project(self, direction: Direction | Float[Tensor, "d_model"], hook: str | None = None) -> Tensor:
        """Length along `direction` at every chosen position, [example, pos] with NaN elsewhere.

        A `Direction` brings its own hook and is refused (InputError) when read from another lineage.
        """
        hook, vector = self._vector(direction, hook)
        values = self[hook]
        if vector.shape != values.shape[2:]:
            raise InputError(
                f"the direction has shape {tuple(vector.shape)}, values at {hook} {tuple(values.shape[2:])}; "
                "take a direction of the same hook"
            )
        unit = (vector / vector.norm()).flatten()
        return (values.flatten(2) @ unit).masked_fill(~self.mask, torch.nan)

    def select(
        self,
        *,
        hooks: str | Sequence[str] | None = None,
        examples: slice | Sequence[int] | Tensor | None = None,
    ) -> Activations:
        """The named hooks and the rows at `examples` (slice, indices or boolean mask)."""
        names = self.hooks if hooks is None else (hooks,) if isinstance(hooks, str) else hooks
        values = {hook: self[hook] for hook in names}
        if examples is None:
            return replace(self, values=values)
        rows = torch.arange(len(self))[examples if isinstance(examples, slice) else torch.as_tensor(examples)]
        return replace(
            self,
            values={hook: value[rows] for hook, value in values.items()},
            mask=self.mask[rows],
            where=self.where[rows],
            inputs=digest(self.inputs, rows.tolist()),
        )

    def check_same(self, other: Activations) -> None:
        """InputError unless `other` was read at the same hooks, on the same tokens, in the same lineage."""
        pair = f"cannot subtract {other.label} from {self.label}: "
        if self.lineage != other.lineage:
            raise InputError(
                f"{pair}their weights descend from {self.lineage!r} and {other.lineage!r}; "
                "subtract within one lineage, each member from its own start"
            )
        if self.inputs != other.inputs:
            raise InputError(
                f"{pair}recorded on different tokens or positions; record both on the same prompts"
            )
        if set(self.values) != set(other.values):
            odd = sorted(set(self.values) ^ set(other.values))
            raise InputError(f"{pair}only one of them has {odd[0]}; select the hooks they share")

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file atomically, labels in its header; values mapped from disk stay there."""
        tensors = {**self.values, "mask": self.mask, "where": self.where}
        return storage.write_tensors(Path(path), tensors, self._metadata(self.hooks))

    @classmethod
    def load(cls, path: str | Path) -> Activations:
        """Map a file that `save` wrote (or a shard); InputError when truncated or of another format."""
        tensors, metadata = storage.read_tensors(Path(path))
        if metadata.get("format") != FORMAT or not set(FIELDS) <= metadata.keys():
            raise InputError(
                f"{path} is safetensors without recorded activations ({FORMAT}); it was written otherwise"
            )
        mask, where = tensors.pop("mask"), tensors.pop("where")
        values = {hook: tensors[hook] for hook in json.loads(metadata["hooks"])}
        return cls(values, mask, where=where, **{name: metadata[name] for name in FIELDS})

    def shard(self, path: Path, hook: str, shape: tuple[int, ...]) -> storage.RowFile:
        """A file of this header and one hook, its values still to be written."""
        head = {"mask": self.mask, "where": self.where}
        layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in head.items()}
        file = storage.RowFile(path, {**layout, hook: (torch.float32, shape)}, self._metadata((hook,)))
        for name, tensor in head.items():
            file.put(name, 0, tensor)
        return file

    def _metadata(self, hooks: Sequence[str]) -> dict[str, str]:
        fields = {name: getattr(self, name) for name in FIELDS}
        return {"format": FORMAT, "hooks": json.dumps(list(hooks)), **fields}

    def _vector(self, direction: Direction | Tensor, hook: str | None) -> tuple[str, Tensor]:
        if isinstance(direction, Direction):
            check_lineage(direction, self.lineage, self.label)
            return hook or direction.hook, direction.vector.float().cpu()
        if hook is None:
            if len(self.values) != 1:
                raise InputError(f"a bare vector belongs to no hook; name one of {', '.join(self.values)}")
            hook = self.hooks[0]
        return hook, direction.detach().float().cpu()

    def __repr__(self) -> str:
        return (
            f"Activations({self.label}: {len(self.values)} hooks, {len(self)} rows, "
            f"{int(self.mask.sum())} positions, {self.nbytes / 2**20:.1f} MiB)"
        )

    def _repr_html_(self) -> str:
        shapes = [list(value.shape) for value in self.values.values()]
        return Table(pd.DataFrame({"hook": self.hooks, "shape": shapes}), title=repr(self)).to_html()


def check_lineage(direction: Descended, lineage: str, reader: str) -> None:
    """InputError when `direction` was read in another lineage than `lineage`."""
    if direction.lineage != lineage:
        raise InputError(
            f"direction {direction.label!r} was read in the lineage of {direction.lineage!r}, {reader} "
            f"belongs to {lineage!r}; read the direction from weights of the same lineage"
        )
