"""Scores of two torchrun ranks against those of one process: the same bytes, half the work each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import interp.gradients.scores.scoring as scores_module
from interp.core.runs import Cache
from interp.gradients.scores.scoring import score
from interp.gradients.scores.work import Work
from interp.prompts.text import Prompts
from tests.gradients.scores.test_exactness import directions, load
from tests.launching import contents, torchrun
from tests.tiny import build_model, build_tokenizer

SCRIPT = """
import os, sys
from pathlib import Path
from tests.gradients.scores.test_sharding import score_rows
folder = Path(sys.argv[1])
score_rows(folder / os.environ["RANK"])
"""


def score_rows(folder: Path) -> None:
    """Score a few rows in shards of three and batches of two; what came out lies in the folder."""
    folder.mkdir()
    scores_module.SHARD = 3
    model = load((build_model("llama", seed=0), build_tokenizer()), "llama")
    rows = Prompts.from_pairs([(f"list {i} numbers", ", ".join(["1"] * (1 + i % 5))) for i in range(11)])
    wrote, write = [], Work.write

    def counted(self, path, inputs, start, batch_size):
        wrote.append(start)
        write(self, path, inputs, start, batch_size)

    Work.write = counted
    try:
        found = score(model, rows, directions(model)[:2], by=("example", "module"), batch_size=2)
    finally:
        Work.write = write
    found.save(folder / "scores.parquet")
    plain = {name: getattr(found, name).tolist() for name in ("totals", "loss", "tokens")}
    (folder / "plain.json").write_text(json.dumps(plain))
    (folder.parent / f"wrote-{folder.name}.json").write_text(json.dumps(wrote))


@pytest.mark.slow
def test_two_ranks_give_the_bytes_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores_module, "SHARD", 3)  # restored afterwards
    torchrun(SCRIPT, tmp_path)
    score_rows(tmp_path / "alone")
    alone = contents(tmp_path / "alone")
    assert sorted(alone) == ["plain.json", "scores.parquet"]
    assert contents(tmp_path / "0") == alone
    assert contents(tmp_path / "1") == alone
    assert contents(tmp_path / "cache") == contents(Cache.default().root)
    wrote = {who: json.loads((tmp_path / f"wrote-{who}.json").read_text()) for who in ("alone", "0", "1")}
    assert wrote == {"alone": [0, 3, 6, 9], "0": [0, 6], "1": [3, 9]}
