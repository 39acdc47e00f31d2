"""Many cells: results in order, errors with their cell, workers killed once and always, joblib and Ray alike."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tqdm.auto import tqdm

from interp.core.processes import named, sweep
from interp.core.runs import InputError

ROOT = Path(__file__).parent.parent.parent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Bar:
    def __init__(self) -> None:
        self.moved = 0

    def update(self, n: int = 1) -> None:
        self.moved += n


def surroundings(cell: int) -> dict[str, Any]:
    """What a worker finds around it."""
    from interp.core.provenance import cache_folder

    names = ("OMP_NUM_THREADS", "RANK", "WORLD_SIZE")
    bar = tqdm(total=1, disable=None, file=Terminal())
    return {
        "cell": cell,
        "process": os.getpid(),
        "cache": str(cache_folder()),
        "bars": not bar.disable,
        **{name: os.environ.get(name) for name in names},
    }


def fragile(cell: int, *, folder: Path, dies: int, times: int) -> int:
    """The square of `cell`; the first `times` tries of cell `dies` kill their process. Every try leaves a file."""
    tries = len(list(folder.glob(f"{cell}-*")))
    (folder / f"{cell}-{tries}").touch()
    if cell == dies and tries < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return cell * cell


def strict(cell: int) -> int:
    if cell == 2:
        raise ZeroDivisionError("two is too many")
    return cell


# --- in this process -------------------------------------------------------------------------------------------------


def test_one_worker_is_this_process_with_its_settings() -> None:
    bar = Bar()
    found = sweep(surroundings, [3, 1, 2], workers=1, progress=bar)
    assert [each["cell"] for each in found] == [3, 1, 2]
    assert {each["process"] for each in found} == {os.getpid()}
    assert all(each["bars"] for each in found)  # nothing was silenced here
    assert bar.moved == 3


def test_one_cell_needs_no_worker_and_none_needs_nothing() -> None:
    assert sweep(os.getpid.__class__, [], workers=2) == []
    assert sweep(surroundings, [0], workers=2)[0]["process"] == os.getpid()


def test_an_error_is_the_cells_own_with_the_cell_in_a_note() -> None:
    with pytest.raises(ZeroDivisionError, match="two is too many") as caught:
        sweep(strict, [1, 2, 3], workers=1)
    assert caught.value.__notes__ == ["in cell 2"]


def test_a_long_cell_is_named_in_short() -> None:
    assert named("owl/0") == "owl/0"
    assert named(("owl", 0)) == "('owl', 0)"
    assert len(named("x" * 1000)) == 200
    assert len(named(Path("x" * 1000))) <= 200


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_do_no_work(workers: int) -> None:
    with pytest.raises(InputError, match=f"workers={workers} do no work; pass at least 1"):
        sweep(strict, [1], workers=workers)


def test_an_unknown_backend_names_the_nearest() -> None:
    with pytest.raises(InputError, match="backend 'jobib' is unknown; nearest: joblib; pass one of them"):
        sweep(strict, [1], backend="jobib")


def test_a_missing_ray_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"'ray' is not installed; run pip install -e '\.\[ray\]' in the clone"
    ):
        sweep(strict, [1, 2], backend="ray")


# --- in processes of joblib ------------------------------------------------------------------------------------------


def test_workers_have_one_thread_no_bars_no_rank_and_the_callers_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    bar = Bar()
    found = sweep(surroundings, [5, 4, 3], workers=2, progress=bar)
    assert [each.pop("cell") for each in found] == [5, 4, 3]
    assert os.getpid() not in {each.pop("process") for each in found}
    expected = {
        "cache": str(tmp_path),
        "bars": False,
        "OMP_NUM_THREADS": "1",
        "RANK": None,
        "WORLD_SIZE": None,
    }
    assert found == [expected] * 3
    assert bar.moved == 3


def test_an_error_of_a_worker_is_the_cells_own_too() -> None:
    with pytest.raises(ZeroDivisionError, match="two is too many") as caught:
        sweep(strict, [1, 2, 3], workers=2)
    assert caught.value.__notes__ == ["in cell 2"]


def test_a_worker_killed_once_costs_its_cell_a_second_try(tmp_path: Path) -> None:
    bar = Bar()
    work = partial(fragile, folder=tmp_path, dies=1, times=1)
    assert sweep(work, [0, 1, 2, 3], workers=2, progress=bar) == [0, 1, 4, 9]
    assert sorted(path.name for path in tmp_path.glob("1-*")) == ["1-0", "1-1"]
    assert bar.moved == 4


def test_a_worker_killed_every_time_is_reported_by_its_cell(tmp_path: Path) -> None:
    work = partial(fragile, folder=tmp_path, dies=2, times=9)
    text = (
        "^the worker of cell 2 was killed twice, most likely for memory; free memory or pass fewer workers, or "
        "workers=1 to run it here and see what kills it$"
    )
    with pytest.raises(InputError, match=text):
        sweep(work, [0, 1, 2, 3], workers=2)
    assert sorted(path.name for path in tmp_path.glob("2-*")) == ["2-0", "2-1"]


# --- on Ray ----------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from interp.core.processes import sweep
from interp.core.runs import InputError
from tests.core.test_processes import Bar, fragile, strict, surroundings

def fails(work):
    try:
        sweep(work, [0, 1, 2, 3], workers=2, backend="ray")
    except Exception as error:
        return type(error).__name__, str(error)[:38], getattr(error, "__notes__", None)

import os, ray
try:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
except Exception as error:
    sys.exit(f"Ray did not start: {error}")
folder, bar = Path(sys.argv[2]), Bar()
around = sweep(surroundings, [5, 4, 3], backend="ray")
assert [each["cell"] for each in around] == [5, 4, 3]
assert os.getpid() not in {each["process"] for each in around}
assert {(each["OMP_NUM_THREADS"], each["bars"]) for each in around} == {("1", False)}
once = partial(fragile, folder=folder, dies=1, times=1)
assert sweep(once, [0, 1, 2, 3], workers=2, backend="ray", progress=bar) == [0, 1, 4, 9]
assert bar.moved == 4 and len(list(folder.glob("1-*"))) == 2
always = partial(fragile, folder=folder, dies=2, times=9)
assert fails(always) == ("InputError", "the worker of cell 2 was killed twice,", None), fails(always)
assert fails(strict) == ("ZeroDivisionError", "two is too many", ["in cell 2"]), fails(strict)
"""


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")
def test_two_workers_of_a_local_ray(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(ROOT), str(tmp_path)]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, env=settings)
    if done.stderr.startswith("Ray did not start") or "\nRay did not start" in done.stderr:
        pytest.skip("Ray gives its own processes 30 seconds to start, which was too little on this machine")
    assert done.returncode == 0, done.stderr[-2000:]
