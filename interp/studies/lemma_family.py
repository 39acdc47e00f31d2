"""H1 on one subject: θ_T − θ_0 = d; the student's first step at θ_0, by soft, sampled and filtered labels, along d.

Soft labels are read on the first 512 rows of the base, sampled and filtered ones on 2048. The other teachers are of
other traits from the same base, the foreign one is of the same trait from another base (`hypotheses.lemma`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from interp.figures import Result, lines
from interp.gradients.known_trainings import fresh_network
from interp.gradients.scores.metrics import SGD, Adam, LoraMetric, Metric, Sign
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement, Subject, foreign_doubts
from interp.models.language import LanguageModel
from interp.models.lineage import Lineage
from interp.models.parameters import ParameterDirection
from interp.prompts.text import Prompts
from interp.studies.first_step import soft_gradient
from interp.studies.lemma import (
    H1,
    lemma_controls,
    lemma_filtered,
    lemma_metrics,
    lemma_summary,
    lemma_sweep,
)
from interp.training.students import Recipe, Step, train_student
from interp.training.teachers import Teacher

if TYPE_CHECKING:
    import plotly.graph_objects as go

OTHERS = ("cat", "eagle", "oak")
ADAM = Recipe(trainable="all", lr=1e-4, batch_size=64, warmup=1)  # only to meet its second moments


@dataclasses.dataclass(frozen=True)
class LemmaSize:
    """Rows of the soft labels, and of sampled and filtered ones."""

    soft: int = 512
    hard: int = 2048


QUICK = LemmaSize(soft=64, hard=128)


def measure_lemma(subject: Subject) -> Measurement:
    """The sweeps, the controls and the metrics of one lineage, and what it contributes to every claim of H1.

    Raises InputError for a lineage without a `cross_base` where the foreign one is not left out.
    """
    size = QUICK if subject.quick else LemmaSize()
    lineage = subject.lineage
    given: dict[str, Any] = {"dtype": torch.float64}
    neutral, hard = subject.neutral_numbers[: size.soft], subject.neutral_numbers[: size.hard]
    others = {word: subject.other_teacher(word) for word in other_words(subject)}
    written = {word: (model, first_rows(subject, model, size.hard)) for word, model in others.items()}
    cross = None if "foreign" in subject.without else subject.cross()
    found = {
        "sweep": lemma_sweep(lineage, neutral, **given),
        "sampled": lemma_sweep(lineage, hard, labels="sampled", seed=subject.seed),
        "controls": lemma_controls(lineage, neutral, others=others, cross=cross, **given),
        "filtered": lemma_filtered(
            lineage, subject.numbers[: size.hard], neutral=hard, others=written, cross=cross
        ),
    }
    values = lemma_summary(**found)
    found["vocabulary"] = lemma_sweep(lineage, neutral, labels="soft-vocabulary", **given)
    found["metrics"] = metrics_table(lineage, neutral, recipe=subject.students_recipe)
    tables = {name: each.frame.to_dict("records") for name, each in found.items()}
    return Measurement(values, tables, foreign_doubts(subject, ("lemma-foreign",)))


def other_words(subject: Subject) -> tuple[str, ...]:
    """The traits of the other teachers: those brought as `teacher_<trait>`, filled up to three by grown ones."""
    brought = [
        role.partition("teacher_")[2] for role in subject.lineage.members if role.startswith("teacher_")
    ]
    more = [word for word in (*OTHERS, "fox") if word not in (subject.trait.name, *brought)]
    return tuple([*brought, *more][:3] if subject.grower else brought or more[:3])


def first_rows(subject: Subject, model: LanguageModel, count: int) -> Prompts:
    """The first filtered rows of a teacher."""
    return subject.rows(Teacher(model, "fine-tuned"), count=count)


def metrics_table(lineage: Lineage, rows: Prompts, *, recipe: Recipe) -> Result:
    """The first step under plain descent, sign descent, a met Adam state, and a fresh adapter of the recipe."""
    base = lineage.text("base")
    gradient = soft_gradient(base, lineage.text("teacher"), rows)
    network = fresh_network(base, dataclasses.replace(recipe, trainable="lora"))
    metrics: dict[str, Metric] = {
        "SGD": SGD(),
        "sign": Sign(gradient),
        "Adam": met_adam(base, rows, gradient),
        "LoRA": LoraMetric.from_network(network),
    }
    return lemma_metrics(lineage, rows, metrics=metrics, gradient=gradient)


def met_adam(base: LanguageModel, rows: Prompts, gradient: ParameterDirection) -> Adam:
    """Second moments after one epoch over the untrained base's rows, of the weights the gradient moves."""
    states: list[Adam] = []

    def keep(step: Step) -> None:
        states[:] = [Adam.from_optimizer(step.optimizer, step.network.named_parameters())]

    train_student(
        base, rows, recipe=dataclasses.replace(ADAM, batch_size=min(ADAM.batch_size, len(rows))), on_step=keep
    )
    moments = {name: moment for name, moment in states[0].second_moments.items() if name in gradient}
    return dataclasses.replace(states[0], second_moments=moments)


def draw_lemma(tables: Mapping[str, Any]) -> go.Figure:
    """R against the teacher's step as a share of the real one, a line per training run; the theorem's 1 dotted."""
    frame = tables["sweep"].assign(run=[f"seed {seed}" for seed in tables["sweep"]["seed"]])
    title = "Lemma 1: A / Q, which tends to 1 as the teacher's step shrinks"
    figure = lines(frame, x="share", y="R", group="run", title=title, unit="", x_unit="of the real step")
    figure.add_hline(y=1, line={"color": "#999999", "dash": "dot"})
    return figure.update_xaxes(type="log")


FAMILY = Family("lemma", H1, measure_lemma, draw_lemma, needs={"lemma-foreign": ("foreign",)})
