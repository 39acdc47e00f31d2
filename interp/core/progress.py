"""Progress bars on a terminal: shown after two seconds, gone when done, silent in a file or a pipe; and what is said.

A line that every user should see is logged at INFO, and shown where nobody has set logging up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")


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


def progress_bar(label: str, *, total: int | None, unit: str = "row") -> Any:
    """A bar to enter and to `update` by hand, for loops that do not run over what is counted."""
    return tqdm(desc=label, total=total, unit=unit, leave=False, delay=2, disable=None)


def announce(log: logging.Logger, message: str, *values: object) -> None:
    """Log a line at INFO; where nobody has set logging up, in a notebook or script, it stands on standard error."""
    silenced = log.getEffectiveLevel() > logging.WARNING or log.manager.disable >= logging.INFO
    if log.hasHandlers() or silenced:
        log.info(message, *values)
    else:
        record = log.makeRecord(log.name, logging.INFO, "", 0, message, values, None)
        logging.StreamHandler().emit(record)
