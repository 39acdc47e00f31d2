"""Adapters for the tiny families: LoRA on attention and MLP, fused projections included, of a chosen strength."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.prompts.text import Prompts

TARGETS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "gpt_neo": ["q_proj", "out_proj", "c_fc"],
    "gpt_neox": ["query_key_value", "dense", "dense_h_to_4h"],
}
LLAMA_LIKE = ["q_proj", "v_proj", "o_proj", "down_proj"]


def make_lora(hf: Any, *, scale: float = 0.1, seed: int = 0, name: str = "default", **options: Any) -> Any:
    """A PeftModel over a copy of `hf` whose adapter is random; scale 0 leaves it without effect."""
    from peft import LoraConfig, get_peft_model

    targets = TARGETS.get(hf.config.model_type, LLAMA_LIKE)
    config = LoraConfig(**{"r": 2, "lora_alpha": 4, "target_modules": targets, **options})
    peft = get_peft_model(copy.deepcopy(hf), config, adapter_name=name).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, weight in peft.named_parameters():
            if "lora_B" in key or ("lora_A" in key and scale):
                weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    return peft


@pytest.fixture
def lora() -> Callable[..., Any]:
    return make_lora


@pytest.fixture
def prompts() -> Prompts:
    """Two rows of unlike length, so that a batch has padding."""
    return Prompts.from_pairs(
        [("give 3 4", "5, 6"), ("list five numbers the owl love 1 2", "7, 8, 9")], "rows"
    )


@pytest.fixture
def saved(tiny: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny checkpoint as transformers does and return its folder."""

    def write(family: str = "llama", seed: int = 0, name: str = "checkpoint") -> Path:
        hf, tokenizer = tiny(family, seed)
        hf.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return write
