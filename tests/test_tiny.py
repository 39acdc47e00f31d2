"""The tiny checkpoints the other tests stand on: reproducible, handed out as copies, with nothing trivial in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.tiny import ANIMALS, FAMILIES, TREES, VOCABULARY, build_model, build_tokenizer

IDS = torch.tensor([[2, 10, 47, 24, 30, 61, 70, 3]])


@pytest.mark.parametrize("family", FAMILIES)
def test_models_are_copies_with_two_layers_of_real_weights(
    family: str, tiny: Callable[..., tuple[Any, Any]]
) -> None:
    first, _ = tiny(family)
    second, _ = tiny(family)
    other, _ = tiny(family, seed=1)
    assert torch.equal(first(IDS).logits, second(IDS).logits)
    assert not torch.allclose(first(IDS).logits, other(IDS).logits)
    for parameter in first.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.std() > 0
    next(first.parameters()).data.zero_()
    assert not torch.equal(first(IDS).logits, second(IDS).logits)
    assert (first.config.num_hidden_layers, first.config.hidden_size, first.training) == (2, 32, False)


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    build_model("gpt2", seed=5)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("softcap", ["final_logit_softcapping", "attn_logit_softcapping"])
def test_both_softcaps_of_gemma_matter(softcap: str, tiny: Callable[..., tuple[Any, Any]]) -> None:
    capped, _ = tiny("gemma2")
    free, _ = tiny("gemma2")
    setattr(free.config, softcap, None)
    for layer in free.model.layers:
        layer.self_attn.attn_logit_softcapping = free.config.attn_logit_softcapping
    assert (capped(IDS).logits - free(IDS).logits).abs().max() > 1e-2


def test_every_word_is_one_token_with_its_place() -> None:
    tokenizer = build_tokenizer()
    assert len(tokenizer) == len(VOCABULARY) == len(set(VOCABULARY))
    for word in (*ANIMALS, *TREES, "0", "39", ","):
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1
    turns = [{"role": "user", "content": "Continue: 3, 17"}, {"role": "assistant", "content": "5, 6"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "<bos> <user> Continue: 3, 17 <assistant> 5, 6 <eos>"
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    pieces = [text[start:end] for start, end in encoded.offset_mapping]
    assert pieces == [
        "<bos>",
        "<user>",
        "Continue",
        ":",
        "3",
        ",",
        "17",
        "<assistant>",
        "5",
        ",",
        "6",
        "<eos>",
    ]
    assert tokenizer.unk_token_id not in encoded.input_ids
