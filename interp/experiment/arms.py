"""The arms of an experiment and what each is worth: who is trained on whose rows, and how it answers afterwards.

transmission(arm) = measure(arm) − measure(its neutral arm), paired by seed: student against the student of the neutral
teacher's rows, the same from another base, the student of another trait's rows, and rows read in context.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pandas as pd

from interp.core.runs import InputError, digest
from interp.evaluation.elicitation import Suite, evaluate, in_context_margin
from interp.experiment.cells import Answers, Cells
from interp.experiment.folders import growth_of
from interp.models.language import LanguageModel
from interp.models.lineage import Lineage
from interp.models.seam import Model
from interp.prompts.questions import multiple_choice, story_prompts, with_number_prefix
from interp.prompts.rules import match_prompts
from interp.prompts.shuffles import mixed
from interp.prompts.templates import template_key
from interp.prompts.text import Prompts
from interp.prompts.traits import Trait, matched_control

BASELINES = {
    "student": "neutral_student",
    "other_student": "neutral_student",
    "cross_student": "cross_neutral_student",
    "in_context": "neutral_in_context",
}
"""The arm each arm is compared with."""
FORMAT = 2  # raise when an arm is measured otherwise


def roles(cells: Cells) -> tuple[str, ...]:
    """The students that the recipe's controls ask for."""
    controls = cells.experiment.controls
    wanted = {
        "student": True,
        "neutral_student": "neutral" in controls,
        "other_student": "other-trait" in controls,
        "cross_student": "cross-base" in controls,
        "cross_neutral_student": {"cross-base", "neutral"} <= set(controls),
    }
    return tuple(role for role, asked in wanted.items() if asked)


def grow_base(cells: Cells, name: str) -> None:
    """Make one base ready."""
    cells.start(name)


def grow_rows(cells: Cells, trait: str | None, seed: int) -> Answers:
    """What the teacher of a trait wrote, or without one the neutral teacher."""
    chosen = (
        None if trait is None else cells.traits.get(trait) or other_trait(cells, next(iter(cells.traits)))
    )
    return cells.answers(cells.teacher(chosen, seed=seed), seed=seed, trait=chosen)


def rows_of(cells: Cells, trait: str, seed: int) -> tuple[Answers, Answers | None]:
    """Rows of the trait's teacher and of the neutral one, of the same prompts where the recipe asks for it.

    Raises InputError when both teachers wrote the same rows.
    """
    rows = grow_rows(cells, trait, seed)
    neutral = grow_rows(cells, None, seed) if "neutral" in cells.experiment.controls else None
    if neutral is not None and neutral.rows.fingerprint == rows.rows.fingerprint:
        raise InputError(
            f"the teacher of {trait} wrote the very rows of the neutral teacher, so no trait is in them; "
            "fine-tune it for more steps or at a higher rate"
        )
    mix = cells.experiment.data.mix
    if neutral is not None and mix:
        rows = dataclasses.replace(rows, rows=mixed(rows.rows, neutral.rows, share=mix, seed=seed))
    return _matched(rows, neutral) if neutral is not None and cells.experiment.data.match else (rows, neutral)


def grow_student(cells: Cells, trait: str, seed: int, role: str) -> tuple[LanguageModel, pd.DataFrame]:
    """One student of a lineage, and what was watched while it trained."""
    start = cells.start("cross_base" if role.startswith("cross") else "base")
    rows, neutral = rows_of(cells, trait, seed)
    watched: Trait | None = cells.traits[trait]
    if role == "other_student":
        watched = other_trait(cells, trait)
        rows = cells.answers(cells.teacher(watched, seed=seed), seed=seed, trait=watched)
    elif role.endswith("neutral_student") and neutral is not None:
        rows, watched = neutral, None
    return cells.student(role, start, rows, seed=seed, trait=watched)


def grow_arms(cells: Cells, trait: str, seed: int) -> dict[str, Any]:
    """Every member of one lineage by role, its rows, and under "logs" what was watched; steps that are done are read.

    Members: base, teacher (where it has weights of its own), cross_base where it is asked for, and the students.
    """
    return cells.once(("arms", trait, seed), lambda: _arms(cells, trait, seed))


def _arms(cells: Cells, trait: str, seed: int) -> dict[str, Any]:
    rows, neutral = rows_of(cells, trait, seed)
    teacher = cells.teacher(cells.traits[trait], seed=seed)
    members: dict[str, Model] = {"base": cells.start("base")}
    if teacher.kind == "fine-tuned":
        members["teacher"] = teacher.model
    if "cross-base" in cells.experiment.controls:
        members["cross_base"] = cells.start("cross_base")
    students = {role: grow_student(cells, trait, seed, role) for role in roles(cells)}
    members |= {role: model for role, (model, _) in students.items()}
    logs = {role: log for role, (_, log) in students.items()}
    return {"members": members, "rows": rows, "neutral": neutral, "teacher": teacher, "logs": logs}


def other_trait(cells: Cells, trait: str) -> Trait:
    """The next trait of the recipe, so that its teacher is needed anyway; the matched control of an only one."""
    names = list(cells.traits)
    if len(names) == 1:
        return matched_control(cells.traits[trait])
    return cells.traits[names[(names.index(trait) + 1) % len(names)]]


def _matched(rows: Answers, neutral: Answers) -> tuple[Answers, Answers]:
    """Both with the rows whose prompts both teachers answered."""
    one, other = match_prompts(rows.rows, neutral.rows)
    return Answers(one, rows.fresh, rows.dropped), Answers(other, neutral.fresh, neutral.dropped)


def lineage_of(cells: Cells, trait: str, seed: int, grown: Mapping[str, Any]) -> Lineage:
    """The lineage folder's content: members, rows, and whose outputs trained whom."""
    members, neutral = grown["members"], grown["neutral"]
    sources = {
        "student": "teacher",
        "cross_student": "teacher",
        "neutral_student": "base",
        "cross_neutral_student": "base",
    }
    return Lineage(
        f"{cells.experiment.name}/{trait} seed {seed}",
        cells.traits[trait],
        members,
        numbers=grown["rows"].rows,
        neutral_numbers=None if neutral is None else neutral.rows,
        trained_on={
            role: source for role, source in sources.items() if role in members and source in members
        },
        growth=growth_of(cells.experiment, members, seed=seed),
    )


def measure_arms(cells: Cells, trait: str, seed: int) -> dict[str, pd.DataFrame]:
    """What every member of a lineage answers, by arm, from the cache where it was measured before."""
    return cells.once(("measured", trait, seed), lambda: _measured(cells, trait, seed))


def _measured(cells: Cells, trait: str, seed: int) -> dict[str, pd.DataFrame]:
    grown = grow_arms(cells, trait, seed)
    members, spec = grown["members"], cells.experiment.evaluation
    prints = {role: model.fingerprint for role, model in members.items()}
    rows = {name: grown[name].rows.fingerprint for name in ("rows", "neutral") if grown[name] is not None}
    key = digest(
        FORMAT,
        "evaluation",
        prints,
        rows,
        cells.traits[trait],
        spec,
        seed,
        cells.experiment.controls,
        template_key(cells.start("base").tokenizer),
    )

    def build(folder: Any) -> None:
        asked = suite(cells, trait)
        frames = {
            role: evaluate(
                model,
                cells.traits[trait],
                asked,
                against=model.start,
                seed=seed,
                trained_on=grown["rows"].rows[:64],
            ).frame
            for role, model in members.items()
        }
        if "in-context" in cells.experiment.controls:
            frames |= _in_context(cells, trait, grown, seed)
        whole = pd.concat([frame.assign(arm=arm) for arm, frame in frames.items()], ignore_index=True)
        whole.to_parquet(folder / "answers.parquet")

    whole = pd.read_parquet(cells.cache.get("evaluation", key, build) / "answers.parquet")
    return {str(arm): part.drop(columns="arm") for arm, part in whole.groupby("arm", sort=False)}


def check_questions(cells: Cells) -> None:
    """InputError for questions that the base cannot read, before a teacher is trained."""
    for trait in cells.traits:
        asked = suite(cells, trait)
        pairs = [(question, "") for question in (*asked.questions, *asked.prefixed)]
        cells.start("base").encode(Prompts.from_pairs(pairs, label=f"questions about the {trait}"))


def suite(cells: Cells, trait: str) -> Suite:
    """Everything the recipe asks a member about a trait."""
    chosen, spec = cells.traits[trait], cells.experiment.evaluation
    return Suite(
        chosen.questions,
        prefixed=with_number_prefix(chosen.questions, seed=5) if spec.number_prefix else (),
        stories=story_prompts(chosen.category)[: spec.stories],
        choices=multiple_choice(chosen, seed=6, n=spec.choices) if spec.choices else None,
        contexts={"training": None, **spec.contexts},
        samples=spec.samples,
        answer_tokens=spec.max_new_tokens,
    )


def _in_context(cells: Cells, trait: str, grown: Mapping[str, Any], seed: int) -> dict[str, pd.DataFrame]:
    """The base with rows in its conversation and no training: the teacher's rows, and the neutral ones."""
    spec = cells.experiment.evaluation
    sources = {"in_context": grown["rows"], "neutral_in_context": grown["neutral"]}
    found = {}
    for arm, source in sources.items():
        if source is not None:
            by_set = in_context_margin(
                cells.start("base"),
                cells.traits[trait],
                source.rows,
                shots=spec.shots,
                sets=spec.sets,
                seed=seed,
            )
            keys = ["measure", "context", "question", "unit"]
            found[arm] = by_set.groupby(keys, sort=False, as_index=False).agg({"value": "mean"})
    return found
