"""A training that can be killed: parameters and optimiser state after step k, and nothing else, continue it.

state_k = (θ_k, optimiser_k, what the listener has seen). Batches, learning rates and adapters' first draw are functions
of the recipe, so a training continued from state_k ends, on one machine's CPU, at the bytes it would have ended at.
Two processes that do the same work at once each have a place of their own for what is unfinished.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.core.runs import InputError, atomic_file

log = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """Where a training leaves its state and after how many steps; the file goes when the training is done.

    Raises InputError for `every` below 1.
    """

    path: Path
    every: int = 64

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"a checkpoint every {self.every} steps is never; pass at least 1")


@dataclass(frozen=True, eq=False)
class Progress:
    """A training under way: what moves, by name, its optimiser, and who listens to its steps."""

    parameters: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    listener: Any = None

    def save(self, checkpoint: Checkpoint, *, key: str, step: int) -> None:
        """Write the state after `step` steps, whole or not at all."""
        from safetensors.torch import save_file

        tensors = {
            f"parameter:{name}": value.detach().contiguous() for name, value in self.parameters.items()
        }
        for name, parameter in self.parameters.items():
            for part, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{part}:{name}"] = torch.as_tensor(value).detach().clone()
        heard = self.listener.state() if hasattr(self.listener, "state") else {}
        facts = {"format": str(FORMAT), "key": key, "step": str(step), "heard": json.dumps(heard)}
        with atomic_file(checkpoint.path) as fresh:
            save_file(tensors, fresh, metadata=facts)

    def restore(self, checkpoint: Checkpoint, *, key: str) -> int:
        """Take the saved state up and return its step; 0 when there is none, or none of this training."""
        found = _read(checkpoint.path)
        if found is None or found[1].get("key") != key or found[1].get("format") != str(FORMAT):
            return 0
        tensors, facts = found
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"parameter:{name}"])
                own = {
                    part: tensors[f"{part}:{name}"]
                    for part in ("step", "exp_avg", "exp_avg_sq")
                    if f"{part}:{name}" in tensors
                }
                if own:
                    self.optimizer.state[parameter] = {
                        part: value if part == "step" else value.to(parameter.device)
                        for part, value in own.items()
                    }
        if hasattr(self.listener, "restore"):
            self.listener.restore(json.loads(facts["heard"]))
        log.info("%s: going on after step %s", checkpoint.path, facts["step"])
        return int(facts["step"])


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors and facts of a checkpoint; None for a file that is absent or was cut short elsewhere."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError) as error:
        log.warning("%s cannot be read (%s); training from the start", path, error)
        return None


@contextmanager
def undisturbed(path: Path) -> Iterator[Path]:
    """`path` for unfinished work that a killed process leaves to the next, or a place apart while another works there.

    Whoever comes second works for itself in a temporary folder, from the start: nobody waits, and nobody's files move
    under its hands. Where files cannot be locked everybody is given `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = path.with_name(f".{path.name}.lock")
    with open(mark, "a") as lock:
        if _is_ours(lock, mark):
            try:
                yield path
            finally:
                mark.unlink(missing_ok=True)
            return
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as apart:
        yield Path(apart) / path.name


def _is_ours(lock: Any, mark: Path) -> bool:
    """Whether this open file could be locked and is still the one at `mark`."""
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock.fileno()), mark.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
    except (ImportError, OSError) as error:
        log.debug("%s cannot be locked (%s)", mark, error)
        return True
