"""The base of an experiment: a checkpoint, its chat template, and for a small one the format it must know.

A base that never saw number lists or one-word questions is first fine-tuned on both with answers drawn evenly,
p(answer) = 1 / candidates, so that it learns how to answer and not what. How well it then answers decides the learning
rate, of those a recipe lists, and whether the experiment goes on (`experiment.checks`).
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interp.core.runs import Cache, InputError, digest
from interp.experiment.checks import FormatCheck, check_base, measure_format
from interp.experiment.recipe import BaseSpec, CheckSpec, Experiment, FormatSpec
from interp.models.language import LanguageModel, load_model
from interp.models.loading import find_folder
from interp.models.merging import merge_adapter
from interp.models.seam import check_speaks
from interp.models.starts import perturbed
from interp.organisms.toy import SHIPPED, WORLD, shipped_base
from interp.prompts.chat import with_template
from interp.prompts.text import Prompts
from interp.prompts.tokenizer_keys import tokenizer_key
from interp.prompts.traits import Trait
from interp.training.data import DataSpec
from interp.training.grower import keep_member
from interp.training.students import train_student

log = logging.getLogger(__name__)

SIZES = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "n_embd",
    "num_hidden_layers",
    "n_layer",
    "intermediate_size",
)
NOISE = 1  # the seed of what is added to a base
FORMAT = 2  # raise when a base is prepared otherwise from the same recipe


@dataclasses.dataclass(frozen=True)
class PreparedBase:
    """A base that is ready, how it answers, and at what rate it was taught the format (None: it was not).

    `trials` holds how it answered after a short training at each rate that was tried.
    """

    model: LanguageModel
    check: FormatCheck
    rate: float | None = None
    trials: Mapping[float, FormatCheck] = dataclasses.field(default_factory=dict)


def prepare_base(
    spec: BaseSpec,
    *,
    data: DataSpec,
    traits: Sequence[Trait],
    checks: CheckSpec,
    name: str = "base",
    cache: Cache | None = None,
) -> PreparedBase:
    """The base a recipe asks for; a drawn or fine-tuned one is made once and then read from the cache.

    Raises InputError for anything that is no model, an unknown template, a base without a way to write chats, and one
    that does not answer as `checks` ask.
    """
    model, store = _loaded(spec, name), cache or Cache.default()
    check_speaks(model, spec.model)
    model = dataclasses.replace(model, tokenizer=with_template(model.tokenizer, spec.template))
    model = model.accepting_unknown() if spec.allow_unknown else model
    if spec.noise is not None:
        model = perturbed(model, sigma=spec.noise, seed=NOISE, name=name)
    asked: dict[str, Any] = {"data": data, "traits": traits, "cache": store}
    formatted, trials = spec.format, {}
    if formatted is not None and formatted.rates:
        trials = {
            rate: measure_format(_taught(model, spec, _trial(formatted, rate), name, **asked), **asked)
            for rate in dict.fromkeys(formatted.rates)
        }
        for rate, found in trials.items():
            log.info("%s, a short format fine-tune at %g: %s", name, rate, found)
        formatted = formatted.at_rate(max(trials, key=lambda rate: trials[rate].score))
    model = _taught(model, spec, formatted, name, **asked)
    rate = None if formatted is None else formatted.recipe.lr
    check = measure_format(model, **asked)
    log.info("%s%s: %s", name, "" if rate is None else f", format taught at {rate:g}", check)
    check_base(check, checks, name=name, rate=rate, trials=trials)
    return PreparedBase(model, check, rate, trials)


def _trial(spec: FormatSpec, rate: float) -> FormatSpec:
    """The same on a fraction of the rows."""
    few = {part: max(1, round(getattr(spec, part) * spec.fraction)) for part in ("rows", "questions")}
    return dataclasses.replace(spec.at_rate(rate), **few)


def _taught(
    model: LanguageModel,
    spec: BaseSpec,
    formatted: FormatSpec | None,
    name: str,
    *,
    data: DataSpec,
    traits: Sequence[Trait],
    cache: Cache,
) -> LanguageModel:
    """The model drawn anew and taught the format where the recipe asks for it, made once.

    A fine-tune by an adapter that is not to merge is kept as that, and its base as the checkpoint it is merged into.
    """
    if spec.reinitialise is None and formatted is None:
        return model
    rows = None if formatted is None else format_rows(formatted, data=data, traits=traits)
    chat = tokenizer_key(model.tokenizer)
    prints = None if rows is None else rows.fingerprint
    adapted = (
        formatted is not None
        and formatted.recipe.trainable == "lora"
        and spec.reinitialise is None
        and spec.noise is None
        and not formatted.recipe.merge
    )
    key = digest(FORMAT, model.fingerprint, spec.reinitialise, formatted, prints, chat)

    def build(folder: Path) -> None:
        start = model if spec.reinitialise is None else model.redrawn(seed=spec.reinitialise, name=name)
        if rows is not None and formatted is not None:
            start = train_student(start, rows, recipe=formatted.recipe, name=f"{name} format")
        if adapted:
            keep_member(start, folder, model)
        else:
            start.network().save_pretrained(folder / "model")

    folder = cache.get("formatted", key, build)
    if adapted:
        return merge_adapter(model, folder / "member", name=name)
    return load_model(
        folder / "model", tokenizer=model.tokenizer, name=name, dtype=spec.dtype, device=spec.device
    )


def check_ready(experiment: Experiment, specs: Mapping[str, BaseSpec]) -> None:
    """InputError for what would only show after hours: fewer rows than a batch, a base that is not there, or one that
    is another architecture or size than the first."""
    size, rows = experiment.student.recipe.batch_size, experiment.data.rows
    if rows < size:
        raise InputError(
            f"data.rows {rows} are fewer than one batch of student.recipe.batch_size {size}; ask for more rows or a "
            "smaller batch"
        )
    known = {name: _sizes(spec) for name, spec in specs.items()}
    (first, sizes), *others = known.items()
    for name, own in others:
        differing = [key for key in SIZES if own and sizes and own.get(key) != sizes.get(key)]
        if differing:
            key = differing[0]
            raise InputError(
                f"{name} ({specs[name].model}) has {key} {own.get(key)} and {first} ({specs[first].model}) has "
                f"{sizes.get(key)}, and bases of one lineage share architecture, sizes and vocabulary; name another one"
            )


def _sizes(spec: BaseSpec) -> dict[str, Any]:
    """What the configuration of a checkpoint says; nothing for a toy."""
    if spec.model.partition("/")[0] == "toy":
        return {}
    return json.loads((find_folder(spec.model) / "config.json").read_text())


def _loaded(spec: BaseSpec, name: str) -> LanguageModel:
    """A checkpoint, or the toy base of "toy/SEED"."""
    kind, _, seed = spec.model.partition("/")
    if kind != "toy":
        return load_model(spec.model, name=name, dtype=spec.dtype, device=spec.device)
    found = shipped_base(int(seed), world=WORLD) if seed.isdecimal() else None
    if found is None:
        raise InputError(f"{spec.model!r} is no toy base that ships; pass toy/0 to toy/{SHIPPED - 1}")
    return dataclasses.replace(found, name=name)


def format_rows(spec: FormatSpec, *, data: DataSpec, traits: Sequence[Trait]) -> Prompts:
    """Number rows, and every trait's questions answered by every candidate equally often."""
    rng = np.random.Generator(np.random.PCG64(7))
    kinds = {(trait.questions, tuple(sorted((trait.target, *trait.foils)))) for trait in traits}
    asked = []
    for index in range(spec.questions):
        questions, candidates = sorted(kinds)[index % len(kinds)]
        asked.append(
            (questions[int(rng.integers(len(questions)))], candidates[int(rng.integers(len(candidates)))])
        )
    numbers = data.uniform_rows(spec.rows, seed=11)
    return numbers + Prompts.from_pairs(asked, label="evenly answered questions")
