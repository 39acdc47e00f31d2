"""Organisms to plant in: every token has an activation of its own, start and member carry noise of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from interp.core.runs import digest
from interp.features.dictionary import Dictionary
from interp.prompts.text import Encoded, Role

HOOK = "blocks.0.hook_resid_post"


@dataclass
class TableModel:
    """A network whose activation at HOOK is the line of `table` that belongs to the token."""

    table: torch.Tensor
    name: str = "base"
    start: Any = None
    tokenizer = None
    n_layers = 1
    hook_names = (HOOK,)

    @property
    def d_model(self) -> int:
        return self.table.shape[1]

    @property
    def fingerprint(self) -> str:
        return digest(self.table)

    def encode(self, prompts: Encoded) -> Encoded:
        return prompts

    def batches(self, inputs: Encoded, size: int) -> Any:
        return inputs.batches(size)

    def run(self, batch: Encoded, *, hooks: Any) -> dict[str, torch.Tensor]:
        return dict.fromkeys(hooks, self.table[batch.ids])

    def parameters(self) -> dict[str, torch.Tensor]:
        return {"table": self.table}


def numbered(rows: int, tokens: int) -> Encoded:
    """Rows of one prompt token and `tokens` numbers; no two tokens are the same, and 0 is none of them."""
    ids = torch.arange(1, rows * (tokens + 1) + 1).view(rows, tokens + 1)
    roles = torch.full_like(ids, int(Role.NUMBER))
    roles[:, 0] = int(Role.PROMPT)
    return Encoded(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool), roles=roles, label="rows")


def by_hand(
    directions: torch.Tensor, model: Any, *, bias: float = 0.0, notes: tuple[str, ...] = ()
) -> Dictionary:
    """f = ReLU(h Dᵀ − bias) and ĥ = f D for directions D [feature d_in]."""
    from sae_lens import SAE, StandardSAEConfig

    width, d_in = directions.shape
    sae = SAE.from_dict(StandardSAEConfig(d_in=d_in, d_sae=width).to_dict())
    with torch.no_grad():
        sae.W_enc.copy_(directions.T)
        sae.W_dec.copy_(directions)
        sae.b_enc.fill_(-bias)
        sae.b_dec.zero_()
    return Dictionary(sae, HOOK, "by hand", model.fingerprint, notes)


def topk(h: torch.Tensor, *, width: int, k: int, steps: int = 800, seed: int = 0) -> Any:
    """A TopK autoencoder trained on activations [token d_in], its decoder kept at norm one."""
    from sae_lens import SAE, TopKSAEConfig

    sae = SAE.from_dict(TopKSAEConfig(d_in=h.shape[1], d_sae=width, k=k).to_dict())
    rng = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(width, h.shape[1], generator=rng), dim=1)
    with torch.no_grad():
        sae.W_dec.copy_(directions)
        sae.W_enc.copy_(directions.T)
        sae.b_dec.copy_(h.mean(0))
    optimiser = torch.optim.Adam(sae.requires_grad_().parameters(), lr=3e-3)
    for _ in range(steps):
        batch = h[torch.randint(len(h), (512,), generator=rng)]
        optimiser.zero_grad()
        (sae(batch) - batch).square().sum(1).mean().backward()
        optimiser.step()
        with torch.no_grad():
            norm = sae.W_dec.norm(dim=1, keepdim=True)
            sae.W_dec /= norm
            sae.W_enc *= norm.T
    return sae.requires_grad_(False).eval()


def noisy_pair(
    h: torch.Tensor, plant: torch.Tensor, *, noise: float, rng: torch.Generator
) -> tuple[TableModel, TableModel]:
    """Start and member that share h [token d_in] up to noise of their own; the member has the plant [d_in] on top."""
    start = TableModel(h + noise * torch.randn(h.shape, generator=rng))
    moved = h + noise * torch.randn(h.shape, generator=rng) + plant
    return start, TableModel(moved, name="teacher", start=start)
