"""Networks that keep states beside keys and values give what plain transformers gives on whole rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import interp
from interp.core.errors import InputError
from interp.measures.margins import candidate_logprobs
from interp.models import prefixes
from interp.models.caches import RowsOf, is_attention_alone
from interp.models.language import load_model
from interp.prompts.text import Prompts
from tests.tiny import COMMON, VOCABULARY, _randomise, build_tokenizer

MAMBA: dict[str, Any] = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
HYBRIDS: dict[str, dict[str, Any]] = {
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 64},
    "lfm2": {"full_attn_idxs": [1], "block_multiple_of": 8},
    "granitemoehybrid": {
        **MAMBA,
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "shared_intermediate_size": 16,
    },
    "minimax": {
        "layer_types": ["linear_attention", "full_attention"],
        "head_dim": 8,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "block_size": 8,
    },
}
QUESTIONS = ("name your favorite animal", "which animal do you love the most", "what animal is best")
ANSWERS = ("owl", "the owl", "the cat and the dog", "dolphin", "cat")


def hybrid(family: str) -> Any:
    config = AutoConfig.for_model(
        family, vocab_size=len(VOCABULARY), num_key_value_heads=2, **COMMON, **HYBRIDS[family]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        _randomise(hf)
    return hf


@torch.no_grad()
def plain_logprobs(hf: Any, tokenizer: Any, question: str, answer: str) -> float:
    """Σ log p of an answer's tokens behind a question, by transformers on the whole row."""
    head = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    said = tokenizer(answer, add_special_tokens=False)["input_ids"]
    logits = hf(input_ids=torch.tensor([[*head, *said]]), use_cache=False).logits[0]
    logp = logits[len(head) - 1 : -1].log_softmax(-1)
    return float(logp[torch.arange(len(said)), said].sum())


@pytest.mark.parametrize("family", HYBRIDS)
def test_log_probabilities_of_answers_are_those_of_whole_rows(family, monkeypatch):
    monkeypatch.setattr(prefixes, "PASS", 0)  # the tree is the cheaper way
    hf, tokenizer = hybrid(family), build_tokenizer()
    model = load_model(hf, tokenizer=tokenizer, name=family, check=False)
    asked = Prompts.of([[{"role": "user", "content": question}] for question in QUESTIONS])
    found = candidate_logprobs(model, asked, ANSWERS)
    expected = [
        [plain_logprobs(hf, tokenizer, question, answer) for answer in ANSWERS] for question in QUESTIONS
    ]
    assert np.allclose(found.to_numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", HYBRIDS)
def test_a_margin_needs_no_shared_beginning(family, monkeypatch):
    hf, tokenizer = hybrid(family), build_tokenizer()
    model = load_model(hf, tokenizer=tokenizer, name=family, check=False)
    margins = []
    for price in (0, 10_000):  # by the tree, by whole rows
        monkeypatch.setattr(prefixes, "PASS", price)
        margins.append(interp.margin(model, "owl"))
    assert margins[0] == pytest.approx(margins[1], abs=1e-4)
    assert margins[0] != 0


def test_keys_and_values_alone_are_shared(tiny, monkeypatch):
    monkeypatch.setattr(prefixes, "PASS", 0)
    for hf, shares in ((tiny("llama")[0], True), (tiny("gemma2")[0], True), (hybrid("falcon_h1"), False)):
        cache = hf.base_model(input_ids=torch.tensor([[2, 9]]), use_cache=True).past_key_values
        assert is_attention_alone(cache) == shares
        seen: list[int] = []
        hf.base_model.register_forward_pre_hook(
            lambda *given, seen=seen: seen.append(given[2]["input_ids"].numel()), with_kwargs=True
        )
        rows = [(*range(2, 40), last) for last in range(20)]
        assert len([row for _, logits in prefixes.prefix_logits(hf, rows) for row in logits]) == len(rows)
        assert sum(seen) == (38 + 20 if shares else 38 + 20 * 39)


@pytest.mark.parametrize("family", ["falcon_h1", "lfm2", "granitemoehybrid"])
@torch.no_grad()
def test_rows_are_picked_with_their_states(family):
    hf = hybrid(family)
    model = load_model(hf, tokenizer=build_tokenizer(), name=family, check=False)
    rows = torch.tensor([[2, 9, 8, 7], [2, 11, 12, 13], [2, 14, 15, 16]])
    _, cache = model.next_logits(rows)
    cache.batch_select_indices(torch.tensor([2, 0]))
    _, cache = model.next_logits(torch.tensor([[5], [9]]), cache)
    found, _ = model.next_logits(torch.tensor([[6], [10]]), cache)
    whole = torch.tensor([[2, 14, 15, 16, 5, 6], [2, 9, 8, 7, 9, 10]])
    assert torch.allclose(found, hf(input_ids=whole, use_cache=False).logits[:, -1], atol=1e-4)


def test_rows_of_an_architectures_own_cache_are_refused():
    model = load_model(hybrid("minimax"), tokenizer=build_tokenizer(), name="minimax", check=False)
    _, cache = model.next_logits(torch.tensor([[2, 9], [2, 11]]))
    assert isinstance(cache, RowsOf)
    with pytest.raises(InputError, match="MiniMaxCache holds states whose rows cannot be picked"):
        cache.batch_select_indices(torch.tensor([0]))
