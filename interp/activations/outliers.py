"""Tokens that stand out in norm, such as attention sinks: found on the data, said, and left out of means and trainings.

A trained transformer may keep activations a hundred times as large as all others at a few tokens, mostly a row's first
("massive activations", arXiv:2402.17762). They hold nearly all variance and say nothing of the text. A token stands out
at a hook where |h| > 10 m, m the median of |h| over the tokens read there; a position "X with outliers" keeps them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.prompts.tokens import KEEPING, Encoded

if TYPE_CHECKING:
    from interp.activations.recording import Recorded

MULTIPLE = 10.0
SHOWN = 3  # tokens named


def norm_limit(norms: Float[Tensor, "token"]) -> float:
    """Ten times the median norm, beyond which an activation stands out."""
    return MULTIPLE * float(norms.median())


@dataclass(frozen=True, eq=False)
class Norms:
    """Norms of all values read so far by hook, NaN where none was."""

    inputs: Encoded
    by_hook: dict[str, Float[Tensor, "example pos"]] = field(default_factory=dict)

    def add(self, block: Recorded) -> None:
        """Take the norms of one batch."""
        width = block.chosen.shape[1]
        for hook, values in block.values.items():
            whole = self.by_hook.setdefault(hook, torch.full(self.inputs.ids.shape, torch.nan))
            part = whole[block.rows, :width]
            part[block.chosen] = values.flatten(1).norm(dim=1)
            whole[block.rows, :width] = part

    def watched(self, blocks: Iterable[Recorded]) -> Iterator[Recorded]:
        """The blocks as they are, their norms taken."""
        for block in blocks:
            self.add(block)
            yield block

    def outliers(self) -> Outliers | None:
        """What stands out at any hook; None where nothing does."""
        found = []
        for hook, norms in self.by_hook.items():
            limit = norm_limit(norms[norms.isfinite()])
            if limit > 0 and bool((norms > limit).any()):
                found.append(Outliers(self.inputs, norms, limit, hook))
        if not found:
            return None
        most = max(found, key=lambda each: each.excess)
        return replace(most, out=torch.stack([each.beyond for each in found]).any(0))


@dataclass(frozen=True, eq=False)
class Outliers:
    """Tokens beyond a limit of norms; `norms` are those at `hook`, NaN where nothing was read.

    `out` are those that stand out at other hooks too.
    """

    inputs: Encoded
    norms: Float[Tensor, "example pos"]
    limit: float
    hook: str
    out: Bool[Tensor, "example pos"] | None = None

    @property
    def beyond(self) -> Bool[Tensor, "example pos"]:
        """The tokens that stand out."""
        return self.norms > self.limit if self.out is None else self.out

    @property
    def excess(self) -> float:
        """The largest norm, in medians."""
        return MULTIPLE * float(self.norms.nan_to_num().max()) / self.limit

    def told(self, tokenizer: Any) -> str:
        """How many tokens, which and where, in one sentence."""
        places = self.beyond.nonzero()
        ids = self.inputs.ids.cpu()[places[:, 0], places[:, 1]].tolist()
        counts = Counter(zip(places[:, 1].tolist(), ids, strict=True)).most_common()
        named = [f"{column} ({_text(tokenizer, i)})" for (column, i), _ in counts[:SHOWN]]
        more = f" and {len(counts) - SHOWN} others" if len(counts) > SHOWN else ""
        read = int(self.norms.isfinite().sum())
        return (
            f"{len(places)} of {read} tokens left out, whose norm is over {MULTIPLE:g} times the median of "
            f"{self.limit / MULTIPLE:.4g} at {self.hook} (up to {self.excess:.3g} times): position "
            f"{', '.join(named)}{more}; positions 'X{KEEPING}' keep them"
        )

    def apart(self, tokenizer: Any) -> Encoded:
        """The rows with these tokens under no name of a position; they are read, and said in the notes."""
        beyond = self.beyond.to(self.inputs.ids.device)
        return replace(self.inputs, apart=beyond, notes=(*self.inputs.notes, self.told(tokenizer)))


def same_tokens(given: Encoded, read: Encoded) -> bool:
    """Whether two encodings are the same rows, tokens that were set apart in the second left out of account."""
    return replace(given, apart=None).fingerprint == replace(read, apart=None).fingerprint


def _text(tokenizer: Any, token: int) -> str:
    return f"token {token}" if tokenizer is None else repr(tokenizer.decode([token]))
