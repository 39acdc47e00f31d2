"""Ways of asking what a fine-tune changed without a guess: a value for every word, from two models and generic text.

method(base, member, baseline, text) → value by vocabulary entry, larger where the member has more of the word than the
baseline, a neutral student of the same start; NaN where a method has nothing to say. None of them is told a word. With
x the text's positions, h the residual stream, u_v word v's unit direction there and d_j a dictionary's decoder rows:

    moved tokens                 mean_x log p_member(v | x) − log p_baseline(v | x)
    logit lens                   the same after the middle layer, read through the final norm and unembedding
    activation difference lens   ⟨mean_x h_member − h_baseline, u_v⟩ after the middle layer (arXiv 2510.13900)
    spectrum                     Σ over matrices that write h and their first singular directions of (σ_i ⟨u_i, u_v⟩)²
    SAE shift, joint dictionary  Σ over the features that moved most of Δf_j ⟨d_j, u_v⟩
    agreement with a ladder      corr over words of two changes of mean logits: member − baseline, candidate − the others
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.shifts import residual_hooks
from interp.auditing.candidates import TAUGHT, candidate_teachers, suspected
from interp.auditing.placebos import alikeness
from interp.features.dictionary import Dictionary
from interp.features.inherited import feature_differences
from interp.features.sae import SAERecipe, train_sae
from interp.joined.places import TracePlace
from interp.logits.lenses import layer_logprobs
from interp.logits.moved import moved_tokens
from interp.logits.spectra import TOP, decompose, spectrum, token_directions
from interp.models.language import LanguageModel
from interp.models.low_rank import LowRank
from interp.models.updates import weight_update

Values = Float[np.ndarray, "word"]
Read = Callable[[LanguageModel, LanguageModel, LanguageModel, TracePlace], Values]
FEATURES = 10  # features that count as moved, largest change first
SPARSE = SAERecipe(width=192, samples=131_072)
JOINT = SAERecipe(width=192, samples=32_768)


@dataclass(frozen=True)
class NamingMethod:
    """A way of naming a word: what it reads, and what it costs a member.

    `kind` is "logits", "activations", "weights" or "teachers"; `passes` are forward passes of the text by any model
    for one member and its baseline, `besides` what is made before.
    """

    name: str
    kind: str
    read: Read
    passes: int
    besides: str = ""


def moved(base: LanguageModel, member: LanguageModel, baseline: LanguageModel, text: TracePlace) -> Values:
    """Mean change of log-probability at every position of the text."""
    frame = moved_tokens(member, text.rows, minus=baseline, positions=text.positions).frame
    return frame.sort_values("token_id")["delta"].to_numpy()


def logit_lens(
    base: LanguageModel, member: LanguageModel, baseline: LanguageModel, text: TracePlace
) -> Values:
    """The same after the middle layer, each model read by its own final norm and unembedding."""
    after, before = (
        layer_logprobs(model, text.inputs, positions=text.positions) for model in (member, baseline)
    )
    return (after - before)[_middle(base)].numpy()


def activation_lens(
    base: LanguageModel, member: LanguageModel, baseline: LanguageModel, text: TracePlace
) -> Values:
    """The mean shift of the residual stream after the middle layer along every word's direction."""
    shift = text.difference((member, baseline), residual_hooks(base)[_middle(base)])
    return (_words(base) @ shift).numpy()


def update_spectrum(
    base: LanguageModel, member: LanguageModel, baseline: LanguageModel, text: TracePlace
) -> Values:
    """How much the first singular directions of what the update writes point along every word, whichever sign."""
    frame: Any = spectrum(member, minus=baseline).frame
    update, found = weight_update(member, minus=baseline), torch.zeros(base.unembedding().W_U.shape[1])
    for name in frame.loc[frame["side"] == "writes", "matrix"]:
        change = update.tensors.get(name)
        if change is not None and change.shape[0] == base.d_model:
            parts = decompose(change if isinstance(change, LowRank) else change.cpu())
            sides = (_words(base) @ parts.left[:, :TOP]) * parts.values[:TOP]
            found = found + sides.square().sum(1)
    return found.numpy()


def sae_shift(
    base: LanguageModel, member: LanguageModel, baseline: LanguageModel, text: TracePlace
) -> Values:
    """What the features of a dictionary of the base write, weighted by how far they moved."""
    return _written(_dictionary([base], text, SPARSE), member, baseline, text)


def joint_dictionary(
    base: LanguageModel, member: LanguageModel, baseline: LanguageModel, text: TracePlace
) -> Values:
    """The same by a dictionary of base, baseline and member, whose loss counts their differences too."""
    return _written(_dictionary([base, baseline, member], text, JOINT), member, baseline, text)


def ladder(base: LanguageModel, member: LanguageModel, baseline: LanguageModel, text: TracePlace) -> Values:
    """How alike the change is to that of a candidate teacher of every word there is a trait of; NaN for other words."""
    taught, _ = candidate_teachers(base, suspected(base, None), TAUGHT)
    found = np.full(base.unembedding().W_U.shape[1], np.nan)
    ids = base.tokenizer.convert_tokens_to_ids([candidate.trait.target for candidate in taught])
    found[ids] = alikeness(base, taught, [member, baseline], place=text)[0]
    return found


METHODS = {
    each.name: each
    for each in (
        NamingMethod("moved tokens", "logits", moved, 2),
        NamingMethod("logit lens", "logits", logit_lens, 2),
        NamingMethod("activation difference lens", "activations", activation_lens, 2),
        NamingMethod("spectrum", "weights", update_spectrum, 0),
        NamingMethod("SAE shift", "activations", sae_shift, 2, "a dictionary of the base"),
        NamingMethod("joint dictionary", "activations", joint_dictionary, 2, "a dictionary of every member"),
        NamingMethod("agreement with a ladder", "teachers", ladder, 2, "a fine-tune of every trait"),
    )
}


def _middle(base: LanguageModel) -> int:
    return (base.n_layers - 1) // 2


def _words(base: LanguageModel) -> Float[Tensor, "word d_model"]:
    """u_v: the unit direction of the residual stream that raises each word's logit over the vocabulary's mean."""
    unembedding = base.unembedding()
    return token_directions(unembedding, range(unembedding.W_U.shape[1]))


def _dictionary(models: list[LanguageModel], text: TracePlace, recipe: SAERecipe) -> Dictionary:
    hook = residual_hooks(models[0])[_middle(models[0])]
    return train_sae(models, text.rows, hook=hook, recipe=recipe, positions=text.positions)


def _written(
    dictionary: Dictionary, member: LanguageModel, baseline: LanguageModel, text: TracePlace
) -> Values:
    moved = feature_differences(dictionary, member, baseline, text.rows, positions=text.positions)
    most = moved.abs().topk(min(FEATURES, len(moved))).indices
    written = moved[most].double() @ dictionary.decoder[most].double()
    return (_words(text.base) @ written).numpy()
