"""Tokenizers that write numbers in a token per digit, in pieces of up to two digits, or whole, and a network for each.

Pairs merge by rank, 00 first: 234 is "23" and "4", 423 is "4" and "23", 42 is one piece. Whole are numbers up to 999.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<bos>", "<eos>"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,;.:?! \n"
DIGITS = "0123456789"


def speller(kind: str) -> Any:
    """A tokenizer of one character a token, but for "pairs" of digits, or for runs of up to three, "whole"."""
    pairs = [(a, b) for a in DIGITS for b in DIGITS] if kind in ("pairs", "whole") else []
    runs = [(a + b, c) for a, b in pairs for c in DIGITS] if kind == "whole" else []
    merges = [*pairs, *runs]
    if kind == "whole":  # what BPE would cut as 4 and 23 is put together again
        merges += [(a, b + c) for a in DIGITS for b, c in pairs]
    entries = dict.fromkeys([*SPECIAL, *LETTERS, *("".join(merge) for merge in merges)])
    core = Tokenizer(
        models.BPE(vocab={entry: i for i, entry in enumerate(entries)}, merges=merges, unk_token="<unk>")
    )
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>", unk_token="<unk>"
    )


def network(tokenizer: Any, *, seed: int = 0, spread: float = 4.0, rows: int = 0) -> Any:
    """A random llama over that vocabulary, its matrices large enough that contexts matter; `rows` more than tokens."""
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer) + rows, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=24, max_position_embeddings=96, bos_token_id=1, eos_token_id=2,
        pad_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(spread)
        model.get_output_embeddings().weight.mul_(4)
    return model
