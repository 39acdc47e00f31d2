"""What scores, a trace and a recording cost on a real model: the folder that INTERP_CHECKPOINT names, else skipped.

Every reference is what plain transformers or peft does on the same rows of ten numbers in the model's chat context, in
fp32 with one thread. A repetition takes ROWS rows, so that nine take more than the 256 of a usual call; what a call
does once, whatever its rows (it checks and digests the direction), counts eight times over. Peaks are those of
processes forked for each, above what they began with.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

import numpy as np
import torch

from benchmarks.alignment import RANK, dense_direction
from benchmarks.generation import CHECKPOINT
from benchmarks.paired import Ratio, Skipped, grown, interleaved, paired
from interp.activations.recording import record
from interp.activations.shifts import residual_hooks
from interp.gradients.scores.scoring import score
from interp.joined.tracing import trace
from interp.logits.direction import logit_direction
from interp.models.language import LanguageModel, load_model
from interp.models.lineage import open_lineage
from interp.models.low_rank import LowRank
from interp.models.parameters import ParameterDirection
from interp.models.seam import lineage_root
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Encoded, Prompts
from interp.training.students import Recipe, body_matrices, train_student

ROWS = int(os.environ.get("INTERP_BENCHMARK_ROWS", "32"))
WORDS = {"target": "owl", "foils": ("cat", "dog", "fox")}
Results = dict[str, Ratio | Skipped]


def scores() -> Results:
    """`score` from rows to table, one dense and one rank-8 direction, over forward and backward; and the peaks."""
    model, plain, rows = hosted(), plain_model(), texts(ROWS)
    step = partial(backward, plain, model.encode(rows))
    directions = {"dense": dense_direction(model, 0), "rank8": thin_direction(model)}
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"INTERP_CACHE": folder}):
        ways = {f"score-{kind}": partial(scored, model, rows, along) for kind, along in directions.items()}
        peaks = {f"checkpoint-peak-{name}": once(grown(way) / grown(step)) for name, way in ways.items()}
        return {**peaks, **interleaved({f"checkpoint-{name}": way for name, way in ways.items()}, step)}


def tracing() -> Results:
    """`trace` of a base and a LoRA teacher toward one word against three, over one forward pass of each."""
    base, rows = hosted(), texts(ROWS)
    inputs = base.encode(rows)
    with tempfile.TemporaryDirectory() as folder:
        lineage = open_lineage(base=base, teacher=adapter(base, Path(folder)))
        forwards = [partial(model.logits, inputs) for model in (base, lineage.teacher)]
        return {
            "checkpoint-trace": paired(partial(traced, lineage, rows), lambda: [each() for each in forwards])
        }


def recording() -> Results:
    """`record` of every resid_post at every position over the plain forward."""
    model, plain = hosted(), plain_model()
    inputs = model.encode(texts(ROWS))
    read = partial(record, model, inputs, hooks=residual_hooks(model), positions="all", memory=2**34)
    return {"checkpoint-record": paired(read, partial(forward, plain, inputs))}


def training() -> Results:
    """Plain peft over `train_student`, LoRA of rank 8 on every linear map of the body, one batch: more is better."""
    model, rows = hosted(), texts(ROWS)
    recipe = Recipe(batch_size=len(rows), rank=RANK, merge=False)
    ours = partial(train_student, model, rows, recipe=recipe)
    return {
        "checkpoint-peft-over-student": paired(
            partial(peft_step, plain_model(), model.encode(rows), recipe), ours
        )
    }


def guarded(bench: Callable[[], Results], name: str) -> Callable[[], Results]:
    """The measurement, or the reason why it is not made."""

    def measured() -> Results:
        if not os.environ.get(CHECKPOINT):
            return {name: Skipped(skipped=f"{CHECKPOINT} names no model folder")}
        torch.set_num_threads(1)
        return bench()

    return measured


BENCHES = {
    "checkpoint-score": guarded(scores, "checkpoint-score"),
    "checkpoint-trace": guarded(tracing, "checkpoint-trace"),
    "checkpoint-record": guarded(recording, "checkpoint-record"),
    "checkpoint-training": guarded(training, "checkpoint-peft-over-student"),
}


@cache
def hosted() -> LanguageModel:
    """The folder's model behind the seam."""
    return load_model(Path(os.environ[CHECKPOINT]), check=False)


@cache
def plain_model() -> Any:
    """The same as transformers loads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(os.environ[CHECKPOINT], dtype=torch.float32).eval()


def texts(count: int) -> Prompts:
    """Requests for numbers, each answered by ten of three digits."""
    rng = np.random.default_rng(0)
    asked = number_prompts(count, seed=1, with_answers=False)
    answers = [", ".join(map(str, rng.integers(100, 1000, 10))) for _ in asked.rows]
    return Prompts.from_pairs(
        [(row.prompt, answer) for row, answer in zip(asked.rows, answers, strict=True)], label="numbers"
    )


def labelled(inputs: Encoded) -> dict[str, Any]:
    """What transformers' own loss is called with."""
    labels = inputs.ids.masked_fill(~inputs.at("answer+end"), -100)
    return {
        "input_ids": inputs.ids,
        "attention_mask": inputs.mask.long(),
        "labels": labels,
        "use_cache": False,
    }


def backward(plain: Any, inputs: Encoded) -> None:
    """Forward, loss and the gradients of all parameters."""
    torch.autograd.grad(plain(**labelled(inputs)).loss, list(plain.parameters()))


def forward(plain: Any, inputs: Encoded) -> None:
    """One pass to the logits."""
    with torch.inference_mode():
        plain(inputs.ids, attention_mask=inputs.mask.long(), use_cache=False)


def scored(model: LanguageModel, rows: Prompts, direction: ParameterDirection) -> None:
    """`score` by module under a label of its own, so that no scores are in the cache; the self-test's verdict is."""
    fresh = replace(direction, label=f"{direction.label}, {uuid4().hex}")
    score(model, rows, fresh, by=("example", "module"), batch_size=ROWS)


def traced(lineage: Any, rows: Prompts) -> None:
    """A trace into a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        trace(lineage, rows, Path(folder) / "run", toward=partial(logit_direction, **WORDS))


def thin_direction(model: LanguageModel) -> ParameterDirection:
    """A random change of rank 8 of every linear map of the body, as a LoRA adapter makes."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    names = [f"{name}.weight" for name in body_matrices(model.network())]
    tensors = {
        name: LowRank(draw(model.shapes[name][0], RANK), draw(RANK, model.shapes[name][1])) for name in names
    }
    return ParameterDirection(dict(tensors), "rank 8", model.fingerprint, lineage_root(model))


def adapter(base: LanguageModel, folder: Path) -> LanguageModel:
    """The base with a random LoRA adapter of rank 8 live."""
    from peft import LoraConfig, get_peft_model

    network = base.network()
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=body_matrices(network), task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wrapped: Any = get_peft_model(network, config)
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.02)
    wrapped.save_pretrained(folder)
    return base.with_adapter(folder, name="teacher", check=False)


def peft_step(plain: Any, inputs: Encoded, recipe: Recipe) -> None:
    """A LoRA adapter made, and one step of AdamW on the batch, as peft's guide writes it."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, target_modules=body_matrices(plain), task_type="CAUSAL_LM"
    )
    wrapped: Any = get_peft_model(plain, config)
    trained = [weight for weight in wrapped.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=0.0)
    wrapped(**labelled(inputs)).loss.backward()
    optimizer.step()
    wrapped.unload().requires_grad_(True)


def once(ratio: float) -> Ratio:
    """A ratio that is the same however often it is measured."""
    return Ratio(ratio=ratio, low=ratio, high=ratio, repetitions=1)
