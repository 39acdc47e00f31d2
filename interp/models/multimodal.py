"""The text model inside a multimodal one: the same weights under the architecture that text alone needs.

What transformers' own automatic class makes of such a configuration differs by family: the whole model, or a text
model whose weights may not be those of the file. Here the whole is read as it was saved, its text part is put behind
its output matrix, and the two are compared on text.
"""

from __future__ import annotations

from typing import Any

import torch

from interp.core.errors import InputError
from interp.models.isolation import isolated

AGREES = {torch.float64: 1e-6, torch.float32: 1e-4}  # nats
HALF_AGREES = 0.05


def is_multimodal(config: Any) -> bool:
    """Whether a configuration holds that of a text model as one part."""
    return not getattr(config, "is_encoder_decoder", False) and config.get_text_config() is not config


def whole_class(config: Any, owner: str) -> Any:
    """The class a multimodal checkpoint was saved from; InputError when transformers has none of that name."""
    import transformers

    named = (config.architectures or [None])[0]
    found = getattr(transformers, str(named), None)
    if found is None or getattr(found, "config_class", None) is not type(config):
        raise InputError(
            f"{owner} is a multimodal {config.model_type} and names {named!r} as its architecture, which transformers "
            "cannot load it as; save its text model by itself"
        )
    return found


@isolated()
def text_model(whole: Any, owner: str) -> Any:
    """The causal language model of text inside a multimodal one, over the same weights.

    Raises InputError when there is none, and when its logits on text differ from the whole's.
    """
    text = _empty(whole, owner)
    kind = type(text.base_model)
    bodies = [module for module in whole.modules() if type(module) is kind]
    matrix = whole.get_output_embeddings()
    if len(bodies) != 1 or matrix is None:
        raise _none(whole, owner, f"{len(bodies)} modules are a {kind.__name__}")
    setattr(text, text.base_model_prefix, bodies[0])
    text.set_output_embeddings(matrix)
    tensors = [*text.named_parameters(), *text.named_buffers()]
    if left := [name for name, tensor in tensors if tensor.is_meta]:
        raise _none(whole, owner, f"it lacks {left[0]}")
    text.config.tie_word_embeddings = matrix.weight is text.get_input_embeddings().weight
    text.config.architectures = [type(text).__name__]
    text.generation_config = whole.generation_config
    apart = _apart(text.eval(), whole, owner)
    if not apart <= AGREES.get(whole.dtype, HALF_AGREES):
        raise _none(
            whole, owner, f"its log-probabilities are {apart:.1e} nats from the whole model's on text"
        )
    return text


def _empty(whole: Any, owner: str) -> Any:
    """A text model of the right shape without weights."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config = whole.config.get_text_config()
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _none(whole, owner, f"transformers has no causal language model for {config.model_type}")
    config._attn_implementation = whole.config._attn_implementation
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.device("meta"):
        return kind(config)


@torch.no_grad()
def _apart(text: Any, whole: Any, owner: str) -> float:
    """Largest |Δ log p| in nats on pseudo-random text tokens, none of them a mark for an image or a sound."""
    marks = {
        value for name, value in whole.config.to_dict().items() if "token" in name and isinstance(value, int)
    }
    plain = [index for index in range(text.config.vocab_size) if index not in marks]
    ids = torch.tensor([[plain[index * 7919 % len(plain)] for index in range(12)]], device=whole.device)
    try:
        ours, theirs = (model(input_ids=ids, use_cache=False).logits for model in (text, whole))
    except Exception as error:
        raise _none(whole, owner, f"{type(error).__name__}: {error}") from error
    return float((ours.float().log_softmax(-1) - theirs.float().log_softmax(-1)).abs().max())


def _none(whole: Any, owner: str, reason: str) -> InputError:
    return InputError(
        f"{owner} is a multimodal {type(whole).__name__} whose text model cannot be used by itself ({reason}); "
        "use a checkpoint of a text model"
    )
