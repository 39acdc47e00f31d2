"""Files written by rows are read by the safetensors library itself, bit for bit."""

import errno
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from interp.core import storage
from interp.core.runs import InputError


def test_rows_written_in_any_order_are_read_by_the_library(tmp_path):
    values = torch.randn(5, 3, 2)
    mask = torch.tensor([[True, False, True]] * 5)
    path = tmp_path / "deep" / "rows.safetensors"
    layout = {"mask": (torch.bool, (5, 3)), "a": (torch.float32, (5, 3, 2)), "n": (torch.int64, (5,))}
    file = storage.RowFile(path, layout, {"label": "teacher − base"})
    for row in (4, 0, 2, 1, 3):
        file.put("a", row, values[row])
    file.put("mask", 0, mask)
    file.put("n", 0, torch.arange(5))
    assert not path.exists()
    file.finish()
    loaded = load_file(path)
    assert torch.equal(loaded["a"], values)
    assert torch.equal(loaded["mask"], mask)
    assert torch.equal(loaded["n"], torch.arange(5))
    with safe_open(path, framework="pt") as opened:
        assert opened.metadata() == {"label": "teacher − base"}
    assert [entry.name for entry in path.parent.iterdir()] == ["rows.safetensors"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    storage.write_tensors(path, {"a": torch.ones(3)}, {})

    def fail(*_):
        raise RuntimeError("killed")

    monkeypatch.setattr(storage.RowFile, "put", fail)
    with pytest.raises(RuntimeError, match=r"killed"):
        storage.write_tensors(path, {"a": torch.zeros(3)}, {})
    assert torch.equal(load_file(path)["a"], torch.ones(3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage, "_reserve", full)
    with pytest.raises(
        InputError, match=r"cannot write .*a\.safetensors: No space left on device; free space"
    ):
        storage.write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(3)}, {})
    assert list(tmp_path.iterdir()) == []


def test_row_blocks_cover_every_row_once(monkeypatch):
    monkeypatch.setattr(storage, "BLOCK_BYTES", 24)
    tensor = torch.arange(14.0).reshape(7, 2)  # 8 bytes a row, three rows a block
    blocks = list(storage.row_blocks(tensor))
    assert [start for start, _ in blocks] == [0, 3, 6]
    assert torch.equal(torch.cat([block for _, block in blocks]), tensor)


@pytest.mark.parametrize("keep", [4, 60, -1])
def test_truncated_files_are_refused(tmp_path, keep):
    path = storage.write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(100)}, {"k": "v"})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"truncated or not safetensors"):
        storage.read_tensors(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no file at .*gone\.safetensors"):
        storage.read_tensors(tmp_path / "gone.safetensors")
