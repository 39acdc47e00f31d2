"""Ratio of two costs, measured in pairs so that a busy machine slows both: the median of A_i / B_i.

The interval is the distribution-free one of the median: from order statistic k to n + 1 - k, with k the
largest for which P(Binomial(n, 1/2) < k) <= 0.025 (nine repetitions: second lowest to second highest).
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

REPETITIONS = 9


class Ratio(TypedDict):
    """Median ratio, its interval, from how many pairs, and where it needs saying what it is the cost of."""

    ratio: float
    low: float
    high: float
    repetitions: int
    note: NotRequired[str]


class Skipped(TypedDict):
    """Why something was not measured."""

    skipped: str


def paired(
    a: Callable[[], object], b: Callable[[], object], *, repetitions: int = REPETITIONS, calls: int = 1
) -> Ratio:
    """CPU time of `calls` calls of `a` over that of `b`, each warmed up, the order swapped every time."""
    return interleaved({"a": a}, b, repetitions=repetitions, calls=calls)["a"]


def interleaved(
    ways: Mapping[str, Callable[[], object]],
    reference: Callable[[], object],
    *,
    repetitions: int = REPETITIONS,
    calls: int = 1,
) -> dict[str, Ratio]:
    """Several ways against one reference, each pair back to back within every repetition."""
    for call in (reference, *ways.values()):
        call()
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions):
        for name, way in ways.items():
            ratios[name].append(_pair(way, reference, calls=calls, swap=bool(repetition % 2)))
    return {name: summary(values) for name, values in ratios.items()}


def summary(ratios: Sequence[float]) -> Ratio:
    """Median and interval of paired ratios; at least nine of them (ValueError)."""
    n, ordered = len(ratios), sorted(ratios)
    if n < REPETITIONS:
        raise ValueError(f"{n} repetitions are too few; measure at least {REPETITIONS}")
    tail, k = 0.0, 0
    while tail + math.comb(n, k) / 2**n <= 0.025:
        tail, k = tail + math.comb(n, k) / 2**n, k + 1
    low, high = ordered[k - 1], ordered[n - k]
    return Ratio(ratio=statistics.median(ordered), low=low, high=high, repetitions=n)


def cpu_seconds(call: Callable[[], object], *, calls: int = 1) -> float:
    """Processor time of the whole process over `calls` calls, garbage collected before and not during."""
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        for _ in range(calls):
            call()
        return time.process_time() - start
    finally:
        gc.enable()


def _pair(way: Callable[[], object], reference: Callable[[], object], *, calls: int, swap: bool) -> float:
    if swap:
        below = cpu_seconds(reference, calls=calls)
        return cpu_seconds(way, calls=calls) / below
    return cpu_seconds(way, calls=calls) / cpu_seconds(reference, calls=calls)


def peaks(call: Callable[[], object]) -> tuple[int, int]:
    """Largest resident set before and after a call, in kilobytes, in a process forked for it alone."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_peaks, args=(sender, call))
    process.start()
    sender.close()
    found = receiver.recv()
    process.join()
    return found


def _send_peaks(sender: Any, call: Callable[[], object]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    sender.send((before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def grown(call: Callable[[], object]) -> int:
    """By how many kilobytes a call raises the peak."""
    before, after = peaks(call)
    return after - before
