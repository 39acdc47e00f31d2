"""Tiny models, and what a small random step changes."""

from __future__ import annotations

import copy

import pytest
import torch

from interp.models.language import load_model


@pytest.fixture
def model(tiny):
    def make(family="gpt2", seed=0):
        hf, tokenizer = tiny(family, seed)
        return load_model(hf, tokenizer=tokenizer, name=family, check=False)

    return make


@pytest.fixture
def planned_and_measured():
    """What a direction says that a random step adds to an objective per unit, and its central difference in fp64."""

    def compare(own, direction, objective):
        torch.manual_seed(0)
        step = {name: torch.randn_like(weight).double() for name, weight in own.parameters().items()}
        values = []
        for scale in (1e-5, -1e-5):
            moved = copy.deepcopy(own.hf).double()
            with torch.no_grad():
                for name, weight in moved.named_parameters():
                    weight += scale * step[name]
                values.append(objective(moved).item())
        planned = sum(float((tensor * step[name]).sum()) for name, tensor in direction.items())
        return planned, (values[0] - values[1]) / 2e-5

    return compare
