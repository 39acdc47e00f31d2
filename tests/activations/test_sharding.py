"""Recording on two torchrun ranks: each reads its batches alone, both hold all of them, one's error is everyone's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from interp.activations import record
from tests.activations.conftest import FakeModel, encode
from tests.launching import contents, torchrun

POST = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
ROWS = ("ppnsnse", "pn", "ppsn", "pnsns", "pppnn")
SCRIPT = """
import os, sys
from pathlib import Path
from tests.activations.test_sharding import on_one_rank
on_one_rank(Path(sys.argv[1]), os.environ["RANK"])
"""


def kept(folder: Path, name: str) -> list[tuple[tuple[int, ...], tuple[str, ...]]]:
    """Record in memory and on disk in batches of one; returns what the model was asked for in memory."""
    model = FakeModel(torch.arange(60.0).reshape(30, 2))
    inputs = encode(*ROWS)
    record(model, inputs, hooks=POST, positions="answer.numbers", batch_size=1).save(folder / name / "memory")
    ran = list(model.ran)
    record(
        model, inputs, hooks=POST, positions="answer.numbers", batch_size=1, memory=0, folder=folder / name
    )
    return ran


def on_one_rank(folder: Path, rank: str) -> None:
    from interp.core.runs import InputError

    ran = kept(folder, rank)
    (folder / f"ran-{rank}").write_text(repr(ran))
    table = torch.arange(60.0).reshape(30, 2)
    table[8:10] = torch.nan  # the tokens of the shortest row, which rank 0 reads
    try:
        record(FakeModel(table), encode(*ROWS), hooks=POST[0], batch_size=1)
    except InputError as error:
        (folder / f"error-{rank}").write_text(str(error))


@pytest.mark.slow
def test_each_rank_reads_its_share_and_holds_the_whole(tmp_path: Path) -> None:
    torchrun(SCRIPT, tmp_path)
    ran = kept(tmp_path, "alone")
    alone = contents(tmp_path / "alone")
    assert len(alone) >= 3
    assert contents(tmp_path / "0") == alone
    assert contents(tmp_path / "1") == alone
    assert (tmp_path / "ran-0").read_text() == repr(ran[0::2])
    assert (tmp_path / "ran-1").read_text() == repr(ran[1::2])
    text = (
        "fake gives NaN or inf at blocks.0.hook_resid_post; check its weights or load it with dtype float32"
    )
    assert (tmp_path / "error-0").read_text() == (tmp_path / "error-1").read_text() == text
