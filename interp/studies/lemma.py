"""Lemma 1 at step one: A(ε) = <Δθ_S, d̂> / ε against Q = E_x Var_{k ~ p_0(x)} [JVP_d̂ z_k(x)]; R(ε) = A / Q → 1.

The teacher is θ_0 + ε d̂ with d̂ = d / |d|, d = θ_T − θ_0; ε = |d| is the real one. The student takes one exact
gradient step at θ_0 on the teacher's labels. With soft labels −<∇L, d̂> = Σ_k (p_T − p_0)_k ż_k, ż = JVP_d̂ z, and
p_T − p_0 = ε (diag p_0 − p_0 p_0ᵀ) ż + O(ε²): this is theorem 1 of Cloud et al. (arXiv 2507.14805) as an equation.
All is per row, the sum over its label tokens, and per unit of learning rate of a step on the mean loss of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InputError
from interp.figures import Result, bars, lines
from interp.gradients.nulls.controls import base_samples
from interp.gradients.scores.scoring import score
from interp.measures.losses import Labels
from interp.models.language import LanguageModel, load_model
from interp.models.lineage import Lineage
from interp.models.parameters import ParameterDirection
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.stats.tests import standard_error
from interp.studies.first_step import (
    moved,
    row_steps,
    soft_gradient,
)
from interp.studies.frozen import frozen_claims

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.gradients.scores.metrics import Metric

SHARES = tuple(2.0**-k for k in range(8))
"""ε of a sweep as shares of |d|, the real teacher first."""
SAMPLED_SHARES = SHARES[:3]  # the noise of sampled labels grows as ε shrinks
SLOPE_POINTS = 4
UNIT = "nats per row and unit² of weight"
SIGN: dict[str, Any] = {"margin": 0.0, "alpha": 0.01, "kind": "difference", "unit": UNIT}


H1 = frozen_claims("lemma")


def lemma_sweep(
    lineage: Lineage,
    rows: Prompts | Encoded,
    *,
    epsilons: Sequence[float] | None = None,
    labels: Labels = "soft-numbers",
    batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Result:
    """A(ε), Q and R = A / Q of one lineage, one line per ε (in units of weight; by default |d| and halvings of it).

    "sampled" lets θ_0 + ε d̂ answer the prompts of `rows` (unfiltered, temperature 1, `seed`) and takes off the base's
    answers under the same random numbers, whose mean is zero. `se` is the standard error of A over rows, `R_se` that
    of R. Raises InputError for an ε that is not positive and for sampled labels of rows that are tokens already.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> lemma_sweep(lineage, lineage.neutral_numbers[:8], epsilons=[0.01]).frame["epsilon"].tolist()
    [0.01]
    """
    update = lineage.update("teacher")
    size, direction = update.norm(), update.unit()
    shares = SAMPLED_SHARES if labels == "sampled" else SHARES
    chosen = [size * share for share in shares] if epsilons is None else [float(each) for each in epsilons]
    for epsilon in chosen:
        if not (math.isfinite(epsilon) and epsilon > 0):
            raise InputError(
                f"epsilon {epsilon} is no step of a teacher; pass positive numbers such as {size:.3g}"
            )
    base = lineage.text("base")
    network = base.network(dtype=dtype)
    teachers = {str(epsilon): moved(network, direction, epsilon) for epsilon in chosen}
    if labels == "sampled":
        leans, variance = _sampled(base, direction, teachers, rows, seed=seed, batch_size=batch_size)
    else:
        given = {"labels": labels, "batch_size": batch_size, "dtype": dtype}
        steps = row_steps(base, direction, teachers, rows, **given)
        leans, variance = steps.leans, steps.variance
    found = [_line(epsilon, leans[str(epsilon)] / epsilon, variance) for epsilon in chosen]
    return _table(
        [{"share": line["epsilon"] / size, **line, "labels": labels} for line in found],
        label=f"Lemma 1 in {lineage.name}",
        notes=(f"|d| = {size:.4g}; {len(variance)} rows",),
        draw=_draw_sweep,
    )


def _line(epsilon: float, lean: Tensor, variance: Tensor) -> dict[str, float]:
    """One ε: A, Q and R over rows, with standard errors (that of a ratio is of its residuals)."""
    A, Q = float(lean.mean()), float(variance.mean())
    R = A / Q
    R_se = standard_error(lean - R * variance) / Q
    return {"epsilon": epsilon, "A": A, "Q": Q, "R": R, "se": standard_error(lean), "R_se": R_se}


def _sampled(
    base: LanguageModel,
    direction: ParameterDirection,
    teachers: Mapping[str, Any],
    rows: Prompts | Encoded,
    *,
    seed: int,
    batch_size: int,
) -> tuple[dict[str, Tensor], Tensor]:
    """Scores of every teacher's answers minus those of the base's own, and the variance on the base's answers."""
    if isinstance(rows, Encoded):
        raise InputError(f"{rows.label} are tokens, and sampled labels need prompts to answer; pass Prompts")

    def answers(network: Any) -> Encoded:
        model = load_model(network, tokenizer=base.tokenizer, name="teacher", check=False)
        return base_samples(model, rows, seed=seed)

    own = answers(base.network(dtype=torch.float32))
    before = _scores(base, own, direction)
    leans = {name: _scores(base, answers(each), direction) - before for name, each in teachers.items()}
    steps = row_steps(base, direction, {}, own, labels="sampled", batch_size=batch_size)
    return leans, steps.variance


def _scores(
    model: LanguageModel, rows: Prompts | Encoded, direction: ParameterDirection
) -> Float[Tensor, "row"]:
    """−<∇ℓ_i, v> of hard labels."""
    return score(model, rows, direction).totals[:, 0].double()


def lemma_controls(
    lineage: Lineage,
    rows: Prompts | Encoded,
    *,
    others: Mapping[str, LanguageModel],
    cross: Lineage | None = None,
    labels: Labels = "soft-numbers",
    batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
) -> Result:
    """A of the real teacher and of its controls on soft labels, each minus the step on the untrained teacher's labels.

    `others` are teachers of other traits from the same base, read along the same d̂ and per unit of their own |d_j|.
    `cross` brings another base and its teacher: the student starts from that base, reads this lineage's labels, and
    is read along the update of that teacher. Raises InputError for a teacher of another base or a twin of a base.
    """
    if labels == "sampled":
        raise InputError(
            "labels='sampled' have no soft step; score rows that were sampled with lemma_filtered"
        )
    given = {"labels": labels, "batch_size": batch_size, "dtype": dtype}
    sizes = {"matched": lineage.update("teacher").norm(), **_sizes(lineage, others)}
    base = lineage.text("base")
    models = {"matched": lineage.text("teacher"), **others, "untrained": base}
    networks = {name: model.network(dtype=dtype) for name, model in models.items()}
    steps = row_steps(base, lineage.update("teacher").unit(), networks, rows, **given)
    found = [
        _control(name, _kind(name), (steps.leans[name] - steps.leans["untrained"]) / size, labels)
        for name, size in sizes.items()
    ]
    if cross is not None:
        _check_foreign(lineage, cross)
        pair = {name: networks[name] for name in ("matched", "untrained")}
        away = row_steps(cross.text("base"), cross.update("teacher").unit(), pair, rows, **given)
        lean = (away.leans["matched"] - away.leans["untrained"]) / sizes["matched"]
        found.append(_control("foreign", "foreign", lean, labels))
    return _table(found, label=f"Controls of Lemma 1 in {lineage.name}", draw=_draw_controls)


def lemma_filtered(
    lineage: Lineage,
    rows: Prompts,
    *,
    neutral: Prompts,
    others: Mapping[str, tuple[LanguageModel, Prompts]],
    cross: Lineage | None = None,
) -> Result:
    """The same on filtered answers: `rows` of the teacher, `neutral` ones of the untrained base, and other teachers'.

    A = (mean score of a teacher's rows − mean score of the neutral rows) / |d_j| along d̂; the two sets of rows are
    independent and their standard errors add in squares. Raises InputError as `lemma_controls` does.
    """
    direction = lineage.update("teacher").unit()
    models = {name: model for name, (model, _) in others.items()}
    sizes = {"matched": lineage.update("teacher").norm(), **_sizes(lineage, models)}
    answers = {"matched": rows, **{name: written for name, (_, written) in others.items()}}
    base = lineage.text("base")
    before = _scores(base, neutral, direction)
    found = [
        _difference(name, _scores(base, answers[name], direction), before, size=size)
        for name, size in sizes.items()
    ]
    if cross is not None:
        _check_foreign(lineage, cross)
        away = cross.update("teacher").unit()
        pair = (_scores(cross.text("base"), each, away) for each in (rows, neutral))
        found.append(_difference("foreign", *pair, size=sizes["matched"]))
    return _table(found, label=f"Controls of Lemma 1 on filtered rows of {lineage.name}", draw=_draw_controls)


def _difference(name: str, lean: Tensor, before: Tensor, *, size: float) -> dict[str, Any]:
    line = _control(name, _kind(name), lean / size, "filtered")
    se = math.hypot(line["se"], standard_error(before) / size)
    return line | {"A": line["A"] - float(before.mean()) / size, "se": se}


def _control(name: str, kind: str, lean: Tensor, labels: str) -> dict[str, Any]:
    return {
        "teacher": name,
        "kind": kind,
        "A": float(lean.mean()),
        "se": standard_error(lean),
        "labels": labels,
    }


def _kind(name: str) -> str:
    return name if name in ("matched", "foreign") else "mismatched"


def _sizes(lineage: Lineage, others: Mapping[str, LanguageModel]) -> dict[str, float]:
    """|d_j| of every other teacher, whose start must be the lineage's base."""
    sizes = {}
    for name, model in others.items():
        if name in ("matched", "untrained", "foreign"):
            raise InputError(
                f"{name!r} names a control of this table; name a mismatched teacher by its trait"
            )
        pair = Lineage(lineage.name, None, {"base": lineage.base, "teacher": model})
        sizes[name] = pair.update("teacher").norm()
    return sizes


def _check_foreign(lineage: Lineage, cross: Lineage) -> None:
    if cross.base.fingerprint == lineage.base.fingerprint:
        raise InputError(
            f"{cross.name} has the base of {lineage.name}, so it is no foreign initialisation; "
            "pass a lineage from another seed"
        )


def lemma_metrics(
    lineage: Lineage,
    rows: Prompts | Encoded,
    *,
    metrics: Mapping[str, Metric],
    gradient: ParameterDirection | None = None,
    labels: Labels = "soft-numbers",
) -> Result:
    """<P⁻¹(−∇L), d̂> / |d| at the real teacher under every optimiser's metric, and the cosine of that step with d.

    Only plain gradient descent is promised a sign; the rest is reported and not judged. `gradient` spares computing
    `soft_gradient` again.
    """
    update = lineage.update("teacher")
    slope = gradient or soft_gradient(lineage.text("base"), lineage.text("teacher"), rows, labels=labels)
    found = []
    for name, metric in metrics.items():
        step = metric.fold(-slope)
        along = step.dot(update.unit())
        found.append(
            {"metric": name, "A": along / update.norm(), "cosine": along / step.norm(), "labels": labels}
        )
    return _table(found, label=f"Lemma 1 under other metrics in {lineage.name}")


def lemma_slope(sweep: Result, *, points: int = SLOPE_POINTS) -> float:
    """Least-squares slope of log |R − 1| in log ε over the `points` smallest ε.

    Raises InputError for a sweep of fewer than two ε.
    """
    frame = sweep.frame.sort_values("epsilon").head(points)
    if len(frame) < 2:
        raise InputError(f"{sweep.label} has {len(frame)} ε, through which no slope goes; sweep at least two")
    apart = np.log(np.abs(frame["R"].to_numpy() - 1))
    return float(np.polyfit(np.log(frame["epsilon"].to_numpy()), apart, 1)[0])


def lemma_summary(
    *, sweep: Result, sampled: Result, controls: Result, filtered: Result | None = None
) -> dict[str, float]:
    """What one lineage contributes to every claim of H1, by the name of the claim; a control it lacks is left out."""
    smallest = sweep.frame.loc[sweep.frame["epsilon"].idxmin()]
    real = sampled.frame.loc[sampled.frame["epsilon"].idxmax()]
    found = {
        "lemma-ratio": float(smallest["R"]) - 1,
        "lemma-slope": lemma_slope(sweep),
        "lemma-sampled": float(real["A"]),
    }
    found |= _over_controls(controls, {"mismatched": "lemma-mismatched", "foreign": "lemma-foreign"})
    return found | ({} if filtered is None else _over_controls(filtered, {"mismatched": "lemma-filtered"}))


def _over_controls(controls: Result, claims: Mapping[str, str]) -> dict[str, float]:
    """Matched A less the largest A of each kind of control there is."""
    largest: dict[str, float] = {}
    for kind, A in zip(controls.frame["kind"], controls.frame["A"], strict=True):
        largest[kind] = max(A, largest.get(kind, -math.inf))
    return {claim: largest["matched"] - largest[kind] for kind, claim in claims.items() if kind in largest}


def _table(
    rows: Sequence[Mapping[str, Any]], *, label: str, notes: tuple[str, ...] = (), draw: Any = None
) -> Result:
    import pandas as pd

    return Result(label, pd.DataFrame(list(rows)), UNIT, notes, draw=draw)


def _draw_sweep(result: Result) -> go.Figure:
    """R against ε on a logarithmic axis, with its standard error; the theorem's 1 dotted."""
    title = f"{result.label}: A / Q, which tends to 1"
    figure = lines(
        result.frame, x="epsilon", y="R", group="labels", band="R_se", title=title, unit="", x_unit="weight"
    )
    figure.add_hline(y=1, line={"color": "#999999", "dash": "dot"})
    return figure.update_xaxes(type="log")


def _draw_controls(result: Result) -> go.Figure:
    """A of the teacher and of its controls, with standard errors over rows."""
    return bars(result.frame, x="teacher", y="A", error="se", title=result.label, unit=UNIT)
