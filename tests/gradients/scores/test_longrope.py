"""Longrope takes other frequencies for a whole batch as soon as one row is long: rows of both sides are refused."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from interp.core.errors import InputError
from interp.gradients.scores.scoring import score
from interp.models.language import load_model
from interp.prompts.text import Prompts
from tests.gradients.scores.test_exactness import directions
from tests.tiny import COMMON, build_tokenizer

ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.2, 1.5, 2.0],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 32,
}


def test_rows_of_both_sides_are_told_apart():
    tokenizer = build_tokenizer()
    given = {
        "vocab_size": len(tokenizer),
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "rope_parameters": ROPE,
    }
    config = AutoConfig.for_model("phi3", **COMMON, **given, original_max_position_embeddings=32)
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn_like(weight) * weight.shape[-1] ** -0.5)
    model = load_model(network, tokenizer=tokenizer, name="phi3", check=False)
    rows = Prompts.from_pairs([("list", "2 , 3"), ("list " + "1 , " * 20, "2")], label="rows")
    along = directions(model)[:1]
    with pytest.raises(
        InputError, match=r"rows: rows of up to 32 tokens .*; pass rows of one side of 32 tokens in a"
    ):
        score(model, rows, along)
    assert len(score(model, rows[:1], along)) == len(score(model, rows[1:], along)) == 1
