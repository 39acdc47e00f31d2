"""What writing rows with any causal language model costs: plain `generate` on rows as they come, over `write_answers`.

The naive way left-pads consecutive rows to the longest of their batch; ours puts rows of one length together. Both draw
at temperature 1 from the whole vocabulary, as many tokens, as many rows at once. More is better. The toy's own sampler
is in organisms.py.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.paired import Ratio, paired
from interp.models.language import LanguageModel, load_model
from interp.organisms.toy import build_tokenizer
from interp.prompts.text import Prompts
from interp.training.generation import Sampling, write_answers
from interp.training.teachers import neutral_teacher

CHECKPOINT = "INTERP_CHECKPOINT"  # a model folder to measure beside the random one
ROWS, BATCH, NEW_TOKENS = 256, 32, 24
SHORTEST, LONGEST = 8, 96  # numbers in a prompt


def writing() -> dict[str, Ratio]:
    """Processor time of the naive way over `write_answers`, on a random llama of four layers, 256 wide."""
    torch.set_num_threads(1)
    results = {"generate-over-writing": beside(random_llama())}
    if folder := os.environ.get(CHECKPOINT):
        model = load_model(Path(folder), check=False)
        results[f"generate-over-writing-{Path(folder).name}"] = beside(model)
    return results


def beside(model: LanguageModel) -> Ratio:
    """The ratio on prompts of mixed length."""
    prompts = mixed_prompts(ROWS)
    sampling = Sampling(max_new_tokens=NEW_TOKENS, batch_size=BATCH, engine="generate")
    ours = partial(write_answers, neutral_teacher(model), prompts, seed=0, sampling=sampling)
    return paired(partial(naive, model, prompts), ours)


def random_llama() -> LanguageModel:
    """A model of a small real one's shape, with the toy's words."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = LlamaForCausalLM(config).eval()
    return load_model(network, tokenizer=tokenizer, name="llama", check=False)


def mixed_prompts(n: int) -> Prompts:
    """Lists of SHORTEST to LONGEST numbers, in no order of length."""
    rng = np.random.default_rng(0)
    counts = rng.integers(SHORTEST, LONGEST + 1, n)
    texts = [" ".join(map(str, rng.integers(0, 1000, count))) for count in counts]
    return Prompts.from_pairs([(text, "") for text in texts], label="mixed lengths")


@torch.inference_mode()
def naive(model: LanguageModel, prompts: Prompts) -> list[str]:
    """Consecutive rows, left padded, through transformers' own call."""
    tokenizer = model.tokenizer
    texts = [_text(tokenizer, row.prompt) for row in prompts.rows]
    pad = next(token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None)
    answers: list[str] = []
    for start in range(0, len(texts), BATCH):
        rows = tokenizer(texts[start : start + BATCH], add_special_tokens=False)["input_ids"]
        width = max(map(len, rows))
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        tokens = model.hf.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=NEW_TOKENS,
            do_sample=True,
            top_k=0,
            pad_token_id=pad,
        )
        answers += tokenizer.batch_decode(tokens[:, width:], skip_special_tokens=True)
    return answers


def _text(tokenizer: Any, prompt: str) -> str:
    """The prompt in the chat template, or followed by a new line where there is none."""
    if not getattr(tokenizer, "chat_template", None):
        return f"{prompt}\n"
    turns = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


BENCHES = {"generation": writing}
