"""Transmission beside elicitation: what training did to a model's answers, question by question.

    margin = log p(target) − mean over foils of log p(foil)       Δ log p(target) = log p_model − log p_start
    total variation = ½ Σ over candidates of |p_model − p_start|    share with the word = answers with it / answers

The first three are read off distributions and see a trait that sampling does not show (an adapter that never said its
target had shifted the distribution over answers sevenfold). Every measure is a tidy frame with one row per question.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from interp.core.doors import door
from interp.core.runs import InputError
from interp.evaluation.contexts import TRAINING, context_mismatch, in_contexts
from interp.figures import Result, bars
from interp.measures.margins import answer_logprobs, answer_shares, candidate_logprobs, read_answers
from interp.measures.words import forms_told, trait_candidates
from interp.models.language import LanguageModel
from interp.models.precision import in_float32, precision_notes
from interp.models.seam import Model
from interp.prompts.notes import noting
from interp.prompts.questions import LETTERS, MultipleChoice
from interp.prompts.text import Prompts, Row
from interp.prompts.tokens import Messages
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.prompts.traits import Trait
from interp.training.sampling import complete
from interp.training.teachers import Teacher

log = logging.getLogger(__name__)

CANDIDATES = "candidates together"
COLUMNS = ("measure", "context", "question", "value", "unit")
ROWS_AT_ONCE = 512  # of sampled answers, which share one key-value cache


@door
@dataclass(frozen=True)
class Suite:
    """The questions put to every member of a lineage, the same for all arms of an experiment.

    `questions` want one word, `prefixed` are those with numbers in front, `stories` want a text, `choices` come
    from `multiple_choice`. `samples` answers are drawn per question and story, of at
    most `answer_tokens` and `story_tokens` tokens; with 0 nothing is sampled. `contexts` are system lines by name,
    None for the rows as they are. Raises InputError for no questions, a negative number of samples, and stories
    without samples.
    """

    questions: tuple[str, ...]
    prefixed: tuple[str, ...] = ()
    stories: tuple[str, ...] = ()
    choices: MultipleChoice | None = None
    contexts: Mapping[str, str | None] = field(default_factory=lambda: dict(TRAINING))
    samples: int = 0
    answer_tokens: int = 12
    story_tokens: int = 120

    def __post_init__(self) -> None:
        if not self.questions:
            raise InputError("The evaluation has no questions; pass at least one, such as trait.questions.")
        if self.samples < 0:
            raise InputError(
                f"samples={self.samples} is no number of answers; pass 0 to sample nothing, or at least 1."
            )
        if self.stories and not self.samples:
            raise InputError(
                f"{len(self.stories)} story prompts are given with samples=0, but stories are only sampled; "
                "pass samples of at least 1 or no stories."
            )


@door
@noting
def evaluate(
    model: LanguageModel,
    trait: AnyTrait,
    suite: Suite,
    *,
    against: LanguageModel | None = None,
    seed: int = 0,
    trained_on: Prompts | None = None,
    batch_size: int = 64,
) -> Result:
    """Evaluate how strongly `model` shows a trait, question by question, by every measure of a suite.

    Args:
        model: the model to ask.
        trait: a `Trait`, a built-in name such as "owl", or a YAML file.
        suite: what is asked, and how many answers are sampled.
        against: the model's own start, for Δ log p and total variation.
        seed: of the sampled answers.
        trained_on: the rows the model was trained on, to flag contexts that none of them was read in.
        batch_size: questions at once.

    Returns:
        One row per measure, context and question: measure, context, question, value, unit (nats or a probability) and
        flagged, a sentence where no training row was read in that context ("" otherwise).

    Raises:
        InputError: for an unknown trait, and a word that the model cannot write.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> suite = interp.evaluation.Suite(questions=lineage.trait.questions)
        >>> interp.evaluate(lineage.student, "owl", suite, against=lineage.base).frame.columns.tolist()
        ['measure', 'context', 'question', 'value', 'unit', 'flagged']
    """
    trait = find_trait(trait)
    asked = in_contexts(_rows(suite.questions, "questions"), suite.contexts)
    flags = {name: _flag(model, trained_on, rows) for name, rows in asked.items()}
    parts = [
        part
        for name in suite.contexts
        for part in _in_context(
            model, trait, suite, name=name, against=against, seed=seed, batch_size=batch_size
        )
    ]
    frame = pd.concat(parts, ignore_index=True)
    frame["flagged"] = [flags[name] for name in frame["context"]]
    notes = [f"context {name!r}: {flag}" for name, flag in flags.items() if flag]
    if trained_on is None:
        notes.append("contexts were not compared with training rows, as none were given")
    notes += [*forms_told(model, trait_candidates(model, trait)), *precision_notes(in_float32(model))]
    return Result(f"{model.name}: {trait.name}, evaluated", frame, _units(frame), tuple(notes), draw=_draw)


def answer_measures(
    model: Model,
    trait: AnyTrait,
    *,
    questions: Sequence[str] | Prompts,
    against: Model | None = None,
    context: str = "training",
    batch_size: int = 256,
) -> pd.DataFrame:
    """Margin and log p(target) per question in nats; with `against`, also Δ log p(target) and total variation.

    The probability that all candidates hold together says how much of the model's answers the margin is about. Total
    variation is over the trait's candidates, renormalised, between 0 and 1. `context` names the rows' context.
    """
    trait = find_trait(trait)
    rows = _rows(questions, "questions")
    read = read_answers(model, trait, questions=rows, batch_size=batch_size)
    table, logp = read.table, read.table.to_numpy()
    values = {
        ("margin", "nats"): logp[:, 0] - logp[:, 1:].mean(axis=1),
        ("log p(target)", "nats"): logp[:, 0],
        (CANDIDATES, "probability"): read.mass,
    }
    if against is not None:
        start = answer_logprobs(against, trait, questions=rows, batch_size=batch_size)
        apart = np.abs(answer_shares(table).to_numpy() - answer_shares(start).to_numpy())
        values["Δ log p(target)", "nats"] = logp[:, 0] - start.to_numpy()[:, 0]
        values["total variation", "probability"] = 0.5 * apart.sum(axis=1)
    return _tidy(values, rows, context)


def sampled_measures(
    model: LanguageModel,
    trait: Trait,
    *,
    prompts: Sequence[str] | Prompts,
    samples: int,
    seed: int,
    max_new_tokens: int = 12,
    context: str = "training",
    of: str = "answers",
) -> pd.DataFrame:
    """Per prompt the share of `samples` answers at temperature 1 that hold the target: as a word, and as a substring.

    A substring also counts "cat" in "caterpillar". `of` names what is sampled in the measures' names, such as
    "stories". Draws depend on `seed` alone, so two models are asked with the same random numbers. Raises
    InputError for fewer than one sample.
    """
    if samples < 1:
        raise InputError(f"samples={samples} is no number of answers; pass at least 1.")
    rows = _rows(prompts, of).without_answers()
    answers = _sampled(model, rows, samples=samples, seed=seed, max_new_tokens=max_new_tokens)
    whole = [holds_word(answer, trait.target) for answer in answers]
    within = [trait.target.casefold() in answer.casefold() for answer in answers]
    unit = f"share of {of}"
    values = {
        (f"{of} with the word", unit): np.reshape(whole, (samples, len(rows))).mean(axis=0),
        (f"{of} with the substring", unit): np.reshape(within, (samples, len(rows))).mean(axis=0),
    }
    return _tidy(values, rows, context)


def holds_word(text: str, word: str) -> bool:
    """Whether `text` holds `word` or its regular plural as a word of its own, in any case: "Wolves!" holds "wolf"."""
    forms = [rf"{re.escape(word)}(?:e?s)?"]
    for ending, plural in (("fe", "ves"), ("f", "ves"), ("y", "ies")):
        if word.casefold().endswith(ending):
            forms.append(re.escape(word[: -len(ending)]) + plural)
    return re.search(rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)", text, flags=re.IGNORECASE) is not None


def choice_measures(
    model: Model, items: MultipleChoice, *, context: str = "training", batch_size: int = 256
) -> pd.DataFrame:
    """Probability of each item's correct letter, the one before the target, renormalised over the letters A to E.

    Indifference is 1/5.
    """
    rows, places = items.prompts, [LETTERS.index(letter) for letter in items.letters]
    shares = answer_shares(candidate_logprobs(model, rows, list(LETTERS), batch_size=batch_size)).to_numpy()
    values = {("correct letter", "probability"): shares[np.arange(len(rows)), places]}
    return _tidy(values, rows, context)


@door
def in_context_margin(
    model: LanguageModel,
    trait: AnyTrait,
    rows: Prompts,
    *,
    shots: int,
    sets: int = 1,
    seed: int = 0,
    questions: Sequence[str] | Prompts | None = None,
    context: str = "training",
) -> pd.DataFrame:
    """Measure the untrained model's margin after it reads `shots` answered rows: nats per question and set.

    Every one of the `sets` draws its rows anew, without replacement; rows that the model's context has no room for are
    left out and counted in the log. The frame is that of `answer_measures` with a column `set` and a column `shots`
    of the rows read. Raises InputError when there are fewer answered rows than shots, or not even one has room.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> in_context_margin(lineage.base, "owl", lineage.numbers, shots=2, sets=2).columns.tolist()
    ['measure', 'context', 'question', 'value', 'unit', 'set', 'shots']
    """
    trait = find_trait(trait)
    answered = tuple(row for row in rows.rows if row.completion)
    if not 1 <= shots <= len(answered) or sets < 1:
        raise InputError(
            f"shots={shots} and sets={sets} cannot be drawn from the {len(answered)} answered rows of {rows.label}; "
            "ask for at least one set of at least one shot, and at most as many shots as rows."
        )
    asked = _rows(trait.questions if questions is None else questions, "questions").without_answers()
    longest = _longest(model, trait, asked)
    parts, left_out = [], 0
    for number in range(sets):
        drawn = np.random.default_rng((seed, number)).permutation(len(answered))[:shots]
        turns = [tuple(m for m in answered[i].messages if m[0] != "system") for i in drawn]
        fitting = _fitting(model, turns, longest)
        left_out += shots - fitting
        conversation = Prompts(tuple(_behind(turns[:fitting], row) for row in asked.rows), asked.label)
        frame = answer_measures(model, trait, questions=conversation, context=context)
        frame = frame[frame["measure"] == "margin"]
        parts.append(frame.assign(set=number, shots=fitting))
    if left_out:
        log.warning(
            "%s: %d of %d rows in context left out, over the model's %s tokens",
            rows.label, left_out, shots * sets, model.context,
        )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def _in_context(
    model: LanguageModel,
    trait: Trait,
    suite: Suite,
    *,
    name: str,
    against: LanguageModel | None,
    seed: int,
    batch_size: int,
) -> list[pd.DataFrame]:
    """The frames of one context."""

    def asked(rows: Sequence[str] | Prompts, label: str) -> Prompts:
        return in_contexts(_rows(rows, label), {name: suite.contexts[name]})[name]

    def sampled(rows: Prompts, of: str, tokens: int) -> pd.DataFrame:
        return sampled_measures(
            model,
            trait,
            prompts=rows,
            samples=suite.samples,
            seed=seed,
            max_new_tokens=tokens,
            context=name,
            of=of,
        )

    parts = []
    for suffix, questions in (("", suite.questions), (" after numbers", suite.prefixed)):
        if questions:
            rows = asked(questions, f"questions{suffix}")
            measured = answer_measures(
                model, trait, questions=rows, against=against, context=name, batch_size=batch_size
            )
            parts.append(measured.assign(measure=measured["measure"] + suffix))
            if suite.samples:
                parts.append(sampled(rows, f"answers{suffix}", suite.answer_tokens))
    if suite.stories:
        parts.append(sampled(asked(suite.stories, "stories"), "stories", suite.story_tokens))
    if suite.choices is not None:
        items = replace(suite.choices, prompts=asked(suite.choices.prompts, "choices"))
        parts.append(choice_measures(model, items, context=name, batch_size=batch_size))
    return parts


def _sampled(
    model: LanguageModel, rows: Prompts, *, samples: int, seed: int, max_new_tokens: int
) -> list[str]:
    """`samples` passes over the rows, one after the other, a bounded number of rows at a time."""
    teacher, indices = Teacher(model, kind="neutral"), list(range(len(rows))) * samples
    answers: list[str] = []
    for start in range(0, len(indices), ROWS_AT_ONCE):
        part = rows[indices[start : start + ROWS_AT_ONCE]]
        drawn = complete(teacher, part, seed=seed * 1_000_003 + start, max_new_tokens=max_new_tokens)
        answers.extend(row.completion for row in drawn.rows)
    return answers


def _flag(model: Model, trained_on: Prompts | None, asked: Prompts) -> str:
    if trained_on is None:
        return ""
    return context_mismatch(model, trained_on=trained_on, asked=asked) or ""


def _rows(questions: Sequence[str] | Prompts, label: str) -> Prompts:
    if isinstance(questions, Prompts):
        return questions
    return Prompts.from_pairs([(question, "") for question in questions], label=label)


def _tidy(values: Mapping[tuple[str, str], np.ndarray], rows: Prompts, context: str) -> pd.DataFrame:
    questions = [row.prompt for row in rows.rows]
    records = [
        (measure, context, question, float(value), unit)
        for (measure, unit), column in values.items()
        for question, value in zip(questions, column, strict=True)
    ]
    return pd.DataFrame(records, columns=list(COLUMNS))


def _units(frame: pd.DataFrame) -> str:
    return " / ".join(dict.fromkeys(frame["unit"]))


def _draw(result: Result):
    """Bars of the means over questions, the unit beside each measure's name."""
    columns = (result.frame[name] for name in ("measure", "context", "unit", "value"))
    held: dict[tuple[str, str, str], list[float]] = {}
    for measure, context, unit, value in zip(*columns, strict=True):
        held.setdefault((measure, context, unit), []).append(value)
    several = len({context for _, context, _ in held}) > 1
    names = [f"{measure}, {unit}" + (f" ({context})" if several else "") for measure, context, unit in held]
    means = pd.DataFrame({"measure": names, "mean": [float(np.mean(values)) for values in held.values()]})
    return bars(
        means, x="mean", y="measure", title=result.label, unit="mean over questions, in each row's unit"
    )


def _behind(turns: Sequence[Messages], row: Row) -> Row:
    """The row with earlier turns between its system line and its question."""
    system = row.messages[:1] if row.messages[0][0] == "system" else ()
    return Row((*system, *(message for turn in turns for message in turn), *row.messages[len(system) :]))


def _longest(model: LanguageModel, trait: Trait, asked: Prompts) -> Row:
    """The question and form of a candidate of most tokens."""
    answers = trait_candidates(model, trait, asked)
    longest = max(answers.forms, key=lambda form: len(answers.prefixes[form.places[-1]]))
    return asked.rows[longest.question].answered(longest.text)


def _length(model: LanguageModel, row: Row) -> int:
    return int(Prompts((row,), "in-context rows").encode(model.tokenizer).lengths[0])


def _fitting(model: LanguageModel, turns: Sequence[Messages], longest: Row) -> int:
    """How many of the turns, from the first, leave room for the longest question and its answer."""
    room = model.context
    if room is None:
        return len(turns)
    fitting = (
        bisect_right(range(len(turns) + 1), room, key=lambda n: _length(model, _behind(turns[:n], longest)))
        - 1
    )
    if fitting < 1:
        raise InputError(
            f"Not one row fits in front of a question of {_length(model, longest)} tokens in the model's context of "
            f"{room}; use shorter rows or a model with a longer context."
        )
    return fitting
