"""What a training takes is counted by hand on a network of one weight, and refused against a planted free value."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from interp.core.runs import InputError
from interp.models.language import load_model
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.training.peaks import pass_bytes, trained_bytes
from interp.training.students import Recipe, train_student


class Scale(nn.Module):
    """y = w x, of which the squares are summed."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.w, self.frozen = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(99), requires_grad=False)

    def loss(self, network, batch):
        y = self.w * batch.ids.float()
        return (y * y).sum()


@pytest.mark.parametrize(
    ("optimizer", "listening", "times"), [("adamw", 0, 3), ("adamw", 1, 4), ("sgd", 0, 1)]
)
def test_gradient_moments_and_a_listeners_copy_are_counted(optimizer, listening, times):
    recipe = Recipe(batch_size=1, optimizer=optimizer)
    assert trained_bytes(Scale(), recipe, listening=bool(listening)) == times * 5 * 4


@pytest.mark.parametrize(("accumulate", "rows"), [(1, 6), (2, 3), (6, 1)])
def test_a_pass_keeps_what_one_row_keeps_by_rows_of_a_part(accumulate, rows):
    ids = torch.ones(6, 5, dtype=torch.long)
    batch = Encoded(ids, ids.bool(), ids, "rows")
    network, recipe = Scale(), Recipe(batch_size=6, accumulate=accumulate)
    # x for the gradient of w, and y for that of its square: 5 numbers of 4 bytes each; w itself is held already
    assert pass_bytes(network, batch, loss=network.loss, recipe=recipe) == rows * 2 * 5 * 4


def test_too_little_memory_is_said_before_the_first_step(tiny, monkeypatch):
    hf, tokenizer = tiny("llama", 0)
    model, steps = load_model(hf, tokenizer=tokenizer, check=False), []
    rows = Prompts.from_pairs([("give 3 4", "5, 6")] * 4)
    train_student(model, rows, recipe=Recipe(batch_size=4, epochs=1), on_step=steps.append)
    assert len(steps) == 1
    monkeypatch.setattr("interp.models.memory.available_memory", lambda: 2**10)
    with pytest.raises(
        InputError,
        match=r"training student takes [\d.e-]+ GiB of memory and 9\.5e-07 GiB are free; raise accumulate \(now 1\), "
        r"which leaves the steps as they are, or lower batch_size 4",
    ):
        train_student(model, rows, recipe=Recipe(batch_size=4, epochs=1), on_step=steps.append)
    assert len(steps) == 1


def test_counting_changes_no_number_of_the_training(tiny, monkeypatch):
    hf, tokenizer = tiny("llama", 0)
    model = load_model(hf, tokenizer=tokenizer, check=False)
    rows, recipe = Prompts.from_pairs([("give 3 4", "5, 6")] * 4), Recipe(batch_size=2, epochs=2)
    counted = train_student(model, rows, recipe=recipe)
    monkeypatch.setattr("interp.training.peaks.pass_bytes", lambda *_, **__: 0)
    assert train_student(model, rows, recipe=recipe).fingerprint == counted.fingerprint
