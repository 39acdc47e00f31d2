"""The processes of one torchrun: rank r does items r, r + size, r + 2 size, ..., and all end with all of them.

Every rank makes the same calls in the same order. What each computes is what one process would compute, so the results
are the same bytes; they travel between ranks as they are.
"""

from __future__ import annotations

import atexit
import datetime
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from interp.core.runs import InputError

Item = TypeVar("Item")
PATIENCE = datetime.timedelta(days=1)  # that ranks wait for the slowest one; torchrun ends them when one dies


@dataclass(frozen=True)
class Ranks:
    """This process's rank among `size`; `Ranks.here()` is rank 0 of 1 outside torchrun."""

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """Of the process group that is there, else of the one that torchrun's variables describe, which is joined.

        Joining takes nccl where every rank of the machine has a GPU of its own, and gloo elsewhere.
        """
        distributed = torch.distributed
        if not distributed.is_available():
            return cls()
        if not distributed.is_initialized():
            if int(os.environ.get("WORLD_SIZE", 1)) <= 1 or "RANK" not in os.environ:
                return cls()
            _join()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def mine(self, items: Sequence[Item]) -> Sequence[Item]:
        """This rank's share of the items."""
        return items[self.rank :: self.size]

    def gather(self, thing: Any) -> list[Any]:
        """What every rank passed, by rank: plain objects and tensors in main memory."""
        if self.size == 1:
            return [thing]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, thing)
        return found

    @contextmanager
    def together(self) -> Iterator[None]:
        """Barrier: no rank leaves the block before all have; if one raises, all raise."""
        error = None
        try:
            yield
        except Exception as raised:
            error = raised
        self._agree(error)

    def share(
        self, items: Iterable[Item], work: Callable[[Item], dict[str, Tensor]]
    ) -> Iterator[tuple[Item, dict[str, Tensor]]]:
        """(item, work(item)) in the order of items; each is computed by one rank, and `size` are in memory at a time.

        `work` returns tensors in main memory; an error of one rank is raised by all.
        """
        items = iter(items)
        if self.size == 1:
            yield from ((item, work(item)) for item in items)
            return
        while turn := list(islice(items, self.size)):
            own = {}
            with self.together():
                own = work(turn[self.rank]) if self.rank < len(turn) else own
            yield from zip(turn, self.gather(own), strict=False)

    def seen(self, folders: list[Path]) -> list[Path]:
        """The folders, once every rank sees them; InputError for one that another machine kept to itself."""
        missing = next((folder for folder in folders if not folder.is_dir()), None)
        with self.together():
            if missing is not None:
                raise InputError(
                    f"rank {self.rank} does not see {missing}, which another rank wrote; set INTERP_CACHE to a folder "
                    "that all machines share"
                )
        return folders

    def _agree(self, error: Exception | None) -> None:
        """Raise this rank's error, or the first of another rank."""
        found = self.gather(error and (isinstance(error, InputError), type(error).__name__, str(error)))
        if error is not None:
            raise error
        for rank, problem in enumerate(found):
            if problem is not None:
                ours, kind, text = problem
                raise InputError(text) if ours else RuntimeError(f"rank {rank} failed: {kind}: {text}")


def _join() -> None:
    """Join the processes that torchrun started; the group ends with this process."""
    distributed = torch.distributed
    local, here = (int(os.environ.get(name, 0)) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    own_gpu = torch.cuda.is_available() and torch.cuda.device_count() >= max(1, here)
    if own_gpu:
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if own_gpu else "gloo", timeout=PATIENCE)
    atexit.register(distributed.destroy_process_group)
