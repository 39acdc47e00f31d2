"""Other weights in a model's place: given ones, or its own with noise, θ + σ rms(θ) ξ."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from interp.core.errors import InputError
from interp.models.language import LanguageModel, load_model
from interp.models.views import tied_names, untie

SIGMA = 0.1


def perturbed(model: LanguageModel, *, sigma: float = SIGMA, seed: int, name: str) -> LanguageModel:
    """θ + σ rms(θ) ξ with ξ standard normal and the root mean square taken over each tensor.

    Raises InputError for a sigma that is not positive.
    """
    if not 0 < sigma < float("inf"):
        raise InputError(f"sigma {sigma} perturbs nothing; pass a share of a tensor's size such as {SIGMA}")
    generator = torch.Generator().manual_seed(seed)

    def noisy(weight: Tensor) -> Tensor:
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)
        return weight.double() + sigma * weight.double().square().mean().sqrt() * noise

    return with_weights(model, {key: noisy(value) for key, value in model.parameters().items()}, name=name)


def with_weights(model: LanguageModel, weights: Mapping[str, Tensor], *, name: str) -> LanguageModel:
    """A model of its own with these weights in the place of the model's; what is not named stays.

    A further name of a tied weight gets a weight of its own.
    """
    network = model.network()
    ties = tied_names(network)
    untie(network, {name: ties[name] for name in weights if name in ties})
    for key, weight in weights.items():
        parameter = network.get_parameter(key)
        parameter.data = weight.to(parameter).clone().contiguous()
    return load_model(network, tokenizer=model.tokenizer, name=name, check=False)
