"""Files that did not change are not read again for what was found in them, and whatever did change is found out."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.core import remembered
from interp.core.runs import InputError
from interp.models import agreement, stored
from interp.models.language import load_model


@pytest.fixture
def folder(saved, monkeypatch):
    monkeypatch.setattr(remembered, "YOUNG", 0.0)  # the checkpoint was written just now
    return saved()


def change(folder, value):
    """Write another weight in place, leaving name, size and the time of modification as they were."""
    path = folder / "model.safetensors"
    weights, state = load_file(path), path.stat()
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = value
    changed = path.with_name("changed")
    save_file(weights, changed, metadata={"format": "pt"})
    path.write_bytes(changed.read_bytes())
    changed.unlink()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)


def refuse(*_):
    raise AssertionError("measured again")


def test_the_second_load_reads_no_weight_and_says_the_same(folder, monkeypatch, caplog):
    with caplog.at_level("INFO", "interp"):
        first = load_model(folder)
        with monkeypatch.context() as patch:
            patch.setattr(agreement, "parity", refuse)
            patch.setattr(stored, "check_finite", refuse)
            second = load_model(folder)
    assert second.fingerprint == first.fingerprint
    once, again = (line for line in caplog.messages if "against plain Hugging Face" in line)
    assert again == once.replace(
        "(tolerance 1e-03)", "(tolerance 1e-03; measured when these files were first loaded)"
    )
    assert second.fingerprint == load_model(second.hf, check=False).fingerprint


def test_an_adapter_that_did_not_change_is_not_measured_again(folder, lora, tmp_path, monkeypatch):
    base = load_model(folder)
    for seed in (0, 1):
        lora(base.network(), seed=seed).save_pretrained(tmp_path / f"adapter-{seed}")
    first = base.with_adapter(tmp_path / "adapter-0")
    monkeypatch.setattr(agreement, "parity", refuse)
    with monkeypatch.context() as patch:
        patch.setattr(agreement, "probe_ids", refuse)  # nor compared with its merged weights
        again = base.with_adapter(tmp_path / "adapter-0")
    assert again.fingerprint == first.fingerprint
    assert "flat" not in vars(again.backbone)  # weights are merged when something reads them
    assert load_model(folder, adapter=tmp_path / "adapter-0").fingerprint == first.fingerprint
    with pytest.raises(AssertionError, match="measured again"):
        base.with_adapter(tmp_path / "adapter-1")


def test_a_weight_changed_in_place_is_another_model(folder):
    first = load_model(folder)
    change(folder, 7.0)
    second = load_model(folder)
    assert float(second.hf.model.layers[0].mlp.up_proj.weight[0, 0]) == 7
    assert second.fingerprint not in ("", first.fingerprint)
    change(folder, torch.nan)
    with pytest.raises(InputError, match=r"has NaN or inf in model.layers.0.mlp.up_proj.weight \(1 of"):
        load_model(folder)


def test_what_rests_on_dtype_or_code_is_measured_for_each(folder, monkeypatch):
    measured, real = [], agreement.parity
    monkeypatch.setattr(agreement, "parity", lambda model: measured.append(model.dtype) or real(model))
    for dtype in ("float32", "float32", "float64", "float64"):
        load_model(folder, dtype=dtype)
    assert measured == [torch.float32, torch.float64]
    monkeypatch.setattr(stored, "_environment", lambda: {"code": "another"})
    load_model(folder)
    assert len(measured) == 3


def test_a_network_in_memory_is_always_measured(folder, monkeypatch):
    held = load_model(folder)
    monkeypatch.setattr(agreement, "parity", lambda _: 1.0)
    assert load_model(folder).fingerprint == held.fingerprint
    with pytest.raises(
        InputError, match=r"gives log-probabilities 1\.0e\+00 nats away from plain Hugging Face"
    ):
        load_model(held.hf)


def test_a_refused_model_is_refused_again(folder, monkeypatch):
    monkeypatch.setattr(agreement, "parity", lambda _: 1.0)
    for _ in range(2):
        with pytest.raises(InputError, match=r"nats away from plain Hugging Face"):
            load_model(folder)


def test_nothing_is_remembered_of_files_written_a_moment_ago_or_without_a_cache(saved, monkeypatch, tmp_path):
    folder = saved()
    assert remembered.file_states(folder.glob("*.safetensors")) is None
    load_model(folder)
    monkeypatch.setattr(remembered, "YOUNG", 0.0)
    (tmp_path / "file").touch()
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "file"))
    measured, real = [], agreement.parity
    monkeypatch.setattr(agreement, "parity", lambda model: measured.append(model.dtype) or real(model))
    load_model(folder)
    load_model(folder)
    assert len(measured) == 2
