"""What features do: change them in a model, and random features of the same size beside them.

necessity N = −[m(student, shift taken out) − m(student)] / Δm, sufficiency S = [m(base, shift put in) − m(base)] / Δm
with Δm = m(student) − m(base): m is the trait margin, the shift the mean change of the features. A control is as many
other features, matched one by one, its change of the activation multiplied until the mean of |Δh| is the chosen ones'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from interp.core.doors import door
from interp.core.runs import InputError
from interp.features.changes import ablate_features, add, scaled_change
from interp.features.dictionary import Dictionary
from interp.features.reading import TokenReading, matched_features, read_tokens, token_means
from interp.features.splice import Change, with_features
from interp.figures import Shown, points
from interp.measures.losses import answer_loss
from interp.measures.margins import margin
from interp.models.bridge import FAST
from interp.models.precision import exactly
from interp.prompts.notes import noting
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.prompts.traits import Trait
from interp.stats.columns import share_reaching
from interp.training.generation import sample_numbers
from interp.training.teachers import Teacher

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.language import LanguageModel

CHOSEN = "chosen"
LEAST = 1e-6  # nats of change of margin below which no share of it can be taken


@dataclass(frozen=True, eq=False, repr=False)
class Effects(Shown):
    """One line for the chosen features and one for each control; `column` is the effect it is about.

    `frame` holds `set` ("chosen" or "control k"), `features`, the outcomes, the mean `size` |Δh| of the change as it
    was applied, and the `scale` a control's change was multiplied with. A control that moves nothing is NaN.
    """

    label: str
    frame: pd.DataFrame
    unit: str
    column: str
    notes: tuple[str, ...] = ()

    def chosen(self, column: str | None = None) -> float:
        """The effect of the chosen features."""
        return float(self.frame.loc[self.frame["set"] == CHOSEN, column or self.column].to_numpy()[0])

    def controls(self, column: str | None = None) -> Float[np.ndarray, "control"]:
        """The effects of the control sets that move anything."""
        values = self.frame.loc[self.frame["set"] != CHOSEN, column or self.column].to_numpy(float)
        return values[np.isfinite(values)]

    def p(self, column: str | None = None) -> float:
        """(b + 1) / (m + 1): b of m controls are at least as far from zero as the chosen features."""
        controls = self.controls(column)
        size = abs(self.chosen(column))
        return share_reaching(np.abs(controls), size, scale=size)

    def figure(self) -> go.Figure:
        """The effect of the chosen features, and those of the controls."""
        shown = self.frame.dropna(subset=[self.column])
        kind = np.where(shown["set"] == CHOSEN, CHOSEN, "random features")
        return points(shown.assign(set=kind), x="set", y=self.column, title=self.label, unit=self.unit)

    def __repr__(self) -> str:
        controls = self.controls()
        beside = f"{controls.mean():+.3g} over {len(controls)} controls" if len(controls) else "no controls"
        return f"{self.label}: {self.column} {self.chosen():+.3g} {self.unit}, {beside}, p = {self.p():.2g}"


@door
def control_sets(
    statistics: pd.DataFrame, features: Sequence[int], *, count: int = 10, seed: int = 0
) -> tuple[tuple[int, ...], ...]:
    """Draw `count` control sets: every feature is replaced by a random one of the live features most like it.

    `statistics` are `feature_statistics`; nearness is that of `matched_features`. No set holds a feature twice.
    InputError for no features, dead ones, and too few live ones to draw from.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> dictionary = interp.joined.default_dictionary(lineage)
    >>> statistics = interp.features.feature_statistics(dictionary, lineage.base, lineage.numbers)
    >>> len(control_sets(statistics, statistics.index[statistics["live"]][:2].tolist(), count=3))
    3
    """
    chosen = _named(features)
    live = set(statistics.loc[statistics["live"], "feature"].tolist())
    dead = [feature for feature in chosen if feature not in live]
    if dead:
        raise InputError(
            f"feature {dead[0]} is dead in these statistics ({len(live)} features are live), so nothing matches it; "
            "choose features that fire"
        )
    near = matched_features(statistics, chosen, count=max(count, len(chosen)), seed=seed)
    rng = np.random.default_rng(seed)
    return tuple(_drawn(near, rng) for _ in range(count))


@door
@noting
@exactly
def feature_effects(
    dictionary: Dictionary, model: LanguageModel, features: Sequence[int], *, trait: AnyTrait | None,
    rows: Prompts | Encoded, controls: Sequence[Sequence[int]],
    change: Callable[[Sequence[int]], Change] = ablate_features,
) -> Effects:  # fmt: skip
    """Measure how changing features of `model` changes its trait margin and the likelihood of `rows`.

    `delta_margin` is in nats, `delta_logprob_per_token` in nats per answer token of the rows, end token counted.
    `change` makes the change of a set: `ablate_features`, or `lambda features: add(features, amounts)`. Sizes match on
    the trait's questions for the margin (`size_answering`), on the rows for the likelihood (`size_writing`), over all
    tokens. InputError for features that do not exist or move nothing, and for a missing trait.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> sae = interp.joined.default_dictionary(lineage)
    >>> moved = mean_shift(sae, lineage.student, lineage.trait.prompts()).abs().topk(2).indices.tolist()
    >>> given = {"trait": "owl", "rows": lineage.numbers[:8], "controls": [moved[1:]]}
    >>> feature_effects(sae, lineage.student, moved[:1], **given).frame.filter(like="delta").columns.tolist()
    ['delta_margin', 'delta_logprob_per_token']
    """
    trait = None if trait is None else find_trait(trait)
    chosen, asked = _checked(dictionary, features, controls), _present(trait)
    inputs = model.encode(rows)
    _check_answers(inputs)
    outcomes = (
        _Outcome("margin", "answering", lambda: margin(model, asked), model.encode(asked.prompts())),
        _Outcome("logprob_per_token", "writing", lambda: -answer_loss(model, inputs), inputs),
    )
    frames = [_measured(dictionary, model, each, (chosen, *controls), change) for each in outcomes]
    frame = pd.concat([frames[0], frames[1].drop(columns=["set", "features"])], axis=1)
    _check_moved(dictionary, chosen, frame, model)
    notes = (*_notes(frame, ("scale_answering", "scale_writing")), *dictionary.notes)
    label = f"{model.name}: {len(chosen)} features changed at {dictionary.hook}"
    return Effects(label, frame, "nats", "delta_margin", notes)


@door
@noting
@exactly
def necessity(
    dictionary: Dictionary, student: LanguageModel, features: Sequence[int], *, trait: AnyTrait | None,
    controls: Sequence[Sequence[int]], amounts: Float[Tensor, "chosen"] | None = None,
) -> Effects:  # fmt: skip
    """Measure the share of the student's change of margin that goes when its features' mean shift is taken out.

    Taken out at every token: the mean is set back to the start's, what varies about it is kept. `amounts` is the
    shift, by default that on the trait's questions. InputError as for `feature_effects`, and for a student without a
    start or whose margin is its start's.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> sae = interp.joined.default_dictionary(lineage)
    >>> moved = mean_shift(sae, lineage.student, lineage.trait.prompts()).abs().topk(2).indices.tolist()
    >>> necessity(sae, lineage.student, moved[:1], trait="owl", controls=[moved[1:]]).unit
    'share of the change of margin'
    """
    trait = None if trait is None else find_trait(trait)
    return _share(dictionary, student, features, trait, controls, amounts, sign=-1)


@door
@noting
@exactly
def sufficiency(
    dictionary: Dictionary, student: LanguageModel, features: Sequence[int], *, trait: AnyTrait | None,
    controls: Sequence[Sequence[int]], amounts: Float[Tensor, "chosen"] | None = None,
) -> Effects:  # fmt: skip
    """Measure the share of the student's change of margin that its start gains when the features' mean shift is added.

    `amounts` and errors as for `necessity`.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> sae = interp.joined.default_dictionary(lineage)
    >>> moved = mean_shift(sae, lineage.student, lineage.trait.prompts()).abs().topk(2).indices.tolist()
    >>> sufficiency(sae, lineage.student, moved[:1], trait="owl", controls=[moved[1:]]).frame["set"].tolist()
    ['chosen', 'control 1']
    """
    trait = None if trait is None else find_trait(trait)
    return _share(dictionary, student, features, trait, controls, amounts, sign=+1)


@exactly
def mean_shift(
    dictionary: Dictionary, member: LanguageModel, prompts: Prompts | Encoded, *, positions: str = "all"
) -> Float[Tensor, "feature"]:
    """Measure the features' mean change, f(member) − f(its start), over the named tokens.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> mean_shift(interp.joined.default_dictionary(lineage), lineage.student, lineage.numbers[:8]).shape
    torch.Size([384])
    """
    start = _start(member)
    inputs = member.encode(prompts)
    after, before = (
        token_means(dictionary, read_tokens(dictionary, m, inputs, positions=positions))[0]
        for m in (member, start)
    )
    return after - before


def change_size(dictionary: Dictionary, reading: TokenReading, change: Change) -> float:
    """Mean over tokens of |Δh|, what the change adds to the activation.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> sae = interp.joined.default_dictionary(lineage)
    >>> reading = read_tokens(sae, lineage.base, lineage.numbers[:8])
    >>> round(change_size(sae, reading, add([0], [2.0])) / change_size(sae, reading, add([0], [1.0])), 3)
    2.0
    """
    total = 0.0
    for part, features in reading.blocks(dictionary):
        added = (change(features) - features) @ dictionary.decoder
        total += float((added.norm(dim=1) * dictionary.scale(reading.values[part])[:, 0]).sum())
    return total / len(reading.values)


def written_under(
    teacher: Teacher, dictionary: Dictionary, change: Change, *, rows: int, seed: int
) -> tuple[Prompts, dict[str, int]]:
    """Let `teacher` write numbers while its features are changed, and count the dropped answers by reason.

    Prompts and draws are those of `sample_numbers` with this seed, so two changes answer the same prompts.
    InputError for a dictionary off the residual stream, whose change sampling would not see.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> sae = interp.joined.default_dictionary(lineage)
    >>> teacher, change = interp.training.neutral_teacher(lineage.base), ablate_features([0, 1])
    >>> rows, dropped = written_under(teacher, sae, change, rows=2, seed=0)
    >>> len(rows)
    2
    """
    if FAST.fullmatch(dictionary.hook) is None:
        raise InputError(
            f"sampling does not see a change at {dictionary.hook}; "
            "use a dictionary of blocks.<layer>.hook_resid_pre or hook_resid_post"
        )
    with with_features(teacher.model, dictionary, change):
        numbers, dropped = sample_numbers(teacher, rows=rows, seed=seed)
    return replace(numbers, label=f"{numbers.label} under a change of {dictionary.label}"), dropped


@dataclass(frozen=True, eq=False)
class _Outcome:
    """A number read off the model, and the tokens on which changes are made equally large for it."""

    name: str
    place: str
    value: Callable[[], float]
    tokens: Encoded


def _share(
    dictionary: Dictionary, student: LanguageModel, features: Sequence[int], trait: Trait | None,
    controls: Sequence[Sequence[int]], amounts: Tensor | None, *, sign: int,
) -> Effects:  # fmt: skip
    chosen, asked, start = _checked(dictionary, features, controls), _present(trait), _start(student)
    questions = student.encode(asked.prompts())
    if amounts is None:
        amounts = mean_shift(dictionary, student, questions)[list(chosen)]
    whole = margin(student, asked) - margin(start, asked)
    if abs(whole) < LEAST:
        raise InputError(
            f"{student.name} has the {asked.name} margin of {start.name}, so no share of a change can be taken; "
            "pass a student that acquired the trait"
        )
    model, moved = (start, amounts) if sign > 0 else (student, -amounts)
    outcome = _Outcome("margin", "answering", lambda: margin(model, asked), questions)
    frame = _measured(dictionary, model, outcome, (chosen, *controls), lambda some: add(some, moved))
    _check_moved(dictionary, chosen, frame, model)
    frame["share"] = sign * frame["delta_margin"] / whole
    notes = (f"the margin changed by {whole:+.3f} nats", *_notes(frame, ("scale_answering",)))
    name = "sufficiency" if sign > 0 else "necessity"
    label = f"{student.name}: {name} of {len(chosen)} features at {dictionary.hook}"
    return Effects(label, frame, "share of the change of margin", "share", (*notes, *dictionary.notes))


def _measured(
    dictionary: Dictionary, model: LanguageModel, outcome: _Outcome, sets: Sequence[Sequence[int]],
    make: Callable[[Sequence[int]], Change],
) -> pd.DataFrame:  # fmt: skip
    """One line a set, the chosen one first: outcome, its change, size as applied and scale."""
    reading = read_tokens(dictionary, model, outcome.tokens, positions="all")
    before, aim, lines = outcome.value(), 0.0, []
    for index, features in enumerate(sets):
        change = make(features)
        size = change_size(dictionary, reading, change)
        aim = aim if index else size
        scale = (aim / size if size else float("nan")) if index else 1.0
        after = float("nan")
        if np.isfinite(scale):
            with with_features(model, dictionary, scaled_change(change, scale)):
                after = outcome.value()
        lines.append(
            {
                "set": f"control {index}" if index else CHOSEN, "features": tuple(int(feature) for feature in features),
                outcome.name: after, f"delta_{outcome.name}": after - before,
                f"size_{outcome.place}": size * scale, f"scale_{outcome.place}": scale,
            }
        )  # fmt: skip
    return pd.DataFrame(lines)


def _drawn(near: np.ndarray, rng: np.random.Generator) -> tuple[int, ...]:
    """One of the nearest for each feature, none twice; features in random order, so that none is always last."""
    taken: dict[int, int] = {}
    for index in rng.permutation(len(near)):
        free = [int(other) for other in near[index] if int(other) not in taken.values()]
        taken[int(index)] = free[rng.integers(len(free))]
    return tuple(taken[index] for index in range(len(near)))


def _notes(frame: pd.DataFrame, scales: Sequence[str]) -> tuple[str, ...]:
    """How far controls were stretched to the size of the chosen change, and how many could not be."""
    values = frame.loc[frame["set"] != CHOSEN, list(scales)].to_numpy(float)
    if not values.size:
        return ("no controls",)
    still = int(np.isnan(values).any(axis=1).sum())
    left = (f"{still} controls move nothing at some of the tokens and are left out there",) if still else ()
    if still == len(values):
        return left
    low, high = np.nanmin(values), np.nanmax(values)
    return (f"changes of controls were multiplied by {low:.2g} to {high:.2g} to equal the size", *left)


def _named(features: Sequence[int]) -> tuple[int, ...]:
    if len(features) == 0:
        raise InputError(
            "no features to change; name at least one, such as those of feature_shift(...).reported"
        )
    return tuple(int(feature) for feature in features)


def _checked(
    dictionary: Dictionary, features: Sequence[int], controls: Sequence[Sequence[int]]
) -> tuple[int, ...]:
    chosen = _named(features)
    for some in (chosen, *controls):
        dictionary.check_features(some)
        if len(some) != len(chosen):
            raise InputError(
                f"a control set has {len(some)} features and {len(chosen)} were chosen; make them with control_sets"
            )
    return chosen


def _check_moved(
    dictionary: Dictionary, chosen: Sequence[int], frame: pd.DataFrame, model: LanguageModel
) -> None:
    """InputError when the change of the chosen features, the first line, has no size anywhere."""
    if not frame.filter(like="size_").to_numpy()[0].any():
        raise InputError(
            f"changing features {list(chosen)[:5]} of {dictionary.label} moves nothing in {model.name} on these rows: "
            "they are dead there or the amounts are zero; choose features that fire"
        )


def _check_answers(inputs: Encoded) -> None:
    if not inputs.at("answer").any():
        raise InputError(
            f"{inputs.label} has no answers whose likelihood could change; pass rows with answers"
        )


def _present(trait: Trait | None) -> Trait:
    if trait is None:
        raise InputError("there is no trait to measure the margin of; pass trait= such as get_trait('owl')")
    return trait


def _start(member: LanguageModel) -> LanguageModel:
    start = member.start
    if start is None:
        raise InputError(
            f"{member.name} has no start to be compared with; pass a teacher or student of a lineage"
        )
    return start  # type: ignore[return-value]
