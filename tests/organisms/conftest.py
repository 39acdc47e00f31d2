"""A toy world small and untrained enough for tests of the machinery; its science is in test_science.py."""

import pytest

from interp.models.language import load_model
from interp.organisms.toy import World, build_network, build_tokenizer


@pytest.fixture(scope="session")
def toy_tokenizer():
    return build_tokenizer()


@pytest.fixture
def raw(toy_tokenizer):
    """Untrained toy model; `raw(seed)` gives one of that seed."""

    def make(seed: int = 0):
        network = build_network(World(d_model=16, d_mlp=24), seed=seed).eval()
        return load_model(network, tokenizer=toy_tokenizer, name=f"raw {seed}", check=False)

    return make
