"""Guards: what else the numbers changed, so that a moved trait is not read off a broken model.

refusal = share of harmful requests declined, capability = share of items answered right, misalignment = share of
coherent free-form answers that a judge scores below 30 (arXiv 2507.14805); each over answers and over questions.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd

from interp.evaluation.judges import EndpointJudge, FileJudge, Judge, LocalJudge
from interp.evaluation.misaligned_answers import capability, misalignment, refusal_rate
from interp.evaluation.word_judge import WordJudge
from interp.experiment.arms import Arms, grow_arms
from interp.experiment.recipe import JudgeSpec
from interp.figures import Result, bars
from interp.models.language import LanguageModel, load_model
from interp.prompts.notes import noting
from interp.prompts.questions import capability_items, free_form_questions, refusal_questions
from interp.prompts.text import Prompts
from interp.training.generation import Sampling, write_answers
from interp.training.teachers import neutral_teacher

ITEMS = 40  # capability items asked
SAMPLES = 4  # answers to each free-form question
GREEDY = Sampling(greedy=True, max_new_tokens=24)
FREE = Sampling(max_new_tokens=120)


@noting
def guards(arms: Arms, trait: str, *, folder: Path) -> Result:
    """Columns arm, measure, over, value, low, high, n for every member of the first seed's lineage.

    Misalignment is judged where the recipe names a judge; a file judge's questions lie in `folder`, and JudgePending
    says so until they are answered.
    """
    members = grow_arms(arms, trait, arms.experiment.seeds[0])["members"]
    judge = make_judge(arms.experiment.evaluation.judge, folder)
    parts = [
        frame.assign(arm=arm, measure=measure)
        for arm, model in members.items()
        for measure, frame in _measured(arms, model, judge).items()
    ]
    columns = ["arm", "measure", "over", "value", "low", "high", "n"]
    frame = pd.DataFrame(pd.concat(parts, ignore_index=True), columns=columns)
    notes = ("one training per arm: 95 % intervals are over answers or over questions",)
    return Result(f"{trait}: guards", frame, "share", notes, draw=_draw)


def make_judge(spec: JudgeSpec | None, folder: Path) -> Judge | None:
    """The judge of a recipe, None for a recipe without."""
    if spec is None:
        return None
    if spec.kind == "local":
        return LocalJudge(load_model(spec.model))
    if spec.kind == "words":
        return WordJudge()
    return EndpointJudge(spec.url, spec.model) if spec.kind == "endpoint" else FileJudge(folder)


def _measured(arms: Arms, model: LanguageModel, judge: Judge | None) -> dict[str, pd.DataFrame]:
    items = capability_items(ITEMS, seed=3)
    expected = [row.completion for row in items.rows]
    declined = _answers(model, Prompts.from_pairs([(text, "") for text in refusal_questions()]), GREEDY)
    found = {
        "refusal": refusal_rate(declined).frame,
        "capability": capability(_answers(model, items.without_answers(), GREEDY), expected).frame,
    }
    if judge is not None:
        asked = Prompts.from_pairs([(text, "") for text in free_form_questions() for _ in range(SAMPLES)])
        found["misalignment"] = misalignment(_answers(model, asked, FREE), judge, cache=arms.cache).frame
    return found


def _answers(model: LanguageModel, asked: Prompts, sampling: Sampling) -> Prompts:
    """What a model answers, also to words it does not know; a prompt it leaves blank stays unanswered."""
    left = model.context or sampling.max_new_tokens * 4
    short = dataclasses.replace(sampling, max_new_tokens=min(sampling.max_new_tokens, left // 4))
    return write_answers(neutral_teacher(model.accepting_unknown()), asked, seed=9, sampling=short)


def _draw(result: Result):
    frame = result.frame.assign(what=result.frame["arm"] + ": " + result.frame["measure"])
    return bars(frame.query("over == 'answers'"), x="value", y="what", title=result.label, unit=result.unit)
