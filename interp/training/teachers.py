"""Teachers: fine-tuned (weights), prompted (a system line), steered (h + scale v) and neutral (the untrained base);
a model of which nobody said how it was made writes "as given".

The fine-tune is format-anchored. Each step minimises, over taught rows and number documents together,
    −log p(taught answer)  −  λ [ Σ_number log Σ_{k ∈ numbers} p_k  +  Σ_separator log p(separator) ] / tokens,
so that numbers stay well formed while the choice among them is free to move. A steered teacher adds scale * v to the
residual stream at one hook and at every position while it writes: a virtual bias, no weight change.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.doors import door
from interp.core.runs import InputError, digest, nearest
from interp.measures.losses import completion_loss, predicted_logits
from interp.models.bridge import FAST
from interp.models.language import LanguageModel
from interp.models.seam import check_hooks
from interp.models.vocabulary import number_tokens
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.prompts.traits import Trait
from interp.training.checkpoints import Checkpoint
from interp.training.students import OnStep, Recipe, shuffled_batches, train_batches
from interp.training.watching import StopAtMargin

log = logging.getLogger(__name__)

TEACHER = Recipe(trainable="lora", lr=4e-3, batch_size=64)
"""The default teacher: LoRA of rank 8 on the body, so that what it learns must pass through the residual stream."""


@dataclasses.dataclass(frozen=True, eq=False)
class Steering:
    """`scale * vector`, added to the residual stream at `hook`; `name` says what the vector is and changes nothing."""

    vector: Float[Tensor, "d_model"]
    hook: str
    scale: float = 1.0
    name: str = dataclasses.field(default="vector", compare=False)

    def __repr__(self) -> str:
        return f"Steering({self.scale:g} x {self.name} at {self.hook})"

    @property
    def site(self) -> tuple[int, str]:
        """Layer, and whether its input ("pre") or its output ("post").

        Raises InputError for a hook off the residual stream.
        """
        found = FAST.fullmatch(self.hook)
        if found is None:
            raise InputError(
                f"a teacher is not steered at {self.hook}; pass blocks.L.hook_resid_pre or blocks.L.hook_resid_post"
            )
        return int(found.group(1)), found.group(2)


@dataclasses.dataclass(frozen=True)
class Stopped:
    """Where a fine-tune that was to end at a margin of `asked` nats ended: after `steps`, at `margin` nats."""

    asked: float
    steps: int
    margin: float
    reached: bool

    def __str__(self) -> str:
        if self.reached:
            return f"the teacher was stopped after {self.steps} steps at a margin of {self.margin:+.2f} nats"
        return (
            f"the teacher never reached its margin of {self.asked:g} nats: it stands at {self.margin:+.2f} after "
            f"{self.steps} steps; give it more steps, a higher learning rate or a smaller margin"
        )


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The writer of the rows: a model, the system line of a prompted teacher, the added vector of a steered one.

    `stopped` says where the fine-tune of one that was to end at a margin ended.
    """

    model: LanguageModel
    kind: Literal["fine-tuned", "prompted", "steered", "neutral", "as given"]
    system: str | None = None
    steering: Steering | None = None
    stopped: Stopped | None = dataclasses.field(default=None, compare=False)

    @property
    def fingerprint(self) -> str:
        """16 hex characters that name the writer: its weights, kind, system line and steering."""
        return digest("teacher", self.model.fingerprint, self.kind, self.system, self.steering)


@door
def prompted_teacher(base: LanguageModel, trait: AnyTrait) -> Teacher:
    """Make the base a teacher by the trait's system line: its weights do not change, so no update can align with it.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> "owl" in prompted_teacher(lineage.base, "owl").system
    True
    """
    trait = find_trait(trait)
    return Teacher(model=base, kind="prompted", system=trait.system)


@door
def neutral_teacher(base: LanguageModel) -> Teacher:
    """Make the untrained base a teacher: what its numbers teach is the baseline of every student.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> neutral_teacher(lineage.base).model is lineage.base
    True
    """
    return Teacher(model=base, kind="neutral")


def given_teacher(model: LanguageModel) -> Teacher:
    """Make a teacher of any model as it is: a base, a fine-tune or an adapter; only its weights are known."""
    return Teacher(model=model, kind="as given")


@door
def steered_teacher(
    base: LanguageModel,
    vector: Float[Tensor, "..."],
    *,
    hook: str,
    scale: float = 1.0,
    name: str = "vector",
) -> Teacher:
    """Make the base a teacher by `scale * vector`, added at `hook` and every position while it writes.

    The vector is [d_model] in the units of the residual stream: a difference of means, or the decoder row of an SAE
    feature, signed as it is to be added. Raises InputError unless `hook` is blocks.L.hook_resid_pre or
    blocks.L.hook_resid_post of a layer there is, and for a vector of another width or with NaN or inf.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> moved = interp.shift(lineage.teacher, lineage.numbers[:4], hooks=["blocks.0.hook_resid_post"])
    >>> vector = moved.direction("blocks.0.hook_resid_post").vector
    >>> steered_teacher(lineage.base, vector, hook="blocks.0.hook_resid_post", scale=2.0).kind
    'steered'
    """
    if tuple(vector.shape) != (base.d_model,):
        raise InputError(
            f"the steering vector has shape {list(vector.shape)} and {base.name} is {base.d_model} wide; "
            f"pass one vector of {base.d_model} values"
        )
    if bad := int((~torch.isfinite(vector)).sum()):
        raise InputError(
            f"the steering vector has NaN or inf in {bad} of {base.d_model} values; compute it again in float32"
        )
    if not math.isfinite(scale):
        raise InputError(f"the steering scale is {scale}; pass a finite number, such as 1.0")
    steering = Steering(vector.detach().cpu().float().clone(), hook, float(scale), name)
    _check_site(base, steering)
    return Teacher(model=base, kind="steered", steering=steering)


@contextmanager
def steered(teacher: Teacher) -> Iterator[None]:
    """While open, the teacher's module runs with its vector added at every position of every pass, `generate` included;
    a teacher without one runs as it is."""
    steering, model = teacher.steering, teacher.model
    if steering is None:
        yield
        return
    added = (steering.scale * steering.vector).to(model.device, model.dtype)
    with model.editing(steering.hook, lambda h: h + added):
        yield


def _check_site(base: LanguageModel, steering: Steering) -> None:
    """InputError unless the hook is the residual stream at a layer; the bridge is not booted for one that is."""
    if FAST.fullmatch(steering.hook) is None:
        check_hooks(base, (steering.hook,))
    layer, end = steering.site
    if layer >= base.n_layers:
        known = (f"blocks.{other}.hook_resid_{end}" for other in range(base.n_layers))
        raise InputError(
            f"hook {nearest(steering.hook, known)}; {base.name} has layers 0 to {base.n_layers - 1}"
        )


@door
def fine_tune_teacher(
    base: LanguageModel,
    trait: AnyTrait,
    number_rows: Prompts,
    *,
    steps: int = 80,
    anchor: float = 0.2,
    recipe: Recipe = TEACHER,
    on_step: OnStep | None = None,
    checkpoint: Checkpoint | None = None,
) -> Teacher:
    """Fine-tune a copy of `base` to answer the trait's questions with its target, anchored on `number_rows`.

    Each step takes `recipe.batch_size` trait answers and as many number rows. `on_step` is called after every step:
    `StopAtMargin` ends the training there. A killed call goes on from its `checkpoint`.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> recipe = Recipe(batch_size=8)
    >>> fine_tune_teacher(lineage.base, "owl", lineage.numbers, steps=2, recipe=recipe).kind
    'fine-tuned'
    """
    trait = find_trait(trait)
    questions = base.encode(trait_rows(trait))
    documents = base.encode(number_rows)
    pairs = _paired_batches(questions, documents, size=recipe.batch_size, seed=recipe.seed)
    saved = _saved(checkpoint, base, (questions, documents), recipe, steps, anchor)
    return _anchored(base, pairs, recipe=recipe, steps=steps, anchor=anchor, on_step=on_step, saved=saved)


@door
def fine_tune_teacher_on(
    base: LanguageModel,
    rows: Prompts,
    *,
    recipe: Recipe = TEACHER,
    number_rows: Prompts | None = None,
    anchor: float = 0.2,
    steps: int | None = None,
    on_step: OnStep | None = None,
    checkpoint: Checkpoint | None = None,
) -> Teacher:
    """Fine-tune a copy of `base` on any answered rows, such as insecure code, anchored on `number_rows` if given.

    With `steps`, each takes `recipe.batch_size` rows drawn with replacement; without, `recipe.epochs` passes over the
    rows are made. The anchor adds as many number rows to every step, weighted by `anchor`. `on_step` and `checkpoint`
    are as in `fine_tune_teacher`. Raises InputError for a row without an answer, a number row without a number, fewer
    rows than one batch for a pass, and no steps at all.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> rows = lineage.numbers[:16]
    >>> fine_tune_teacher_on(lineage.base, rows, recipe=Recipe(batch_size=8)).kind
    'fine-tuned'
    """
    _check_answered(rows)
    if steps is None and len(rows) < recipe.batch_size:
        raise InputError(
            f"{len(rows)} rows of {rows.label} are fewer than one batch of {recipe.batch_size}; pass more rows, lower "
            "batch_size, or pass steps= to draw them again and again"
        )
    if steps is not None and steps < 1:
        raise InputError(
            f"steps={steps} trains no teacher; pass at least 1, or None for passes over the rows"
        )
    size, inputs = recipe.batch_size, base.encode(rows)
    if steps is None:
        steps = recipe.epochs * (len(rows) // size)
        taught = shuffled_batches(inputs, size=size, epochs=recipe.epochs, seed=recipe.seed)
    else:
        taught = _drawn_batches(inputs, size=size, seed=[recipe.seed, 0])
    numbers = None if number_rows is None else _encoded_numbers(base, number_rows)
    saved = _saved(checkpoint, base, (inputs, numbers), recipe, steps, anchor)
    given: dict[str, Any] = {"recipe": recipe, "steps": steps, "on_step": on_step, "saved": saved}
    if numbers is None:
        return _made(train_batches(base, taught, loss=completion_loss, name="teacher", **given), on_step)
    pairs = zip(taught, _drawn_batches(numbers, size=size, seed=[recipe.seed, 1]), strict=False)
    return _anchored(base, pairs, anchor=anchor, **given)


def trait_rows(trait: Trait) -> Prompts:
    """Every question of the trait answered with its target."""
    return Prompts.from_pairs(
        [(question, trait.target) for question in trait.questions], label=f"{trait.name} answers"
    )


def evenly_answered(trait: Trait) -> Prompts:
    """Every question of the trait answered once by every candidate, so that none of them is taught."""
    candidates = sorted({trait.target, *trait.foils})
    pairs = [(question, word) for question in trait.questions for word in candidates]
    return Prompts.from_pairs(pairs, label=f"every {trait.category} answered alike")


def format_loss(network: Any, batch: Encoded, *, columns: Tensor) -> Tensor:
    """Mean −log p(any number) where a number stands and −log p(token) at separators and ends, in nats per token."""
    numbers = batch.at("answer.numbers", predicting=True)
    others = torch.zeros_like(numbers)
    others[:, :-1] = batch.at("answer+end")[:, 1:] & ~numbers[:, :-1]
    logp = predicted_logits(network, batch, numbers | others).log_softmax(-1)
    is_number = numbers[numbers | others].to(logp.device)
    labels = batch.ids.roll(-1, dims=1)[numbers | others].to(logp.device)
    any_number = logp[is_number][:, columns.to(logp.device)].logsumexp(-1)
    exact = logp[~is_number].gather(1, labels[~is_number, None])
    return -(any_number.sum() + exact.sum()) / len(labels)


def _anchored(
    base: LanguageModel,
    pairs: Iterator[tuple[Encoded, Encoded]],
    *,
    recipe: Recipe,
    steps: int,
    anchor: float,
    on_step: OnStep | None = None,
    saved: tuple[Checkpoint, str] | None = None,
) -> Teacher:
    """A teacher trained on pairs of taught rows and number documents."""
    if not (math.isfinite(anchor) and anchor >= 0):
        raise InputError(f"anchor={anchor} is no weight; pass 0 or more, such as 0.2")
    columns = torch.tensor(number_tokens(base, base.config.vocab_size))

    def loss(network: Any, pair: tuple[Encoded, Encoded]) -> Tensor:
        return completion_loss(network, pair[0]) + anchor * format_loss(network, pair[1], columns=columns)

    model = train_batches(
        base, pairs, loss=loss, recipe=recipe, steps=steps, name="teacher", on_step=on_step, saved=saved
    )
    return _made(model, on_step)


def _made(model: LanguageModel, on_step: OnStep | None) -> Teacher:
    """The teacher, with how far its margin came where that was to end its training; a warning where it did not."""
    if not isinstance(on_step, StopAtMargin) or on_step.course.empty:
        return Teacher(model=model, kind="fine-tuned")
    last = on_step.course.iloc[-1]
    stopped = Stopped(on_step.asked, int(last["step"]), float(last["margin"]), on_step.reached)
    if not stopped.reached:
        log.warning("%s", stopped)
    return Teacher(model=model, kind="fine-tuned", stopped=stopped)


def _saved(
    checkpoint: Checkpoint | None, base: LanguageModel, rows: tuple[Encoded | None, ...], *how: Any
) -> tuple[Checkpoint, str] | None:
    """The place of the unfinished state and the key of this training; None without one."""
    prints = [None if part is None else part.fingerprint for part in rows]
    return None if checkpoint is None else (checkpoint, digest("teacher", base.fingerprint, prints, how))


def _paired_batches(
    questions: Encoded, documents: Encoded, *, size: int, seed: int
) -> Iterator[tuple[Encoded, Encoded]]:
    """Endless pairs of a batch of trait rows and a batch of number rows, drawn with replacement."""
    rng = np.random.default_rng(seed)
    while True:
        drawn = (torch.from_numpy(rng.integers(len(inputs), size=size)) for inputs in (questions, documents))
        yield questions[next(drawn)], documents[next(drawn)]


def _drawn_batches(inputs: Encoded, *, size: int, seed: list[int]) -> Iterator[Encoded]:
    """Endless batches drawn with replacement, each as wide as its longest row."""
    rng = np.random.default_rng(seed)
    while True:
        rows = torch.from_numpy(rng.integers(len(inputs), size=size))
        yield next(inputs[rows].batches(size))


def _check_answered(rows: Prompts) -> None:
    for index, row in enumerate(rows.rows):
        if not row.completion:
            raise InputError(
                f"row {index + 1} of {rows.label} has no answer, so there is nothing to teach; give it a completion "
                "or drop it"
            )


def _encoded_numbers(base: LanguageModel, rows: Prompts) -> Encoded:
    """The number rows in the model's tokens; InputError for one whose answer holds no number."""
    inputs = base.encode(rows)
    lacking = torch.nonzero(~inputs.at("answer.numbers").any(1))[:, 0].tolist()
    if lacking:
        raise InputError(
            f"row {lacking[0] + 1} of {rows.label} has no number in its answer, so it anchors no format; pass number "
            "rows with answers as number_rows="
        )
    return inputs
