"""What must agree before a model is believed: plain module, bridge, unembedding and merged weights, on fixed tokens.

Two networks are max |Δ log p| in nats apart, over two rows of pseudo-random tokens.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InputError
from interp.core.progress import working
from interp.models.backbone import Backbone
from interp.models.bridge import bridge_logits, hooking, residual_run
from interp.models.isolation import isolated
from interp.prompts.round_trips import check_tokenizer

if TYPE_CHECKING:
    from interp.models.language import LanguageModel

log = logging.getLogger(__name__)

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}  # RMS norms work in fp32 whatever the weights are
HALF_TOLERANCE = 0.5  # nats at one token in 16 bits: large models reach tenths, a lost adapter whole nats


@isolated()
def check_model(model: LanguageModel) -> LanguageModel:
    """The model itself, once its bridge, unembedding and tokenizer agree with it; logs one line.

    Raises InputError where they do not agree within the tolerance, in nats.
    """
    tolerance = TOLERANCE.get(model.dtype, HALF_TOLERANCE)
    with working(f"comparing {model.name} with plain Hugging Face"):
        apart = parity(model)
    if not apart <= tolerance:
        raise InputError(
            f"{model.name} gives log-probabilities {apart:.1e} nats away from plain Hugging Face when hooked, "
            f"more than {tolerance:.0e}; load it with dtype='float32' or use another architecture"
        )
    if model.tokenizer is not None:
        check_tokenizer(model.tokenizer)
    log.info(
        "%s: max |Δ log-prob| against plain Hugging Face %.1e (tolerance %.0e), %d hooks, %s, %s, fingerprint %s",
        model.name,
        apart,
        tolerance,
        len(model.hook_names),
        str(model.dtype).removeprefix("torch."),
        model.device,
        model.fingerprint,
    )
    return model


@torch.no_grad()
def parity(model: LanguageModel) -> float:
    """Measure the largest |Δ log p| in nats between plain module and bridge, and plain module and unembedding.

    On two rows of fixed pseudo-random tokens, one of them padded; padding is not compared.
    """
    ids = probe_ids(model.backbone)
    mask = torch.ones_like(ids)
    mask[1, ids.shape[1] // 2 :] = 0
    plain = model.hf(input_ids=ids, attention_mask=mask, use_cache=False).logits
    with hooking(type(model.hf).__name__):
        hooked = bridge_logits(model.backbone.bridge, (), ids, mask)
    last = f"blocks.{model.n_layers - 1}.hook_resid_post"
    read = model.unembedding().logits(residual_run(model.hf, model.backbone.layers, (last,), ids, mask)[last])
    return float(torch.stack([gap(logits, plain)[mask.bool()].max() for logits in (hooked, read)]).max())


@torch.no_grad()
def check_live(backbone: Backbone, name: str) -> None:
    """InputError unless a network with live adapters computes what its merged weights compute.

    An adapter that acts at some tokens only, or
    through more than weights, is found out here.
    """
    if backbone.peft is None:
        return
    ids = probe_ids(backbone)
    both = (net(input_ids=ids, use_cache=False).logits for net in (backbone.peft, backbone.flat))
    apart = float(gap(*both).max())
    allowed = TOLERANCE.get(backbone.hf.dtype, HALF_TOLERANCE)
    if not apart <= allowed:
        raise InputError(
            f"{name} computes log-probabilities {apart:.1e} nats away from those of its merged weights, more than "
            f"{allowed:.0e}, so its effect is not one of weights; pass an adapter that PEFT's merge_and_unload takes"
        )


def gap(
    one: Float[Tensor, "*rest vocab"], other: Float[Tensor, "*rest vocab"]
) -> Float[Tensor, "*rest vocab"]:
    """|Δ log p| between two sets of logits, in fp32."""
    return (one.float().log_softmax(-1) - other.float().log_softmax(-1)).abs()


def probe_ids(backbone: Backbone) -> Tensor:
    """Two rows of fixed pseudo-random tokens that fit the model's context and vocabulary."""
    length = min(12, getattr(backbone.config, "max_position_embeddings", None) or 12)
    ids = torch.arange(2 * length, device=backbone.hf.device) * 7919 + 5
    return ids.reshape(2, length) % backbone.config.vocab_size
