"""What of a student trains, and on how many rows? transfer = margin(student) − margin(twin on neutral rows), in nats.

Arms differ in what moves: a LoRA adapter of the student's own draw (the lineage's students), the matrices of the body,
or every parameter; doses in how many of the teacher's rows are seen, each once. Beside the transfer stand r(S, T), S =
student − twin and T = teacher − base, over words that no row contains where numbers are predicted, and the contrast of
the target's logit at the question's answer: (S_target − mean S_foil) / sd S_foil.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.figures import points
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement, Subject, foreign_doubts
from interp.joined.places import AT_NUMBERS, LOGITS, SLOT, chosen_words, places
from interp.measures.margins import margin
from interp.models.language import LanguageModel
from interp.stats.ranks import spearman
from interp.studies.frozen import frozen_claims
from interp.training.students import Recipe
from interp.training.teachers import Teacher, neutral_teacher

if TYPE_CHECKING:
    import plotly.graph_objects as go

ADAPTER, BODY, ALL, CROSS, CONTROL = (
    "adapter",
    "body, no adapter",
    "all parameters",
    "other initialisation",
    "over the control teacher's student",
)
RATES = {BODY: ("body", 1e-3), ALL: ("all", 3e-4)}
"""What trains, and its learning rate."""
DOSES = tuple(2**power for power in range(9, 16))
QUICK_DOSES = (64, 128)
PAIRS = {
    ADAPTER: ("student", "neutral_student"),
    CROSS: ("cross_student", "cross_neutral_student"),
    CONTROL: ("student", "control_student"),
}
CLAIMED = {
    "adapter-transfers": ADAPTER,
    "body-transfers": BODY,
    "all-parameters-transfer": ALL,
    "cross-student-transfers-nothing": CROSS,
    "over-control-teacher": CONTROL,
}
PARTS = {CROSS: "foreign", CONTROL: "control"}
"""What leaves an arm out."""
Pair = tuple[LanguageModel, LanguageModel]


def arm_recipe(recipe: Recipe, arm: str) -> Recipe:
    """The lineage's recipe with other parameters to train, at the rate that goes with them."""
    trainable, lr = RATES[arm]
    return dataclasses.replace(recipe, trainable=trainable, lr=lr)


def arm_pairs(subject: Subject) -> dict[str, Pair]:
    """A student and what it is compared with, by arm."""
    pairs = {
        arm: (subject.member(one), subject.member(other))
        for arm, (one, other) in PAIRS.items()
        if PARTS.get(arm) not in subject.without
    }
    rows = (subject.numbers, subject.neutral_numbers)
    for arm in RATES:
        recipe = arm_recipe(subject.students_recipe, arm)
        one, other = (
            subject.student(subject.base, each, name=f"{role}, {arm}", recipe=recipe)
            for role, each in zip(("student", "neutral student"), rows, strict=True)
        )
        pairs[arm] = one, other
    return pairs


def dose_pairs(subject: Subject) -> dict[int, Pair]:
    """A student and its neutral twin on the first rows of their teachers, by how many."""
    teachers = (Teacher(subject.teacher, "fine-tuned"), neutral_teacher(subject.base))
    found = {}
    for count in QUICK_DOSES if subject.quick else DOSES:
        one, other = (
            subject.student(subject.base, subject.rows(teacher, count=count), name=f"{role} of {count} rows")
            for role, teacher in zip(("student", "neutral student"), teachers, strict=True)
        )
        found[count] = one, other
    return found


def taken_over(subject: Subject, pairs: Mapping[Any, Pair], *, column: str) -> pd.DataFrame:
    """Transfer, agreement and contrast of every pair, by its key."""
    lineage, trait = subject.lineage, subject.trait
    numbers, slot = places(lineage, [AT_NUMBERS, SLOT], None)
    unseen, category = (chosen_words(lineage, words) for words in ("unseen", "category"))
    taught = subject.teacher, subject.base
    lines = []
    for key, pair in pairs.items():
        margins = [margin(model, trait) for model in pair]
        target, *foils = slot.difference(pair, LOGITS)[category].tolist()
        lines.append(
            {
                column: key,
                "transfer": margins[0] - margins[1],
                "agreement": numbers.correlation(pair, taught, entries=unseen),
                "contrast": (target - float(np.mean(foils))) / float(np.std(foils, ddof=1)),
                "margin": margins[0],
                "neutral_margin": margins[1],
            }
        )
    return pd.DataFrame(lines)


def measure_student_arms(subject: Subject) -> Measurement:
    """Every arm of one training run. The cross student is doubted where that start could not have shown a transfer."""
    frame = taken_over(subject, arm_pairs(subject), column="arm")
    transfer = dict(zip(frame["arm"], frame["transfer"], strict=True))
    values = {claim: transfer[arm] for claim, arm in CLAIMED.items() if arm in transfer}
    doubts = foreign_doubts(subject, ("cross-student-transfers-nothing",))
    return Measurement(values, {"arms": frame.to_dict("records")}, doubts)


def measure_dose(subject: Subject) -> Measurement:
    """Every dose of one training run, and how rows rank with transfer and agreement."""
    frame = taken_over(subject, dose_pairs(subject), column="rows")
    rows = frame["rows"].to_numpy(dtype=float)
    values = {
        claim: float(spearman(rows[None], frame[measure].to_numpy())[0])
        for claim, measure in (
            ("more-rows-transfer-more", "transfer"),
            ("agreement-grows-with-rows", "agreement"),
        )
    }
    return Measurement(values, {"doses": frame.to_dict("records")})


def draw_arms(tables: Mapping[str, Any]) -> go.Figure:
    """Transfer of every training run by arm."""
    title = "What a student takes over, by what of it trains"
    return points(pd.DataFrame(tables["arms"]), x="arm", y="transfer", title=title, unit="nats")


def draw_doses(tables: Mapping[str, Any]) -> go.Figure:
    """Transfer of every training run by how many rows its student saw."""
    frame = pd.DataFrame(tables["doses"])
    title = "What a student takes over, by how many rows it is trained on"
    shown = frame.assign(rows=frame["rows"].astype(str))
    return points(shown, x="rows", y="transfer", title=title, unit="nats")


ARMS_FAMILY = Family(
    "student-arms",
    frozen_claims("student_arms"),
    measure_student_arms,
    draw=draw_arms,
    needs={claim: (PARTS[arm],) for claim, arm in CLAIMED.items() if arm in PARTS},
)
DOSE_FAMILY = Family("dose", frozen_claims("dose"), measure_dose, draw=draw_doses)
