"""What must agree before a model is believed: plain module, bridge, unembedding and merged weights, on fixed tokens.

Two networks are max |Δ log p| in nats apart, over two rows of pseudo-random tokens.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.core.errors import InputError
from interp.core.progress import announce, working
from interp.core.remembered import recall, remember
from interp.models.backbone import Backbone
from interp.models.bridge import bridge_logits, hooking, residual_run
from interp.models.isolation import isolated
from interp.models.loading import as_device
from interp.models.quantised import check_module
from interp.models.seam import check_finite
from interp.models.stored import parity_key
from interp.models.views import unwrapped
from interp.prompts.round_trips import check_tokenizer

if TYPE_CHECKING:
    from interp.models.language import LanguageModel

log = logging.getLogger(__name__)

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}  # RMS norms work in fp32 whatever the weights are
HALF_TOLERANCE = 0.5  # nats at one token in 16 bits: large models reach tenths, a lost adapter whole nats


@isolated()
def check_model(model: LanguageModel, *, state: str | None = None) -> LanguageModel:
    """The model itself, once its bridge, unembedding and tokenizer agree with it; says so in one line.

    `state` is that of the files it was loaded from (see `stored_state`): what was measured of them is not repeated.
    Raises InputError where they do not agree within the tolerance, in nats.
    """
    tolerance = TOLERANCE.get(model.dtype, HALF_TOLERANCE)
    key = parity_key(model.backbone, state)
    known = recall("parity", key)
    with working(f"comparing {model.name} with plain Hugging Face"):
        apart, hooks = known or (parity(model), len(model.hook_names))
    if not apart <= tolerance:
        raise InputError(
            f"{model.name} gives log-probabilities {apart:.1e} nats away from plain Hugging Face when hooked, "
            f"more than {tolerance:.0e}; load it with dtype='float32' or use another architecture"
        )
    if known is None:
        remember("parity", key, value=[apart, hooks])
    if model.tokenizer is not None:
        check_tokenizer(model.tokenizer)
    announce(
        log,
        "%s: max |Δ log-prob| against plain Hugging Face %.1e (tolerance %.0e%s), %d hooks, %s, %s, fingerprint %s",
        model.name,
        apart,
        tolerance,
        "" if known is None else "; measured when these files were first loaded",
        hooks,
        str(model.dtype).removeprefix("torch."),
        model.device,
        model.fingerprint,
    )
    return model


@torch.no_grad()
def parity(model: LanguageModel) -> float:
    """Measure the largest |Δ log p| in nats between plain module and bridge, and plain module and unembedding.

    On two rows of fixed pseudo-random tokens, one of them padded; padding is not compared.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> parity(lineage.base) < 1e-4
    True
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
def check_live(backbone: Backbone, name: str, *, state: str | None = None) -> None:
    """InputError unless a network with live adapters computes what its merged weights compute.

    An adapter that acts at some tokens only, or through more than weights, is found out here. `state` as in
    `check_model`.
    """
    if backbone.peft is None:
        return
    key = parity_key(backbone, state)
    apart = recall("live", key)
    if apart is None:
        ids = probe_ids(backbone)
        both = (net(input_ids=ids, use_cache=False).logits for net in (backbone.peft, backbone.flat))
        apart = float(gap(*both).max())
    allowed = TOLERANCE.get(backbone.hf.dtype, HALF_TOLERANCE)
    if not apart <= allowed:
        raise InputError(
            f"{name} computes log-probabilities {apart:.1e} nats away from those of its merged weights, more than "
            f"{allowed:.0e}, so its effect is not one of weights; pass an adapter that PEFT's merge_and_unload takes"
        )
    remember("live", key, value=apart)


def checked_backbone(
    module: Any, name: str, *, dtype: torch.dtype | None, device: str | torch.device
) -> Backbone:
    """A view of a module in memory, moved to a dtype and a device unless None and "auto".

    Raises InputError for weights that are quantised or not finite, and for adapters that are more than weights.
    """
    check_module(module, name)
    check_finite(dict(module.named_parameters()), name)
    backbone = Backbone.of(module, name)
    check_live(backbone, name)
    outer = backbone.hf if backbone.peft is None else backbone.peft
    if dtype is not None:
        outer.to(dtype)
    if device != "auto":
        outer.to(as_device(device))
    return backbone


def check_in_memory(module: Any, *, revision: str | None) -> None:
    """InputError for a module that is asked for by revision, has no output matrix over tokens, or lies in pieces."""
    if revision is not None:
        raise InputError(f"a {type(module).__name__} in memory has no revision {revision!r}; leave it out")
    inner = unwrapped(module)
    head = getattr(inner, "get_output_embeddings", None)
    if head is None or head() is None:
        raise InputError(
            f"a {type(inner).__name__} predicts no tokens, as it has no output matrix over them; load the model with "
            "transformers' AutoModelForCausalLM"
        )
    places = sorted({str(weight.device) for weight in inner.parameters()})
    if len(places) > 1 or "meta" in places:
        raise InputError(
            f"a {type(inner).__name__} lies on {' and '.join(places)}, and a model lies on one device here, since "
            "hooks and scores read all its layers together; load it without device_map, and pass device='cuda:0'"
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


def check_no_dropout(model: LanguageModel) -> None:
    """InputError while a dropout is left on, which makes a draw of every forward pass."""
    for place, module in model.hf.named_modules():
        p = module.p if isinstance(module, nn.Dropout) else getattr(module, "attention_dropout", 0.0)
        if module.training and isinstance(p, float) and p > 0:
            raise InputError(
                f"{model.name} has dropout left on ({place}, p = {p}), so its scores would change from call to call; "
                f"call {model.name}.hf.eval() first"
            )
