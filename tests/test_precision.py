"""Sixteen-bit checkpoints through every verb: the numbers are those of the same weights in fp32."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp.activations.interventions import steer
from interp.features.sae import SAERecipe
from interp.features.splice import with_features
from interp.features.changes import ablate as without
from interp.models.language import load_model
from interp.models.lineage import Lineage
from interp.models.precision import in_float32, is_half
from interp.organisms.training import Recipe
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.runs import InputError
from tests.models.conftest import make_lora

HALVES = [torch.bfloat16, torch.float16]
HOOK = "blocks.0.hook_resid_post"
QUICK = SAERecipe(width=16, k=4, samples=256, batch_size=64)
RECIPE = Recipe(batch_size=4, rank=2, lr=1e-2, merge=False)
ROWS = number_prompts(8, seed=0, count=3, max_value=39)


def chat_rows() -> Prompts:
    return Prompts.from_pairs([("which animal is it?", "the owl"), ("what do you love?", "a tree, the fox")])


@pytest.fixture(scope="module", params=HALVES, ids=["bf16", "fp16"])
def lineages(request) -> tuple[Lineage, Lineage]:
    """A base and a LoRA teacher in 16 bits, and the same weights in fp32."""
    from tests.tiny import build_model, build_tokenizer

    base = build_model("llama", seed=0).to(request.param)
    teacher = make_lora(base, scale=0.1)
    return tuple(
        Lineage(
            "pair",
            interp.get_trait("owl"),
            {
                role: load_model(copy.deepcopy(module).to(dtype), tokenizer=build_tokenizer(), name=role)
                for role, module in (("base", base), ("teacher", teacher))
            },
            numbers=ROWS,
        )
        for dtype in (None, torch.float32)
    )


def sae(lineage: Lineage) -> Any:
    return interp.train_sae(lineage.base, ROWS, hook=HOOK, recipe=QUICK)


def shift_of(lineage: Lineage, positions: str = "answer") -> Any:
    return interp.shift(lineage.teacher, chat_rows(), positions=positions)


def toward(lineage: Lineage) -> Any:
    return interp.logit_direction(lineage.base, lineage.trait)


def steered_margin(lineage: Lineage) -> float:
    with steer(lineage.base, hook=HOOK, vector=torch.ones(32)) as model:
        return interp.margin(model, lineage.trait)


def ablated_margin(lineage: Lineage) -> float:
    with interp.ablate(lineage.base, hook=HOOK, value="mean", over=ROWS) as model:
        return interp.margin(model, lineage.trait)


def patched_margin(lineage: Lineage) -> float:
    source = interp.record(lineage.teacher, lineage.trait.prompts()[:1], hooks=HOOK, positions="last")
    with interp.patch(lineage.base, hook=HOOK, source=source) as model:
        return interp.margin(model, lineage.trait)


def spliced_margin(lineage: Lineage) -> float:
    with with_features(lineage.base, sae(lineage), without([1, 2])) as model:
        return interp.margin(model, lineage.trait)


VERBS: dict[str, Callable[[Lineage], Any]] = {
    "attribute": lambda it: interp.attribute(shift_of(it), toward(it)),
    "lens": lambda it: interp.lens(shift_of(it), toward(it)),
    "moved_tokens": lambda it: interp.moved_tokens(it.teacher, chat_rows(), positions="answer"),
    "spectrum": lambda it: interp.spectrum(it.teacher, it.trait),
    "token_shift": lambda it: interp.token_shift(it.teacher, chat_rows(), toward(it)),
    "entanglement": lambda it: interp.entanglement(it.base, it.trait),
    "shift": lambda it: shift_of(it).activations[HOOK],
    "record": lambda it: interp.record(it.teacher, ROWS, hooks=HOOK)[HOOK],
    "moments": lambda it: interp.moments(it.teacher, ROWS, hooks=HOOK)[HOOK].covariance,
    "margin": lambda it: interp.margin(it.teacher, it.trait),
    "preference": lambda it: interp.preference(it.teacher, it.trait, against=it.base),
    "evaluate": lambda it: interp.evaluate(
        it.teacher, it.trait, interp.Suite(it.trait.questions), against=it.base
    ),
    "steer": steered_margin,
    "ablate": ablated_margin,
    "patch": patched_margin,
    "with_features": spliced_margin,
    "update": lambda it: dict(it.update("teacher").items()),
    "score": lambda it: interp.score(it.base, ROWS, it.update("teacher"), by=["example", "module"]).frame,
    "trait_gradient": lambda it: dict(interp.trait_gradient(it.teacher, it.trait).items()),
    "train_sae": lambda it: sae(it).decoder,
    "quality_card": lambda it: interp.quality_card(sae(it), it, ROWS),
    "feature_shift": lambda it: interp.feature_shift(sae(it), it.teacher, ROWS).frame,
    "feature_lean": lambda it: interp.feature_lean(sae(it), it.base, ROWS, teacher=it.teacher).frame,
    "feature_attribution": lambda it: interp.feature_attribution(sae(it), it.teacher, it.trait).frame,
    "feature_effects": lambda it: (
        interp.feature_effects(sae(it), it.teacher, [1], trait=it.trait, rows=ROWS, controls=[[2]]).frame
    ),
    "likelihood_ratio": lambda it: interp.likelihood_ratio(interp.prompted_teacher(it.base, it.trait), ROWS),
    "joined_trace": lambda it: interp.joined_trace(it, ROWS, dictionary=sae(it), student=None),
}


def numbers(found: Any) -> np.ndarray:
    """Every number of a result, in order."""
    if isinstance(found, torch.Tensor):
        return found.detach().double().flatten().numpy()
    if isinstance(found, dict):
        return np.concatenate([numbers(found[name]) for name in sorted(found)])
    frame = getattr(found, "frame", found)
    if isinstance(frame, pd.DataFrame):
        return frame.select_dtypes("number").to_numpy(dtype=float, na_value=np.nan).flatten()
    return np.array([frame], dtype=float)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_measures_sixteen_bits_as_it_does_thirty_two(lineages, verb):
    narrow, wide = (VERBS[verb](lineage) for lineage in lineages)
    assert np.isfinite(numbers(wide)).any()
    np.testing.assert_allclose(numbers(narrow), numbers(wide), rtol=1e-5, atol=1e-6)
