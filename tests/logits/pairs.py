"""Random pairs of checkpoints in which everything differs, and the change of a score by plain Hugging Face logits."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch

from interp.models.language import load_model

PAIRS = [
    ("continue this list: 3, 5, 8", "13, 21, 34"),
    ("numbers: 1; 2", "4; 8; 16; 32; 7"),
    ("the best name 9, 9, 9", "10, 11"),
    ("one more", "list"),
]


def perturbed(hf, seed=1):
    """A copy with every parameter moved: norms, biases, embeddings, unembedding."""
    other = copy.deepcopy(hf)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return other


def pair(hf, other, tokenizer) -> Any:
    """`other` as a member that started from `hf`."""
    base, teacher = (
        load_model(model, tokenizer=tokenizer, name=name)
        for model, name in ((hf, "base"), (other, "teacher"))
    )
    return replace(teacher, start=base)


def measured_change(member, prompts, direction, *, positions):
    """Member minus start, mean over rows of the mean over positions, by the plain modules."""
    encoded = member.encode(prompts)
    with torch.no_grad():
        after, before = (
            model.hf(input_ids=encoded.ids, attention_mask=encoded.mask.long()).logits
            for model in (member, member.start)
        )
    change = (after - before)[..., list(direction.ids)] @ torch.tensor(direction.weights)
    chosen = encoded.at(positions)
    rows = [change[row][chosen[row]].mean() for row in range(len(encoded)) if chosen[row].any()]
    return float(torch.stack(rows).mean())
