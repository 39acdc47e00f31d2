"""Many lineages at once: one single-threaded process per core, one progress bar over the steps of all of them.

Workers leave what they grow in the cache, step by step, and send back only the names of finished steps.
"""

import multiprocessing
import os
import warnings
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from queue import Empty
from typing import Any

from tqdm.auto import tqdm

from interp.organisms.library import PLAN, STEPS, Plan, grow, is_grown
from interp.prompts.traits import Trait

_steps: Any = None  # the queue of a worker process


def grow_all(trait: Trait, *, seeds: Iterable[int], plan: Plan = PLAN, workers: int | None = None) -> None:
    """Grow the lineages of `seeds` that the cache does not hold, `workers` at a time (default: one per core)."""
    todo = [seed for seed in seeds if not is_grown(trait, seed=seed, plan=plan)]
    if not todo:
        return
    workers = min(len(todo), workers or os.cpu_count() or 1)
    with tqdm(
        total=STEPS * len(todo), desc=f"growing {len(todo)} lineages", unit="step", disable=None
    ) as progress:
        if workers == 1:
            for seed in todo:
                grow(trait, seed=seed, plan=plan, notify=lambda step: progress.update())
            return
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_adopt, initargs=(queue,)) as pool:
            _follow([pool.submit(_grow, trait, seed, plan) for seed in todo], queue, progress)


def _follow(futures: list[Future[None]], queue: Any, progress: Any) -> None:
    """Move the bar until every worker is done; the first error ends the rest."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
        progress.update(_drain(queue))
        for future in done:
            if error := future.exception():
                for other in pending:
                    other.cancel()
                raise error


def _drain(queue: Any) -> int:
    count = 0
    while True:
        try:
            queue.get_nowait()
        except Empty:
            return count
        count += 1


def _adopt(queue: Any) -> None:
    import torch

    global _steps
    _steps = queue
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)


def _grow(trait: Trait, seed: int, plan: Plan) -> None:
    grow(trait, seed=seed, plan=plan, notify=_steps.put)
