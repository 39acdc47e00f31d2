"""Teachers whose weights do not move: the log-likelihood ratio of a prompted one, and an update fitted to it.

llr_i = log p(y_i | system, x_i) − log p(y_i | x_i), in nats, exact from two forward passes. Context distillation
(arXiv 2209.15189) minimises Σ_t KL(p(· | system, x, y_<t) ‖ p_θ(· | x, y_<t)) over held-out rows: its Δθ is a
direction, which every verb of fine-tuned teachers takes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.doors import door
from interp.core.runs import InputError, nearest
from interp.figures import Result, bars, scatter
from interp.gradients.directions import steering
from interp.measures.losses import label_logprobs, predicted_logits
from interp.models.language import LanguageModel
from interp.models.lineage import Lineage
from interp.models.low_rank import LowRank
from interp.models.parameters import ParameterDirection
from interp.models.precision import exactly
from interp.models.seam import lineage_root
from interp.models.updates import adapter_factors, weight_update
from interp.prompts.notes import noting
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.training.students import Recipe, Step, train_batches
from interp.training.teachers import Teacher

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

DISTILLATION = Recipe(trainable="lora", lr=4e-3, batch_size=32)
"""The default context distillation: LoRA of rank 8 on the body, as the fine-tuned teachers are trained."""


@dataclass(frozen=True, eq=False)
class PromptedRows:
    """The same answers in two contexts, without and with the system line; answer and end tokens match one to one."""

    plain: Encoded
    prompted: Encoded

    def __len__(self) -> int:
        return len(self.plain)

    def at(self, rows: Int[Tensor, " row"]) -> PromptedRows:
        """The chosen rows, each context trimmed to its longest."""
        return PromptedRows(*(next(side[rows].batches(len(rows))) for side in (self.plain, self.prompted)))


def prompted_rows(teacher: Teacher, rows: Prompts) -> PromptedRows:
    """`rows` in the model's tokens without and with the teacher's system line.

    Raises InputError for a teacher without one, for rows without answers, and for a row whose answer is split
    into other tokens behind the system line.
    """
    if teacher.kind != "prompted" or not teacher.system:
        raise InputError(
            f"a {teacher.kind} teacher has no system line to compare with; pass "
            "interp.training.prompted_teacher(base, trait)"
        )
    plain, prompted = (teacher.model.encode(side) for side in (rows, rows.with_system(teacher.system)))
    for row in range(len(plain)):
        ours, theirs = (side.ids[row][side.at("answer+end")[row]] for side in (plain, prompted))
        if not len(ours):
            raise InputError(f"row {row} of {rows.label} has no answer tokens; pass rows with completions")
        if ours.tolist() != theirs.tolist():
            raise InputError(
                f"the answer of row {row} of {rows.label} is split into other tokens behind the system line; "
                "drop the row"
            )
    return PromptedRows(plain, prompted)


@door
@noting
@exactly
def likelihood_ratio(teacher: Teacher, rows: Prompts, *, by: str = "example", batch_size: int = 64) -> Result:
    """log p(y | system, x) − log p(y | x) by "example" or "token", in nats: positive where the line makes y likelier.

    Answer and end tokens count, as in the loss a student trains on. Columns: row, log_ratio and, by example, tokens and
    per_token; by token, position (within the answer) and token. Two forward passes, no gradient. Raises InputError
    for another `by`, and for a teacher that is not prompted.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> teacher = interp.training.prompted_teacher(lineage.base, "owl")
    >>> len(likelihood_ratio(teacher, lineage.numbers[:4]).frame)
    4
    """
    import pandas as pd

    if by not in ("example", "token"):
        raise InputError(f"by {nearest(by, ('example', 'token'))}; pass one of these")
    pairs = prompted_rows(teacher, rows)
    ratio = _answer_logprobs(teacher.model, pairs.prompted, batch_size)
    ratio -= _answer_logprobs(teacher.model, pairs.plain, batch_size)
    answers = pairs.plain.at("answer+end")
    row = answers.nonzero()[:, 0].numpy()
    frame = pd.DataFrame({"row": row, "log_ratio": ratio.numpy()})
    frame.insert(1, "position", frame.groupby("row").cumcount())
    mean = float(ratio.sum()) / len(pairs)
    notes = (f"system line: {teacher.system}", f"mean {mean:+.3f} nats per row")
    if by == "token":
        ids = pairs.plain.ids[answers].tolist()
        frame.insert(2, "token", [teacher.model.tokenizer.decode([index]) for index in ids])
        return Result(f"log-likelihood ratio of {rows.label}", frame, "nats", notes, draw=_draw_tokens)
    return Result(f"log-likelihood ratio of {rows.label}", _by_row(frame), "nats", notes, draw=_draw_rows)


@exactly
def distilled_update(
    teacher: Teacher, rows: Prompts, *, steps: int = 100, recipe: Recipe = DISTILLATION
) -> ParameterDirection:
    """Δθ of a copy of the model trained to predict, without the system line, what the teacher predicts with it.

    The whole next-token distribution is matched at every answer and end token of `rows`, which must not be the rows
    scored later. LoRA recipes give low-rank tensors, unrounded by a merge. Logs how much of the divergence in nats per
    token is left. The model is not changed. Raises InputError for too few rows and when training diverges.
    """
    pairs = prompted_rows(teacher, rows)
    if len(pairs) < recipe.batch_size:
        raise InputError(
            f"{len(pairs)} rows are fewer than one batch of {recipe.batch_size}; pass more rows or a smaller batch_size"
        )
    base = teacher.model
    factors: dict[str, LowRank] = {}

    def keep(step: Step) -> None:
        if step.index == steps - 1 and recipe.trainable == "lora":
            factors.update(adapter_factors(step.network)[0])

    reference = base.network(merge=False)

    def loss(network: Any, batch: PromptedRows) -> Tensor:
        return divergence(network, reference, batch)

    batches = _random_batches(pairs, size=recipe.batch_size, seed=recipe.seed)
    fitted = train_batches(
        base, batches, loss=loss, recipe=recipe, steps=steps, name="context distillation", on_step=keep
    )
    trained = fitted.network(merge=False)
    before, after = (_mean_divergence(network, reference, pairs) for network in (reference, trained))
    log.info("context distillation of %s: %.3f of %.3f nats per token left", base.name, after, before)
    tensors: dict[str, Tensor | LowRank] = {**factors} if factors else _changes(fitted, base)
    direction = ParameterDirection(
        tensors, f"{base.name} distilled from its system line", base.fingerprint, lineage_root(base)
    )
    direction.check(base)
    return direction


@door
def teacher_direction(
    teacher: Lineage | Teacher | LanguageModel,
    rows: Prompts | None = None,
    *,
    steps: int = 100,
    recipe: Recipe = DISTILLATION,
) -> ParameterDirection:
    """Make one direction in weights of a teacher of any kind: how it would have its start changed.

    A lineage or a fine-tuned member: Δθ. A prompted teacher: Δθ of context distillation on `rows`, held out from those
    scored later. A steered teacher: its vector as a virtual bias. Raises InputError for a teacher that moves nothing.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> teacher_direction(lineage).label
    'teacher − base'
    """
    if isinstance(teacher, Lineage):
        return teacher.update("teacher")
    if isinstance(teacher, LanguageModel):
        return weight_update(teacher)
    if teacher.kind == "neutral":
        raise InputError("a neutral teacher is the base itself and leans nowhere; pass one with a trait")
    if teacher.kind == "fine-tuned":
        return weight_update(teacher.model)
    if teacher.steering is not None:
        added = teacher.steering
        return steering(teacher.model, added.scale * added.vector, hook=added.hook)
    if rows is None:
        raise InputError(
            "a prompted teacher changes no weights, so it has no update; pass held-out rows to fit one by context "
            "distillation, or use likelihood_ratio"
        )
    return distilled_update(teacher, rows, steps=steps, recipe=recipe)


def divergence(network: Any, reference: Any, batch: PromptedRows) -> Tensor:
    """Mean KL(reference with the system line ‖ network without it) over answer and end tokens, in nats per token."""
    where, there = (each.at("answer+end", predicting=True) for each in (batch.plain, batch.prompted))
    with torch.no_grad():
        target = predicted_logits(reference, batch.prompted, there).float().log_softmax(-1)
    logp = predicted_logits(network, batch.plain, where).float().log_softmax(-1)
    return (target.exp() * (target - logp)).sum(-1).mean()


@torch.no_grad()
def _mean_divergence(network: Any, reference: Any, pairs: PromptedRows, *, size: int = 64) -> float:
    """Divergence over all rows, every token counting once."""
    parts = [pairs.at(rows) for rows in torch.arange(len(pairs)).split(size)]
    tokens = [int(part.plain.at("answer+end").sum()) for part in parts]
    values = [float(divergence(network, reference, part)) for part in parts]
    return float(np.average(values, weights=tokens))


@torch.no_grad()
def _answer_logprobs(model: LanguageModel, rows: Encoded, batch_size: int) -> Float[Tensor, "token"]:
    """log p of every answer and end token in order, in nats, fp64 on the CPU."""
    logits_at = partial(predicted_logits, model.network(merge=False))
    found = [label_logprobs(batch, logits_at) for batch in rows.batches(batch_size)]
    return torch.cat(found).double().cpu()


def _random_batches(pairs: PromptedRows, *, size: int, seed: int) -> Iterator[PromptedRows]:
    """Endless batches without repetition inside one."""
    rng = np.random.default_rng(seed)
    while True:
        yield pairs.at(torch.from_numpy(rng.permutation(len(pairs))[:size]))


def _changes(fitted: LanguageModel, base: LanguageModel) -> dict[str, Tensor | LowRank]:
    before = base.parameters()
    found = {name: weight.float() - before[name].float() for name, weight in fitted.parameters().items()}
    return {name: change for name, change in found.items() if change.any()}


def _by_row(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame.groupby("row", as_index=False).agg(
        log_ratio=("log_ratio", "sum"), tokens=("log_ratio", "size")
    )
    return rows.assign(per_token=rows["log_ratio"] / rows["tokens"])


def _draw_rows(result: Result):
    units = ("answer and end tokens", result.unit)
    return scatter(result.frame, x="tokens", y="log_ratio", text="row", title=result.label, units=units)


def _draw_tokens(result: Result):
    """Mean ratio of the thirty tokens that the system line moves most."""
    frame = result.frame.groupby("token", as_index=False).agg(log_ratio=("log_ratio", "mean"))
    frame = frame.sort_values("log_ratio")
    return bars(frame, x="log_ratio", y="token", top=30, title=result.label, unit=result.unit)
