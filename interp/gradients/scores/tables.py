"""Scores as tidy tables: one line per key and direction, a parquet file per shard, read together when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.runs import atomic_file
from interp.gradients.scores.engine import Contributions
from interp.prompts.tokens import Encoded

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ScoredBatch:
    """The scores of one batch, its tokens and the numbers of its rows."""

    found: Contributions
    batch: Encoded
    index: Int[Tensor, "example"]
    cosine: Float[Tensor, "direction example"] | None = None


def write_block(
    blocks: Sequence[ScoredBatch], folder: Path, *, labels: Sequence[str], by: Sequence[str]
) -> None:
    """The table of a shard (scores.parquet) and its totals, losses and token counts (rows.safetensors), in order."""
    import pandas as pd
    from safetensors.torch import save_file

    index = torch.cat([block.index for block in blocks])
    order = index.argsort()
    columns = {
        "totals": torch.cat([block.found.totals().T.cpu() for block in blocks])[order],
        "loss": torch.cat([block.found.loss.cpu() for block in blocks])[order],
        "tokens": torch.cat([block.found.tokens.cpu() for block in blocks])[order],
    }
    save_file({name: column.contiguous() for name, column in columns.items()}, folder / "rows.safetensors")
    frame = pd.concat([_frame(block, labels, by) for block in blocks], ignore_index=True)
    if "example" not in by:
        frame = _summed(frame, by)
    else:
        frame = frame.sort_values(
            [key for key in ("row", "position", "token") if key in frame], kind="stable"
        )
    frame.to_parquet(folder / "scores.parquet", index=False)


def read_tables(files: Sequence[Path], *, by: Sequence[str]) -> pd.DataFrame:
    """Read the shards as one frame, summed over them when rows are not a key."""
    import pandas as pd

    frame = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    return frame if "example" in by else _summed(frame, by)


def write_table(files: Sequence[Path], path: Path, *, by: Sequence[str]) -> Path:
    """All shards as one parquet file, a shard in memory at a time; the file appears whole or not at all."""
    import pyarrow.parquet as parquet

    with atomic_file(path) as fresh:
        if "example" not in by:
            read_tables(files, by=by).to_parquet(fresh, index=False)
        else:
            with parquet.ParquetWriter(fresh, parquet.read_schema(files[0])) as writer:
                for file in files:
                    writer.write_table(parquet.read_table(file))
    return path


def _frame(block: ScoredBatch, labels: Sequence[str], by: Sequence[str]) -> pd.DataFrame:
    if "position" in by or "token" in by:
        return _by_column(block, labels, by)
    if "module" in by or "head" in by:
        return _by_place(block, labels, by)
    return _by_example(block, labels)


def _by_example(block: ScoredBatch, labels: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    scores, n = block.found.totals().cpu(), len(block.index)
    tokens = block.found.tokens.cpu().numpy()
    columns = {
        "row": np.tile(block.index.numpy(), len(labels)),
        "direction": _names(labels, n),
        "score": scores.flatten().numpy(),
        "loss": np.tile(block.found.loss.cpu().numpy(), len(labels)),
        "tokens": np.tile(tokens, len(labels)),
        "per_token": (scores / torch.from_numpy(tokens)).flatten().numpy(),
    }
    if block.cosine is not None:
        columns["cosine"] = block.cosine.flatten().numpy()
    return pd.DataFrame(columns)


def _by_place(block: ScoredBatch, labels: Sequence[str], by: Sequence[str]) -> pd.DataFrame:
    """[place, direction, example] as lines; by head without module, modules are added up."""
    import pandas as pd

    places = list(block.found.places)
    scores = torch.stack([block.found.places[place] for place in places]).double().cpu()
    n, each = len(block.index), len(labels) * len(block.index)
    columns = {
        "row": np.tile(block.index.numpy(), len(places) * len(labels)),
        "direction": np.tile(_names(labels, n), len(places)),
        **_place_columns(places, by, each),
        "score": scores.flatten().numpy(),
    }
    return pd.DataFrame(columns)


def _by_column(block: ScoredBatch, labels: Sequence[str], by: Sequence[str]) -> pd.DataFrame:
    """[place, direction, example, pos] as lines, padding left out; loss tokens are answer and end tokens only."""
    import pandas as pd

    kept = block.batch.at("answer+end" if "token" in by else "all").cpu()
    example, column = kept.nonzero().unbind(1)
    places = list(block.found.places) if {"module", "head"} & set(by) else []
    values = list(block.found.places.values())
    if values[0].dim() < 3:  # no weight of the directions enters the loss: zeros without a position
        values = [value[..., None].expand(*value.shape, kept.shape[1]) for value in values]
    stacked = torch.stack(values) if places else torch.stack(values).double().sum(0, keepdim=True)
    scores = stacked.double().cpu()[:, :, example, column]
    count, lines = max(1, len(places)), len(example)
    columns = {
        "row": np.tile(block.index[example].numpy(), count * len(labels)),
        "token" if "token" in by else "position": np.tile(column.numpy(), count * len(labels)),
        "direction": np.tile(_names(labels, lines), count),
        **(_place_columns(places, by, len(labels) * lines) if places else {}),
        "score": scores.flatten().numpy(),
    }
    return pd.DataFrame(columns)


def _place_columns(places: Sequence, by: Sequence[str], each: int) -> dict:
    import pandas as pd

    names = {"module": "module" in by, "part": "head" in by, "head": "head" in by}
    columns = {}
    for field, wanted in names.items():
        if wanted:
            values = [getattr(place, field) for place in places]
            column = np.repeat(np.array(values, dtype=object if field != "head" else int), each)
            columns[field] = column if field == "head" else pd.Categorical(column, dict.fromkeys(values))
    return columns


def _names(labels: Sequence[str], each: int) -> np.ndarray:
    return np.repeat(np.array(labels, dtype=object), each)


def _summed(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Scores added up over everything that is not a key."""
    keys = [key for key in ("position", "token", "direction", "module", "part", "head") if key in frame]
    sums: Any = frame.groupby(keys, sort=False, observed=True)["score"].sum()
    return sums.reset_index()
