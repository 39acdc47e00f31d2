"""Which features a member moved from its own start, on identical tokens without the trait prompt.

Δ_ij = mean over row i's positions of f_j(h member) − f_j(h start), likewise of firing; less the same of another member
of that start where one is taken off, in which the start drops out: f_j(h member) − f_j(h other). Rows are split in two:
one half is tested by sign flips (p, q by Benjamini-Hochberg over live features, p_max by max-T), the other estimates Δ.
Of the mean shift Δh the dictionary leaves |Δh − Δĥ|² / |Δh|² to the error node, which is a line of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import figures
from interp.activations.outliers import same_tokens
from interp.activations.shifts import Shift, own_start, shared_inputs
from interp.core.doors import door
from interp.core.runs import InputError
from interp.features.dictionary import Dictionary
from interp.features.direct import STEPS, Direct, RowPair, direct_features
from interp.features.inherited import same_start
from interp.features.reading import LIVE, NUMBERS, RowMeans, TokenReading, read_tokens, row_means, within
from interp.models.precision import exactly
from interp.prompts.notes import noting
from interp.prompts.text import Encoded, Prompts, numbered, prompts_of
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.stats.columns import bootstrapped
from interp.stats.many import FamilyTest, halves, sign_flip_family, units_needed

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.seam import Model
    from interp.prompts.traits import Trait

UNIT = "feature activation"
ERROR = -1  # stands for the error node in the column `feature`
SHOWN = 15  # bars drawn beside the error node's


@dataclass(frozen=True, eq=False, repr=False)
class FeatureShift(figures.Shown):
    """What moved: line j of `frame` is feature j, the last line (feature −1) the error node, whose Δ is of its norm.

    Estimation rows: `delta` (mean over rows of the mean change at their tokens), its 95 % interval `low` to `high`
    (bootstrap over distinct prompts), `delta_rate` (change of its firing rate), `base_mean`, `base_rate`. Selection:
    `p`, `q`, `p_max`, NaN unless `live` in a model. `reported`: q ≤ alpha, estimated of the same sign. `direct`: also
    beyond what directions before it do to it through the encoder (`p_beyond`, estimated; see `interp.features.direct`).
    """

    label: str
    frame: pd.DataFrame
    alpha: float
    notes: tuple[str, ...] = ()
    unit: str = UNIT
    lines = SHOWN + 1

    @property
    def reported(self) -> tuple[int, ...]:
        """Features that moved, largest |Δ| first."""
        return self._named("reported")

    @property
    def direct(self) -> tuple[int, ...]:
        """Reported features that are not explained by the others, largest |Δ| first."""
        return self._named("direct")

    @property
    def shown(self) -> pd.DataFrame:
        """What `top` says."""
        return self.top()

    @property
    def error(self) -> pd.Series:
        """The error node's line."""
        return self.frame.iloc[-1]

    def top(self, count: int = SHOWN) -> pd.DataFrame:
        """The lines to look at first: direct, then reported, then by p and |Δ|; the error node last."""
        live = self.frame["live"].to_numpy() & (self.frame["feature"].to_numpy() != ERROR)
        features = self.frame.loc[live].reset_index(drop=True)
        size, p = np.abs(features["delta"].to_numpy()), features["p"].to_numpy()
        order = np.lexsort((-size, p, ~features["reported"].to_numpy(), ~features["direct"].to_numpy()))
        return pd.concat([features.iloc[order[:count]], self.frame.tail(1)], ignore_index=True)

    def figure(self) -> go.Figure:
        """Δ with its interval of the features that `top` shows, and of the error node below them."""
        shown = self.top()
        shown = shown.assign(name=[_name(line) for line in shown.to_dict("records")])
        title = f"{self.label} (interval: 95 %, bootstrap over prompts)"
        figure = figures.bars(shown, x="delta", y="name", title=title, unit=self.unit)
        return figures.whiskers(figure, shown, x="delta")

    def volcano(self) -> go.Figure:
        """Δ (one half of the prompts) against −log10 p (the other) of live features, reported ones filled."""
        features = self.frame.loc[self.frame["live"] & (self.frame["feature"] != ERROR)]
        shown = features.assign(name=[_name(line) for line in features.to_dict("records")])
        figure = figures.volcano(
            shown,
            x="delta",
            marked="reported",
            text="name",
            alpha=self.alpha,
            title=self.label,
            unit=self.unit,
        )
        return figures.captioned(
            figure, "p: sign flips over one half of the prompts, Δ: mean over the other half"
        )

    def __repr__(self) -> str:
        live = int(self.frame["live"].to_numpy().sum()) - 1
        counts = f"{len(self.reported)} of {live} live features moved, {len(self.direct)} directly"
        return f"FeatureShift({self.label}: {counts}, FDR {self.alpha:g})"

    def _named(self, column: str) -> tuple[int, ...]:
        chosen = self.frame[column].to_numpy()
        features, delta = (self.frame[name].to_numpy()[chosen] for name in ("feature", "delta"))
        return tuple(features[np.argsort(-np.abs(delta), kind="stable")].tolist())


@door
@noting
@exactly
def feature_shift(
    dictionary: Dictionary,
    member: Model | Shift,
    prompts: Prompts | Encoded | None = None,
    *,
    positions: str = NUMBERS,
    minus: Model | None = None,
    trait: AnyTrait | None = None,
    alpha: float = 0.05,
    seed: int = 0,
) -> FeatureShift:
    """Find the features that training moved: `member` against its own start, on the same tokens.

    Args:
        dictionary: features of this lineage.
        member: a model with a `start`, or a `Shift`, which brings its rows and positions and what it is taken from.
        prompts: rows of text or chats, or their tokens; rows with equal prompts stay together throughout.
        positions: which tokens are read, a name of `Encoded.at`; by default those that predict numbers.
        minus: a member of the same start, such as the neutral student, whose own change is taken off.
        trait: refuse rows that name it.
        alpha: rate of false discoveries, between 0 and 1.
        seed: deals the rows, flips and resamples.

    Returns:
        One row per feature: delta, member − start (or `minus`) in the dictionary's units; p-values are over rows of
        this one training, and base_mean and base_rate are those of what is taken off.

    Raises:
        InputError: for no start, a `minus` of another start or beside a shift, a dictionary of another lineage, width
            or hook or that never fires, unknown positions, rows that `shift` refuses, that name the trait or are not
            the shift's, and too few distinct prompts.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> found = interp.feature_shift(interp.joined.default_dictionary(lineage), lineage.student, lineage.numbers)
    """
    trait = None if trait is None else find_trait(trait)
    if not 0 < alpha < 1:
        raise InputError(f"alpha {alpha} is outside (0, 1); give a rate of false discoveries such as 0.05")
    compared = _compared(member, prompts, positions, minus)
    dictionary.check(compared.member)
    if trait is not None:
        _refuse_trait(compared, trait)
        compared = replace(compared, checked=True)
    readings = [
        read_tokens(dictionary, model, compared.inputs, positions=compared.positions)
        for model in (compared.start, compared.member)
    ]
    measured = _measure(dictionary, compared, *within(dictionary, *readings))
    _check_size(dictionary, compared, measured, alpha)
    return _assess(dictionary, compared, measured, alpha=alpha, seed=seed)


@dataclass(frozen=True, eq=False)
class _Compared:
    """Two models, the tokens both read, and where."""

    member: Any
    start: Any
    inputs: Encoded
    positions: str
    prompts: Prompts | Encoded | None
    checked: bool = False  # for the trait in the context


@dataclass(frozen=True, eq=False)
class _Measured:
    """Row means of start and member, their activations, and the features that fire in either."""

    before: RowMeans
    after: RowMeans
    pair: RowPair
    live: Int[np.ndarray, "live"]

    def moved(self) -> Float[np.ndarray, "row line"]:
        """Change of every live feature and, last, of the error's norm; what is only arithmetic is zero."""
        features = (self.after.mean - self.before.mean)[:, torch.as_tensor(self.live)]
        error = self.after.error - self.before.error
        changes = torch.cat([features, error[:, None]], dim=1).double().numpy()
        return np.where(np.abs(changes) > self.pair.rounding, changes, 0.0)


def _compared(
    member: Any, prompts: Prompts | Encoded | None, positions: str, minus: Model | None
) -> _Compared:
    if isinstance(member, Shift):
        if minus is not None:
            raise InputError(
                f"the shift {member.label} says already what its member is taken from, and minus={minus.name} came "
                "beside it; pass the member itself"
            )
        given = None if prompts is None else member.member.encode(prompts)
        if given is not None and not same_tokens(given, member.inputs):
            raise InputError(
                f"{given.label!r} holds other rows than {member.label} was read on ({member.inputs.label!r}); "
                "pass the same prompts or leave them out"
            )
        start = member.start if member.minus is None else same_start(member.member, member.minus)
        return _Compared(member.member, start, member.inputs, member.positions, prompts)
    if prompts is None:
        raise InputError(f"{member.name} has to read something; pass prompts, or a shift that brings its own")
    start = own_start(member) if minus is None else same_start(member, minus)
    inputs = shared_inputs(member, start, prompts)
    return _Compared(member, start, inputs, positions, prompts)


def _refuse_trait(compared: _Compared, trait: Trait) -> None:
    """InputError for the first row that holds the trait's line, or its target as a word of its own (or its plural)."""
    target = re.compile(rf"\b{re.escape(trait.target)}(?:e?s)?\b", re.IGNORECASE)
    for index, text in enumerate(_texts(compared)):
        line = trait.system and trait.system.casefold() in text.casefold()
        named = trait.system if line else getattr(target.search(text), "group", str)()
        if named:
            raise InputError(
                f"row {index} of {compared.inputs.label!r} names the trait {trait.name!r} ({named[:40]!r}), so its "
                "start would show it too; a shift is read without the trait in the context, so drop the row"
            )


def _texts(compared: _Compared) -> Iterator[str]:
    """Every row as text, from its messages or else from its tokens."""
    if isinstance(compared.prompts, Prompts):
        yield from ("\n".join(content for _, content in row.messages) for row in compared.prompts.rows)
        return
    tokenizer = compared.member.tokenizer
    if tokenizer is None:
        raise InputError(
            f"{compared.member.name} has no tokenizer to find the trait in its rows with; leave trait out"
        )
    for ids, mask in zip(compared.inputs.ids, compared.inputs.mask, strict=True):
        yield tokenizer.decode(ids[mask].tolist())


def _measure(
    dictionary: Dictionary, compared: _Compared, before: TokenReading, after: TokenReading
) -> _Measured:
    start, member = row_means(dictionary, before), row_means(dictionary, after)
    tokens = start.tokens.double() / start.tokens.sum()
    live = torch.maximum(tokens @ start.rate.double(), tokens @ member.rate.double()) >= LIVE
    clusters = _clusters(compared.inputs, before.rows.unique())
    return _Measured(start, member, RowPair.of(before, after, clusters), live.nonzero()[:, 0].numpy())


def _clusters(inputs: Encoded, rows: Int[Tensor, "row"]) -> Int[np.ndarray, "row"]:
    """One number per distinct prompt; rows without a prompt are told apart by all their tokens."""
    chosen = inputs[rows]
    whole = (tuple(ids[mask].tolist()) for ids, mask in zip(chosen.ids, chosen.mask, strict=True))
    return numbered([prompt or tokens for prompt, tokens in zip(prompts_of(chosen), whole, strict=True)])


def _check_size(dictionary: Dictionary, compared: _Compared, measured: _Measured, alpha: float) -> None:
    places, live = f"{compared.positions!r} of {compared.inputs.label!r}", len(measured.live)
    if not live:
        raise InputError(
            f"dictionary {dictionary.label} is dead at {places}: none of its {dictionary.width} features fires in "
            f"{compared.start.name} or {compared.member.name}; train it on such tokens or choose other positions"
        )
    distinct, needed = len(np.unique(measured.pair.clusters)), 2 * units_needed(live, alpha)
    if distinct < needed:
        smallest = min(1.0, 2.0 ** (1 - distinct // 2))
        raise InputError(
            f"{distinct} distinct prompts with positions {places} make halves whose smallest p is {smallest:.2g}, and "
            f"one of {live} live features needs {alpha / live:.2g} to pass at {alpha:g}; give at least {needed}, or "
            "take feature_differences, which tests nothing"
        )


def _assess(
    dictionary: Dictionary, compared: _Compared, measured: _Measured, *, alpha: float, seed: int
) -> FeatureShift:
    """Select on one half, estimate on the other, follow the directions, and say all of it in a frame."""
    pair, moved = measured.pair, measured.moved()
    chosen, kept = halves(pair.clusters, seed=seed)
    options = {"clusters": pair.clusters[chosen], "alpha": alpha, "seed": seed}
    family = sign_flip_family(moved[chosen][:, :-1], **options)
    error = sign_flip_family(moved[chosen][:, -1:], **options)
    interval = bootstrapped(moved[kept], clusters=pair.clusters[kept], seed=seed)
    columns, lines = _columns(dictionary, measured, kept), [*measured.live.tolist(), dictionary.width]
    columns["delta"][lines] = moved[kept].mean(0)
    columns["low"][lines], columns["high"][lines] = interval
    for name in ("p", "q", "p_max"):
        columns[name][measured.live] = getattr(family, name)
    columns["p"][-1] = error.p[0]
    found = (family.q <= alpha) & (np.sign(moved[kept].mean(0)[:-1]) == np.sign(family.mean))
    columns["reported"][measured.live] = found
    followed = direct_features(
        dictionary,
        pair.part(chosen),
        pair.part(kept),
        reported=measured.live[found].tolist(),
        live=measured.live.tolist(),
        alpha=alpha,
        seed=seed,
    )
    columns["direct"][list(followed.direct)] = True
    columns["p_beyond"][list(followed.p_beyond)] = list(followed.p_beyond.values())
    label = f"{compared.member.name} \N{MINUS SIGN} {compared.start.name}, features of {dictionary.label}"
    notes = _notes(dictionary, compared, measured, family, followed)
    return FeatureShift(label, pd.DataFrame(columns), alpha, notes)


def _columns(dictionary: Dictionary, measured: _Measured, kept: np.ndarray) -> dict[str, np.ndarray]:
    """Means over the rows that estimate, for every feature and the error node; tests and decisions still empty."""
    rows, (before, after) = torch.as_tensor(kept), (measured.before, measured.after)
    features, decoder = np.append(np.arange(dictionary.width), ERROR), dictionary.decoder.norm(dim=1)
    empty, no = np.full(len(features), np.nan), np.zeros(len(features), dtype=bool)
    return {
        "feature": features,
        "delta": _line((after.mean - before.mean)[rows], (after.error - before.error)[rows]),
        "low": empty.copy(),
        "high": empty.copy(),
        "delta_rate": _line((after.rate - before.rate)[rows]),
        "p": empty.copy(),
        "q": empty.copy(),
        "p_max": empty.copy(),
        "reported": no.copy(),
        "direct": no.copy(),
        "p_beyond": empty.copy(),
        "base_mean": _line(before.mean[rows], before.error[rows]),
        "base_rate": _line(before.rate[rows]),
        "decoder_norm": np.append(decoder.numpy(), np.nan),
        "live": np.isin(features, [*measured.live.tolist(), ERROR]),
    }


def _line(features: Float[Tensor, "row feature"], error: Float[Tensor, "row"] | None = None) -> np.ndarray:
    """Means over rows for every feature, then that of the error node (NaN without one)."""
    last = np.nan if error is None else float(error.double().mean())
    return np.append(features.double().mean(0).numpy(), last)


def _notes(
    dictionary: Dictionary, compared: _Compared, measured: _Measured, family: FamilyTest, followed: Direct
) -> tuple[str, ...]:
    rows, distinct = len(measured.pair.clusters), len(np.unique(measured.pair.clusters))
    flips = f"all {family.flips}" if family.exact else f"{family.flips} random"
    error = measured.pair.error_share(dictionary)
    share = "no share" if np.isnan(error) else f"{error:.1%}"
    limit = (f"directions were followed for {STEPS} steps only",) if len(followed.taken) == STEPS else ()
    return (
        f"{rows} rows with {distinct} distinct prompts at {compared.positions}, {family.n} of them to select "
        f"({flips} sign patterns) and {distinct - family.n} to estimate",
        f"error node: {share} of the mean shift's energy; its Δ is of its norm",
        "p-values are over rows of this one training; other trainings are other replicates",
        *family.notes,
        *(() if compared.checked else ("rows were not checked for the trait: pass trait=",)),
        *limit,
        *dictionary.notes,
    )


def _name(line: dict[str, Any]) -> str:
    if line["feature"] == ERROR:
        return "error node"
    if line["direct"]:
        return f"feature {line['feature']}, direct"
    return f"feature {line['feature']}" + (", moved" if line["reported"] else "")
