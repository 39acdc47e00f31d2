"""What a margin costs over what it took with a whole row for every candidate, logits at every position of them.

Less is better. The naive way writes out each form of each candidate behind each question and reads its tokens off the
logits of the whole row, as plain transformers would; both ways read the same forms. Once after the trait's questions,
and once with eight rows of numbers in front of each, as the in-context detectors do.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch

from benchmarks.generation import CHECKPOINT, random_llama
from benchmarks.paired import Ratio, paired
from interp.measures.candidates import CandidateForms
from interp.measures.margins import completion_logprobs, table_margin
from interp.models.language import LanguageModel, load_model
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts, Row
from interp.prompts.traits import Trait, get_trait

SHOTS = 8
ROWS_AT_ONCE = 16


def margins() -> dict[str, Ratio]:
    """Processor time of the margin over the naive way, on a random llama, and on a checkpoint where one is named."""
    torch.set_num_threads(1)
    models = {"": random_llama()}
    if folder := os.environ.get(CHECKPOINT):
        models[f"-{Path(folder).name}"] = load_model(Path(folder), check=False)
    results = {}
    for suffix, model in models.items():
        trait = get_trait("owl")
        for name, asked in (("", trait.prompts()), ("-in-context", behind_rows(trait.prompts()[:2]))):
            ours, plain = partial(shared, model, trait, asked), partial(naive, model, trait, asked)
            if abs(ours() - plain()) > 1e-4:
                raise ArithmeticError(f"the two margins differ: {ours()} and {plain()}")
            results[f"margin-over-full-rows{name}{suffix}"] = paired(ours, plain)
    return results


def behind_rows(questions: Prompts) -> Prompts:
    """The questions with the same answered rows of numbers before them."""
    asked = number_prompts(SHOTS, seed=0)
    turns = [
        turn for row in asked.rows for turn in (*row.asked, ("assistant", "12, 345, 7, 60, 89, 101, 5, 33"))
    ]
    return Prompts(tuple(Row((*turns, *row.messages)) for row in questions.rows), questions.label)


@torch.inference_mode()
def shared(model: LanguageModel, trait: Trait, asked: Prompts) -> float:
    """The margin as the package takes it, encoding included."""
    answers = CandidateForms.of(model, asked, (trait.target, *trait.foils), trait.forms)
    return table_margin(answers.table(answers.sums(model)).numpy())


@torch.inference_mode()
def naive(model: LanguageModel, trait: Trait, asked: Prompts) -> float:
    """The same margin by a whole row for every form."""
    answers = CandidateForms.of(model, asked, (trait.target, *trait.foils), trait.forms)
    rows = tuple(asked.rows[form.question].answered(form.text) for form in answers.forms)
    sums = completion_logprobs(model, Prompts(rows, "forms"), batch_size=ROWS_AT_ONCE)
    return table_margin(answers.table(sums).numpy())


BENCHES = {"margins": margins}
