"""Logits after beginnings that share theirs, against plain transformers on every one alone; and what is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp.models import prefixes
from interp.models.language import load_model
from interp.models.prefixes import Tree, prefix_logits
from tests.tiny import FAMILIES

ROWS = (
    (2, 9, 8, 7, 6),
    (2, 9, 8, 7, 6, 20),
    (2, 9, 8, 7, 6, 20, 21),
    (2, 9, 8, 7, 6, 22),
    (2, 9, 8, 11, 12, 13, 14),
    (2, 9, 8, 11, 12, 13, 14, 22),
    (2, 9, 8, 15, 6),
    (2, 9, 8, *range(16, 30), 20),  # longer than the windows of the families that have one
    (2, 9, 8, *range(16, 30), 20, 21),
)


@pytest.fixture(params=["tree", "whole rows"])
def way(request, monkeypatch) -> str:
    monkeypatch.setattr(prefixes, "PASS", 0 if request.param == "tree" else 10_000)
    return request.param


def gathered(network: Any, rows=ROWS) -> torch.Tensor:
    found = {
        place: row
        for places, logits in prefix_logits(network, rows)
        for place, row in zip(places, logits, strict=True)
    }
    return torch.stack([found[place] for place in range(len(rows))])


def alone(hf: Any) -> torch.Tensor:
    return torch.stack([hf(input_ids=torch.tensor([row])).logits[0, -1] for row in ROWS])


@pytest.mark.parametrize("family", [*FAMILIES, "granite"])
def test_logits_are_those_of_every_row_alone(tiny, family, way):
    hf, tokenizer = tiny(family)
    model = load_model(hf, tokenizer=tokenizer, name=family, check=False)
    expected = alone(hf)
    assert torch.allclose(gathered(model), expected, rtol=1e-5, atol=1e-5)
    assert torch.allclose(gathered(model.network()), expected, rtol=1e-5, atol=1e-5)
    again = gathered(model, ROWS[::-1]).flip(0)
    assert torch.allclose(again, expected, rtol=1e-5, atol=1e-5)


def test_gradients_flow_through_what_is_shared(tiny, way):
    hf, _ = tiny("gpt2")  # which stays in double where llama's norms fall back to fp32
    hf.double().requires_grad_(True)
    weights = list(hf.parameters())
    taken = torch.randn(
        len(ROWS), hf.config.vocab_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    ours, plain = ((find(hf) * taken).sum() for find in (gathered, alone))
    for one, other in zip(
        torch.autograd.grad(ours, weights), torch.autograd.grad(plain, weights), strict=True
    ):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-9)


def test_open_hooks_act(tiny):
    hf, tokenizer = tiny("gpt2")
    model = load_model(hf, tokenizer=tokenizer, name="gpt2", check=False)
    before = gathered(model)
    with model.hooks({"blocks.1.hook_resid_post": torch.zeros_like}):
        assert torch.allclose(gathered(model), gathered(model)[:1].expand_as(before), atol=1e-6)
    assert torch.equal(gathered(model), before)


def test_every_token_of_the_tree_is_computed_once(tiny, monkeypatch):
    monkeypatch.setattr(prefixes, "PASS", 0)
    hf, _ = tiny("llama")
    seen = []
    hf.base_model.register_forward_pre_hook(
        lambda *given: seen.append(given[2]["input_ids"].numel()), with_kwargs=True
    )
    gathered(hf)
    distinct = {row[:end] for row in ROWS for end in range(1, len(row) + 1)}
    assert sum(seen) == len(distinct) == Tree.of(ROWS).cost()


def test_a_pass_has_its_price(tiny, monkeypatch):
    hf, _ = tiny("llama")
    passes = []
    hf.base_model.register_forward_pre_hook(lambda *given: passes.append(1), with_kwargs=True)
    gathered(hf)
    assert len(passes) == 1  # five whole rows are cheaper than the eight passes of the tree
    assert Tree.of(ROWS).cost() == 8 * prefixes.PASS + 31
