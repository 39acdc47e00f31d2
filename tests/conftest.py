"""Shared fixtures: one thread, no network, types checked at every call, tiny models by family."""

from __future__ import annotations

import os

os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="disabled",
    TQDM_DISABLE="1",
    BROWSER_PATH="/nonexistent/browser",  # drawing pictures takes seconds; one test asks for it
)

import copy
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tests.typecheck

# plotly imports nbformat, and that a grammar of addresses, which takes two seconds to read and is optional
sys.modules.setdefault("rfc3987_syntax", None)  # pyright: ignore[reportArgumentType]
HOOK = tests.typecheck.install()
for drawer in (
    "choreographer",
    "kaleido",
):  # a picture's browser is cleaned up later, in whichever test runs then
    logging.getLogger(drawer).setLevel(logging.WARNING)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first: the other workers do the rest meanwhile."""
    items.sort(key=lambda item: item.name != "test_the_notebooks_run")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two cores are shared by xdist workers: more threads than one make everything slower."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts with an empty cache and touches nobody's home."""
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny_originals() -> dict[tuple[str, int], tuple[Any, Any]]:
    return {}


@pytest.fixture
def tiny(tiny_originals: dict[tuple[str, int], tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Factory `tiny(family, seed=0)` -> (Hugging Face model, tokenizer); every call hands out its own copy."""
    from tests.tiny import build_model, build_tokenizer

    def make(family: str, seed: int = 0) -> tuple[Any, Any]:
        key = (family, seed)
        if key not in tiny_originals:
            tiny_originals[key] = (build_model(family, seed=seed), build_tokenizer())
        return copy.deepcopy(tiny_originals[key])

    return make


@pytest.fixture
def fresh_seeds() -> Iterator[None]:
    """For tests that prove a verb leaves the global random state alone."""
    import torch

    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state()), "the global random state was touched"


@pytest.fixture(scope="session")
def toy_tokenizer() -> Any:
    from interp.organisms.toy import build_tokenizer

    return build_tokenizer()


@pytest.fixture
def raw(toy_tokenizer: Any) -> Callable[..., Any]:
    """Untrained toy model; `raw(seed)` gives one of that seed."""
    from interp.models.language import load_model
    from interp.organisms.toy import World, build_network

    def make(seed: int = 0) -> Any:
        network = build_network(World(d_model=16, d_mlp=24), seed=seed).eval()
        return load_model(network, tokenizer=toy_tokenizer, name=f"raw {seed}", check=False)

    return make
