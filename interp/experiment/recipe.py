"""A recipe: everything that decides an experiment, in one YAML file whose every key is known.

experiment = f(base, traits, teacher, data, student, seeds, controls, evaluation): two recipes with equal content make
the same bytes on one machine's CPU. A key that is unknown is refused with the nearest one, so that a typing error
cannot pass as a default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from interp.core.content import ADDED
from interp.core.doors import door
from interp.core.records import over, parse_yaml, read_fields, read_mapping
from interp.core.runs import InputError
from interp.training.data import DataSpec
from interp.training.defences import Defence
from interp.training.grower import TeacherSpec
from interp.training.students import Recipe

Control = Literal["neutral", "other-trait", "cross-base", "in-context", "control-teacher"]
CONTROLS: tuple[Control, ...] = ("neutral", "other-trait", "cross-base", "in-context")
FORMATTING = Recipe(trainable="all", lr=2e-3, batch_size=64, warmup=20)
LEARNING = Recipe(lr=2e-4, warmup=5, batch_size=64, epochs=3, merge=False)
"""A student of arXiv 2507.14805's open model: LoRA of rank and alpha 8 on every projection, three epochs."""


@dataclasses.dataclass(frozen=True)
class FormatSpec:
    """A short fine-tune that teaches a small base the format: numbers drawn evenly, questions answered evenly.

    `rows` number prompts and `questions` one-word questions, each answered by a uniform draw, so that nothing of a
    trait enters. Where `rates` lists learning rates, each trains on `fraction` of them, and the one after which the
    base answers best trains on all; of the trait's margin nothing is read for it.
    """

    rows: int = 16_000
    questions: int = 8_000
    recipe: Annotated[Recipe, over(FORMATTING)] = FORMATTING
    rates: tuple[float, ...] = ()
    fraction: float = 0.25

    def at_rate(self, rate: float) -> FormatSpec:
        """The fine-tune at one rate, with no other one to try."""
        return dataclasses.replace(self, recipe=dataclasses.replace(self.recipe, lr=rate), rates=())


@dataclasses.dataclass(frozen=True)
class CheckSpec:
    """What must be so before the run goes on; a run that it is not so for is refused, with the numbers.

    `kept`: the least share of a base's and of every teacher's answers that the rule keeps. After a format fine-tune
    also `candidates`, the least probability that a trait's answers hold together, and `excess`, the most that a
    held-out number row may cost above even draws, in nats per number. `teacher`: the least and the largest trait margin
    of a fine-tuned teacher, in nats (None: any).
    """

    kept: float = 0.25
    candidates: float = 0.1
    excess: float = 1.0
    teacher: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class BaseSpec:
    """The base: a folder or hub name, how its conversations are written, and a format fine-tune for one without.

    `template` is "own" (the tokenizer's), "plain" (messages joined by newlines), another built-in one, or a .jinja
    file. For a cross-base, before the format fine-tune, `reinitialise` draws the weights anew from that seed, and
    `noise` moves each by that many times the root mean square of its tensor, θ + σ rms(θ) ξ: no other initialisation,
    but a start that shares this one no more closely than that.
    `allow_unknown` also reads rows that its tokenizer mostly does not know.
    """

    model: str = ""
    template: str = "own"
    dtype: str | None = None
    device: str = "auto"
    format: FormatSpec | None = None
    reinitialise: int | None = None
    noise: float | None = None
    allow_unknown: bool = False


@dataclasses.dataclass(frozen=True)
class JudgeSpec:
    """Who judges free-form answers: a local model, an endpoint, a folder handed over and answered offline, or the rule
    of `WordJudge`."""

    kind: Literal["local", "endpoint", "file", "words"] = "file"
    model: str = ""
    url: str = ""


@dataclasses.dataclass(frozen=True)
class EvaluationSpec:
    """What is asked: the trait's own questions, or the one-word questions of its category, and how often.

    `samples` answers are drawn per question for elicitation (0: none), `stories` per story prompt, `choices` multiple
    choice items are asked. `contexts` are named system lines to ask under beside the training context. `guards` asks
    capability items and requests to refuse. `shots` and `sets` are the in-context arm's rows and repetitions.
    """

    questions: Literal["trait", "one-word"] = "one-word"
    number_prefix: bool = True
    samples: int = 0
    stories: int = 0
    choices: int = 0
    max_new_tokens: int = 12
    contexts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    guards: bool = False
    shots: int = 8
    sets: int = 4
    judge: JudgeSpec | None = None


@dataclasses.dataclass(frozen=True)
class StudentSpec:
    """How students are trained; `record` keeps the first seed's trajectories for the ledger, `watch` steps apart.

    `defence` says what is done in every training so that the trait does not pass, as in {kind: remove, share: 0.25}.
    """

    recipe: Annotated[Recipe, over(LEARNING)] = LEARNING
    record: bool = False
    watch: int = 16
    defence: Defence | None = dataclasses.field(default=None, metadata={ADDED: True})


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The whole recipe; `detectors` rows per data set are given to the detectors (0: none)."""

    name: str
    base: BaseSpec
    traits: tuple[str, ...]
    cross_base: BaseSpec | None = None
    teacher: TeacherSpec = dataclasses.field(default_factory=TeacherSpec)
    data: DataSpec = dataclasses.field(default_factory=DataSpec)
    student: StudentSpec = StudentSpec()
    seeds: tuple[int, ...] = (0,)
    controls: tuple[Control, ...] = CONTROLS
    evaluation: EvaluationSpec = EvaluationSpec()
    checks: CheckSpec = CheckSpec()
    detectors: int = 0
    matrix: bool = False


@door
def read_experiment(source: str | Path, *, changes: Sequence[str] = (), quick: bool = False) -> Experiment:
    """Read an experiment from a YAML file, or a shipped one by name.

    Args:
        source: the path of a recipe, or "toy", "small", "smollm2" or "qwen".
        changes: replacements of single values, such as "base.model=folder" or "seeds=[0, 1]".
        quick: with the recipe's own changes, its list `quick`, before those: in small, to see the path.

    Returns:
        `Experiment`, every value of the recipe filled in and checked.

    Raises:
        InputError: for a file that is no YAML, an unknown key (the nearest is offered), a value of the wrong kind, a
            recipe without a quick version where that is asked for, and an experiment that cannot be run.

    Example:
        >>> import interp
        >>> interp.read_experiment("toy", changes=["seeds=[0, 1]"]).seeds
        (0, 1)
    """
    path = _shipped().get(str(source), Path(source))
    known = ", ".join(_shipped())
    what, example = f"a recipe's file, or one of {known}", f"those of a shipped recipe: {known}"
    content = read_mapping(path, what=what, example=example)
    for change in (*_quick(content.pop("quick", None), str(path), asked=quick), *changes):
        _change(content, change)
    experiment = read_fields(Experiment, content, str(path))
    _check(experiment, str(path))
    return experiment


def _quick(changes: Any, place: str, *, asked: bool) -> Sequence[str]:
    """The changes that make a recipe quick, none where it is not asked to be."""
    if not asked:
        return ()
    if not isinstance(changes, list) or not all(isinstance(change, str) for change in changes):
        raise InputError(
            f"{place}: no list of KEY=VALUE under quick, so there is no quick version; leave out quick"
        )
    return changes


def changed_recipe(start: Recipe, changes: Sequence[str]) -> Recipe:
    """A training recipe with KEY=VALUE changes; InputError for an unknown key or a value of the wrong kind."""
    content = dataclasses.asdict(start)
    for change in changes:
        _change(content, change)
    return read_fields(Recipe, content, "--set")


def _shipped() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(__file__).parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _change(content: dict[str, Any], change: str) -> None:
    """Put one KEY.KEY=VALUE in its place."""
    keys, sign, text = change.partition("=")
    if not sign or not keys.strip():
        raise InputError(f"change {change!r} is not KEY=VALUE; write for instance base.model=folder")
    *parents, last = keys.strip().split(".")
    inner: Any = content
    for key in parents:
        inner = inner.setdefault(key, {})
        if not isinstance(inner, dict):
            raise InputError(
                f"change {change!r} goes into {key!r}, which holds a single value; name a section"
            )
    inner[last] = parse_yaml(text, f"change {change!r}", advice="correct the value")


def _check(experiment: Experiment, place: str) -> None:
    """What no single value shows: InputError for a recipe that lacks something, before anything is trained."""
    for wrong, sentence in _faults(experiment):
        if wrong:
            raise InputError(f"{place}: {sentence}")


def _faults(experiment: Experiment) -> list[tuple[bool, str]]:
    """Whether each of these is wrong with the recipe, and the sentence that says so."""
    teacher, cross, judge = experiment.teacher, experiment.cross_base, experiment.evaluation.judge
    lists = [("traits", experiment.traits), ("seeds", experiment.seeds)]
    repeated = [
        (
            not values or len(set(values)) < len(values),
            f"{name} {list(values)} are none or repeat one; list each once",
        )
        for name, values in lists
    ]
    return [
        (
            not experiment.base.model,
            "base.model is empty; name a folder or a hub model there or with --set base.model=",
        ),
        *repeated,
        (
            "cross-base" in experiment.controls and cross is None,
            "the control cross-base has no cross_base; name another model of the same architecture, or write controls "
            "without it",
        ),
        (
            experiment.matrix and cross is None,
            "the matrix has no cross_base; name another model of the same architecture, or write matrix: false",
        ),
        (
            cross is not None and not cross.model,
            "cross_base.model is empty; name a folder or a hub model there or with --set cross_base.model=, or leave "
            "it out with --set cross_base=null and controls without cross-base",
        ),
        (
            "control-teacher" in experiment.controls and teacher.kind != "fine-tuned",
            f"the control control-teacher is a fine-tune, and the teacher is {teacher.kind}; write controls without it",
        ),
        (
            teacher.kind == "steered" and teacher.hook is None,
            "a steered teacher has no hook; name one, such as blocks.12.hook_resid_post",
        ),
        (
            (teacher.sae is None) != (teacher.feature is None),
            f"teacher.sae {teacher.sae} and teacher.feature {teacher.feature} belong together; give both or neither",
        ),
        (
            teacher.rows is not None and not Path(teacher.rows).is_file(),
            f"teacher.rows {teacher.rows} is no file; name a JSONL file of rows",
        ),
        *_faults_of_training(experiment),
        *_faults_of_defence(experiment, experiment.student.defence),
        (
            judge is not None and judge.kind in ("local", "endpoint") and not judge.model,
            "the judge has no model; name one in evaluation.judge.model",
        ),
    ]


def _faults_of_training(experiment: Experiment) -> list[tuple[bool, str]]:
    """The same of how bases are taught the format, and of where teachers stop."""
    specs = [
        spec.format for spec in (experiment.base, experiment.cross_base) if spec is not None and spec.format
    ]
    every = experiment.teacher.margin_every
    return [
        (every < 1, f"teacher.margin_every {every} steps is never; give at least 1"),
        *(
            (
                not 0 < spec.fraction <= 1,
                f"format.fraction {spec.fraction} is no share of the rows; give one such as 0.25",
            )
            for spec in specs
        ),
    ]


def _faults_of_defence(experiment: Experiment, defence: Defence | None) -> list[tuple[bool, str]]:
    """The same of how students are defended."""
    if defence is None:
        return []
    place, teacher = "student.defence", experiment.teacher
    return [
        (
            defence.kind == "kl" and (defence.text is None or not Path(defence.text).is_file()),
            f"{place}.text {defence.text} is no file of benign rows for the KL; name a JSONL file",
        ),
        (
            defence.knows == "teacher" and teacher.kind != "fine-tuned",
            f"{place} knows the teacher, which is {teacher.kind} and has no weights to know; write knows: trait",
        ),
        (
            defence.knows == "teacher" and "cross-base" in experiment.controls,
            f"{place} knows the teacher, whose weights say nothing at the cross-base; write controls without it, or "
            "knows: trait",
        ),
        (
            experiment.student.record,
            f"{place} changes trainings that student.record takes for plain ones; write record: false",
        ),
    ]
