"""The untrained toy network whose trainings are recorded."""

import pytest

from interp.models.language import load_model
from interp.organisms.toy import World, build_network, build_tokenizer


@pytest.fixture(scope="module")
def start():
    network = build_network(World(d_model=16, d_mlp=24), seed=0).eval()
    return load_model(network, tokenizer=build_tokenizer(), name="start", check=False)
