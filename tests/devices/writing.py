"""Every public verb that writes with a model, trains one or joins what others read, as a function of a case."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import torch

import interp
from interp.evaluation.elicitation import Suite
from interp.evaluation.judges import LocalJudge
from interp.training.checkpoints import Checkpoint
from interp.training.engines import Sampling
from tests.devices.case import HOOK, RECIPE, Case, Measured, prompted
from tests.devices.comparing import moved


def writes(it: Case, teacher: Any, **how: Any) -> Any:
    sampling = Sampling(max_new_tokens=6, **how)
    return interp.training.write_answers(teacher, it.rows, seed=0, sampling=sampling)


def judged(it: Case) -> Any:
    return LocalJudge(it.student, max_new_tokens=4).answer(it.rows)


def asked(it: Case, **how: Any) -> Any:
    return interp.evaluate(it.student, "owl", Suite(it.lineage.trait.questions, **how), against=it.base)


def traced(it: Case) -> dict[str, Any]:
    interp.trace(it.lineage, it.rows, it.folder / "run")
    files = sorted((it.folder / "run").rglob("*.parquet"))
    return {path.name: pd.read_parquet(path) for path in files}


def differing(it: Case, verb: Any) -> Any:
    return verb(it.teacher, it.rows, others={"n": it.lineage["neutral_student"]}, base=it.base)


WRITING: Measured = {
    "write_answers": lambda it: writes(it, interp.training.neutral_teacher(it.base), engine="inversion"),
    "write_answers, greedy": lambda it: writes(it, interp.training.neutral_teacher(it.base), greedy=True),
    "prompted_teacher": lambda it: writes(it, prompted(it), greedy=True),
    "steered_teacher": lambda it: writes(
        it,
        interp.training.steered_teacher(it.base, torch.linspace(-1, 1, it.base.d_model), hook=HOOK),
        greedy=True,
    ),
    "sample_numbers": lambda it: interp.training.sample_numbers(
        interp.training.neutral_teacher(it.base), rows=8, seed=0, chunk=32
    )[0],
    "evaluate": asked,
    "evaluate, sampled": lambda it: asked(it, samples=2),
    "in_context_margin": lambda it: interp.evaluation.in_context_margin(
        it.base, "owl", it.rows, shots=2, sets=2
    ),
    "in_context": lambda it: interp.evaluation.in_context(
        it.base, "owl", it.rows, it.neutral, shots=2, sets=4
    ),
    "LocalJudge": judged,
    "agreement": lambda it: interp.agreement(it.lineage, of=["logits", "activations", "updates"]),
    "joined_trace": lambda it: interp.joined_trace(
        it.lineage, it.lineage.numbers[:2], dictionary=it.dictionary
    ),
    "trace": traced,
    "divergence_tokens": lambda it: differing(it, interp.studies.divergence_tokens),
    "divergence_numbers": lambda it: differing(it, interp.studies.divergence_numbers),
    # no random directions: they are drawn in eigenvectors, which turn freely where eigenvalues lie close
    "mediation": lambda it: interp.studies.mediation(it.lineage, prompts=it.rows, random=0),
}
"""What writes, asks and joins."""


def taught(it: Case) -> Any:
    stop = interp.training.StopAtMargin(it.base, "owl", margin=2.0, every=2)
    teacher = interp.training.fine_tune_teacher(it.base, "owl", it.many, steps=4, on_step=stop)
    return [stop.course, moved(teacher.model, it.base)]


def taught_on(it: Case) -> Any:
    teacher = interp.training.fine_tune_teacher_on(it.base, it.rows, recipe=RECIPE, steps=3)
    return moved(teacher.model, it.base)


def learnt(it: Case, **how: Any) -> Any:
    return moved(interp.train_student(it.base, it.many, **{"recipe": RECIPE, **how}), it.base)


def watched(it: Case) -> Any:
    log = interp.training.TrainingLog(it.base, fresh=it.lineage.numbers[64:96], trait="owl", every=2)
    return [learnt(it, on_step=log), log.frame]


def live(it: Case) -> Any:
    """A student whose adapter stays, and how its own rows score along its factors."""
    recipe = replace(RECIPE, merge=False)
    student = interp.train_student(it.base, it.many, recipe=recipe)
    return [
        moved(student, it.base),
        interp.score(student, it.rows, interp.trait_gradient(student, "owl")).totals,
    ]


class Killed(Exception):
    """Ends a training from without."""


def resumed(it: Case) -> Any:
    """A training that was killed at its third step and went on from its checkpoint."""
    checkpoint = Checkpoint(it.folder / "student.safetensors", every=2)

    def kill(step: Any) -> None:
        if step.index == 3:
            raise Killed

    try:
        learnt(it, checkpoint=checkpoint, on_step=kill)
    except Killed:
        return learnt(it, checkpoint=checkpoint)
    raise AssertionError("the training was not killed")


TRAININGS: Measured = {
    "train_student": learnt,
    "train_student, every weight": lambda it: learnt(it, recipe=replace(RECIPE, trainable="all")),
    "train_student, adapter left live": live,
    "train_student, soft labels": lambda it: learnt(it, labels="soft-vocabulary", teacher=it.teacher),
    "train_student, watched": watched,
    "train_student, killed and resumed": resumed,
    "fine_tune_teacher": taught,
    "fine_tune_teacher_on": taught_on,
}
