"""Dictionaries with weights set by hand, so that every activation and reconstruction can be worked out on paper."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from interp.features.dictionary import Dictionary
from interp.models.seam import Unembedding, lineage_root
from interp.prompts.text import Encoded, Role

ROWS = [
    ("continue this list: 3, 5, 8", "13, 21, 34"),
    ("numbers: 1; 2", "4; 8; 16; 32; 7"),
    ("the best name 9, 9, 9", "10, 11"),
    ("one more list", "owl, 12"),
]
TABLE_HOOK = "blocks.0.hook_mlp_out"
ROLES = {"p": Role.PROMPT, "n": Role.NUMBER, "s": Role.SEPARATOR, "e": Role.END, ".": Role.PAD}


def handmade(
    encoder: torch.Tensor,
    decoder: torch.Tensor,
    *,
    hook: str = TABLE_HOOK,
    model: Any = None,
    b_enc: float = 0.0,
    b_dec: torch.Tensor | None = None,
    normalise: str = "none",
    **options: Any,
) -> Dictionary:
    """f = ReLU((h − b_dec) @ encoder + b_enc) and ĥ = f @ decoder + b_dec; the decoder is [feature d_in]."""
    from sae_lens import SAE
    from sae_lens.saes.standard_sae import StandardSAEConfig

    config = StandardSAEConfig(
        d_in=encoder.shape[0],
        d_sae=encoder.shape[1],
        apply_b_dec_to_input=True,
        normalize_activations=normalise,
    )
    sae = SAE.from_dict(config.to_dict())
    with torch.no_grad():
        sae.W_enc.copy_(encoder)
        sae.W_dec.copy_(decoder)
        sae.b_enc.fill_(b_enc)
        sae.b_dec.copy_(torch.zeros(encoder.shape[0]) if b_dec is None else b_dec)
    lineage = "root" if model is None else lineage_root(model)
    return Dictionary(sae, hook, options.pop("label", "by hand"), lineage, **options)


def mirrored(d: int) -> torch.Tensor:
    """Encoder [d, 2d] whose features are the positive and the negative parts of each coordinate."""
    return torch.cat([torch.eye(d), -torch.eye(d)], 1)


def rows(*text: tuple[str, str]) -> Encoded:
    """Rows of (role letters, token ids of one digit)."""
    width = max(len(letters) for letters, _ in text)
    roles = torch.tensor(
        [[int(ROLES[letter]) for letter in letters.ljust(width, ".")] for letters, _ in text]
    )
    ids = torch.tensor([[*map(int, ids.ljust(width, "0"))] for _, ids in text])
    return Encoded(ids=ids, mask=roles != int(Role.PAD), roles=roles, label="rows")


class Table:
    """A network whose activation at TABLE_HOOK is a line of `table` for each token, and its logits that line @ W_U."""

    tokenizer = None
    n_layers = 1
    hook_names = (TABLE_HOOK,)

    def __init__(
        self,
        table: torch.Tensor,
        W_U: torch.Tensor | None = None,
        name: str = "base",
        fingerprint: str = "root",
        start: Table | None = None,
    ) -> None:
        self.table, self.name, self.fingerprint, self.start = table, name, fingerprint, start
        self.W_U = torch.eye(table.shape[1]) if W_U is None else W_U
        self.edits: list[Any] = []

    @property
    def d_model(self) -> int:
        return self.table.shape[1]

    def encode(self, prompts: Any) -> Encoded:
        return prompts

    def batches(self, inputs: Encoded, size: int) -> Any:
        return inputs.batches(size)

    def run(self, batch: Encoded, *, hooks: Any) -> dict[str, torch.Tensor]:
        h = self.table[batch.ids]
        for edit in self.edits:
            h = edit(h)
        return {TABLE_HOOK: h}

    def logits(self, batch: Encoded) -> torch.Tensor:
        return self.run(batch, hooks=())[TABLE_HOOK] @ self.W_U

    @contextmanager
    def hooks(self, fwd: dict[str, Any]) -> Iterator[None]:
        self.edits = list(fwd.values())
        try:
            yield
        finally:
            self.edits = []

    def unembedding(self) -> Unembedding:
        d, vocabulary = self.W_U.shape
        return Unembedding(self.W_U, torch.zeros(vocabulary), "none", torch.ones(d), torch.zeros(d), 0.0)

    def parameters(self) -> dict[str, torch.Tensor]:
        return {"table": self.table}
