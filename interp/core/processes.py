"""Many cells, one verb: results[i] = work(cells[i]), on as many single-threaded processes as there are cores.

A worker that is killed takes the cells in flight with it. Each of those is tried again with nothing beside it, which
tells which cell it was and leaves that cell all the memory; the rest go on. What a cell leaves in the cache is found
again by whoever repeats the sweep.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from interp.core.progress import progress_bar
from interp.core.provenance import cache_folder
from interp.core.runs import InputError, nearest

Take = Callable[[int, Any], None]


@dataclass(frozen=True)
class Job:
    """`work` on one cell, for any process: a failure names its cell."""

    work: Callable[[Any], Any]
    cache: str

    def __call__(self, cell: Any) -> Any:
        try:
            return self.work(cell)
        except Exception as error:
            error.add_note(f"in cell {named(cell)}")
            raise

    def alone(self, cell: Any, mark: Path | None = None) -> Any:
        """The same in a process of its own: one thread, no bars, the caller's cache; `mark` says that it began."""
        if mark is not None:
            mark.touch()
        os.environ["INTERP_CACHE"] = self.cache
        _settle()
        return self(cell)


def sweep(
    work: Callable[[Any], Any],
    cells: Sequence[Any],
    *,
    workers: int | None = None,
    backend: str = "joblib",
    label: str = "cells",
    unit: str = "cell",
    progress: Any = None,
) -> list[Any]:
    """work(cell) of every cell, in the order of `cells`, `workers` at a time; None is one per core, and one with a GPU.

    `work` is a module's function or a partial of one. With one worker cells run in this process, with its threads.
    "ray" runs on the cluster that RAY_ADDRESS or this machine names, one cell per GPU where it has any, else on a Ray
    of this machine; machines of a cluster must share $INTERP_CACHE. `progress` is a bar to move instead of a new one.
    A cell's error is raised as it is, with the cell in a note. Raises InputError for an unknown or missing backend and
    for a cell whose worker was killed twice.

    Example:
        >>> sweep(abs, [-1, 2, -3], workers=1)
        [1, 2, 3]
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers={workers} do no work; pass at least 1")
    job, results = Job(work, str(cache_folder())), {}
    with _runner(backend, workers, len(cells)) as run, _bar(progress, cells, label, unit) as bar:

        def take(index: int, result: Any) -> None:
            results[index] = result
            bar.update()

        while left := {index: cell for index, cell in enumerate(cells) if index not in results}:
            killed = run(job, left, take)
            _again(run, job, {index: cells[index] for index in killed}, take)
    return [results[index] for index in range(len(cells))]


def named(cell: Any) -> str:
    """A cell as messages write it, at most 200 characters."""
    text = cell if isinstance(cell, str) else repr(cell)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _default() -> int:
    import torch

    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


@contextmanager
def _bar(progress: Any, cells: Sequence[Any], label: str, unit: str) -> Iterator[Any]:
    if progress is not None:
        yield progress
        return
    with progress_bar(label, total=len(cells), unit=unit) as bar:
        yield bar


def _again(run: Any, job: Job, killed: Mapping[int, Any], take: Take) -> None:
    """Every cell that was in flight when a worker died, by itself; InputError for one that dies again."""
    for index, cell in killed.items():
        if run(job, {index: cell}, take):
            raise InputError(
                f"the worker of cell {named(cell)} was killed twice, most likely for memory; free memory or pass fewer "
                "workers, or workers=1 to run it here and see what kills it"
            )


@contextmanager
def _runner(backend: str, workers: int | None, cells: int) -> Iterator[Any]:
    """What runs a mapping of cells, hands over each result and returns the cells in flight when a worker died."""
    if backend not in ("joblib", "ray"):
        raise InputError(f"backend {nearest(backend, ('joblib', 'ray'))}; pass one of them")
    count = min(cells, workers or _default())
    if backend == "ray":
        with _ray(workers, count) as run:
            yield run
    elif count <= 1:
        yield _here
    else:
        with tempfile.TemporaryDirectory(prefix="interp-sweep-") as folder:
            yield _Joblib(count, Path(folder))


def _here(job: Job, cells: Mapping[int, Any], take: Take) -> list[int]:
    for index, cell in cells.items():
        take(index, job(cell))
    return []


@dataclass(frozen=True)
class _Joblib:
    """Loky processes; a file per cell that began tells which cells a dead worker may have held."""

    workers: int
    folder: Path

    def __call__(self, job: Job, cells: Mapping[int, Any], take: Take) -> list[int]:
        from joblib import Parallel, delayed, parallel_config

        left = dict(cells)
        for index in cells:
            (self.folder / str(index)).unlink(missing_ok=True)
        jobs = (delayed(_numbered)(job, index, cell, self.folder) for index, cell in cells.items())
        count = max(2, min(self.workers, len(cells)))  # joblib runs n_jobs=1 in this process
        try:
            with parallel_config("loky", inner_max_num_threads=1):
                options: Any = {"batch_size": 1, "return_as": "generator_unordered"}
                for index, result in Parallel(n_jobs=count, **options)(jobs):  # pyright: ignore
                    take(index, result)
                    del left[index]
        except BrokenProcessPool:
            return [index for index in left if (self.folder / str(index)).exists()] or list(left)
        return []


def _numbered(job: Job, index: int, cell: Any, folder: Path) -> tuple[int, Any]:
    return index, job.alone(cell, folder / str(index))


@contextmanager
def _ray(workers: int | None, count: int) -> Iterator[Any]:
    """Ray's runner on a cluster that is there, else on one of `count` processes that ends with the block."""
    if importlib.util.find_spec("ray") is None:
        raise InputError("backend 'ray' is not installed; run pip install -e '.[ray]' in the clone")
    import ray  # pyright: ignore[reportMissingImports]

    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            ray.init("auto", **quiet)
        except ConnectionError:
            ray.init("local", num_cpus=count, include_dashboard=False, **quiet)
    try:
        yield partial(_on_ray, most=workers)
    finally:
        if ours:
            ray.shutdown()


def _on_ray(job: Job, cells: Mapping[int, Any], take: Take, *, most: int | None) -> list[int]:
    """One task a cell, at most `most` at once; Ray says itself which task lost its worker."""
    import ray  # pyright: ignore[reportMissingImports]
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError  # pyright: ignore[reportMissingImports]

    gpus = min(1, ray.cluster_resources().get("GPU", 0))
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_alone)
    running, killed = {}, []
    todo = list(cells.items())
    try:
        while todo or running:
            while todo and len(running) < (most or len(cells)):
                index, cell = todo.pop(0)
                running[task.remote(job, cell)] = index
            (done,), _ = ray.wait(list(running))
            index = running.pop(done)
            try:
                take(index, ray.get(done))
            except (WorkerCrashedError, OutOfMemoryError, NodeDiedError):
                killed.append(index)
            except RayTaskError as error:
                raise error.cause from error
    finally:
        for each in running:
            ray.cancel(each, force=True)
    return killed


def _alone(job: Job, cell: Any) -> Any:
    return job.alone(cell)


@cache
def _settle() -> None:
    """Once in a worker: one thread, no bars (`disable=None` would ask the caller's terminal), no torchrun rank."""
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TQDM_DISABLE="1")
    if "torch" in sys.modules:  # else it will read the variables
        sys.modules["torch"].set_num_threads(1)
    for name in ("RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)
    warnings.simplefilter("ignore", FutureWarning)
    start = tqdm.__init__

    def silent(self: Any, *args: Any, **options: Any) -> None:
        start(self, *args, **{**options, "disable": True})

    bars: Any = tqdm
    bars.__init__ = silent
