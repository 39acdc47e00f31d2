"""What the lean of features costs: `feature_lean` over one plain forward and backward pass on the same rows.

The reference is what Hugging Face's model does on the same 32 rows of 64 tokens (8 of the prompt, 56 of the answer) in
fp32 under sdpa with one thread: logits at every position, gradients of every parameter. Ours is the whole verb, from
rows to table, with a dictionary of eight times the width. Its leans are first held against plain autograd: what is
wrong is not timed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.alignment import LENGTH, ROWS, SMALL, hosted, hugging_face, rows
from benchmarks.alignment_peers import labels, logits, row_losses
from benchmarks.paired import Ratio, Skipped, interleaved
from interp.features.dictionary import Dictionary
from interp.features.lean import FeatureLean, feature_lean
from interp.models.language import LanguageModel
from interp.prompts.text import Encoded

log = logging.getLogger("benchmarks")

LAYER = 1  # of four
HOOK = f"blocks.{LAYER}.hook_resid_post"
EXPANSION, ACTIVE = 8, 16  # features a dimension, and features active at a token
TOLERANCE = 1e-5  # of the root mean square lean


def lean() -> dict[str, Ratio | Skipped]:
    """The verb at 3.7 M parameters; rows, tokens and models are the same for both."""
    torch.set_num_threads(1)
    model, plain, batch = hosted(SMALL), hugging_face(SMALL), rows(ROWS, LENGTH, SMALL.vocabulary)
    dictionary = random_dictionary(model)
    ours = partial(feature_lean, dictionary, model, batch)
    check(ours(), expected(plain, batch, dictionary.decoder))
    return dict(interleaved({"features-lean": ours}, training_pass(plain, batch)))


BENCHES: dict[str, Callable[[], dict[str, Ratio | Skipped]]] = {"features-lean": lean}


def random_dictionary(model: LanguageModel) -> Dictionary:
    """A TopK autoencoder with random unit decoder rows, its encoder their transpose."""
    from sae_lens import SAE, TopKSAEConfig

    width = EXPANSION * model.d_model
    sae = SAE.from_dict(TopKSAEConfig(d_in=model.d_model, d_sae=width, k=ACTIVE).to_dict())
    drawn = torch.randn(width, model.d_model, generator=torch.Generator().manual_seed(3))
    directions = torch.nn.functional.normalize(drawn, dim=1)
    with torch.no_grad():
        sae.W_dec.copy_(directions)
        sae.W_enc.copy_(directions.T)
    return Dictionary(sae.requires_grad_(False), HOOK, "random", model.fingerprint)


def training_pass(plain: Any, batch: Encoded) -> Callable[[], object]:
    """The reference: forward, summed cross-entropy, and the gradients of all parameters."""
    weights, targets = list(plain.parameters()), labels(batch)
    return lambda: torch.autograd.grad(row_losses(logits(plain, batch.ids), targets).sum(), weights)


def expected(plain: Any, batch: Encoded, decoder: Tensor) -> Tensor:
    """Σ_t <−∂ℓ_i/∂h_t, d_j> [row, feature], nothing detached and nothing frozen."""
    held: list[Tensor] = []

    def keep(_module: Any, _arguments: Any, output: Tensor) -> None:
        held.append(output)

    handle = plain.base_model.layers[LAYER].register_forward_hook(keep)
    try:
        losses = row_losses(logits(plain, batch.ids), labels(batch))
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(losses.sum(), held)
    return -gradient.double().sum(1) @ decoder.double().T


def check(found: FeatureLean, wanted: Tensor) -> None:
    """RuntimeError unless every row's leans are those of plain autograd."""
    apart = float((found.by_prompt.double() - wanted).abs().max() / wanted.square().mean().sqrt())
    log.info("features-lean: differs by %.1e of the root mean square lean", apart)
    if not apart <= TOLERANCE:
        raise RuntimeError(
            f"feature_lean differs by {apart:.1e} of the root mean square lean, over {TOLERANCE:.0e}"
        )
