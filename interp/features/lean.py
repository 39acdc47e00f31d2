"""Where the student's loss pulls the features: u_j = mean over rows of Σ_t <−∂ℓ_i/∂h_t, s(h_t) d_j>.

ℓ_i is the student's loss on row i at the weights it starts from, in nats: u_j > 0 means that a step on the rows wants
more of feature j. With the teacher's shift Δh on the same tokens and g = −∂ℓ/∂h, the pull toward it splits exactly,
Σ_t <g_t, Δh_t> = Σ_j Σ_t Δ(s f_j)_t <g_t, d_j> + Σ_t <g_t, Δe_t>, the error node's part being the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.activations.shifts import shared_inputs
from interp.core.doors import door
from interp.core.runs import InputError
from interp.features.dictionary import Dictionary
from interp.features.reading import LIVE
from interp.features.residual_gradients import Pulled, ResidualNetwork, pulled
from interp.figures import Shown, captioned, scatter
from interp.models.precision import exactly
from interp.models.seam import check_pair
from interp.prompts.notes import noting
from interp.prompts.text import Encoded, Prompts, grouped, prompts_of
from interp.stats.tests import standard_error

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.language import LanguageModel

ERROR = -1  # stands for the error node in the column `feature`
UNIT = "nats per unit of feature"
MOVED = "shift in the teacher"
ASKED = "What the rows ask of each feature, and how far the teacher moved it"
MARKS = {"teacher": "reported as moved", "base": "not reported"}
Pairs = Sequence[tuple[list[int], list[int]]]  # rows of ours and of the neutral ones that answer a prompt


@dataclass(frozen=True, eq=False, repr=False)
class FeatureLean(Shown):
    """The lean of every feature and, on the last line (feature −1), of the error's own direction e / |e|.

    `frame`: feature, lean (u_j), standard_error (over rows), per_token (u_j over the tokens read), rate (share of
    tokens at which it fires in the model), mean (of its activation), decoder_norm, live; with neutral rows also
    neutral_lean, difference and difference_error, paired by prompt; with a teacher also teacher_shift (mean change of
    s f_j on all these tokens, the neutral ones too) and contribution to `alignment`.
    `by_prompt` [prompt, feature] is what the nulls exchange: mean leans of rows with equal prompts,
    `neutral_by_prompt` those of the same prompts; without neutral rows `by_prompt` are the rows' own.
    `alignment` is the mean of Σ_t <−∂ℓ/∂h, Δh>, in nats; all sums run over `positions`. `inputs` are the rows read, and
    the neutral ones.
    """

    label: str
    frame: pd.DataFrame
    by_prompt: Float[Tensor, "prompt feature"] = field(repr=False)
    neutral_by_prompt: Float[Tensor, "prompt feature"] | None = field(repr=False, default=None)
    alignment: float = float("nan")
    notes: tuple[str, ...] = ()
    positions: str = "all"
    inputs: tuple[Encoded, ...] = field(repr=False, default=())
    unit: str = UNIT

    @property
    def live(self) -> Any:
        """Numbers of the features that fire at these tokens, in the model or its teacher."""
        features, live = self.frame["feature"].to_numpy(), self.frame["live"].to_numpy()
        return features[live & (features != ERROR)]

    @property
    def contrast(self) -> Float[np.ndarray, "prompt feature"]:
        """Per-prompt leans in fp64, minus the paired neutral rows' if given."""
        ours, neutral = self.by_prompt.double(), self.neutral_by_prompt
        return (ours if neutral is None else ours - neutral.double()).numpy()

    @property
    def residual(self) -> float:
        """What features and error node leave of the alignment: rounding, unless the input is normalised.

        Without a teacher NaN.
        """
        if "contribution" not in self.frame:
            return float("nan")
        return self.alignment - float(self.frame["contribution"].to_numpy().sum())

    @property
    def error_share(self) -> float:
        """The error node's part of the alignment with the teacher's shift; NaN where there is none."""
        if "contribution" not in self.frame or self.alignment == 0:
            return float("nan")
        return float(self.frame["contribution"].iloc[-1]) / self.alignment

    @property
    def shown(self) -> pd.DataFrame:
        """Live features and the error node, largest lean first."""
        ordered = self.frame.sort_values("lean", key=np.abs, ascending=False, kind="stable")
        return ordered.loc[ordered["live"]]

    def figure(self, *, reported: Sequence[int] = ()) -> go.Figure:
        """Lean against the teacher's shift, a point per live feature, the `reported` ones in the teacher's colour.

        InputError without a teacher.
        """
        if "teacher_shift" not in self.frame:
            raise InputError("the lean was read without a teacher to draw it against; pass teacher=")
        column = "difference" if "difference" in self.frame else "lean"
        asked = "lean of the rows, less neutral ones" if column == "difference" else "lean of the rows"
        shown = self.frame.loc[self.frame["feature"].isin(self.live)].rename(
            columns={column: asked, "teacher_shift": MOVED}
        )
        shown = shown.assign(
            name=[f"feature {feature}" for feature in shown["feature"]],
            reported=np.where(np.isin(shown["feature"], list(reported)), "teacher", "base"),
        )
        colour = "reported" if len(reported) else None
        units = (UNIT, "feature activation")
        figure = scatter(shown, title=ASKED, x=asked, y=MOVED, colour=colour, text="name", units=units)
        figure.for_each_trace(lambda trace: trace.update(name=MARKS.get(trace.name, trace.name)))
        return captioned(figure, self._said)

    def __repr__(self) -> str:
        return f"FeatureLean({self.label}: {self._said})"

    @property
    def _said(self) -> str:
        rows, aligned = len(self.by_prompt), ""
        if np.isfinite(self.alignment):
            aligned = f", {self.alignment:+.3g} nats toward the teacher"
            if self.alignment:
                aligned += f", error node {self.error_share:.0%} of it"
        return f"{len(self.live)} live features, {rows} prompts{aligned}"


@door
@noting
@exactly
def feature_lean(
    dictionary: Dictionary,
    model: LanguageModel,
    rows: Prompts | Encoded,
    *,
    teacher: LanguageModel | None = None,
    neutral: Prompts | Encoded | None = None,
    positions: str = "all",
    batch_size: int = 64,
) -> FeatureLean:
    """Measure which features a training step on `rows` would raise, by the gradient of the student's loss.

    Args:
        dictionary: features of the residual stream, of this lineage.
        model: a student's start, at which the step is taken.
        rows: rows with answers, or their tokens.
        teacher: its shift on the same tokens is split over the features, too.
        neutral: rows of a neutral teacher, paired by prompt and subtracted.
        positions: which tokens the sums run over, a name of `Encoded.at`.
        batch_size: rows per forward pass.

    Returns:
        `FeatureLean`, one row per feature and the error node's last: lean in nats per unit of the feature, positive
        when the step wants more of it.

    Raises:
        InputError: for rows without answers, without a token at `positions` or (`Prompts`) with a system message, a
            hook off the residual stream, a dictionary of another lineage, a teacher that is no relative or a twin,
            neutral rows without a common prompt, and a loss that is not finite.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> sae = interp.joined.default_dictionary(lineage)
        >>> interp.feature_lean(sae, lineage.base, lineage.numbers[:8]).frame.columns[:3].tolist()
        ['feature', 'lean', 'standard_error']
    """
    dictionary.check(model)
    if teacher is not None:
        dictionary.check(teacher)
        check_pair(teacher, model)
    network = ResidualNetwork.of(model, dictionary.hook)
    inputs = shared_inputs(model, teacher or model, rows)
    options: dict[str, Any] = {"teacher": teacher, "positions": positions, "batch_size": batch_size}
    both = (inputs,)
    if neutral is None:
        found = _lean(dictionary, inputs, lean_sums(dictionary, network, inputs, **options))
    else:
        other = shared_inputs(model, teacher or model, neutral)
        both, pairs = (inputs, other), _shared_prompts(inputs, other)
        ours, theirs = (lean_sums(dictionary, network, each, **options) for each in both)
        found = _lean(dictionary, inputs, ours, theirs, pairs)
    label = f"rows of {inputs.label} at {model.name}, features of {dictionary.label}"
    return replace(found, label=label, positions=positions, inputs=both)


class LeanSums:
    """Leans by row, the error node's last, and what the alignment is made of, summed over rows in fp64.

    `fired` and `fired_in_teacher` count tokens at which each feature fires, `activation` is Σ_t f_j, `shift` Σ_t
    Δ(s f_j), `contribution` Σ_t Δ(s f_j) <g, d_j> and, last, Σ_t <g, Δe>; `compared` says whether a teacher was read.
    """

    def __init__(self, rows: int, width: int, *, compared: bool) -> None:
        self.by_row: Float[Tensor, "row node"] = torch.zeros(rows, width + 1)
        self.fired, self.activation = torch.zeros(2, width, dtype=torch.float64)
        self.fired_in_teacher, self.shift = torch.zeros(2, width, dtype=torch.float64)
        self.contribution: Float[Tensor, "node"] = torch.zeros(width + 1, dtype=torch.float64)
        self.tokens, self.alignment, self.compared = 0, 0.0, compared


def lean_sums(
    dictionary: Dictionary,
    network: ResidualNetwork,
    inputs: Encoded,
    *,
    teacher: LanguageModel | None = None,
    positions: str = "all",
    batch_size: int = 64,
) -> LeanSums:
    """Leans of all rows at a network, its unembedding as it is there.

    Raises InputError where no row has a token at `positions`.
    """
    found = LeanSums(len(inputs), dictionary.width, compared=teacher is not None)
    for part in pulled(network, inputs, batch_size=batch_size):
        chosen = part.batch.at(positions)
        found.by_row[part.rows, :-1] = row_leans(dictionary, part, chosen).cpu()
        after = None if teacher is None else teacher.run(part.batch, hooks=(dictionary.hook,))
        h_teacher = None if after is None else after[dictionary.hook].detach().to(part.h)[chosen]
        _take(
            found, dictionary, part.rows[chosen.nonzero()[:, 0]], part.h[chosen], part.pull[chosen], h_teacher
        )
    if not found.tokens:
        raise InputError(f"{inputs.label} has no token at {positions!r}; name positions that its rows have")
    return found


def mean_lean(
    dictionary: Dictionary, network: ResidualNetwork, inputs: Sequence[Encoded], *, positions: str = "all"
) -> Float[np.ndarray, "feature"]:
    """u_j alone: the mean over the rows or, of two sets of rows, the mean difference over the prompts both hold."""
    leans = []
    for each in inputs:
        by_row = torch.zeros(len(each), dictionary.width)
        for part in pulled(network, each):
            by_row[part.rows] = row_leans(dictionary, part, part.batch.at(positions)).cpu()
        leans.append(by_row)
    if len(inputs) > 1:
        pairs = _shared_prompts(inputs[0], inputs[1])
        ours, theirs = by_shared_prompt(leans[0], leans[1], pairs)
        return (ours - theirs).double().mean(0).numpy()
    return leans[0].double().mean(0).numpy()


def row_leans(
    dictionary: Dictionary, part: Pulled, chosen: Bool[Tensor, "example pos"]
) -> Float[Tensor, "example feature"]:
    """Σ_t <g_t, s(h_t) d_j> over the chosen tokens: summed first, since d_j is the same for all."""
    weight = dictionary.scale(part.h) * chosen.to(part.h.device)[..., None]
    summed = (part.pull * weight).sum(1)
    return (summed @ dictionary.decoder.to(summed).T).float()


def _take(
    found: LeanSums,
    dictionary: Dictionary,
    rows: Int[Tensor, "token"],
    h: Float[Tensor, "token d_in"],
    g: Float[Tensor, "token d_in"],
    h_teacher: Float[Tensor, "token d_in"] | None,
) -> None:
    """Add the tokens of a batch, as many at a time as memory allows."""
    found.tokens += len(h)
    size = dictionary.rows_at_once()
    for part in (slice(start, start + size) for start in range(0, len(h), size)):
        features, rebuilt = dictionary.split(h[part])
        error = h[part] - rebuilt
        along = (g[part] * error).sum(1) / error.norm(dim=1).clamp_min(torch.finfo(error.dtype).tiny)
        found.by_row[:, -1].index_add_(0, rows[part], along.float().cpu())
        found.fired += (features > 0).float().sum(0).cpu()
        found.activation += features.sum(0).cpu()
        if h_teacher is not None:
            _compare(found, dictionary, h[part], g[part], h_teacher[part], features, error)


def _compare(
    found: LeanSums,
    dictionary: Dictionary,
    h: Float[Tensor, "token d_in"],
    g: Float[Tensor, "token d_in"],
    after: Float[Tensor, "token d_in"],
    features: Float[Tensor, "token feature"],
    error: Float[Tensor, "token d_in"],
) -> None:
    """Add the parts of the alignment with the teacher's activations `after`."""
    theirs, rebuilt = dictionary.split(after)
    found.fired_in_teacher += (theirs > 0).float().sum(0).cpu()
    moved = theirs * dictionary.scale(after) - features * dictionary.scale(h)
    found.shift += moved.sum(0).cpu()
    by_feature = ((moved.to(g).T @ g) * dictionary.decoder.to(g)).sum(1)
    by_error = (g * (after - rebuilt - error)).sum()
    found.contribution += torch.cat([by_feature, by_error[None]]).cpu()
    found.alignment += float((g * (after - h)).sum())


def _lean(
    dictionary: Dictionary,
    inputs: Encoded,
    ours: LeanSums,
    theirs: LeanSums | None = None,
    pairs: Pairs = (),
) -> FeatureLean:
    n = len(inputs)
    both = [ours] if theirs is None else [ours, theirs]
    tokens = sum(each.tokens for each in both)
    by_row = ours.by_row.double().numpy()
    fired = sum(each.fired.numpy() for each in both) / tokens
    frame = pd.DataFrame(
        {
            "feature": [*range(dictionary.width), ERROR],
            "lean": by_row.mean(0),
            "standard_error": standard_error(by_row.T),
            "per_token": by_row.sum(0) / ours.tokens,
            "rate": np.append(fired, np.nan),
            "mean": np.append(sum(each.activation.numpy() for each in both) / tokens, np.nan),
            "decoder_norm": np.append(dictionary.decoder.norm(dim=1).numpy(), np.nan),
            "live": np.append(fired >= LIVE, True),
        }
    )
    if ours.compared:
        in_teacher = sum(each.fired_in_teacher.numpy() for each in both) / tokens
        frame["live"] |= np.append(in_teacher >= LIVE, True)
        moved = sum(each.shift.numpy() for each in both) / tokens
        frame["teacher_shift"] = np.append(moved, np.nan)
        frame["contribution"] = ours.contribution.numpy() / n
    by_prompt, neutral_by_prompt = ours.by_row, None
    if theirs is not None:
        by_prompt, neutral_by_prompt = by_shared_prompt(ours.by_row, theirs.by_row, pairs)
        differences = (by_prompt - neutral_by_prompt).double().numpy()
        frame["neutral_lean"] = neutral_by_prompt.double().mean(0).numpy()
        frame["difference"] = differences.mean(0)
        frame["difference_error"] = standard_error(differences.T)
        neutral_by_prompt = neutral_by_prompt[:, :-1]
    return FeatureLean(
        inputs.label,
        frame,
        by_prompt[:, :-1],
        neutral_by_prompt,
        ours.alignment / n if ours.compared else float("nan"),
        (_about(ours, n, pairs), *dictionary.notes),
    )


def by_shared_prompt(
    ours: Float[Tensor, "row node"], theirs: Float[Tensor, "other node"], pairs: Pairs
) -> tuple[Float[Tensor, "prompt node"], Float[Tensor, "prompt node"]]:
    """Means over the rows that answer each prompt, of ours and of the neutral ones."""
    sides = zip((ours, theirs), zip(*pairs, strict=True), strict=True)
    first, second = (torch.stack([leans[rows].mean(0) for rows in side]) for leans, side in sides)
    return first, second


def _about(ours: LeanSums, rows: int, pairs: Pairs) -> str:
    paired = f", {len(pairs)} prompts shared with the neutral rows" if pairs else ""
    return f"{rows} rows, {ours.tokens} tokens{paired}, of one lineage; other trainings are other replicates"


def _shared_prompts(inputs: Encoded, other: Encoded) -> Pairs:
    """For every prompt that both hold, the rows of each that answer it."""
    ours, theirs = (grouped(prompts_of(each)) for each in (inputs, other))
    pairs = [(rows, theirs[prompt]) for prompt, rows in ours.items() if prompt in theirs]
    if not pairs:
        raise InputError(
            f"{other.label} and {inputs.label} have no prompt in common; pass the neutral teacher's answers to the "
            "same prompts"
        )
    return pairs
