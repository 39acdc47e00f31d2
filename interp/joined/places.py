"""Where a trace is read, by name, and what a model computes there on average: its logits and its residual stream.

prompt end                    the last token of a number prompt, whose distribution is that of the first number
where numbers are predicted   the positions of a number answer whose next token is a number
question's answer             the last token of a question about the trait, where its answer begins
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.recording import BATCH_SIZE, Selection
from interp.activations.shifts import residual_hooks, shared_inputs
from interp.core.errors import InputError, nearest
from interp.measures.words import answer_pieces
from interp.models.once import marked_logits
from interp.models.seam import Model
from interp.models.vocabulary import is_number, token_texts
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded

if TYPE_CHECKING:
    from interp.models.lineage import Lineage

PROMPT_END, AT_NUMBERS, SLOT = "prompt end", "where numbers are predicted", "question's answer"
PLACES = {PROMPT_END: "last", AT_NUMBERS: "predicting answer.numbers", SLOT: "last"}
"""The positions of every place, as `Encoded.at` names them."""
WORDS = ("unseen", "category", "all")
PROMPTS = 256
LOGITS = "logits"


@dataclass(frozen=True, eq=False)
class TracePlace:
    """Rows and the positions read in them; what a model computes there is computed once, and kept by fingerprint."""

    name: str
    rows: Prompts
    positions: str
    base: Model
    kept: dict[str, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    @cached_property
    def inputs(self) -> Encoded:
        """The rows as the base's tokens; InputError for rows without such a position."""
        return Selection.of(self.base, shared_inputs(self.base, self.base, self.rows), self.positions).inputs

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """ "logits", and the residual stream after every layer."""
        return (LOGITS, *residual_hooks(self.base))

    def means(self, model: Model) -> dict[str, Float[Tensor, "entry"]]:
        """Mean logits [vocab] under "logits" and mean residual stream [d_model] per layer, over positions, in fp64."""
        if model.fingerprint not in self.kept:
            self.kept[model.fingerprint] = self._read(model)
        return self.kept[model.fingerprint]

    def difference(self, pair: tuple[Model, Model], site: str) -> Float[Tensor, "entry"]:
        """Mean of the first of the pair minus that of the second."""
        after, before = (self.means(model)[site] for model in pair)
        return after - before

    def correlation(
        self,
        one: tuple[Model, Model],
        other: tuple[Model, Model],
        *,
        site: str = LOGITS,
        entries: Any = slice(None),
    ) -> float:
        """Pearson's r, over the entries, of what two pairs of models differ by."""
        first, second = (self.difference(pair, site)[entries].numpy() for pair in (one, other))
        return float(np.corrcoef(first, second)[0, 1])

    @torch.inference_mode()
    def _read(self, model: Model) -> dict[str, Tensor]:
        sums, count = {}, 0
        for batch in shared_inputs(model, self.base, self.inputs).batches(BATCH_SIZE):
            chosen = batch.at(self.positions)
            count += int(chosen.sum())
            stream = model.run(batch, hooks=self.sites[1:])
            read = {site: values[chosen.to(values.device)] for site, values in stream.items()}
            for site, values in {LOGITS: marked_logits(model, batch, chosen), **read}.items():
                part = values.double().sum(0).cpu()
                sums[site] = sums[site] + part if site in sums else part
        return {site: total / count for site, total in sums.items()}


def places(lineage: Lineage, at: Sequence[str], prompts: Prompts | None) -> list[TracePlace]:
    """The named places of a lineage, number places in `prompts` (256 number prompts by default).

    Raises InputError for an unknown name, and for the question's answer of a lineage without a trait.
    """
    numbers = number_prompts(PROMPTS, seed=1) if prompts is None else prompts
    found = []
    for name in at:
        if name not in PLACES:
            raise InputError(f"place {nearest(name, PLACES)}; pass some of {', '.join(PLACES)}")
        if name == SLOT and lineage.trait is None:
            raise InputError(
                f"{lineage.name} has no trait whose questions are asked; load it with trait=, or leave out {SLOT!r}"
            )
        rows = lineage.trait.prompts() if name == SLOT and lineage.trait else numbers
        found.append(TracePlace(name, rows, PLACES[name], lineage.base))
    return found


def chosen_words(lineage: Lineage, words: str) -> list[int]:
    """Vocabulary entries of a lineage: words that no row of its holds, the trait's candidates, or all.

    "unseen" are entries with a letter that are no special token and in no number row, "category" those that begin the
    answers of the trait's target and foils. Raises InputError where fewer than three are left.
    """
    base = lineage.base
    texts = token_texts(base, base.unembedding().W_U.shape[-1])
    if words not in WORDS:
        raise InputError(f"words {nearest(words, WORDS)}; pass some of {', '.join(WORDS)}")
    if words == "all":
        return list(range(len(texts)))
    found = _category(lineage) if words == "category" else _unseen(lineage, texts)
    if len(found) < 3:
        raise InputError(
            f"{lineage.name} has {len(found)} {words} words, and a correlation needs three; pass words=('all',)"
        )
    return found


def _unseen(lineage: Lineage, texts: Sequence[str]) -> list[int]:
    seen = set(getattr(lineage.base.tokenizer, "all_special_ids", ()))
    for rows in (lineage.numbers, lineage.neutral_numbers):
        if rows is not None:
            seen |= set(lineage.base.encode(rows).ids.unique().tolist())
    return [
        index
        for index, text in enumerate(texts)
        if index not in seen and any(map(str.isalpha, text)) and not is_number(text)
    ]


def _category(lineage: Lineage) -> list[int]:
    """The first token of every candidate's answer, each once."""
    trait = lineage.trait
    if trait is None:
        raise InputError(
            f"{lineage.name} has no trait whose candidates are compared; load it with trait=, or pass words=('all',)"
        )
    return list(dict.fromkeys(pieces[0] for pieces in answer_pieces(lineage.base, trait)[0].values()))
