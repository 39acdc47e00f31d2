"""Whether the memory of this machine suffices, asked before anything is loaded.

What is to be had is the least of what the system, a control group and a limit on the process leave.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from interp.core.errors import InputError

LIMITS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
CGROUP = Path("/sys/fs/cgroup")
CPU = torch.device("cpu")
ADVICE = "free some, use a smaller model or dtype='bfloat16', or a larger machine"
MEMINFO = Path("/proc/meminfo")


def available_memory() -> int | None:
    """Bytes this process can still take; None where the system does not say."""
    found = [_left_by_system(), *(_left_by_group(*names) for names in LIMITS), _left_to_process()]
    return min((each for each in found if each is not None), default=None)


def free_memory(device: torch.device) -> int | None:
    """Bytes to be had on a device, with what torch holds of a GPU and does not use."""
    if device.type != "cuda":
        return available_memory() if device.type == "cpu" else None
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def check_memory(needed: float, purpose: str, *, device: torch.device = CPU, advice: str = ADVICE) -> None:
    """InputError when less than that many bytes are to be had; `purpose` says for what, such as "loading gpt2"."""
    left = free_memory(device)
    if left is not None and needed > left:
        raise InputError(
            f"{purpose} takes {needed / 2**30:.2g} GiB of memory and {left / 2**30:.2g} GiB are free; {advice}"
        )


def saved_bytes(network: Any, run: Callable[[], Any]) -> int:
    """Bytes of what autograd keeps while `run` goes through a network, the weights aside; a storage counts once."""
    known = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    found: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        kept = run()  # held until all is counted, so that no storage is used twice
    del kept
    return sum(found.values())


def _left_by_system() -> int | None:
    for line in _lines(MEMINFO):
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def _left_by_group(limit: str, used: str) -> int | None:
    """What the control group leaves; its page cache, which counts as used, would be given back."""
    bounds = [next(iter(_lines(CGROUP / name)), "") for name in (limit, used)]
    if not all(bound.isdigit() for bound in bounds):
        return None
    stat = CGROUP / Path(limit).parent / "memory.stat"
    cached = [int(line.split()[1]) for line in _lines(stat) if line.startswith("inactive_file ")]
    return max(0, int(bounds[0]) - int(bounds[1]) + sum(cached))


def _left_to_process() -> int | None:
    """What `ulimit -v` leaves."""
    try:
        import resource
    except ImportError:  # not every system has it
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    pages = next(iter(_lines(Path("/proc/self/statm"))), "").split()
    return None if not pages else max(0, limit - int(pages[0]) * resource.getpagesize())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
