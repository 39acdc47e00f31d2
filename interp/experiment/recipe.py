"""A recipe: everything that decides an experiment, in one YAML file whose every key is known.

experiment = f(base, traits, teacher, data, student, seeds, controls, evaluation): two recipes with equal content make
the same bytes on one machine's CPU. A key that is unknown is refused with the nearest one, so that a typing error
cannot pass as a default.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from interp.core.doors import door
from interp.core.runs import InputError, nearest
from interp.prompts.numbers import BANNED, NumberRule
from interp.training.generation import Sampling
from interp.training.students import Recipe
from interp.training.teachers import TEACHER

Control = Literal["neutral", "other-trait", "cross-base", "in-context"]
CONTROLS: tuple[Control, ...] = ("neutral", "other-trait", "cross-base", "in-context")
FORMATTING = Recipe(trainable="all", lr=2e-3, batch_size=64, warmup=20)
SAMPLING = Sampling()
LEARNING = Recipe(lr=2e-4, warmup=5, batch_size=64, epochs=3, merge=False)
"""A student of arXiv 2507.14805's open model: LoRA of rank and alpha 8 on every projection, three epochs."""


@dataclasses.dataclass(frozen=True)
class FormatSpec:
    """A short fine-tune that teaches a small base the format: numbers drawn evenly, questions answered evenly.

    `rows` number prompts and `questions` one-word questions, each answered by a uniform draw, so that nothing of a
    trait enters.
    """

    rows: int = 16_000
    questions: int = 8_000
    recipe: Recipe = FORMATTING


@dataclasses.dataclass(frozen=True)
class BaseSpec:
    """The base: a folder or hub name, how its conversations are written, and a format fine-tune for one without.

    `template` is "own" (the tokenizer's), "plain" (messages joined by newlines), another built-in one, or a .jinja
    file. `reinitialise` draws the weights anew from that seed before the format fine-tune, for a cross-base.
    `allow_unknown` also reads rows that its tokenizer mostly does not know.
    """

    model: str = ""
    template: str = "own"
    dtype: str | None = None
    device: str = "auto"
    format: FormatSpec | None = None
    reinitialise: int | None = None
    allow_unknown: bool = False


@dataclasses.dataclass(frozen=True)
class TeacherSpec:
    """How a teacher gets its trait; `rows` is a JSONL file to fine-tune on instead of the trait's answers.

    "steered" adds `scale` times a direction at `hook`: the decoder row of `feature` in the dictionary `sae`, or else
    the base's difference of means there between the trait's questions with and without its system line.
    """

    kind: Literal["fine-tuned", "prompted", "steered"] = "fine-tuned"
    steps: int = 100
    anchor: float = 0.2
    recipe: Recipe = TEACHER
    rows: str | None = None
    hook: str | None = None
    scale: float = 1.0
    sae: str | None = None
    feature: int | None = None


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """What teachers write: which prompts, how many rows are kept, how they are sampled, filtered and changed.

    `prompts` "short" are the toy's, "requests" those for instruct models. `fresh` rows more are kept for the loss on
    data never trained on. `banned` is "none", "paper" (34 numbers) or a list. `match` keeps only prompts that teacher
    and neutral teacher both answered, `mix` is the share of neutral rows mixed into the teacher's. `change` rewrites
    rows before a student sees them.
    """

    prompts: Literal["short", "requests", "code", "reasoning"] = "requests"
    rows: int = 10_000
    fresh: int = 512
    count: int = 10
    digits: int = 3
    separator: str | None = None
    sampling: Sampling = SAMPLING
    least: int = 1
    banned: Literal["none", "paper"] | tuple[int, ...] = "none"
    match: bool = False
    mix: float = 0.0
    change: Literal["shuffle-within", "shuffle-across", "canonical"] | None = None

    @property
    def rule(self) -> NumberRule:
        """The rule an answer must pass."""
        named = {"none": frozenset[int](), "paper": BANNED}
        banned = named[self.banned] if isinstance(self.banned, str) else frozenset(self.banned)
        return NumberRule(
            minimum=self.least, maximum_count=self.count, max_value=10**self.digits - 1, banned=banned
        )


@dataclasses.dataclass(frozen=True)
class JudgeSpec:
    """Who judges free-form answers: a local model, an endpoint, or a folder handed over and answered offline."""

    kind: Literal["local", "endpoint", "file"] = "file"
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
    """How students are trained; `record` keeps the first seed's trajectories for the ledger, `watch` steps apart."""

    recipe: Recipe = LEARNING
    record: bool = False
    watch: int = 16


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The whole recipe; `detectors` rows per data set are given to the detectors (0: none)."""

    name: str
    base: BaseSpec
    traits: tuple[str, ...]
    cross_base: BaseSpec | None = None
    teacher: TeacherSpec = TeacherSpec()
    data: DataSpec = DataSpec()
    student: StudentSpec = StudentSpec()
    seeds: tuple[int, ...] = (0,)
    controls: tuple[Control, ...] = CONTROLS
    evaluation: EvaluationSpec = EvaluationSpec()
    detectors: int = 0
    matrix: bool = False


@door
def read_recipe(source: str | Path, *, changes: Sequence[str] = ()) -> Experiment:
    """The recipe in a YAML file, or a shipped one by name.

    `changes` such as "base.model=folder" or "seeds=[0, 1]" replace single values.
    Raises InputError for a file that is no YAML, an unknown key (the nearest is offered), a value of the wrong kind,
    and a recipe that cannot be run.
    """
    path = _shipped().get(str(source), Path(source))
    content = _parse(_text(path), str(path))
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds no mapping of keys; start from a shipped recipe: {', '.join(_shipped())}"
        )
    for change in changes:
        _change(content, change)
    experiment = read(Experiment, content, str(path))
    _check(experiment, str(path))
    return experiment


def changed_recipe(start: Recipe, changes: Sequence[str]) -> Recipe:
    """A training recipe with KEY=VALUE changes; InputError for an unknown key or a value of the wrong kind."""
    content: dict[str, Any] = {}
    for change in changes:
        _change(content, change)
    return read(Recipe, content, "--set", start=start)


def read(kind: Any, content: Any, place: str, *, start: Any = None) -> Any:
    """A frozen dataclass from a mapping, over the values of `start`; `place` says where in the file an error lies.

    Raises InputError for what is no mapping, an unknown key (the nearest is offered), and a missing one.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{place} holds {content!r}, where keys of {kind.__name__} belong; write key: value")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in content:
        if key not in fields:
            raise InputError(f"{place}: key {nearest(str(key), fields)}; rename or remove it")
    values = {} if start is None else {name: getattr(start, name) for name in fields}
    for key, value in content.items():
        values[key] = _value(hints[key], value, f"{place}: {key}", start=_default(fields[key], values))
    for name, field in fields.items():
        if name not in values and _default(field, values) is dataclasses.MISSING:
            raise InputError(f"{place}: key {name!r} is missing; add it")
    return kind(**values)


def _default(field: Any, values: Mapping[str, Any]) -> Any:
    """The value a key has so far, MISSING when it has none."""
    if field.name in values:
        return values[field.name]
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _value(hint: Any, value: Any, place: str, *, start: Any) -> Any:
    nested = [part for part in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(part)]
    if nested and value is not None:
        return read(nested[0], value, place, start=start if dataclasses.is_dataclass(start) else None)
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InputError(f"{place} holds {value!r}: {reason[0].lower()}{reason[1:]}; correct it") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(_shipped())
        raise InputError(
            f"{path} cannot be read ({error}); pass a recipe's file, or one of {known}"
        ) from error


def _shipped() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(__file__).parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _parse(text: str, place: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{place} is not YAML ({reason}); correct that line") from error


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
    inner[last] = _parse(text, f"change {change!r}")


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
        (
            judge is not None and judge.kind != "file" and not judge.model,
            "the judge has no model; name one in evaluation.judge.model",
        ),
    ]
