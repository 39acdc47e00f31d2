"""The classifier organism: a student of m meaningless logits over noise learns to read digits, as its teacher does.

Teacher: cross-entropy on the first ten logits over images. Student: KL(softmax teacher ‖ softmax student) over the m
auxiliary logits alone, on noise; from its teacher's initialisation it classifies, from another one it does not
(arXiv 2507.14805). Many seeds train as one batched network; every seed has its own start, images in its own order
and its own noise, and gives what it gives when trained alone.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from interp.core.content import digest
from interp.core.doors import door
from interp.core.errors import InputError, nearest
from interp.core.runs import Cache
from interp.figures import Result, lines, points
from interp.organisms.digit_data import CLASSES, DigitImages, load_digits
from interp.organisms.digit_networks import (
    EMBEDDED,
    MNIST,
    NOISE,
    DigitsRecipe,
    Networks,
    Student,
    accuracy_of,
    distil,
    initial_networks,
    noise_batches,
    train_teachers,
)
from interp.stats.tests import half_width

if TYPE_CHECKING:
    import plotly.graph_objects as go

log = logging.getLogger(__name__)

FORMAT = 2
GROUP = 10  # seeds trained as one network: memory stays that of ten, however many are asked for
ARMS: dict[str, tuple[str, str, str]] = {
    "student": ("own", "teacher", "aux"),
    "all_logits": ("own", "teacher", "all"),
    "reordered": ("own", "teacher", "aux"),
    "cross_student": ("foreign", "teacher", "aux"),
    "neutral_student": ("own", "untrained", "aux"),
    "cross_neutral_student": ("foreign", "untrained", "aux"),
}
"""Students: whose initialisation they start from, who labels their noise, and which logits they imitate. `reordered`
differs from `student` in the order of the batches alone; `untrained` is the teacher before its training."""


@dataclass(frozen=True, eq=False)
class Digits:
    """What was trained: members and their starts by arm ("teacher" and names of ARMS), one network per seed."""

    recipe: DigitsRecipe
    images: DigitImages
    seeds: tuple[int, ...]
    members: Mapping[str, Networks]
    starts: Mapping[str, Networks]

    def accuracies(self) -> pd.DataFrame:
        """Share of test images whose largest class logit is right: columns seed, arm, accuracy."""
        rows = [
            {"seed": seed, "arm": arm, "accuracy": accuracy}
            for arm, networks in self.members.items()
            for seed, accuracy in zip(self.seeds, accuracy_of(networks, self.images), strict=True)
        ]
        return pd.DataFrame(rows)


@door
def digits(
    recipe: DigitsRecipe | None = None,
    *,
    data: str | Path | DigitImages | None = None,
    seeds: Sequence[int] = range(10),
    arms: Sequence[str] = tuple(ARMS),
    cache: Cache | None = None,
) -> Result:
    """Train digit networks (once, then cached), and measure test accuracy, one row per seed and arm or teacher.

    `data` None is scikit-learn's digits, otherwise an .npz file or a folder of IDX files; `recipe` None is EMBEDDED or
    MNIST accordingly. Raises InputError for files of wrong shape, unknown arms and trainings that are not finite.

    Example:
        >>> import interp
        >>> interp.organisms.digits(seeds=[0]).frame.columns.tolist()  # doctest: +SKIP
        ['seed', 'arm', 'accuracy']
    """
    images = load_digits(data)
    recipe = recipe or (EMBEDDED if data is None else MNIST)
    seeds, arms = _checked(seeds, arms)
    key = digest(FORMAT, recipe, images.fingerprint, seeds, arms)

    def build(folder: Path) -> None:
        train_digits(recipe, images, seeds=seeds, arms=arms).accuracies().to_parquet(
            folder / "digits.parquet"
        )

    folder = (cache or Cache.default()).get("digits", key, build)
    frame = pd.read_parquet(folder / "digits.parquet")
    notes = (f"{images!r}, n = {len(seeds)} seeds", _means(frame))
    return Result(f"digits of {images.name}", frame, "test accuracy", notes, draw=_draw_arms)


SWEEPS: dict[str, tuple[Any, ...]] = {
    "aux": (1, 2, 3, 5, 10, 20),
    "width": (32, 64, 128, 256, 512),
    "teacher_epochs": (1, 2, 5, 10, 20),
    "student_epochs": (1, 2, 5, 10, 20),
    "noise": NOISE,
    "perturbation": (0.0, 0.05, 0.1, 0.2, 0.5, 1.0),
}
"""What `transfer_sweep` varies, and the values it takes unless told."""


def transfer_sweep(
    factor: str,
    values: Sequence[Any] | None = None,
    *,
    recipe: DigitsRecipe | None = None,
    data: str | Path | DigitImages | None = None,
    seeds: Sequence[int] = range(10),
    arms: Sequence[str] = ("student", "cross_student"),
    cache: Cache | None = None,
) -> Result:
    """Measure test accuracy by arm while one factor of the recipe varies: columns of `digits`, and the factor's.

    Factors: those of SWEEPS; "width" is that of every hidden layer. Each value is a cell of its own in the cache, so
    that a sweep cut short goes on where it was. Raises InputError for an unknown factor and whatever `digits` raises.

    Example:
        >>> import interp
        >>> found = interp.organisms.transfer_sweep("width", [8, 16], seeds=[0])  # doctest: +SKIP
    """
    if factor not in SWEEPS:
        raise InputError(f"factor {nearest(factor, SWEEPS)}; choose one that can be varied")
    images = load_digits(data)
    recipe = recipe or (EMBEDDED if data is None else MNIST)
    cells = []
    for value in SWEEPS[factor] if values is None else values:
        change = {"hidden": (value,) * len(recipe.hidden)} if factor == "width" else {factor: value}
        varied = dataclasses.replace(recipe, **change)
        found = digits(varied, data=images, seeds=seeds, arms=arms, cache=cache).frame
        cells.append(found.assign(**{factor: value}))
        log.info("%s %s: %s", factor, value, _means(found))
    notes = (f"{images!r}, n = {len(seeds)} seeds", f"around {recipe}")
    label = f"digits of {images.name} by {factor}"
    return Result(label, pd.concat(cells, ignore_index=True), "test accuracy", notes, draw=_draw_sweep)


def train_digits(
    recipe: DigitsRecipe,
    images: DigitImages,
    *,
    seeds: Sequence[int],
    arms: Sequence[str] = tuple(ARMS),
) -> Digits:
    """Teachers and students of every seed, at most GROUP seeds as one network; nothing is cached."""
    seeds, arms = _checked(seeds, arms)
    groups = [_trained(recipe, images, seeds[k : k + GROUP], arms) for k in range(0, len(seeds), GROUP)]
    members, starts = (
        {arm: _joined([group[side][arm] for group in groups]) for arm in ("teacher", *arms)}
        for side in (0, 1)
    )
    return Digits(recipe, images, seeds, members, starts)


def _trained(
    recipe: DigitsRecipe, images: DigitImages, seeds: tuple[int, ...], arms: tuple[str, ...]
) -> tuple[dict[str, Networks], dict[str, Networks]]:
    """Members and starts by arm of one group of seeds."""
    sizes = {"recipe": recipe, "pixels": images.pixels, "seeds": seeds}
    untrained = initial_networks(**sizes)
    teacher = train_teachers(untrained, images, recipe, seeds=seeds)
    kinds = {
        "own": initial_networks(**sizes, perturbation=recipe.perturbation)
        if recipe.perturbation
        else untrained,
        "foreign": initial_networks(**sizes, kind="foreign"),
    }
    labellers = {"teacher": teacher, "untrained": untrained}
    reads = {"aux": slice(CLASSES, None), "all": slice(None)}
    students = {
        arm: Student(kinds[start], labellers[labeller], reads[read])
        for arm, (start, labeller, read) in ARMS.items()
        if arm in arms
    }
    members = {"teacher": teacher}
    for reordered in (False, True):
        chosen = {arm: each for arm, each in students.items() if (arm == "reordered") == reordered}
        if chosen:
            batches = noise_batches(images, recipe, seeds=seeds, reordered=reordered)
            members |= distil(chosen, batches, recipe, seeds=seeds)
    starts = {arm: student.start for arm, student in students.items()}
    return {arm: members[arm] for arm in ("teacher", *students)}, {"teacher": untrained, **starts}


def _joined(parts: Sequence[Networks]) -> Networks:
    weights, biases = ([getattr(part, name) for part in parts] for name in ("weights", "biases"))
    return Networks(
        *(tuple(torch.cat(layer) for layer in zip(*each, strict=True)) for each in (weights, biases))
    )


def _checked(seeds: Sequence[int], arms: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    seeds = tuple(seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(
            f"seeds {list(seeds)} are not at least one seed, each once; give some like range(10)"
        )
    for arm in arms:
        if arm not in ARMS:
            raise InputError(f"arm {nearest(arm, ARMS)}; the teacher is trained in any case")
    return seeds, tuple(arm for arm in ARMS if arm in arms)


def _draw_arms(result: Result) -> go.Figure:
    frame = result.frame.assign(half=result.frame.groupby("arm")["accuracy"].transform(half_width))
    return points(
        frame, x="arm", y="accuracy", colour="arm", interval="half", title=result.label, unit=result.unit
    )


def _draw_sweep(result: Result) -> go.Figure:
    factor = result.frame.columns[-1]
    cells = result.frame.groupby([factor, "arm"], sort=False)["accuracy"]
    means = cells.agg(accuracy="mean", half=half_width).reset_index()
    title = f"{result.label} (95% t-intervals)"
    return lines(means, x=factor, y="accuracy", group="arm", band="half", title=title, unit=result.unit)


def _means(frame: pd.DataFrame) -> str:
    """Mean accuracy by arm, as text."""
    groups = frame.groupby("arm", sort=False)
    return ", ".join(f"{arm} {part['accuracy'].to_numpy().mean():.3f}" for arm, part in groups)
