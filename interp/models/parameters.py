"""A direction in weight space: one tensor per weight, dense or a product of two thin factors, and vectors at hooks.

<u, v> = Σ_weights Σ_ij u_ij v_ij. A low-rank tensor L R is never multiplied out: <L R, M S> = Σ (Lᵀ M) ∘ (R Sᵀ).
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from interp.core.content import digest
from interp.core.doors import door
from interp.core.errors import InputError, nearest
from interp.core.storage import read_tensors
from interp.models import low_rank, parameter_files
from interp.models.bridge import residual_site
from interp.models.identity import weights_print
from interp.models.low_rank import Entry, LowRank
from interp.models.seam import check_finite, lineage_root, weight_shapes

if TYPE_CHECKING:
    from interp.models.seam import Model


@door
@dataclass(frozen=True, eq=False, repr=False)
class ParameterDirection:
    """Tensors by weight name and vectors by hook name, with the weights they belong to; reads as a mapping of tensors.

    Names are those of `Model.parameters()`; what is absent is zero. `biases` are vectors added to the residual stream
    at every position (a steering vector as a virtual bias). fp32 at least. `fingerprint` is of the weights the
    direction starts from and may be scored at, `lineage` that of their first ancestor. `apart` maps the further names
    of tied weights to their first where the two ends move apart, as under an adapter on one of them; without it a tied
    weight moves at both ends alike.
    """

    tensors: dict[str, Tensor | LowRank]
    label: str
    fingerprint: str
    lineage: str
    biases: dict[str, Float[Tensor, "d_model"]] = field(default_factory=dict)
    apart: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "tensors", {name: low_rank.widened(entry) for name, entry in self.tensors.items()}
        )
        object.__setattr__(
            self, "biases", {hook: low_rank.wide(vector) for hook, vector in self.biases.items()}
        )

    def __getitem__(self, name: str) -> Tensor:
        """One tensor in full; InputError with the nearest names for a weight the direction does not move."""
        if name not in self.tensors:
            raise InputError(
                f"weight {nearest(name, self.tensors)}; {self.label} leaves every other weight alone"
            )
        return low_rank.dense(self.tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def keys(self) -> Iterator[str]:
        """Names of the weights it moves."""
        return iter(self)

    def values(self) -> Iterator[Tensor]:
        """The tensors in full, one at a time."""
        return (tensor for _, tensor in self.items())

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors in full, one at a time."""
        return ((name, low_rank.dense(entry)) for name, entry in self.tensors.items())

    @door
    def dot(self, other: ParameterDirection) -> float:
        """<self, other> over weights and virtual biases, products in fp32 and sums in fp64; any two of equal shapes.

        The angle of two directions is that of their `unit()`s.
        """
        self._check_ends(other)
        shared = [name for name in self.tensors if name in other.tensors]
        for name in shared:
            _check_same_shape(name, self, other)
        parts = [low_rank.dot(self.tensors[name], other.tensors[name]) for name in shared]
        parts += [
            low_rank.dot(self.biases[hook], other.biases[hook])
            for hook in self.biases
            if hook in other.biases
        ]
        return float(sum(parts))

    def _check_ends(self, other: ParameterDirection) -> None:
        """InputError where one moves the ends of a tied weight apart and the other moves them together."""
        for one, two in ((self, other), (other, self)):
            for alias, first in one.apart.items():
                if {alias, first} & one.tensors.keys() and first in two.tensors and alias not in two.apart:
                    raise InputError(
                        f"{one.label} moves {first} and {alias} apart and {two.label} moves them together; leave them "
                        "out with .only(...), or spread the second over both with .ends_apart(...)"
                    )

    def ends_apart(self, apart: Mapping[str, str]) -> ParameterDirection:
        """The same direction with the further names of tied weights written out: {alias: first name} as in `apart`."""
        new = {alias: first for alias, first in apart.items() if alias not in self.apart}
        copies = {alias: self.tensors[first] for alias, first in new.items() if first in self.tensors}
        return replace(self, tensors={**self.tensors, **copies}, apart={**self.apart, **new})

    def norm(self) -> float:
        """Square root of <self, self>."""
        return math.hypot(*self.norms().values())

    def norms(self) -> dict[str, float]:
        """Norm of every tensor by weight name, then of every virtual bias by hook name."""
        entries = {**self.tensors, **self.biases}
        return {name: low_rank.norm(entry) for name, entry in entries.items()}

    def __add__(self, other: ParameterDirection) -> ParameterDirection:
        """Sum, low-rank where both are; InputError for directions that start from other weights."""
        return self._combined(other, 1.0, "+")

    def __sub__(self, other: ParameterDirection) -> ParameterDirection:
        """Difference, low-rank where both are; InputError for directions that start from other weights."""
        return self._combined(other, -1.0, "\N{MINUS SIGN}")

    def __mul__(self, scale: float) -> ParameterDirection:
        return self._scaled(float(scale), f"{scale:g} × {_term(self.label)}")

    __rmul__ = __mul__

    def __truediv__(self, scale: float) -> ParameterDirection:
        if not scale:
            raise InputError(f"{self.label} cannot be divided by {scale}; pass a scale other than zero")
        return self._scaled(1.0 / float(scale), f"{_term(self.label)} / {scale:g}")

    def __neg__(self) -> ParameterDirection:
        return self._scaled(-1.0, f"\N{MINUS SIGN}{_term(self.label)}")

    def unit(self) -> ParameterDirection:
        """The direction at norm one; InputError when it is zero."""
        norm = self.norm()
        if norm == 0:
            raise InputError(_zero(self.label))
        return self._scaled(1.0 / norm, f"unit {_term(self.label)}")

    @door
    def only(self, *patterns: str) -> ParameterDirection:
        """The weights, modules or hooks whose name fits one of the fnmatch patterns, such as "*.mlp.*".

        Raises InputError with the nearest names for a pattern that fits none.
        """
        names = [*self.tensors, *self.biases]
        for pattern in patterns:
            if not any(_fits(name, (pattern,)) for name in names):
                raise InputError(
                    f"pattern {nearest(pattern, names)}; fit the names of weights in {self.label}"
                )
        if not patterns:
            raise InputError(f"no pattern restricts {self.label}; pass one such as '*.mlp.*'")
        return replace(
            self,
            tensors={name: entry for name, entry in self.tensors.items() if _fits(name, patterns)},
            biases={hook: vector for hook, vector in self.biases.items() if _fits(hook, patterns)},
            label=f"{self.label} at {', '.join(patterns)}",
        )

    @door
    def truncated(self, rank: int) -> ParameterDirection:
        """Every matrix as its best approximation of that rank (SVD), vectors as they are.

        Raises InputError for a rank below 1.
        """
        if rank < 1:
            raise InputError(f"rank {rank} holds nothing; pass an integer of at least 1")
        tensors = {
            name: low_rank.truncated(entry, rank) if len(entry.shape) == 2 else entry
            for name, entry in self.tensors.items()
        }
        return replace(self, tensors=tensors, label=f"{self.label} (rank {rank})")

    @door
    def compressed(self, tolerance: float = 1e-6) -> ParameterDirection:
        """The same direction, matrices of small rank as their factors: the tail left out is ≤ tolerance · |matrix|.

        A matrix stays dense unless rank < rows · columns / (rows + columns). An adapter merged into weights carries
        the rounding of the merge, which a larger tolerance leaves out: 1e-6 is enough for updates as large as weights.
        """
        tensors = {
            name: low_rank.compressed(entry, tolerance) if len(entry.shape) == 2 else entry
            for name, entry in self.tensors.items()
        }
        return replace(self, tensors=tensors)

    @cached_property
    def key(self) -> str:
        """Digest of the tensors, biases and fingerprint; the label does not enter."""
        return digest(
            "parameter direction",
            self.fingerprint,
            parameter_files.pack(self.tensors, self.biases),
            *([self.apart] if self.apart else []),
        )

    @door
    def check(self, model: Model, *, transfer: bool = False) -> None:
        """InputError unless the direction can be scored at `model`.

        Weights are the effective ones, or the factors of live adapters. Refused: a weight or hook the model lacks,
        another shape, NaN or inf, a direction that is zero, and one that starts from other weights unless `transfer`
        says that this is meant.
        """
        shapes = {**weight_shapes(model), **getattr(model, "adapter_shapes", {})}
        ties = getattr(model, "ties", {})
        shapes |= {alias: shapes[first] for alias, first in self.apart.items() if ties.get(alias) == first}
        for name, entry in self.tensors.items():
            if name not in shapes:
                raise InputError(
                    f"{self.label} moves a weight that {model.name} lacks: {nearest(name, shapes)}"
                )
            _check_shape(name, tuple(entry.shape), tuple(shapes[name]), owners=(self.label, model.name))
        if self.biases:
            check_residual(model, self.biases)
        check_finite(parameter_files.pack(self.tensors, self.biases), self.label)
        if not any(_moves(entry) for entry in (*self.tensors.values(), *self.biases.values())):
            raise InputError(_zero(self.label))
        if self.fingerprint not in (weights_print(model), model.fingerprint) and not transfer:
            raise InputError(
                f"{self.label} belongs to weights {self.fingerprint}, {model.name} has {model.fingerprint}; "
                "score it at the weights it starts from, or pass transfer=True to score it elsewhere"
            )

    @door
    def save(self, path: str | Path) -> Path:
        """Write one safetensors file atomically, label and fingerprints in its header."""
        fields = {name: getattr(self, name) for name in parameter_files.FIELDS}
        if self.apart:
            fields["apart"] = json.dumps(self.apart)
        return parameter_files.write_direction(Path(path), self.tensors, self.biases, fields=fields)

    @classmethod
    @door
    def load(cls, path: str | Path) -> ParameterDirection:
        """Read what `save` wrote; InputError for a truncated file or one of another format."""
        packed, metadata = read_tensors(Path(path))
        if not parameter_files.is_direction(metadata):
            raise InputError(
                f"{path} is safetensors without a saved direction ({parameter_files.FORMAT}); "
                "read tensors of your own with read_direction(path, model)"
            )
        tensors, biases = parameter_files.unpack(packed)
        fields: dict[str, Any] = {name: metadata[name] for name in parameter_files.FIELDS}
        return cls(tensors, biases=biases, apart=json.loads(metadata.get("apart", "{}")), **fields)

    def _combined(self, other: ParameterDirection, scale: float, sign: str) -> ParameterDirection:
        label = f"{_term(self.label)} {sign} {_term(other.label)}"
        if self.fingerprint != other.fingerprint:
            raise InputError(
                f"{label}: they start from weights {self.fingerprint} and {other.fingerprint}; "
                "combine directions that start from the same weights"
            )
        if self.apart != other.apart:
            apart = {**self.apart, **other.apart}
            return self.ends_apart(apart)._combined(other.ends_apart(apart), scale, sign)
        for name in self.tensors.keys() & other.tensors.keys():
            _check_same_shape(name, self, other)
        term = other._scaled(scale, other.label)
        tensors, biases = _sums(self.tensors, term.tensors), _sums(self.biases, term.biases)
        return replace(self, tensors=tensors, biases=biases, label=label)

    def _scaled(self, scale: float, label: str) -> ParameterDirection:
        tensors = {name: low_rank.times(entry, scale) for name, entry in self.tensors.items()}
        biases = {hook: vector * scale for hook, vector in self.biases.items()}
        return replace(self, tensors=tensors, biases=biases, label=label)

    def __repr__(self) -> str:
        numbers = sum(tensor.numel() for tensor in parameter_files.pack(self.tensors, self.biases).values())
        ranks = sorted({entry.rank for entry in self.tensors.values() if isinstance(entry, LowRank)})
        ends = dict.fromkeys((*ranks[:1], *ranks[-1:]))
        parts = [
            f"{len(self.tensors)} tensors",
            *([f"{len(self.biases)} virtual biases"] if self.biases else []),
            f"{numbers:,} numbers",
            f"norm {self.norm():.3g}",
            *([f"rank {' to '.join(map(str, ends))}"] if ends else []),
        ]
        return f"ParameterDirection({self.label}: {', '.join(parts)})"

    def _repr_html_(self) -> str:
        entries = {**self.tensors, **self.biases}
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{list(entries[name].shape)}</td>"
            f"<td>{getattr(entries[name], 'rank', '')}</td><td>{norm:.3g}</td></tr>"
            for name, norm in self.norms().items()
        )
        head = "<tr><th>weight</th><th>shape</th><th>rank</th><th>norm</th></tr>"
        return f"<table><caption>{html.escape(repr(self))}</caption>{head}{rows}</table>"


@door
def read_direction(path: str | Path, model: Model) -> ParameterDirection:
    """Read a direction at `model` from a safetensors file: one `save` wrote, or plain tensors by weight name.

    Weights the file leaves out are zero. Raises InputError that names a tensor the model lacks or has in another shape.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> file = lineage.update("teacher").save("teacher.safetensors")
    >>> read_direction(file, lineage.base).tensors.keys() == lineage.update("teacher").tensors.keys()
    True
    """
    packed, metadata = read_tensors(Path(path))
    direction = (
        ParameterDirection.load(path)
        if parameter_files.is_direction(metadata)
        else ParameterDirection(dict(packed), Path(path).stem, model.fingerprint, lineage_root(model))
    )
    direction.check(model)
    return direction


def _moves(entry: Entry) -> bool:
    """Whether it is not zero; what a norm says at the cost of a look."""
    return low_rank.norm(entry) > 0 if isinstance(entry, LowRank) else bool(entry.any())


def check_residual(model: Model, hooks: Iterable[str]) -> None:
    """InputError with the nearest names unless every hook is the residual stream before or after a layer of `model`."""
    for hook in hooks:
        residual_site(hook, model.n_layers)


def _sums(ours: Mapping[str, Entry], theirs: Mapping[str, Entry]) -> dict[str, Any]:
    both = {name: low_rank.plus(ours[name], theirs[name]) for name in ours if name in theirs}
    return {**ours, **theirs, **both}


def _check_same_shape(name: str, one: ParameterDirection, other: ParameterDirection) -> None:
    shapes = (tuple(one.tensors[name].shape), tuple(other.tensors[name].shape))
    _check_shape(name, *shapes, owners=(one.label, other.label))


def _check_shape(
    name: str, ours: tuple[int, ...], theirs: tuple[int, ...], *, owners: tuple[str, str]
) -> None:
    if ours != theirs:
        raise InputError(
            f"{name} is {list(ours)} in {owners[0]} and {list(theirs)} in {owners[1]}; "
            "use directions of models with one set of shapes"
        )


def _fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a weight's name, or that of the module which holds it, fits one of the patterns."""
    module = name.rpartition(".")[0]
    return any(fnmatchcase(name, pattern) or fnmatchcase(module, pattern) for pattern in patterns)


def _term(label: str) -> str:
    """A label as one term of a sum or product."""
    return f"({label})" if " " in label else label


def _zero(label: str) -> str:
    return f"{label} is zero, so nothing leans toward it; check that the update or the selection is the one you meant"
