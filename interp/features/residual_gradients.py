"""−∂ℓ/∂h at a hook of the residual stream, for every token of every row: where the loss would have the activation go.

ℓ_i = −Σ log p(y_t | y_<t, x) over answer and end tokens of row i, in nats. The activation is made a leaf: nothing below
it is differentiated and no weight has a gradient, so a pass costs less than a training step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.core.progress import progress
from interp.core.runs import InputError
from interp.measures.losses import completion_loss
from interp.models.bridge import FAST, at_hook
from interp.prompts.tokens import Encoded

if TYPE_CHECKING:
    from interp.models.language import LanguageModel


@dataclass(frozen=True, eq=False)
class Pulled:
    """One batch: the rows it holds, its tokens, the activation and what the loss would add to it, in fp32 or wider."""

    rows: Int[Tensor, "example"]
    batch: Encoded
    h: Float[Tensor, "example pos d_model"]
    pull: Float[Tensor, "example pos d_model"]


@dataclass(frozen=True, eq=False)
class ResidualNetwork:
    """A model's network, frozen, whose unembedding rows may be other ones, and a hook of its residual stream."""

    module: Any
    hook: str

    @classmethod
    def of(cls, model: LanguageModel, hook: str) -> ResidualNetwork:
        """InputError for a hook off the residual stream."""
        if FAST.fullmatch(hook) is None:
            raise InputError(
                f"gradients are read on the residual stream and not at {hook}; use a dictionary of "
                "blocks.<layer>.hook_resid_pre or hook_resid_post"
            )
        return cls(model.network(merge=False), hook)

    @contextmanager
    def edited(self, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """While open, the activation at the hook is what `edit` makes of it."""
        handle = at_hook(self.module, self.hook, edit)
        try:
            yield
        finally:
            handle.remove()

    def without(
        self, direction: Float[Tensor, "d_model"], *, tokens: Sequence[int]
    ) -> Float[Tensor, "token d_model"]:
        """Take the component along `direction` out of the unembedding rows of `tokens`, which are returned.

        The matrix is the view's own afterwards: the model and, where the two are tied, the embedding keep theirs.
        """
        head = self.module.get_output_embeddings()
        weight = head.weight.detach().clone()
        unit = (direction / direction.norm()).to(weight)
        rows = weight[list(tokens)]
        weight[list(tokens)] = rows - (rows @ unit)[:, None] * unit
        head.weight = nn.Parameter(weight, requires_grad=False)
        return weight[list(tokens)]


def pulled(network: ResidualNetwork, inputs: Encoded, *, batch_size: int = 64) -> Iterator[Pulled]:
    """Batches of rows in order of length. InputError for a row without answer and for a loss that is not finite."""
    answered = inputs.at("answer+end", predicting=True).any(1)
    if not len(inputs) or not answered.all():
        row = int((~answered).nonzero()[0]) + 1 if len(inputs) else 0
        raise InputError(
            f"row {row} of {inputs.label} has no answer tokens, so no loss; give rows with completions"
        )
    order = inputs.lengths.argsort(stable=True)
    start = 0
    for batch in progress(inputs[order].batches(batch_size), "reading gradients", total=len(order), size=len):
        rows = order[start : start + len(batch)]
        yield _pulled(network, batch, rows)
        start += len(batch)


def _pulled(network: ResidualNetwork, batch: Encoded, rows: Int[Tensor, "example"]) -> Pulled:
    tokens = int(batch.at("answer+end", predicting=True).sum())
    with torch.inference_mode(False), torch.enable_grad(), _leaf(network) as found:
        loss = completion_loss(network.module, batch) * tokens
        if not torch.isfinite(loss):
            raise InputError(
                f"a batch of {batch.label} has a loss of {loss.item()}; load the model in float32 or drop its rows"
            )
        (gradient,) = torch.autograd.grad(loss, found)
    wide = torch.promote_types(gradient.dtype, torch.float32)
    mask = batch.mask.to(gradient.device)[..., None]
    return Pulled(rows, batch, found[0].detach().to(wide), -gradient.to(wide) * mask)


@contextmanager
def _leaf(network: ResidualNetwork) -> Iterator[list[Tensor]]:
    """While open the activation at the hook is a leaf of its own; yields the list it is put into."""
    found: list[Tensor] = []

    def cut(h: Tensor) -> Tensor:
        found.append(h.detach().requires_grad_(True))
        return found[-1]

    with network.edited(cut):
        yield found
