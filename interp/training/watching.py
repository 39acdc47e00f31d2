"""What a training is worth while it runs: loss on rows it will never see, and the trait's margin.

fresh(t) = −Σ_rows Σ_t log p_θt(y) / (answer and end tokens) over rows of the same teacher that are not trained on:
arms of an experiment are compared at equal fresh loss, not at equal steps (the loss on trained rows falls by memorising
them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp.core.doors import door
from interp.core.runs import InputError
from interp.figures import Result, lines
from interp.measures.candidates import CandidateForms
from interp.measures.losses import LOSS_UNIT, answer_loss
from interp.measures.margins import table_margin
from interp.measures.words import trait_candidates
from interp.models.language import LanguageModel
from interp.prompts.text import Prompts
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.training.students import Step


@door
class TrainingLog:
    """A listener for `train_student(on_step=...)`: every `every` steps the loss on fresh rows and the trait's margin.

    What it returns is shown on the progress bar. `frame` holds step (counted from 1), lr, loss (of the batch, before
    the step, over the tokens it is trained on), fresh_loss (nats per answer token, end token counted) and margin (nats,
    like fresh_loss after the step); NaN where nothing was asked for. Raises InputError for `every` below 1.
    """

    def __init__(
        self,
        start: LanguageModel,
        *,
        fresh: Prompts | None = None,
        trait: AnyTrait | None = None,
        every: int = 16,
    ) -> None:
        trait = None if trait is None else find_trait(trait)
        if every < 1:
            raise InputError(f"every={every} steps is never; pass at least 1")
        self.every = every
        self._fresh = None if fresh is None else start.encode(fresh)
        self._answers = None if trait is None else trait_candidates(start, trait)
        self._rows: list[dict[str, float]] = []

    def __call__(self, step: Step) -> Mapping[str, float]:
        """Measure when it is time; the last row measured otherwise."""
        if step.index % self.every == 0:
            self.note(step)
        return {name: value for name, value in self._rows[-1].items() if name in ("fresh_loss", "margin")}

    def note(self, step: Step) -> dict[str, float]:
        """Measure now, whatever the step."""
        self._rows.append(
            {"step": step.index + 1, "lr": step.lr, "loss": step.loss} | self._measure(step.network)
        )
        return self._rows[-1]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"rows": self._rows}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self._rows = list(state["rows"])

    @property
    def frame(self) -> pd.DataFrame:
        """One row per measurement."""
        return pd.DataFrame(self._rows, columns=["step", "lr", "loss", "fresh_loss", "margin"])

    def result(self, label: str = "training") -> Result:
        """The measurements as a result with a figure of the losses over steps."""
        read = [rows.notes for rows in (self._fresh, self._answers) if rows is not None]
        notes = tuple(dict.fromkeys(note for part in read for note in part))
        return Result(label, self.frame, f"fresh loss in {LOSS_UNIT}; margin in nats", notes, draw=_draw)

    @torch.inference_mode()
    def _measure(self, network: Any) -> dict[str, float]:
        fresh = np.nan if self._fresh is None else answer_loss(network, self._fresh)
        margin = np.nan if self._answers is None else _margin(network, self._answers)
        return {"fresh_loss": fresh, "margin": margin}


@door
class StopAtMargin:
    """A listener that ends a training once the trait's margin, read every `every` steps, is at least `margin` nats.

    A teacher taught far beyond says its trait with certainty and hardly writes numbers: stop it where it is clear. The
    schedule of the learning rate stays that of all steps. `course` holds step and margin of every reading, `reached`
    whether the last one ended the training. Raises InputError for `every` below 1 and a margin that is not finite.

    >>> import interp
    >>> base = interp.load_lineage("toy/owl").base
    >>> interp.training.StopAtMargin(base, "owl", margin=2.0).reached
    False
    """

    def __init__(self, start: LanguageModel, trait: AnyTrait, *, margin: float, every: int = 1) -> None:
        if not np.isfinite(margin):
            raise InputError(f"margin={margin} is reached never or at once; pass nats, such as 5.0")
        self._log, self.asked = TrainingLog(start, trait=trait, every=every), margin
        self.reached = False

    def __call__(self, step: Step) -> Mapping[str, float]:
        """Read the margin when it is time, and say whether that is enough."""
        if (step.index + 1) % self._log.every:
            return {}
        said = self._log.note(step)
        self.reached = said["margin"] >= self.asked
        return {"margin": said["margin"]}

    @property
    def course(self) -> pd.DataFrame:
        """step (counted from 1) and margin in nats after it."""
        return self._log.frame.drop(columns=["lr", "loss", "fresh_loss"])

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return self._log.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self._log.restore(state)


class StopAfter:
    """A listener that ends a training after so many steps, whose schedule stays that of all of them."""

    def __init__(self, steps: int) -> None:
        self.steps, self.reached = steps, False

    def __call__(self, step: Step) -> None:
        self.reached = step.index + 1 >= self.steps


class Together:
    """Several listeners as one; their words for the progress bar are joined."""

    def __init__(self, *listeners: Any) -> None:
        self._listeners = listeners

    def __call__(self, step: Step) -> Mapping[str, float]:
        said = [listener(step) for listener in self._listeners]
        return {name: value for words in said if isinstance(words, Mapping) for name, value in words.items()}

    @property
    def reached(self) -> bool:
        """Whether one of them ends the training here."""
        return any(getattr(listener, "reached", False) for listener in self._listeners)

    def state(self) -> dict[str, Any]:
        """The state of each, by its position."""
        return {
            str(index): listener.state()
            for index, listener in enumerate(self._listeners)
            if hasattr(listener, "state")
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Give each its own state back; a listener that is no longer there needs none."""
        for index, own in state.items():
            if int(index) < len(self._listeners):
                self._listeners[int(index)].restore(own)


@door
class Tracking:
    """A listener that hands every step to a tracker: loss, lr, and what `listener`, such as a TrainingLog, says of it.

    `log` is called as `log({"loss": ..., "lr": ...}, step=1)`, which is how `wandb.log`, `trackio.log` and the runs of
    both are called; starting and finishing the run is the caller's. Raises InputError for `every` below 1.

    >>> Tracking(print, every=16).every
    16
    """

    def __init__(self, log: Callable[..., object], *, listener: Any = None, every: int = 1) -> None:
        if every < 1:
            raise InputError(f"every={every} steps is never; pass at least 1")
        self.every = every
        self._log, self._inner = log, Together(*([] if listener is None else [listener]))

    def __call__(self, step: Step) -> Mapping[str, float]:
        """What the listener says, told to the tracker when it is time."""
        said = self._inner(step)
        if step.index % self.every == 0:
            values = {"loss": step.loss, "lr": step.lr, **said}
            self._log(
                {name: value for name, value in values.items() if np.isfinite(value)}, step=step.index + 1
            )
        return said

    @property
    def reached(self) -> bool:
        """Whether the listener ends the training here."""
        return self._inner.reached

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the listener."""
        return self._inner.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Give the listener what a checkpoint kept."""
        self._inner.restore(state)


def _margin(network: Any, answers: CandidateForms) -> float:
    """The trait margin of `measures.margins`, read off a network that is being trained."""
    return table_margin(answers.table(answers.sums(network)).numpy())


def _draw(result: Result) -> Any:
    long = result.frame.melt("step", ["loss", "fresh_loss"], var_name="rows", value_name="value").dropna()
    return lines(long, x="step", y="value", group="rows", title=result.label, unit=f"fresh: {LOSS_UNIT}")
