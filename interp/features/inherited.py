"""Do student and teacher move the same features? ρ(S, T), Spearman's over live features, place by place.

T = teacher − base, S = student − neutral student: means over rows of f_j(h) at the named tokens, the same tokens in all
models. Beside it stand the neutral student's ρ(N, T), N = neutral student − base, and ρ(S, T') with other teachers of
the same base. A dictionary belongs to one start, so a student of another has no features to compare; and a teacher it
was not trained on lies in its error node (`error_second`), so train it on all that are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp import figures
from interp.activations.shifts import own_start, shared_inputs
from interp.core.doors import door
from interp.core.runs import InputError
from interp.features.dictionary import Dictionary
from interp.features.direct import RowPair
from interp.features.reading import LIVE, NUMBERS, TokenReading, read_tokens, row_means
from interp.models.lineage import Lineage
from interp.models.precision import exactly
from interp.models.seam import Model, check_pair
from interp.prompts.notes import noting
from interp.stats.ranks import spearman

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.prompts.text import Encoded, Prompts

ROWS = 1024  # of the lineage's numbers, read by default
LEAST = 8  # live features that a rank correlation needs
COLUMNS = ["place", "positions", "pairing", "rho", "live", "error_first", "error_second"]
OWN, NEUTRAL, OTHER = "student with its teacher", "neutral student with the teacher", "student with"
NUMBER_END, PREDICTING, SLOT = (
    "end of the number prompt",
    "where numbers are predicted",
    "question's answer slot",
)


@dataclass(frozen=True, eq=False, repr=False)
class SharedFeatures(figures.Shown):
    """One line per place and pairing: how alike two differences of features are, and what the dictionary leaves out.

    Columns: `place`, `positions`, `pairing`, `rho`, `live` (features that fire in any of the models there), and
    `error_first`, `error_second`: the error node's share of the energy of the first difference named and the second.
    """

    label: str
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()
    unit: str = "ρ"

    def figure(self) -> go.Figure:
        """ρ of every place and pairing."""
        shown = self.frame.assign(where=self.frame["place"] + ": " + self.frame["pairing"])
        return figures.bars(shown, x="rho", y="where", colour="pairing", title=self.label, unit=self.unit)

    def __repr__(self) -> str:
        lines = self.frame.to_dict("records")
        first = [line for line in lines if line["place"] == lines[0]["place"]]
        said = ", ".join(f"{line['pairing']} {line['rho']:+.2f}" for line in first)
        return f"{self.label}: ρ at the {first[0]['place']} over {first[0]['live']} features: {said}"


@door
@exactly
def feature_differences(
    dictionary: Dictionary,
    after: Model,
    before: Model,
    prompts: Prompts | Encoded,
    *,
    positions: str = NUMBERS,
) -> Float[Tensor, "feature"]:
    """Mean over rows of f(h after) − f(h before) at the named tokens, each row the mean over its own.

    Zero for features that fire in neither. InputError as for `feature_shift`.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> dictionary = interp.joined.default_dictionary(lineage)
    >>> moved = feature_differences(dictionary, lineage.teacher, lineage.base, lineage.numbers[:8])
    >>> moved.shape == (dictionary.width,)
    True
    """
    check_pair(after, before)
    inputs = shared_inputs(after, before, prompts)
    found = [
        row_means(dictionary, read_tokens(dictionary, model, inputs, positions=positions)).mean.mean(0)
        for model in (after, before)
    ]
    return found[0] - found[1]


def same_start(member: Model, minus: Model) -> Model:
    """`minus` itself; InputError unless it was trained from the weights that `member` was trained from."""
    start, other = own_start(member), own_start(minus)
    if start.fingerprint != other.fingerprint:
        raise InputError(
            f"{minus.name} started from {other.name} ({other.fingerprint}) and {member.name} from {start.name} "
            f"({start.fingerprint}), so their changes cannot be compared; take off a member of the same start"
        )
    check_pair(member, minus)
    return minus


@door
@noting
@exactly
def shared_features(
    dictionary: Dictionary,
    lineage: Lineage,
    *,
    member: str = "student",
    baseline: str = "neutral_student",
    others: Mapping[str, Model] | None = None,
    numbers: Prompts | None = None,
) -> SharedFeatures:
    """Correlate what the student moved beyond the neutral one with what its teacher moved, over features.

    Args:
        dictionary: features of this lineage, such as `train_sae` of all its members.
        lineage: base, teacher and students; its trait's questions are read where it has one.
        member: the student.
        baseline: the member of the same start whose own change is taken off.
        others: teachers of other traits from the same base, by name; by default the lineage's `teacher_<trait>`.
        numbers: rows of numbers to read; the first 1024 of the lineage's by default.

    Returns:
        One row per place (end of the number prompt, where numbers are predicted, the question's answer slot) and
        pairing (student with its teacher, neutral student with the teacher, student with another teacher), with ρ and
        the error node's shares.

    Raises:
        InputError: for members the lineage lacks or of another start, no rows, fewer than eight live features, and a
            dictionary of other models.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> sae = interp.joined.default_dictionary(lineage)
        >>> shared = interp.features.shared_features(sae, lineage)
    """
    base, student, neutral = lineage.base, lineage[member], lineage[baseline]
    if others is None:
        others = {role: each for role, each in lineage.members.items() if role.startswith("teacher_")}
    teachers = {"its teacher": lineage.teacher, **others}
    for model in (*teachers.values(), student):
        same_start(model, neutral)
    models = {"base": base, "student": student, "neutral": neutral, **teachers}
    lines = []
    for place, (rows, positions) in _places(lineage, numbers).items():
        inputs = shared_inputs(student, base, rows)
        read = {
            name: read_tokens(dictionary, model, inputs, positions=positions)
            for name, model in models.items()
        }
        for line in _Place(place, read, dictionary).lines(list(others)):
            lines.append({"place": place, "positions": positions, **line})
    notes = (
        f"student: {student.name} − {neutral.name}; teachers: less {base.name}; neutral student: {neutral.name} − "
        f"{base.name}",
        "ρ over live features of one lineage: other lineages are the replicates",
        *dictionary.notes,
    )
    return SharedFeatures(
        f"features that {student.name} shares with its teacher", pd.DataFrame(lines, columns=COLUMNS), notes
    )


class _Place:
    """Readings of all models at one place; InputError where too few features fire."""

    def __init__(self, place: str, readings: Mapping[str, TokenReading], dictionary: Dictionary) -> None:
        self.readings, self.dictionary = readings, dictionary
        self.means = {name: row_means(dictionary, each) for name, each in readings.items()}
        self.live = torch.stack([each.rate.mean(0) for each in self.means.values()]).amax(0) >= LIVE
        if int(self.live.sum()) < LEAST:
            raise InputError(
                f"{int(self.live.sum())} features of {dictionary.label} fire at the {place}, and a rank correlation "
                f"needs {LEAST}; train the dictionary on such tokens too"
            )

    def lines(self, others: list[str]) -> list[dict[str, Any]]:
        """A line for every pairing."""
        S, T = ("student", "neutral"), ("its teacher", "base")
        pairs = {OWN: (S, T), NEUTRAL: (("neutral", "base"), T)}
        pairs |= {f"{OTHER} {name}": (S, (name, "base")) for name in others}
        live = int(self.live.sum())
        return [{"pairing": name, "live": live, **self.compared(*pair)} for name, pair in pairs.items()]

    def compared(self, first: tuple[str, str], second: tuple[str, str]) -> dict[str, Any]:
        """ρ of two differences, and the error node's share of either."""
        u, v = (self._difference(*pair) for pair in (first, second))
        shares = [self._error(*pair) for pair in (first, second)]
        return {"rho": float(spearman(u[None], v)[0]), "error_first": shares[0], "error_second": shares[1]}

    def _difference(self, after: str, before: str) -> Float[np.ndarray, "live"]:
        moved = self.means[after].mean.mean(0) - self.means[before].mean.mean(0)
        return moved[self.live].double().numpy()

    def _error(self, after: str, before: str) -> float:
        readings = self.readings[before], self.readings[after]
        return RowPair.of(*readings, np.arange(len(self.means[after].tokens))).error_share(self.dictionary)


def _places(lineage: Lineage, numbers: Prompts | None) -> dict[str, tuple[Any, str]]:
    rows = numbers if numbers is not None else lineage.numbers
    if rows is None:
        raise InputError(
            f"lineage {lineage.name!r} has no rows of numbers to read; pass numbers=, such as "
            "interp.number_prompts(512)"
        )
    rows = rows if numbers is not None else rows[:ROWS]
    asked = {} if lineage.trait is None else {SLOT: (lineage.trait.prompts(), "last")}
    return {NUMBER_END: (rows, "last"), PREDICTING: (rows, NUMBERS), **asked}
