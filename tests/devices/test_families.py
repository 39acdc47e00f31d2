"""Every family of architectures on the GPU and on the processor: what each model can be asked, and what it learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp.models.parameters import ParameterDirection
from interp.models.seam import lineage_root
from interp.prompts.text import Prompts
from tests.devices.comparing import DEVICE, TOLERANCE, TRAINED, agree_on_both, moved, needs_device
from tests.models.conftest import make_lora
from tests.tiny import SHAPES, build_model, build_tokenizer

pytestmark = needs_device
HOOKS = ["blocks.0.hook_resid_pre", "blocks.1.attn.hook_z", "blocks.1.hook_resid_post"]
QUESTIONS = [
    ("give 3 numbers : 1 , 2", "3 , 4 , 5"),
    ("name one animal", "owl"),
    ("list 4 numbers", "7 ; 8 ; 9 ; 12 ; 13 ; 1"),
]
ROWS = Prompts.from_pairs(QUESTIONS * 3, label="rows")  # of unlike length, so that a batch has padding


@pytest.fixture(scope="module", params=SHAPES)
def models(request: Any) -> tuple[Any, Any]:
    """One tiny checkpoint on the device and on the processor, each held against plain transformers as it is loaded."""
    networks = [build_model(request.param, seed=0) for _ in range(2)]
    on_device, here = (
        interp.load_model(network, tokenizer=build_tokenizer(), device=device, name=request.param, check=True)
        for network, device in zip(networks, (DEVICE, "cpu"), strict=True)
    )
    assert on_device.device.type == torch.device(DEVICE).type
    assert on_device.fingerprint == here.fingerprint
    return on_device, here


def logprobs(model: Any) -> torch.Tensor:
    inputs = model.encode(ROWS)
    return model.logits(inputs).log_softmax(-1).cpu()[inputs.mask.cpu()]


def adapted(model: Any, folder: Path) -> Any:
    """The model under a random adapter, which stays live."""
    make_lora(build_model(model.name, seed=0)).save_pretrained(folder / "adapter")
    return model.with_adapter(folder / "adapter", name="adapted", check=True)


def drawn(model: Any) -> ParameterDirection:
    """A random change of every weight, the same wherever the model lies."""
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in model.shapes.items()}
    return ParameterDirection(dict(tensors), "drawn", model.fingerprint, lineage_root(model))


def scored(model: Any) -> Any:
    return interp.score(model, ROWS, drawn(model), by=("example", "module"), batch_size=4).examples()


def trained(model: Any, **how: Any) -> Any:
    recipe = interp.Recipe(batch_size=3, lr=1e-3, **how)
    return moved(interp.train_student(model, ROWS, recipe=recipe), model)


SEAM: dict[str, tuple[Callable[[Any, Path], Any], float]] = {
    "logits": (lambda model, _: logprobs(model), TOLERANCE),
    "record": (lambda model, _: interp.record(model, ROWS, hooks=HOOKS, positions="answer"), TOLERANCE),
    "adapter": (lambda model, folder: logprobs(adapted(model, folder)), TOLERANCE),
    "score": (lambda model, _: scored(model), TOLERANCE),
    "student with an adapter": (lambda model, _: trained(model, rank=2), TRAINED),
    "student with every weight": (lambda model, _: trained(model, trainable="all", optimizer="sgd"), TRAINED),
}


@pytest.mark.parametrize("verb", SEAM)
def test_a_family_reads_and_learns_alike_on_both(models, verb, tmp_path):
    measure, tolerance = SEAM[verb]
    agree_on_both(measure, models, tmp_path, tolerance=tolerance)
