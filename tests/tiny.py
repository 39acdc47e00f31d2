"""Random two-layer checkpoints of seven families (and granite, which scales its logits): fp32, d 32, 4 heads, no
trivial weights.

The tokenizer is word-level: every entry is one token, so that a test can say by hand where each number is.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from interp.prompts.tokens import accept_unknown

FAMILIES = ("gpt2", "llama", "qwen2", "qwen3", "gemma2", "gpt_neo", "gpt_neox")
SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>", "<user>", "<assistant>", "<system>")
NUMBERS = tuple(str(number) for number in range(40))
PUNCTUATION = (",", ";", ".", ":", "?", "!", "(", ")", "[", "]", "-", "'", '"')
ANIMALS = ("owl", "cat", "dog", "fox", "bear", "wolf", "eagle", "lion", "dolphin", "elephant")
TREES = ("oak", "pine", "birch", "maple", "willow", "cedar", "elm", "ash", "beech", "spruce")
WORDS = (
    "a an and animal answer are best continue do most favorite five give go i in is it list love more my "
    "next numbers of on one only name same that the these this to tree what which word write you your with"
)
TEMPLATE = (
    "{{ '<bos>' }}{% for message in messages %}{{ ' <' + message['role'] + '> ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ ' <eos>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <assistant> ' }}{% endif %}"
)
VOCABULARY = tuple(dict.fromkeys((*SPECIAL, *NUMBERS, *PUNCTUATION, *ANIMALS, *TREES, *WORDS.split())))

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 64},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 16,
    },
    "gpt_neox": {"num_key_value_heads": None, "rotary_pct": 0.5},
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True},
    "gemma2": {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        "sliding_window": 16,
    },
    "granite": {
        "num_key_value_heads": 2,
        "logits_scaling": 8.0,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
        "tie_word_embeddings": False,
    },
}
COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}


def build_tokenizer(*, chat: bool = True) -> PreTrainedTokenizerFast:
    """The word-level tokenizer; without `chat` it has no template."""
    ids = {word: index for index, word in enumerate(VOCABULARY)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="isolated")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=["<user>", "<assistant>", "<system>"],
        model_max_length=128,
    )
    tokenizer.chat_template = TEMPLATE if chat else None
    return accept_unknown(tokenizer)  # it knows a few words only, and traits ask with many


def build_model(family: str, *, seed: int) -> Any:
    """A random checkpoint in evaluation mode; the same seed gives the same weights."""
    sizes = SHAPES[family] if family in ("gpt2", "gpt_neo") else {**COMMON, **SHAPES[family]}
    sizes = {name: size for name, size in sizes.items() if size is not None}
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = AutoConfig.for_model(family, vocab_size=len(VOCABULARY), **ids, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        _randomise(model)
    return model


def _randomise(model: Any) -> None:
    """Spread the weights enough that attention, norms and softcaps all matter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if parameter.dim() == 1 and name.endswith(
                "weight"
            ):  # norm scales, around one (around zero in gemma)
                parameter.copy_(parameter + 0.3 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
