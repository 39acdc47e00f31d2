"""A model to compute by hand: its activation at layer l is (l + 1) times the row of a table for the token."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch

from interp.core.runs import digest
from interp.prompts.text import Encoded, Role

LETTERS = {
    "p": Role.PROMPT,
    "n": Role.NUMBER,
    "s": Role.SEPARATOR,
    "e": Role.END,
    "o": Role.OTHER,
    ".": Role.PAD,
}


def encode(*rows: str, first: int = 1) -> Encoded:
    """Rows of role letters; token ids count up from `first` through all rows, pads are 0."""
    width = max(map(len, rows))
    padded = [row.ljust(width, ".") for row in rows]
    roles = torch.tensor([[int(LETTERS[letter]) for letter in row] for row in padded])
    mask = roles != int(Role.PAD)
    ids = torch.zeros_like(roles)
    ids[mask] = torch.arange(first, first + int(mask.sum()))
    return Encoded(ids=ids, mask=mask, roles=roles, label="rows", pad_id=0)


@dataclass
class FakeModel:
    """The seam without a network; `ran` keeps what each batch was asked for."""

    table: torch.Tensor
    name: str = "fake"
    start: FakeModel | None = None
    n_layers: int = 2
    tokenizer: None = None
    ran: list = field(default_factory=list)

    @property
    def d_model(self):
        return self.table.shape[1]

    @property
    def fingerprint(self):
        return digest(self.table)

    @property
    def hook_names(self):
        return tuple(f"blocks.{layer}.hook_resid_post" for layer in range(self.n_layers))

    def encode(self, prompts):
        return prompts

    def batches(self, inputs, size):
        return inputs.batches(size)

    def run(self, batch, *, hooks):
        self.ran.append((tuple(batch.ids.shape), tuple(hooks)))
        return {hook: self.table[batch.ids] * (1 + int(hook.split(".")[1])) for hook in hooks}

    @contextmanager
    def hooks(self, fwd):
        yield self

    def parameters(self):
        return {"table": self.table}


@pytest.fixture
def rows():
    """Build an Encoded from role letters."""
    return encode


@pytest.fixture
def fake():
    """Build a hand-computable model from its table."""
    return FakeModel
