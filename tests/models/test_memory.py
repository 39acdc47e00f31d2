"""Memory that is to be had, by the files of the system, and models too large for it, refused before they are read."""

from __future__ import annotations

import pytest

from interp.core.runs import InputError
from interp.models import loading, memory
from interp.models.language import load_model

MIB = 2**20


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with 800 MiB free, without bounds."""
    (tmp_path / "meminfo").write_text("MemTotal: 2048000 kB\nMemAvailable:  819200 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    return tmp_path


def test_the_tightest_bound_counts(system):
    assert memory.available_memory() == 800 * MIB
    (system / "memory.max").write_text("max\n")
    (system / "memory.current").write_text(f"{100 * MIB}\n")
    assert memory.available_memory() == 800 * MIB
    (system / "memory.max").write_text(f"{300 * MIB}\n")
    (system / "memory.stat").write_text(f"anon 5\ninactive_file {40 * MIB}\n")  # would be given back
    assert memory.available_memory() == 240 * MIB


def test_a_system_that_does_not_say_refuses_nothing(system):
    (system / "meminfo").unlink()
    assert memory.available_memory() is None
    memory.check_memory(2**60, "loading")


def test_a_model_too_large_is_refused_before_it_is_read(saved, system, monkeypatch):
    folder = saved()
    (system / "meminfo").write_text("MemAvailable: 204800 kB\n")
    monkeypatch.setattr(loading, "_class_of", None)
    with pytest.raises(
        InputError,
        match=r"loading .*checkpoint takes 0\.25 GiB of memory and 0\.2 GiB are free; free some, use a smaller "
        r"model or dtype='bfloat16', or a larger machine",
    ):
        load_model(folder)


def test_bytes_are_those_of_the_type_that_is_asked_for(saved, tiny):
    import torch

    folder = saved()
    numbers = sum(weight.numel() for weight in tiny("llama")[0].parameters())
    assert loading._weight_bytes(folder, None) == 4 * numbers
    assert loading._weight_bytes(folder, torch.bfloat16) == 2 * numbers
