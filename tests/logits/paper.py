"""A two-layer attention network small enough for paper: every head and MLP is a matrix, and positions do not
talk.

resid = E[token]; per layer: z_h = resid · V_h, resid += Σ_h z_h O_h + b_O, then resid += resid M. d_model 2,
two heads of width 1, vocabulary of three.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from interp.activations.arrays import Activations
from interp.activations.shifts import Shift
from interp.core.runs import digest
from interp.logits.direction import LogitDirection
from interp.models.seam import Unembedding
from interp.prompts.text import Encoded, Role

PIECES = ("owl", "cat", "dog")


class Words:
    """As much of a tokenizer as a label needs."""

    unk_token_id = None

    def decode(self, ids):
        return " ".join(PIECES[i] for i in ids)


def layer(*, out=((0.0, 1.0), (1.0, 0.0)), b_O=(0.0, 0.0), M=((2.0, 0.0), (0.0, 0.0))):
    return {"O": torch.tensor(out)[:, None, :], "b_O": torch.tensor(b_O), "M": torch.tensor(M)}


def readout(**changes):
    plain = {
        "W_U": torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        "b_U": torch.zeros(3),
        "kind": "none",
        "weight": torch.ones(2),
        "bias": torch.zeros(2),
        "eps": 0.0,
        "softcap": None,
    }
    return Unembedding(**{**plain, **changes})


@dataclass(frozen=True)
class Paper:
    """The seam over those matrices; V_0 and V_1 read the two coordinates."""

    name: str = "base"
    E: torch.Tensor = field(default_factory=lambda: torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -1.0]]))
    layers: tuple = field(default_factory=lambda: (layer(), layer()))
    end: Unembedding = field(default_factory=readout)
    start: Paper | None = None
    lost: float = 0.0  # added to the first logit by nothing the hooks show
    n_layers = 2
    d_model = 2
    tokenizer = Words()

    @property
    def fingerprint(self):
        matrices = [tensor for parts in self.layers for tensor in parts.values()]
        return digest(self.E, *matrices, self.end.W_U, self.end.b_U, self.end.weight, self.lost)

    @property
    def hook_names(self):
        ends = ("hook_resid_pre", "attn.hook_z", "hook_mlp_out", "hook_resid_post")
        return tuple(f"blocks.{index}.{end}" for index in range(2) for end in ends)

    def attention_output(self, index):
        return self.layers[index]["O"], self.layers[index]["b_O"]

    def unembedding(self):
        return self.end

    def parameters(self):
        return {"E": self.E}

    def run(self, batch, *, hooks):
        resid, seen = self.E[batch.ids], {}
        for index, parts in enumerate(self.layers):
            z = resid[..., None]
            middle = resid + torch.einsum("bphk,hkd->bpd", z, parts["O"]) + parts["b_O"]
            mlp = middle @ parts["M"]
            after = middle + mlp
            values = (resid, z, mlp, after)
            ends = ("hook_resid_pre", "attn.hook_z", "hook_mlp_out", "hook_resid_post")
            seen |= {f"blocks.{index}.{end}": value for end, value in zip(ends, values, strict=True)}
            resid = after
        return {hook: seen[hook] for hook in hooks}

    def logits(self, batch):
        logits = self.end.logits(
            self.run(batch, hooks=["blocks.1.hook_resid_post"])["blocks.1.hook_resid_post"]
        )
        return logits + torch.tensor([self.lost, 0.0, 0.0])


def numbers(*rows):
    """Rows of token ids, all of them answer numbers, padded with token 0."""
    width = max(map(len, rows))
    mask = torch.tensor([[place < len(row) for place in range(width)] for row in rows])
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return Encoded(ids=ids, mask=mask, roles=torch.where(mask, int(Role.NUMBER), int(Role.PAD)))


def paper_shift(member, *rows) -> Any:
    """The shift of a member over those rows, without recorded values: attribution reads the models again."""
    inputs = numbers(*rows)
    empty = Activations(
        {}, inputs.mask, f"{member.name} − {member.start.name}", "", "", torch.where(inputs.mask, 0, -1)
    )
    return Shift(member, member.start, inputs, "answer.numbers", empty)


def child(base, **changes) -> Any:
    """A member that started from `base`."""
    return replace(base, name="teacher", start=base, **changes)


def changed_head():
    """Head 0 of layer 0 writes twice as much, layer 1 gets a bias, and the unembedding of 'cat' and 'owl'
    moves.
    """
    base = Paper()
    end = readout(W_U=torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), b_U=torch.tensor([3.0, 0.0, 0.0]))
    layers = (layer(out=((0.0, 2.0), (1.0, 0.0))), layer(b_O=(1.0, 0.0)))
    return child(base, layers=layers, end=end)


def toward_owl(model):
    return LogitDirection(
        (0, 1, 2), (1.0, -0.5, -0.5), "'owl' − mean of 2 foils", model.fingerprint, model.fingerprint
    )
