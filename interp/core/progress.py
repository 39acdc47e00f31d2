"""Progress of what takes long: bars on a terminal, and where standard error is a file or a pipe a line a minute.

    rate = done / elapsed        time left = (total − done) / rate

A bar appears after two seconds and is gone when done. Lines go through `logging`, so that who reads none sees none.
Inside `never_silent`, as every command runs, what has no bar says what it is at.
A line that every user should see is logged at INFO, and shown where nobody has set logging up.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, TypeVar

from tqdm.auto import tqdm

log = logging.getLogger(__name__)
Item = TypeVar("Item")

MINUTE = 60.0  # seconds between two lines in a file
SILENCE = 10.0  # seconds after which a command that has said nothing says what it is at
_open: list[Any] = []  # what is under way, the innermost last


def progress(
    items: Iterable[Item],
    label: str,
    *,
    total: int | None = None,
    unit: str = "row",
    size: Callable[[Item], int] | None = None,
) -> Iterator[Item]:
    """Yield the items while a bar counts them; `size` says how many units one counts as, such as len of a batch."""
    with progress_bar(label, total=total, unit=unit) as bar:
        for item in items:
            yield item
            bar.update(1 if size is None else size(item))


def progress_bar(label: str, *, total: int | None, unit: str = "row", done: int = 0) -> Any:
    """A bar to enter and to `update` by hand, for loops that do not run over what is counted; `done` were before."""
    bar = tqdm(desc=label, total=total, unit=unit, initial=done, leave=False, delay=2, disable=None)
    return Lines(label, total=total, unit=unit, done=done) if bar.disable and not _muted() else bar


class Lines:
    """What stands for a bar where there is no terminal: a line a minute, and none for what takes less."""

    disable = False

    def __init__(self, label: str, *, total: int | None, unit: str, done: int = 0) -> None:
        self.label, self.total, self.unit, self.n, self._before = label, total, unit, done, done
        self._began = self._told = time.monotonic()
        self._values: Mapping[str, float] = {}

    def update(self, n: int = 1) -> None:
        """Count on, and say so when the last line is a minute old."""
        self.n += n
        if time.monotonic() - self._told >= MINUTE:
            self.tell()

    def set_postfix(self, values: Mapping[str, float], *, refresh: bool = False) -> None:
        """Numbers to say beside the count."""
        self._values = dict(values)

    def tell(self) -> None:
        """Say the line now."""
        self._told = time.monotonic()
        log.info("%s", self)

    def __str__(self) -> str:
        elapsed = time.monotonic() - self._began
        done = self.n - self._before
        whole = "" if self.total is None else f" of {self.total}"
        said = [f"{self.label}: {self.n}{whole} {self.unit}s"]
        if done and elapsed:
            fast, each = (
                f"{done / elapsed:.3g} {self.unit}s per second",
                f"{elapsed / done:.3g} s per {self.unit}",
            )
            said.append(fast if done >= elapsed else each)
            if self.total is not None:
                said.append(f"{in_words((self.total - self.n) * elapsed / done)} left")
        return ", ".join([*said, *(f"{name} {value:.4g}" for name, value in self._values.items())])

    def __enter__(self) -> Lines:
        _open.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _open.remove(self)


@contextmanager
def working(label: str) -> Iterator[None]:
    """Name what is under way where nothing can be counted: said by a command that would be silent otherwise."""
    mark = (label, time.monotonic())
    _open.append(mark)
    try:
        yield
    finally:
        _open.remove(mark)


@contextmanager
def never_silent() -> Iterator[None]:
    """While open, whatever runs is said after ten seconds without a word; in a file from then on once a minute."""
    ears, ended = _Ears(), Event()
    logging.getLogger("interp").addHandler(ears)
    thread = Thread(target=_watch, args=(ears, ended), name="never-silent", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        logging.getLogger("interp").removeHandler(ears)


class _Ears(logging.Handler):
    """When something was last said."""

    heard = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.began = self.heard = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        self.heard = time.monotonic()


def _watch(ears: _Ears, ended: Event) -> None:
    """Look around every second until the command has ended."""
    patience = SILENCE
    while not ended.wait(min(1.0, SILENCE / 4)):
        if time.monotonic() - ears.heard < patience or _drawn():
            continue
        patience = SILENCE if sys.stderr.isatty() else MINUTE
        inner = _open[-1] if _open else ("working", ears.began)
        if isinstance(inner, Lines):
            inner.tell()
        else:
            log.info("%s: %s so far", inner[0], in_words(time.monotonic() - inner[1]))


def _drawn() -> bool:
    """Whether a bar stands on the terminal."""
    return any(not bar.disable for bar in list(getattr(tqdm, "_instances", ())))


def _muted() -> bool:
    """Whether bars are off here, as in the workers of a sweep: the process that started them counts."""
    return os.environ.get("TQDM_DISABLE", "").lower() in ("1", "true")


def in_words(seconds: float) -> str:
    """A length of time as people say it: 40 s, 12 min, 3 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def announce(log: logging.Logger, message: str, *values: object) -> None:
    """Log a line at INFO; where nobody has set logging up, in a notebook or script, it stands on standard error."""
    silenced = log.getEffectiveLevel() > logging.WARNING or log.manager.disable >= logging.INFO
    if log.hasHandlers() or silenced:
        log.info(message, *values)
    else:
        record = log.makeRecord(log.name, logging.INFO, "", 0, message, values, None)
        logging.StreamHandler().emit(record)
