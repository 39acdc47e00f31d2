"""A training's numbers in Weights & Biases or trackio: a listener for `on_step`, of itself or around another one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Literal

from interp.core.doors import door
from interp.core.errors import InputError
from interp.training.students import OnStep, Step


@door
class Tracker:
    """A listener for `train_student(on_step=...)` that logs loss and learning rate of every step to a tracker's run.

    What `listener`, such as a `TrainingLog`, returns is logged with them, and it ends the training or goes on from a
    checkpoint as ever. `project`, `name` and `config` are those of the tracker's `init`; steps count from 1. Call
    `finish()`, or use it in `with`. Needs `pip install -e '.[trackers]'`; raises InputError without the package.

    >>> import interp
    >>> interp.training.Tracker("trackio", project="owl")  # doctest: +SKIP
    """

    def __init__(
        self,
        tracker: Literal["wandb", "trackio"],
        *,
        project: str,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        listener: OnStep | None = None,
    ) -> None:
        try:
            self._package: Any = importlib.import_module(tracker)
        except ImportError as error:
            raise InputError(
                f"{tracker} is not installed; run pip install -e '.[trackers]' in the clone, or pip install {tracker}"
            ) from error
        self._listener: Any = listener
        self._package.init(project=project, name=name, config=dict(config or {}))

    def __call__(self, step: Step) -> Mapping[str, Any]:
        """Log the step, with the numbers that the listener returns."""
        told = None if self._listener is None else self._listener(step)
        said = dict(told) if isinstance(told, Mapping) else {}
        self._package.log({"loss": step.loss, "lr": step.lr, **said}, step=step.index + 1)
        return said

    @property
    def reached(self) -> bool:
        """Whether the listener ends the training."""
        return bool(getattr(self._listener, "reached", False))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the listener's."""
        return self._listener.state() if hasattr(self._listener, "state") else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        if hasattr(self._listener, "restore"):
            self._listener.restore(state)

    def finish(self) -> None:
        """End the tracker's run."""
        self._package.finish()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()
