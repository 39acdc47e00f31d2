"""Defences: what a training does so that a trait of its rows does not pass on, and what each of them computes.

remove      without the rows of the largest <∇θ log p(y_i | x_i), v>, v = ∇m or the teacher's update
kl          ℓ + w KL(p_start ‖ p_θ), the mean over the tokens of benign text
inoculate   every row behind the trait's system line, which nothing is asked behind afterwards
steer       h + s v at one hook while it trains and not afterwards (preventative steering: arXiv 2507.21509)
project     Δ − <Δ, ĝ> ĝ for every step Δ, ĝ ∝ ∇m at the weights that the step starts from
canonical   answers in one format, and sorted, and rounded down to tens
paraphrase  every prompt's numbers between the words of another prompt
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.core.content import digest
from interp.core.doors import door
from interp.core.errors import InputError
from interp.measures.losses import completion_loss, predicted_logits
from interp.models.bridge import at_hook
from interp.prompts.shuffles import CANONICAL, reworded
from interp.prompts.text import Prompts
from interp.training.students import STUDENT, train_student
from interp.training.watching import Together

if TYPE_CHECKING:
    from interp.models.language import LanguageModel
    from interp.prompts.tokens import Encoded
    from interp.prompts.traits import Trait
    from interp.training.checkpoints import Checkpoint
    from interp.training.students import OnStep, Recipe

Kind = Literal["remove", "kl", "inoculate", "steer", "project", "canonical", "paraphrase"]
HOLDS: dict[str, tuple[str, ...]] = {
    "remove": ("share", "knows"),
    "kl": ("weight", "text"),
    "inoculate": ("system",),
    "steer": ("knows", "hook", "scale"),
    "project": (),
    "canonical": ("form",),
    "paraphrase": (),
}
"""Which values a defence of each kind has."""
BENIGN = 64  # rows of benign text that a step reads


@door
@dataclass(frozen=True)
class Defence:
    """A defence as a recipe names it: its `kind`, and of the other values those that this kind has.

    `share` of the rows are removed. `knows` says what the defender knows: the "trait" (scores along ∇m, steering along
    the shift under its system line), or also the "teacher" (scores along its update, steering along its own shift),
    an upper bound. `weight` is that of the KL on the rows of `text`, a file. `system` is the line to inoculate with, by
    default the trait's own. `hook` and `scale` say where and how much is added, by default at the middle of the layers.
    `form` is the canonical form. Raises InputError for an unknown kind or form, a share that is none of the rows, a
    weight or scale that does nothing, and a value that this kind does not have.

    >>> Defence("remove", share=0.1).kind
    'remove'
    >>> Defence("remove", share=1.5)
    Traceback (most recent call last):
    ...
    interp.core.errors.InputError: share=1.5 is no part of the rows; pass one between 0 and 1, such as 0.2
    """

    kind: Kind
    share: float = 0.25
    knows: Literal["trait", "teacher"] = "trait"
    weight: float = 1.0
    text: str | None = None
    system: str | None = None
    hook: str | None = None
    scale: float = 1.0
    form: Literal["format", "order", "value"] = "value"

    def __post_init__(self) -> None:
        check_share(self.share)
        if not (np.isfinite(self.weight) and self.weight > 0):
            raise InputError(
                f"weight={self.weight} of the KL holds nothing; pass a positive number such as 1.0"
            )
        if not np.isfinite(self.scale) or self.scale == 0:
            raise InputError(f"scale={self.scale} steers nowhere; pass a number other than 0, such as 1.0")
        for each in fields(self):
            given = each.name != "kind" and getattr(self, each.name) != each.default
            if given and each.name not in HOLDS[self.kind]:
                own = ", ".join(HOLDS[self.kind]) or "no other value"
                raise InputError(
                    f"a defence of kind {self.kind!r} has no {each.name}; leave it out: it has {own}"
                )


@dataclass(frozen=True, eq=False)
class Defended:
    """A defence made ready for one base, its rows and a trait: the rows to train on, their loss, and who changes steps.

    `key` names all that the rows do not.
    """

    rows: Prompts
    labels: Any = "sampled"
    on_step: OnStep | None = None
    key: str = ""

    def train(
        self,
        start: LanguageModel,
        *,
        recipe: Recipe = STUDENT,
        name: str = "student",
        on_step: OnStep | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> LanguageModel:
        """Train a copy of `start` as `train_student` does, defended; `on_step` hears the steps as they were changed."""
        heard = [each for each in (self.on_step, on_step) if each is not None]
        listener = Together(*heard) if len(heard) > 1 else next(iter(heard), None)
        given: dict[str, Any] = {"labels": self.labels, "on_step": listener, "checkpoint": checkpoint}
        return train_student(start, self.rows, recipe=recipe, name=name, **given)


@dataclass(frozen=True, eq=False)
class SteeredLoss:
    """The loss of the rows with `vector` added to the residual stream at `hook`, in every pass and at every token."""

    vector: Float[Tensor, "d_model"]
    hook: str

    @property
    def fingerprint(self) -> str:
        """What is added, and where."""
        return digest("steered loss", self.vector, self.hook)

    def __call__(self, network: Any, batch: Encoded) -> Tensor:
        """In nats per answer token, differentiable."""
        with adding(network, self.vector, hook=self.hook):
            return completion_loss(network, batch)


@dataclass(frozen=True, eq=False)
class AnchoredLoss:
    """The loss of the rows and `weight` times the KL from `start` to the network on rows of `text`, in nats per token.

    Which rows of it a batch brings is drawn by the batch's own tokens, so that a training continued from a checkpoint
    draws the same ones.
    """

    start: LanguageModel
    text: Encoded
    weight: float

    @property
    def fingerprint(self) -> str:
        """The text, the weights it is held to, and how strongly."""
        return digest("anchored loss", self.start.fingerprint, self.text.fingerprint, self.weight)

    def __call__(self, network: Any, batch: Encoded) -> Tensor:
        """In nats per token, differentiable."""
        drawn = np.random.default_rng(int(digest(batch.ids), 16)).permutation(len(self.text))[:BENIGN]
        text = next(self.text[torch.from_numpy(drawn)].batches(len(drawn)))
        return completion_loss(network, batch) + self.weight * kl_on_text(self.held, network, text)

    @cached_property
    def held(self) -> Any:
        """The network that the text is held to."""
        return self.start.network()


def kl_on_text(reference: Any, network: Any, text: Encoded) -> Tensor:
    """KL(p_reference ‖ p_network), mean over every token of the text that another one follows, in nats per token."""
    where = torch.zeros_like(text.mask)
    where[:, :-1] = text.mask[:, 1:]
    with torch.no_grad():
        held = predicted_logits(reference, text, where).float().log_softmax(-1)
    own = predicted_logits(network, text, where).float().log_softmax(-1)
    return (held.exp() * (held - own)).sum(-1).mean()


@contextmanager
def adding(network: Any, vector: Float[Tensor, "d_model"], *, hook: str) -> Iterator[None]:
    """While open, `vector` is added to the residual stream of a plain network, its adapters live or not."""
    handle = at_hook(network, hook, lambda h: h + vector.to(h))
    try:
        yield
    finally:
        handle.remove()


def changed_rows(rows: Prompts, defence: Defence, trait: Trait, *, seed: int = 0) -> Prompts:
    """The rows as a defence of their text rewrites them; as they are for one of another kind."""
    if defence.kind == "inoculate":
        return rows.with_system(defence.system or trait.system)
    if defence.kind == "canonical":
        return CANONICAL[defence.form](rows)
    return reworded(rows, seed=seed) if defence.kind == "paraphrase" else rows


def rows_without(rows: Prompts, gone: Bool[np.ndarray, "row"]) -> Prompts:
    """The rows that stay, in order."""
    return replace(rows, rows=tuple(row for row, left in zip(rows.rows, ~gone, strict=True) if left))


def taken_out(scores: Float[np.ndarray, "row"], *, share: float | None = None) -> Bool[np.ndarray, "row"]:
    """Which rows go: infinite scores, and the largest ones until `share` of all is gone or the mean is not positive.

    Raises InputError for a share that is no part of the rows, or less than half of a row, and where no row would be
    left.
    """
    if share is not None:
        check_share(share)
        if not round(share * len(scores)):
            raise InputError(
                f"share={share:g} of {len(scores)} rows is less than half of a row, so that none goes; pass at least "
                f"{1 / len(scores):.2g}"
            )
    finite = np.sort(scores[np.isfinite(scores)])
    left = int((np.cumsum(finite) <= 0).sum())  # means of the k lowest grow with k
    if share is not None:
        left = min(len(finite), len(scores) - round(share * len(scores)))
    if not left:
        why = "each by itself is likelier of the trait's teacher, or says its word"
        why = why if share is None else f"a share of {share:g} is all of them"
        raise InputError(
            f"none of {len(scores)} rows is left: {why}; leave all of them out, or pass "
            f"{'share=' if share is None else 'a smaller share'}"
        )
    gone = np.ones(len(scores), dtype=bool)
    gone[np.argsort(scores, kind="stable")[:left]] = False
    return gone


def check_share(share: float) -> None:
    """InputError for a share that is none or all of the rows."""
    if not 0 < share < 1:
        raise InputError(f"share={share!r} is no part of the rows; pass one between 0 and 1, such as 0.2")
