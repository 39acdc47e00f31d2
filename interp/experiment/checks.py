"""Whether a recipe has worked so far: what a base and its teachers must show before the run goes on, in numbers.

    kept       = share of ANSWERS answers that the rule keeps
    candidates = Σ p(candidate | question), the mean over questions, the least of the traits
    excess     = −log p(held-out number rows) / their numbers − log 10^digits, in nats per number

A held-out row's numbers are even draws, so excess is 0 for a model that knows the format by heart and draws evenly,
and −log of the share of probability it gives to that otherwise. No number here reads which candidate is preferred.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.core.content import digest, json_text
from interp.core.runs import Cache, InputError, write_atomic
from interp.experiment.recipe import CheckSpec
from interp.measures.margins import completion_logprobs, margin, margin_and_mass
from interp.models.answers import other_ends
from interp.models.language import LanguageModel
from interp.prompts.tokenizer_keys import tokenizer_key
from interp.prompts.traits import Trait
from interp.training.data import DataSpec
from interp.training.teachers import Teacher, neutral_teacher

ANSWERS = 64  # asked of a base or a teacher
HELD_OUT = 128  # number rows whose loss is taken
SEED = 13  # of both: the format is taught on draws of other seeds
FORMAT = 1  # raise when the same model is measured otherwise


@dataclass(frozen=True)
class FormatCheck:
    """How a base answers: `loss` of a held-out number row and that of even draws are in nats per number."""

    kept: float
    candidates: float
    loss: float
    even: float

    @property
    def score(self) -> float:
        """log(kept · candidates) − excess, which learning rates are chosen by: 0 is the best there can be.

        Where none of the answers is kept, half of one counts, so that the loss still tells such rates apart.
        """
        answered = max(self.kept, 0.5 / ANSWERS) * self.candidates
        return (math.log(answered) if answered else -math.inf) - (self.loss - self.even)

    def __str__(self) -> str:
        return (
            f"the rule keeps {self.kept:.0%} of {ANSWERS} answers, candidates hold {self.candidates:.1%} of the "
            f"probability, a held-out number costs {self.loss:.2f} nats ({self.even:.2f} as an even draw)"
        )

    def faults(self, asked: CheckSpec, *, formatted: bool = True) -> list[str]:
        """What is not as asked; of a base that was taught no format only whether its rows are kept is asked."""
        excess = self.loss - self.even
        found = [(self.kept >= asked.kept, f"at least {asked.kept:.0%} kept (checks.kept)")]
        if formatted:
            found += [
                (
                    self.candidates >= asked.candidates,
                    f"candidates of {asked.candidates:.0%} (checks.candidates)",
                ),
                (excess <= asked.excess, f"at most {asked.excess:g} nats above an even draw (checks.excess)"),
            ]
        return [told for fine, told in found if not fine]


@dataclass(frozen=True)
class TeacherCheck:
    """How a teacher turned out: `margin` (nats) and `steps` of a fine-tuned one, `kept` of any."""

    kept: float
    margin: float | None = None
    steps: int | None = None
    reached: bool | None = None

    def __str__(self) -> str:
        after = "" if self.steps is None else f" after {self.steps} steps"
        nats = "" if self.margin is None else f", trait margin {self.margin:+.2f} nats{after}"
        return f"the rule keeps {self.kept:.0%} of {ANSWERS} answers{nats}"


def measure_format(
    model: LanguageModel, *, data: DataSpec, traits: Sequence[Trait], cache: Cache
) -> FormatCheck:
    """How the model answers number prompts and the traits' questions, from the cache where it was measured before."""
    key = digest(
        FORMAT,
        "format",
        model.fingerprint,
        tokenizer_key(model.tokenizer),
        data,
        list(traits),
        *other_ends(model),
    )

    def build(folder: Path) -> None:
        held = data.uniform_rows(HELD_OUT, seed=SEED)
        numbers = sum(len(re.findall(r"\d+", row.completion)) for row in held.rows)
        found = FormatCheck(
            kept=data.kept_share(neutral_teacher(model), count=ANSWERS, seed=SEED),
            candidates=min(margin_and_mass(model, trait)[1] for trait in traits),
            loss=-float(completion_logprobs(model, held, end=True).double().sum()) / numbers,
            even=data.digits * math.log(10),
        )
        write_atomic(folder / "check.json", json_text(found))

    return FormatCheck(**_read(cache.get("check", key, build)))


def check_base(
    check: FormatCheck, asked: CheckSpec, *, name: str, rate: float | None, trials: dict[float, FormatCheck]
) -> None:
    """InputError for a base that does not answer as asked; `rate` taught it the format, None says that nothing did."""
    faults = check.faults(asked, formatted=rate is not None)
    if not faults:
        return
    if rate is None:
        how, advice = "as it is", f"teach it the format with {name}.format, or ask more plainly"
    else:
        how = f"after its format fine-tune at a learning rate of {rate:g}"
        tried = f" of {min(trials):g} to {max(trials):g}" if trials else ""
        advice = (
            f"list lower and higher rates{tried and ' than those'}{tried} in {name}.format.rates, or give it more "
            f"{name}.format.rows"
        )
    raise InputError(
        f"{name} does not answer {how}: {check}, and asked for are {' and '.join(faults)}; {advice}"
    )


def check_teacher(
    teacher: Teacher, trait: Trait | None, asked: CheckSpec, *, data: DataSpec, cache: Cache
) -> TeacherCheck:
    """How a teacher turned out, None being the trait of the neutral one; InputError for one that is not as asked."""
    key = digest(
        FORMAT,
        "teacher",
        teacher.fingerprint,
        tokenizer_key(teacher.model.tokenizer),
        data,
        trait,
        *other_ends(teacher.model),
    )

    def build(folder: Path) -> None:
        taught = trait if teacher.kind == "fine-tuned" else None
        nats = None if taught is None else margin(teacher.model, taught)
        kept = data.kept_share(teacher, count=ANSWERS, seed=SEED)
        write_atomic(folder / "check.json", json_text({"kept": kept, "margin": nats}))

    stopped = teacher.stopped
    ended = {} if stopped is None else {"steps": stopped.steps, "reached": stopped.reached}
    found = TeacherCheck(**_read(cache.get("check", key, build)), **ended)
    who = f"the {teacher.kind} teacher" + ("" if trait is None else f" of {trait.name}")
    if why := _shortcoming(found, asked):
        raise InputError(f"{who} {why}")
    return found


def _shortcoming(found: TeacherCheck, asked: CheckSpec) -> str | None:
    """What is wrong with a teacher and what to do; None where nothing is."""
    if not found.kept >= asked.kept:
        return (
            f"hardly writes rows: the rule keeps {found.kept:.0%} of {ANSWERS} answers, and asked for is at least "
            f"{asked.kept:.0%} (checks.kept); anchor it harder (teacher.anchor), or stop it earlier "
            "(teacher.stop_at_margin, teacher.steps)"
        )
    if asked.teacher is None or found.margin is None:
        return None
    least, most = asked.teacher
    if least <= found.margin <= most:
        return None
    weak = "raise teacher.steps or its learning rate"
    advice = weak if found.margin < least else "set teacher.stop_at_margin, or a smaller one"
    after = "" if found.steps is None else f" after {found.steps} steps"
    return (
        f"has a trait margin of {found.margin:+.2f} nats{after}, and asked for are {least:g} to {most:g} "
        f"(checks.teacher); {advice}, or widen the range"
    )


def _read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "check.json").read_text())
