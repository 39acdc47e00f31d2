"""Ways of asking what a fine-tune changed without a guess: a value for every word, from two models and generic text.

method(base, member, baseline and text, as `Compared`) → value by vocabulary entry, larger where the member has more
of the word than the baseline, a neutral student of the same start; NaN where a method has nothing to say. None is told
a word. With x the places of the text, h the residual stream after the middle layer, u_v word v's unit direction and d_j
a dictionary's decoder rows, those that are not in `interp.discovery`:

    moved tokens                 mean_x log p_member(v | x) − log p_baseline(v | x)
    logit lens                   the same after the middle layer, read through the final norm and unembedding
    activation difference lens   ⟨mean_x h_member − h_baseline, u_v⟩ (Minder et al., arXiv 2510.13900)
    SAE shift, joint dictionary  Σ over the features that moved most of Δf_j ⟨d_j, u_v⟩
    agreement with a ladder      corr of the change of logits with a candidate teacher's, as in `audit_student`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.activations.shifts import residual_hooks, shift
from interp.auditing.candidates import TAUGHT, candidate_teachers, suspected
from interp.auditing.placebos import alikeness
from interp.discovery.comparing import Compared, Reading
from interp.discovery.logits import diff_mining
from interp.discovery.speaking import amplified_update, contrastive_decoding
from interp.discovery.weights import jacobian_lens, spectrum_through_output
from interp.features.dictionary import Dictionary
from interp.features.inherited import feature_differences
from interp.features.sae import SAERecipe, train_sae
from interp.logits.lenses import layer_logprobs
from interp.logits.moved import moved_tokens
from interp.logits.spectra import token_directions
from interp.models.language import LanguageModel

Values = Float[np.ndarray, "word"]
FEATURES = 10  # features that count as moved, largest change first
SPARSE = SAERecipe(width=192, samples=131_072, batch_size=128)
JOINT = SAERecipe(width=192, samples=32_768, batch_size=128)


@dataclass(frozen=True)
class NamingMethod:
    """A way of naming a word: what it reads, and what it costs.

    `kind` is "logits", "activations", "weights" or "teachers"; `passes` are forward passes of the text by any model
    for one member and its baseline, `besides` what else is made or read.
    """

    name: str
    kind: str
    read: Callable[[Compared], Values]
    passes: float
    besides: str = ""


def word_shifts(asked: Compared) -> Values:
    """Mean change of log-probability at the places of the text."""
    frame = moved_tokens(asked.member, asked.inputs, minus=asked.baseline, positions="all").frame
    return frame.sort_values("token_id")["delta"].to_numpy()


def logit_lens(asked: Compared) -> Values:
    """The same after the middle layer, each model read by its own final norm and unembedding."""
    after, before = (
        layer_logprobs(model, asked.inputs, positions="all") for model in (asked.member, asked.against)
    )
    return (after - before)[_middle(asked.base)].numpy()


def activation_lens(asked: Compared) -> Values:
    """The mean shift of the residual stream after the middle layer along every word's direction."""
    hook = _hook(asked)
    moved = shift(asked.member, asked.inputs, minus=asked.baseline, positions="all", hooks=[hook])
    return (_words(asked.base) @ moved.direction(hook).vector.double()).numpy()


def sae_shift(asked: Compared) -> Values:
    """What the features of a dictionary of the base write, weighted by how far they moved."""
    return _written(asked, [asked.base], SPARSE)


def joint_dictionary(asked: Compared) -> Values:
    """The same by a dictionary of base, baseline and member, whose loss counts their differences too."""
    return _written(asked, [asked.base, asked.against, asked.member], JOINT)


def ladder_agreement(asked: Compared, *, traits: Sequence[str] | None = None) -> Values:
    """How alike the change is to that of a candidate teacher of every word there is a trait of; NaN for other words."""
    taught, _ = candidate_teachers(asked.base, suspected(asked.base, traits), TAUGHT)
    found = np.full(asked.width, np.nan)
    ids = asked.base.tokenizer.convert_tokens_to_ids([candidate.trait.target for candidate in taught])
    found[ids] = alikeness(asked.base, taught, [asked.member, asked.against])[0]
    return found


def _by(way: Callable[[Compared], Reading]) -> Callable[[Compared], Values]:
    """The values of a way of reading of `interp.discovery`."""
    return lambda asked: way(asked).values


METHODS = {
    each.name: each
    for each in (
        NamingMethod("moved tokens", "logits", word_shifts, 2),
        NamingMethod("diff mining", "logits", _by(diff_mining), 2),
        NamingMethod(
            "contrastive decoding",
            "logits",
            _by(contrastive_decoding),
            0,
            "sampled answers",
        ),
        NamingMethod(
            "amplified update",
            "weights",
            _by(amplified_update),
            0,
            "sampled answers of three more networks",
        ),
        NamingMethod("spectrum", "weights", _by(spectrum_through_output), 0),
        NamingMethod("logit lens", "activations", logit_lens, 2),
        NamingMethod("activation difference lens", "activations", activation_lens, 2),
        NamingMethod("Jacobian lens", "activations", _by(jacobian_lens), 3),
        NamingMethod("SAE shift", "activations", sae_shift, 2, "a dictionary of the base"),
        NamingMethod("joint dictionary", "activations", joint_dictionary, 2, "a dictionary of every member"),
        NamingMethod(
            "agreement with a ladder",
            "teachers",
            ladder_agreement,
            0,
            "a fine-tune of every trait, number prompts",
        ),
    )
}
"""Every way by its name, each a function of a `Compared`."""


def quick_methods() -> list[NamingMethod]:
    """The same with a ladder of five candidates."""
    few = partial(ladder_agreement, traits=("owl", "eagle", "oak", "fox", "pine"))
    return [replace(each, read=few) if each.read is ladder_agreement else each for each in METHODS.values()]


def _middle(base: LanguageModel) -> int:
    return (base.n_layers - 1) // 2


def _hook(asked: Compared) -> str:
    return residual_hooks(asked.base)[_middle(asked.base)]


def _words(base: LanguageModel) -> Float[Tensor, "word d_model"]:
    """u_v: the unit direction of the residual stream that raises each word's logit over the vocabulary's mean."""
    unembedding = base.unembedding()
    return token_directions(unembedding, range(unembedding.W_U.shape[1]))


def _written(asked: Compared, models: list[LanguageModel], recipe: SAERecipe) -> Values:
    """What the features that moved most write along every word, by a dictionary of these models at the middle layer."""
    dictionary: Dictionary = train_sae(
        models, asked.inputs, hook=_hook(asked), recipe=recipe, positions="all"
    )
    moved = feature_differences(dictionary, asked.member, asked.against, asked.inputs, positions="all")
    most = moved.abs().topk(min(FEATURES, len(moved))).indices
    written = moved[most].double() @ dictionary.decoder[most].double()
    return (_words(asked.base) @ written).numpy()
