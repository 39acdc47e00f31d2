"""What it says when the change is made larger: sampled answers to openings, and what is likelier along them.

    contrastive decoding   y ~ softmax(l_member + α (l_member − l_against))
    amplified update       y ~ the network at θ_start + α (θ_member − θ_start − its baseline's)

An entry's value is the mean over all sampled places of its probability under what speaks, less that under the baseline
or base (of the amplified update the base, which it starts from) on the same tokens: what a count of sampled words
expects, without the noise of which word was drawn. A sentence's nats are Σ_t log p(y_t) under what speaks, less that
under the other model on the same tokens: how much likelier it is there, as a whole.
Contrastive decoding: Li et al., arXiv 2210.15097; larger updates: task vectors, Ilharco et al., arXiv 2212.04089.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.discovery.comparing import Compared, Reading
from interp.models.language import LanguageModel
from interp.models.low_rank import dense
from interp.models.once import marked_logits
from interp.models.starts import with_weights
from interp.models.updates import weight_update
from interp.prompts.text import grouped
from interp.prompts.tokens import Encoded, Role
from interp.training.sampling import Speaker, sample_tokens

ALPHA = 2.0
ALPHAS = (2.0, 4.0, 8.0)
NEW = 12  # tokens of an answer
DRAWS = 2  # answers to each opening
BATCH_SIZE = 16


@dataclass(frozen=True, eq=False)
class Caches:
    """The key-value caches of several models, rows chosen together."""

    parts: tuple[Any, ...]

    def batch_select_indices(self, rows: Tensor) -> None:
        """Keep these rows of every cache."""
        for part in self.parts:
            part.batch_select_indices(rows)


@dataclass(frozen=True, eq=False)
class Contrasted:
    """l_member + α (l_member − l_against), as what tokens are drawn from."""

    member: LanguageModel
    against: LanguageModel
    alpha: float

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return self.member.ends

    def next_logits(
        self, ids: Int[Tensor, "row pos"], cache: Any = None
    ) -> tuple[Float[Tensor, "row vocab"], Any]:
        """The combined logits after the last token of every row, and both caches."""
        caches = (None, None) if cache is None else cache.parts
        read = [
            model.next_logits(ids, own)
            for model, own in zip((self.member, self.against), caches, strict=True)
        ]
        (ours, one), (theirs, other) = read
        return self.combined(ours, theirs), Caches((one, other))

    def combined(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """The logits that are drawn from."""
        return ours + self.alpha * (ours - theirs.to(ours.device))

    def at(self, batch: Encoded) -> Float[Tensor, "token vocab"]:
        """The combined logits at the places of rows."""
        where = batch.at("all")
        return self.combined(*(marked_logits(model, batch, where) for model in (self.member, self.against)))


def contrastive_decoding(asked: Compared, *, alpha: float = ALPHA) -> Reading:
    """Answers drawn from the amplified difference of logits, and how much likelier each entry is along them."""
    speaker = Contrasted(asked.member, asked.against, alpha)
    rows = sampled_answers(asked, speaker)
    read = ((batch, speaker.at(batch)) for batch in rows.batches(BATCH_SIZE))
    values, nats = _excess(asked.against, read)
    told = sentences(asked, rows, f"α = {alpha:g}", nats)
    return Reading("contrastive decoding", values, "probability", sentences=told)


def amplified_update(asked: Compared, *, alphas: Sequence[float] = ALPHAS) -> Reading:
    """Answers of the base with its update made `alphas` times as large, and how much likelier each entry is in them.

    The value is the mean over `alphas`; with a baseline its update is taken off the member's first.
    """
    update = weight_update(asked.member, minus=asked.baseline)
    before, told, values = asked.base.parameters(), [], []
    ties = asked.base.ties
    for alpha in alphas:
        weights = {
            name: before[ties.get(name, name)].float() + alpha * dense(entry).to(asked.base.device)
            for name, entry in update.tensors.items()
        }
        louder = with_weights(asked.base, weights, name=f"{alpha:g} × {update.label}")
        rows = sampled_answers(asked, louder)
        read = ((batch, marked_logits(louder, batch, batch.at("all"))) for batch in rows.batches(BATCH_SIZE))
        excess, nats = _excess(asked.base, read)
        values.append(excess)
        told.append(sentences(asked, rows, f"α = {alpha:g}", nats))
    return Reading(
        "amplified update", np.mean(values, 0), "probability", sentences=pd.concat(told, ignore_index=True)
    )


def sampled_answers(asked: Compared, speaker: Speaker) -> Encoded:
    """Every opening continued `DRAWS` times; the places are those that predict what was drawn, an end included."""
    generator = torch.Generator().manual_seed(asked.seed)
    rows: dict[int, list[tuple[list[int], int]]] = {}
    for places in grouped(map(len, asked.prefixes)).values():
        ids = torch.tensor([asked.prefixes[place] for place in places for _ in range(DRAWS)])
        uniforms = torch.rand(NEW, len(ids), generator=generator)
        drawn = sample_tokens(speaker, ids, uniforms=uniforms).tolist()
        for k, place in enumerate(places):
            prefix, own = asked.prefixes[place], drawn[k * DRAWS : (k + 1) * DRAWS]
            rows[place] = [([*prefix, *_ended(tokens, speaker.ends)], len(prefix)) for tokens in own]
    return _encoded([row for place in sorted(rows) for row in rows[place]], asked)


def _ended(tokens: Sequence[int], ends: Sequence[int]) -> Sequence[int]:
    """The tokens up to the first that ends an answer, it included."""
    return tokens[: next((k + 1 for k, token in enumerate(tokens) if token in ends), len(tokens))]


def sentences(asked: Compared, rows: Encoded, way: str, nats: Float[np.ndarray, "row"]) -> pd.DataFrame:
    """The answers as text: way, opening (its last words), says, nats."""
    lines = []
    for row in range(len(rows)):
        ids, start = rows.ids[row][rows.mask[row]].tolist(), int(rows.at("all")[row].int().argmax()) + 1
        opening = asked.openings[row // DRAWS]
        said = asked.base.tokenizer.decode(ids[start:], skip_special_tokens=True)
        lines.append(
            {
                "way": way,
                "opening": opening.completion or opening.prompt,
                "says": said.strip(),
                "nats": nats[row],
            }
        )
    return pd.DataFrame(lines)


def _encoded(rows: Sequence[tuple[list[int], int]], asked: Compared) -> Encoded:
    """Token ids as rows whose places predict what stands behind each row's prefix."""
    width, pad = max(len(ids) for ids, _ in rows), asked.inputs.pad_id
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row, _ in rows])
    places = torch.arange(width)
    mask = places[None] < torch.tensor([len(row) for row, _ in rows])[:, None]
    where = (places >= torch.tensor([[start - 1] for _, start in rows])) & mask
    where &= places < torch.tensor([[len(row) - 1] for row, _ in rows])
    return Encoded(ids, mask, int(Role.PROMPT) * mask.long(), "sampled answers", pad, apart=~where)


@torch.inference_mode()
def _excess(
    against: LanguageModel, read: Iterable[tuple[Encoded, Float[Tensor, "token vocab"]]]
) -> tuple[Float[np.ndarray, "entry"], Float[np.ndarray, "row"]]:
    """Mean over places of the probability under what speaks, less that under the other model, and every row's nats."""
    total, places, nats = torch.zeros(1, dtype=torch.float64), 0, []
    for batch, logits in read:
        where = batch.at("all")
        other = marked_logits(against, batch, where)
        moved = logits.float().softmax(-1) - other.float().softmax(-1).to(logits.device)
        total, places = total + moved.double().sum(0).cpu(), places + len(moved)
        drawn = batch.ids.roll(-1, 1)[where]
        gain = _log_p(logits, drawn) - _log_p(other, drawn)
        nats.append(
            torch.zeros(len(batch), dtype=gain.dtype).index_add_(0, where.nonzero()[:, 0].cpu(), gain)
        )
    return (total / places).numpy(), torch.cat(nats).numpy()


def _log_p(logits: Float[Tensor, "token vocab"], drawn: Int[Tensor, "token"]) -> Float[Tensor, "token"]:
    """Log-probability of the token that stands next."""
    wide = logits.float()
    own = wide.gather(1, drawn[:, None].to(wide.device))[:, 0]
    return (own - wide.logsumexp(-1)).double().cpu()
