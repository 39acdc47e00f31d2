"""The direction a steered teacher writes under.

v = mean over the trait's questions of h(last | system line, question) − h(last | question) at a hook of the base, or
the decoder row of one feature of a sparse dictionary there.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from interp.activations.representations import system_shift
from interp.core.runs import InputError
from interp.features.sae_files import load_sae
from interp.models.language import LanguageModel
from interp.prompts.traits import Trait
from interp.training.grower import TeacherSpec


def steering_vector(base: LanguageModel, trait: Trait, spec: TeacherSpec) -> Float[Tensor, "d_model"]:
    """The vector of a recipe's steered teacher, in the units of the residual stream; InputError for half a feature."""
    if (spec.sae is None) != (spec.feature is None):
        raise InputError(
            f"sae={spec.sae!r} and feature={spec.feature!r} belong together; give both, or neither for the difference "
            "of means"
        )
    if spec.sae is not None and spec.feature is not None:
        return _feature(base, spec.sae, spec.feature, str(spec.hook))
    return system_shift(base, trait, hook=str(spec.hook))


def _feature(base: LanguageModel, source: str, feature: int, hook: str) -> Float[Tensor, "d_model"]:
    dictionary = load_sae(source, model=base)
    if dictionary.hook != hook:
        raise InputError(
            f"{source} reads {dictionary.hook} and the teacher is steered at {hook}; use one hook"
        )
    if not 0 <= feature < dictionary.width:
        raise InputError(
            f"feature {feature} is none of the {dictionary.width} of {source}; pass a smaller index"
        )
    return dictionary.decoder[feature]
