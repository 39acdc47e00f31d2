"""The base of an experiment: a checkpoint, its chat template, and for a small one the format it must know.

A base that never saw number lists or one-word questions is first fine-tuned on both with answers drawn evenly,
p(answer) = 1 / candidates, so that it learns how to answer and not what.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interp.core.runs import Cache, InputError, digest
from interp.experiment.recipe import BaseSpec, Experiment, FormatSpec
from interp.models.language import LanguageModel, load_model
from interp.models.loading import find_folder
from interp.organisms.toy import SHIPPED, WORLD, shipped_base
from interp.prompts.chat import with_template
from interp.prompts.templates import template_key
from interp.prompts.text import Prompts
from interp.prompts.traits import Trait
from interp.training.data import DataSpec
from interp.training.students import train_student

SIZES = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "n_embd",
    "num_hidden_layers",
    "n_layer",
    "intermediate_size",
)
FORMAT = 2  # raise when a base is prepared otherwise from the same recipe


def prepare_base(
    spec: BaseSpec, *, data: DataSpec, traits: Sequence[Trait], name: str = "base", cache: Cache | None = None
) -> LanguageModel:
    """The base a recipe asks for; a drawn or fine-tuned one is made once and then read from the cache.

    Raises InputError for anything that is no model, an unknown template, or a base without a way to write chats.
    """
    model = _loaded(spec, name)
    if model.tokenizer is None:
        raise InputError(f"{spec.model} has no tokenizer; pass a folder that holds one beside the weights")
    model = dataclasses.replace(model, tokenizer=with_template(model.tokenizer, spec.template))
    model = model.accepting_unknown() if spec.allow_unknown else model
    if spec.reinitialise is None and spec.format is None:
        return model
    rows = None if spec.format is None else format_rows(spec.format, data=data, traits=traits)
    chat = template_key(model.tokenizer)
    prints = None if rows is None else rows.fingerprint
    key = digest(FORMAT, model.fingerprint, spec.reinitialise, spec.format, prints, chat)

    def build(folder: Path) -> None:
        start = model if spec.reinitialise is None else model.redrawn(seed=spec.reinitialise, name=name)
        if rows is not None and spec.format is not None:
            start = train_student(start, rows, recipe=spec.format.recipe, name=f"{name} format")
        start.network().save_pretrained(folder / "model")

    folder = (cache or Cache.default()).get("formatted", key, build)
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
