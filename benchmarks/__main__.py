"""`python -m benchmarks [names]`: run the listed measurements and merge them into benchmarks/results.json.

The file holds {name: {ratio, low, high, repetitions}}, or {name: {skipped: why}} for a peer that is not there;
entries not measured this time stay as they are.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import benchmarks
from benchmarks.paired import Ratio, Skipped
from interp.core.runs import InputError, nearest, write_atomic

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
RESULTS = Path(__file__).with_name("results.json")
log = logging.getLogger("benchmarks")


def registered() -> dict[str, Callable[[], dict[str, Ratio | Skipped]]]:
    """Every measurement that a module of this package lists in its BENCHES."""
    found: dict[str, Callable[[], dict[str, Ratio | Skipped]]] = {}
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name != "__main__":
            found |= getattr(importlib.import_module(f"benchmarks.{module.name}"), "BENCHES", {})
    return found


def merge(path: Path, results: Mapping[str, Ratio | Skipped]) -> None:
    """Put `results` among those already in the file, names sorted, atomically; a reason replaces no measurement."""
    known = json.loads(path.read_text()) if path.exists() else {}
    results = {
        name: new for name, new in results.items() if "ratio" in new or "ratio" not in known.get(name, {})
    }
    write_atomic(path, json.dumps(dict(sorted({**known, **results}.items())), indent=2) + "\n")


def main(names: list[str]) -> None:
    """Run the named measurements (all by default), saving after each."""
    os.environ.update(ENVIRONMENT)  # before a measurement imports torch: one thread, no network
    benches = registered()
    for name in names:
        if name not in benches:
            raise InputError(f"benchmark {nearest(name, benches)}")
    for name in names or benches:
        results = benches[name]()
        for measured, ratio in results.items():
            log.info("%s: %s", measured, json.dumps(ratio))
        merge(RESULTS, results)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
