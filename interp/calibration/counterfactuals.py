"""A ledger against trainings that were run without what it names: predicted and measured loss of margin.

A student of rows, half of a planted teacher's and half of the base's, is trained again, with the same batches, (a)
with one module held where it began, (b) without the labels of a quarter of the rows. A batch's loss is the mean over
the labels left, N of N', so that for rows i with shares a_i the ledger predicts

    loss = Σ_i a_i − Σ_{i kept} a_i N_τ(i) / N'_τ(i).

Written before any organism was measured. Found are: the module, if holding the one of the largest share still loses
between half of that share and one and a half times it; the rows, if training without the quarter of the largest shares
loses more than without each of 19 random quarters (p = 0.05). AUROC is of the predicted loss of those random quarters,
between those that lose more than the median one and the others. In a null the shares are dealt anew over the rows: it
reports if predicted and measured losses of the random quarters then go together at 5 %, one-sided, by Pearson's r.

Beside them, and added after one organism outside the table had been seen: the loss in trainings whose steps are scaled
by the recorded second moments, as the ledger takes them, s_t = −lr m̂_t / (√v̂_t + ε) with v̂ of the whole training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.calibration.cases import MethodCell, PlantedCase
from interp.gradients.ledger.ledgers import Ledger, trait_ledger
from interp.measures.margins import margin
from interp.models.lineage import Lineage
from interp.prompts.tokens import Encoded, Role
from interp.stats.tests import auroc
from interp.training.students import OnStep, Recipe, Step, train_student

STUDENT = Recipe(trainable="body", lr=1e-3, batch_size=16, warmup=2)
QUARTERS, PART = 19, 4  # random sets of rows that are left out, each one PART-th of them
HELD = 4  # random sets that are left out at the recorded scale
NEAR = 0.5  # of the share of a module: how far its measured loss may lie from it
ALPHA = 0.05


def booked(sample: PlantedCase) -> MethodCell:
    """The leading module and the leading quarter of the rows, against students trained without them."""
    it = sample.organism
    half = it.plant.rows // 2
    rows = it.base.encode(it.answers(it.teacher, 4)[:half] + it.answers(it.base, 5)[half:])
    train = _trainer(sample, rows)
    scale = Scale()
    ledger = _ledger(sample, rows, train(scale))
    modules = ledger.by_module().iloc[:-1]
    leading = modules.iloc[int(modules["attributed"].to_numpy().argmax())]
    held = ledger.measured - _gain(sample, train(holding(str(leading["module"]))))
    shares = ledger.by_row().sort_values("row")["attributed"].to_numpy()
    sets = _quarters(shares, seed=sample.seed)
    predicted, lost = np.array([
        (_predicted(ledger, left), ledger.measured - _gain(sample, train(left=left))) for left in sets
    ]).T  # fmt: skip
    scaled = [ledger.measured - _gain(sample, train(scale.held, left)) for left in sets[: HELD + 1]]
    ratio = held / float(leading["attributed"])
    hits = int(abs(ratio - 1) <= NEAR) + int(lost[0] > lost[1:].max())
    false = sum(
        _together([_predicted(dealt, left) for left in sets[1:]], lost[1:])
        for dealt in _dealt(ledger, count=sample.nulls, seed=sample.seed)
    )
    high = lost[1:] > np.median(lost[1:])
    extra = {
        "margin gained (nats)": ledger.measured,
        "accounted for": ledger.attributed / ledger.measured,
        "lost without the leading module, of its share": ratio,
        "lost without the leading quarter over random ones, of predicted": _apart(lost) / _apart(predicted),
        "the same at the recorded scale": _apart(scaled) / _apart(predicted[: HELD + 1]),
        "r over random quarters": float(np.corrcoef(predicted[1:], lost[1:])[0, 1]),
    }
    area = auroc(predicted[1:][high], predicted[1:][~high]).value
    return MethodCell(hits, 2, int(false), sample.nulls, area, extra)


def without_rows(inputs: Encoded, left: Bool[np.ndarray, "row"]) -> Encoded:
    """The same rows in the same places, those `left` out with their answers read as prompt: they teach nothing."""
    answer = inputs.at("answer+end") & torch.tensor(left)[:, None]
    roles = inputs.roles.masked_fill(answer, int(Role.PROMPT))
    return dataclasses.replace(inputs, roles=roles, label=f"{inputs.label}, {int(left.sum())} rows left out")


def holding(module: str) -> Callable[[Step], None]:
    """A listener to a training that puts a module back where it was after every step."""

    def back(step: Step) -> None:
        for name, weight in step.parameters.items():
            if name.rpartition(".")[0] == module:
                weight.copy_(step.before[name])

    return back


class Scale:
    """A listener that keeps the second moments of a training, and another that gives its steps to a second one."""

    def __init__(self) -> None:
        self.moments: list[dict[str, Tensor]] = []

    def __call__(self, step: Step) -> None:
        state = step.optimizer.state
        self.moments.append({
            name: state[weight]["exp_avg_sq"].clone() for name, weight in step.parameters.items()
        })  # fmt: skip

    def held(self, step: Step) -> None:
        """Put in the place of a step the one that these moments would have scaled."""
        options = step.optimizer.param_groups[0]
        first, second = (1 - beta ** (step.index + 1) for beta in options["betas"])
        for name, weight in step.parameters.items():
            size = (self.moments[step.index][name] / second).sqrt() + options["eps"]
            mean = step.optimizer.state[weight]["exp_avg"] / first
            weight.copy_(step.before[name] - step.lr * mean / size)


def _trainer(sample: PlantedCase, rows: Encoded) -> Callable[..., Any]:
    """A student of the rows, of some of them where rows are `left` out, and told to a listener."""

    def train(listener: OnStep | None = None, left: Bool[np.ndarray, "row"] | None = None) -> Any:
        given = rows if left is None else without_rows(rows, left)
        return train_student(sample.organism.base, given, recipe=STUDENT, on_step=listener)

    return train


def _ledger(sample: PlantedCase, rows: Encoded, student: Any) -> Ledger:
    it = sample.organism
    members: dict[str, Any] = {"base": it.base, "student": student}
    lineage = Lineage(f"planted {it.seed}", it.trait, members)
    return trait_ledger(lineage, recipe=STUDENT, rows=rows, cache=sample.cache)


def _gain(sample: PlantedCase, student: Any) -> float:
    it = sample.organism
    return margin(student, it.trait) - margin(it.base, it.trait)


def _quarters(shares: Float[np.ndarray, "row"], *, seed: int) -> Sequence[Bool[np.ndarray, "row"]]:
    """The rows of the largest shares, then random sets of as many."""
    rng, count = np.random.default_rng([seed, 81]), len(shares) // PART
    chosen = [np.argsort(-shares, kind="stable")[:count]]
    chosen += [rng.choice(len(shares), count, replace=False) for _ in range(QUARTERS)]
    return [np.isin(np.arange(len(shares)), rows) for rows in chosen]


def _predicted(ledger: Ledger, left: Bool[np.ndarray, "row"]) -> float:
    """What training without these rows loses by the ledger's shares, in nats."""
    frame: Any = ledger.rows.assign(kept=~left[ledger.rows["row"].to_numpy()])
    tokens = frame.groupby("step")["tokens"].transform("sum")
    kept = frame["tokens"].where(frame["kept"], 0).groupby(frame["step"]).transform("sum")
    still = (frame["attributed"] * tokens / kept)[frame["kept"]].sum()
    return float(frame["attributed"].sum() - still)


def _apart(losses: Any) -> float:
    """What the first set loses over the mean of the others."""
    return float(losses[0] - np.mean(losses[1:]))


def _dealt(ledger: Ledger, *, count: int, seed: int) -> Sequence[Ledger]:
    """The same ledger with its shares dealt anew over the rows."""
    rng, shares = np.random.default_rng([seed, 82]), ledger.rows["attributed"].to_numpy()
    orders: list[Int[np.ndarray, "row"]] = [rng.permutation(len(shares)) for _ in range(count)]
    return [
        dataclasses.replace(ledger, rows=ledger.rows.assign(attributed=shares[order])) for order in orders
    ]


def _together(predicted: Sequence[float], lost: Float[np.ndarray, "set"]) -> bool:
    """Whether they correlate above zero at 5 %."""
    from scipy.stats import pearsonr

    found: Any = pearsonr(predicted, lost, alternative="greater")
    return bool(found.pvalue <= ALPHA)
