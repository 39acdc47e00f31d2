"""What loading a model again costs: `load_model` of files that did not change over transformers' own two calls.

Processor time in one process, and the peak of memory of a process forked for each. The model is a random llama of 36
million parameters with a byte-level tokenizer; a folder in INTERP_CHECKPOINT is measured beside it.
"""

from __future__ import annotations

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.generation import CHECKPOINT
from benchmarks.paired import REPETITIONS, Ratio, paired, peaks, summary
from interp.core.remembered import YOUNG
from interp.models.language import load_model


def loading() -> dict[str, Ratio]:
    """Time and memory of our load over the plain one, for both models."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        results = beside(random_folder(Path(scratch)), "load")
    if folder := os.environ.get(CHECKPOINT):
        results |= beside(Path(folder), f"load-{Path(folder).name}")
    return results


def beside(folder: Path, name: str) -> dict[str, Ratio]:
    """Ratios under `name` and `name-peak`, once the first load has found out what the later ones need not."""
    ours, plain = partial(load_model, folder, device="cpu"), partial(as_transformers, folder)
    ours()
    ratios = [peaks(ours)[1] / peaks(plain)[1] for _ in range(REPETITIONS)]
    return {name: paired(ours, plain), f"{name}-peak": summary(ratios)}


def as_transformers(folder: Path) -> tuple[Any, Any]:
    """The model and its tokenizer as a user of transformers loads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
    return network.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def random_folder(scratch: Path) -> Path:
    """A checkpoint as save_pretrained leaves it, old enough to be remembered."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = ByteLevelBPETokenizer()
    words = (" ".join(str(number * factor) for number in range(100)) for factor in range(1, 1000))
    backend.train_from_iterator(words, vocab_size=8192, show_progress=False, special_tokens=["<eos>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer, eos_token="<eos>")
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(scratch / "random")
    tokenizer.save_pretrained(scratch / "random")
    time.sleep(2 * YOUNG)
    return scratch / "random"


BENCHES = {"loading": loading}
