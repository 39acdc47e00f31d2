"""A byte-level tokenizer that writes case and space into its tokens, and a small random gpt2 that reads it."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from interp.models.language import LanguageModel, load_model

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + '\\n' + m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}"
    "{% endif %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}"
)
TEXT = ["an owl", "the owl", "The cat", "a dog", "one owl one cat one dog", "Cat", "Cat", "cat", "owl"] * 8


def cased_tokenizer() -> Any:
    """Byte-level pieces with merges learned from a few words."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<end>"], show_progress=False
    )
    core.train_from_iterator(TEXT, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def cased_model(seed: int = 0) -> LanguageModel:
    """Two layers of random weights over that vocabulary."""
    tokenizer = cased_tokenizer()
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=256, **ends)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    return load_model(network, tokenizer=tokenizer, name="cased", check=False)
