"""What the verbs cost on a GPU: random models of 1.5 B and 7 B parameters in bf16, each verb over a training step.

    PYTHONPATH=. python -m benchmarks.gpu [--size 1.5b|7b|tiny] [--out FILE]

The reference is what plain transformers does on the same rows in bf16: forward, backward, and a step of AdamW over all
weights (at rate 0, so that they stay as they are). Seconds are wall time behind torch.cuda.synchronize, a ratio is the
median over the median step, with its extremes, a peak that of the allocator, in GiB. Each is saved at once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock
from uuid import uuid4

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import torch

from benchmarks.alignment import RANK, rows
from benchmarks.checkpoint import labelled, thin_direction
from benchmarks.generation import mixed_prompts
from interp.activations.recording import record
from interp.activations.shifts import residual_hooks
from interp.core.runs import write_atomic
from interp.gradients.scores.scoring import score
from interp.models.agreement import parity
from interp.models.language import LanguageModel, load_model
from interp.models.parameters import ParameterDirection
from interp.models.precision import in_float32
from interp.models.seam import lineage_root
from interp.organisms.toy import build_tokenizer
from interp.prompts.tokens import Encoded
from interp.training.engines import Sampling
from interp.training.generation import write_answers
from interp.training.students import Recipe, train_student
from interp.training.teachers import neutral_teacher

REPETITIONS, STEPS, NEW_TOKENS = 3, 4, 32


class Shape(NamedTuple):
    """A Qwen2, and how many rows of how many tokens it reads."""

    width: int
    layers: int
    heads: int
    groups: int
    inner: int
    vocabulary: int
    tied: bool
    rows: int = 32
    length: int = 128


SHAPES = {
    "tiny": Shape(32, 2, 4, 2, 64, 2048, True, rows=4, length=32),
    "1.5b": Shape(1536, 28, 12, 2, 8960, 151936, True),
    "7b": Shape(3584, 28, 28, 4, 18944, 152064, False),
}
Found = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A plain network, the same weights behind the seam, and rows."""

    network: Any
    model: LanguageModel
    inputs: Encoded
    shape: Shape

    def step(self) -> Callable[[], None]:
        """One training step of plain transformers, with its moments made by a first one."""
        weights = list(self.network.parameters())
        optimizer = torch.optim.AdamW(weights, lr=0.0, weight_decay=0.0)
        given = {
            name: value.to(self.model.device) if isinstance(value, torch.Tensor) else value
            for name, value in labelled(self.inputs).items()
        }

        def once() -> None:
            for weight in weights:
                weight.requires_grad_(True)
            self.network(**given).loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            for weight in weights:
                weight.requires_grad_(False)

        once()
        return once


def measured(size: str) -> Iterator[tuple[str, Found]]:
    """Name and numbers of every measurement of one size, one after the other."""
    torch.manual_seed(0)
    shape, place = SHAPES[size], torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, made = timed(partial(random_network, shape, place), place)
    task, loaded = timed(partial(hosted, network, shape), place)
    model = task.model
    print(
        f"{size}: {sum(map(torch.numel, network.parameters())) / 1e9:.2f} B parameters on {place}", flush=True
    )
    yield "model", {"seconds": made, "parameters": sum(map(torch.numel, network.parameters()))}
    yield "load", {"seconds": loaded}
    yield "fingerprint", {"seconds": timed(lambda: model.fingerprint, place)[1]}
    apart, compared = timed(partial(parity, model), place)
    yield "seam", {"seconds": compared, "nats_apart": apart, "hooks": len(model.hook_names)}
    step = task.step()
    highest = peak(step, place)
    usual = statistics.median(timed(step, place)[1] for _ in range(REPETITIONS))
    yield "step", {"seconds": usual, "peak": highest, "tokens": task.inputs.ids.numel()}
    del step  # and the moments of its optimiser
    over = partial(beside, place=place, step=usual)
    yield "write", guarded(lambda: over(writing(task), new=NEW_TOKENS * shape.rows))
    yield "student-bf16", guarded(lambda: over(training(task, "bfloat16"), count=STEPS))
    yield "in-fp32", guarded(lambda: {"seconds": timed(partial(in_float32, model), place)[1]})
    yield "student-fp32", guarded(lambda: over(training(task, "float32"), count=STEPS))
    yield "record-last", guarded(lambda: over(recording(task, "last")))
    yield "record-all", guarded(lambda: over(recording(task, "all")))
    yield "score-rank8", guarded(lambda: over(scoring(task, thin_direction(model))))
    yield "score-dense", guarded(lambda: over(scoring(task, dense_direction(model))))


def random_network(shape: Shape, place: torch.device) -> Any:
    """A Qwen2 in bf16 with the weights it draws for itself, made where it stays."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    ids = build_tokenizer()
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=4096,
        pad_token_id=ids.pad_token_id,
        bos_token_id=ids.bos_token_id,
        eos_token_id=ids.eos_token_id,
    )
    with place:
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return network.eval().requires_grad_(False)


def hosted(network: Any, shape: Shape) -> Task:
    """The network behind the seam, over the same storage."""
    model = load_model(network, tokenizer=build_tokenizer(), name="random", check=False)
    return Task(network, model, rows(shape.rows, shape.length, shape.vocabulary), shape)


def dense_direction(model: LanguageModel) -> ParameterDirection:
    """A random change of every weight, drawn where the weights are."""
    tensors = {name: torch.randn(shape, device=model.device) for name, shape in model.shapes.items()}
    return ParameterDirection(dict(tensors), "dense", model.fingerprint, lineage_root(model))


def scoring(task: Task, direction: ParameterDirection) -> Callable[[], object]:
    """`score` by module, in fp32 as it always is; every call under a label of its own, so none is in the cache.

    The digest of the direction, made once in its life, is left out: at 7 B it would be of 30 GB.
    """

    def once() -> object:
        fresh = replace(direction, label=f"{direction.label} {uuid4().hex}")
        vars(fresh)["key"] = fresh.label
        return score(task.model, task.inputs, fresh, by=("example", "module"), batch_size=task.shape.rows)

    return once


def recording(task: Task, positions: str) -> Callable[[], object]:
    """`record` of what leaves every layer, which ends on the processor in fp32."""
    hooks = residual_hooks(task.model)
    return partial(
        record,
        task.model,
        task.inputs,
        hooks=hooks,
        positions=positions,
        batch_size=task.shape.rows,
        memory=2**36,
    )


def training(task: Task, precision: Any) -> Callable[[], object]:
    """STEPS steps of a LoRA student of rank 8 on every linear map, its adapter left live."""
    recipe = Recipe(
        batch_size=task.shape.rows, rank=RANK, epochs=STEPS, lr=1e-4, merge=False, precision=precision
    )
    return partial(train_student, task.model, task.inputs, recipe=recipe)


def writing(task: Task) -> Callable[[], object]:
    """Answers of NEW_TOKENS tokens to prompts of mixed length, all rows at once."""
    sampling = Sampling(max_new_tokens=NEW_TOKENS, batch_size=task.shape.rows, engine="generate")
    prompts = mixed_prompts(task.shape.rows)
    return partial(write_answers, neutral_teacher(task.model), prompts, seed=0, sampling=sampling)


def beside(
    way: Callable[[], object], *, place: torch.device, step: float, count: int = 1, new: int | None = None
) -> Found:
    """Seconds and peak of a way, its ratio to `count` training steps, and tokens per second where it writes `new`."""
    highest = peak(way, place)  # the first call, which also warms up
    taken = sorted(timed(way, place)[1] for _ in range(REPETITIONS))
    low, seconds, high = taken[0], statistics.median(taken), taken[-1]
    ratios = {
        name: each / (count * step) for name, each in (("ratio", seconds), ("low", low), ("high", high))
    }
    found = {**ratios, "repetitions": REPETITIONS, "seconds": seconds, "peak": highest}
    return found if new is None else {**found, "tokens_per_second": new / seconds}


def guarded(measure: Callable[[], Found]) -> Found:
    """The measurement, or why there is none, so that the next ones are made all the same."""
    try:
        return measure()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:500]}


def timed(call: Callable[[], Any], place: torch.device) -> tuple[Any, float]:
    """What a call gives, and its wall time with the device's work done."""
    settle(place)
    start = time.perf_counter()
    found = call()
    settle(place)
    return found, time.perf_counter() - start


def peak(call: Callable[[], object], place: torch.device) -> float | None:
    """The most memory that a call holds on the device, all that lay there before included, in GiB; None without one."""
    if place.type != "cuda":
        call()
        return None
    settle(place)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(place)
    call()
    settle(place)
    return torch.cuda.max_memory_allocated(place) / 2**30


def settle(place: torch.device) -> None:
    """Wait for the device."""
    if place.type == "cuda":
        torch.cuda.synchronize(place)


def machine() -> Found:
    """Where this ran, and what with."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    packages = ("torch", "transformers", "transformer-lens", "peft")
    return {
        "machine": gpu or f"processor {platform.machine()}",
        "cuda": torch.version.cuda if gpu else None,
        **{name: version(name) for name in packages},
    }


def save(path: Path, size: str, name: str, found: Found) -> None:
    """Put one measurement into the file, beside what it holds of other sizes."""
    known = json.loads(path.read_text()) if path.exists() else {}
    results = known.get("results", {})
    known = {**machine(), "results": {**results, size: {**results.get(size, {}), name: found}}}
    write_atomic(path, json.dumps(known, indent=2) + "\n")


def main(arguments: list[str]) -> None:
    """Measure the sizes asked for; exits with one sentence where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--size", choices=SHAPES, help="both large ones by default")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("gpu.json"))
    given = parser.parse_args(arguments)
    if given.size != "tiny" and not torch.cuda.is_available():
        sys.exit("There is no GPU here; `--size tiny` runs the same path on the processor.")
    for size in [given.size] if given.size else ["1.5b", "7b"]:
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"INTERP_CACHE": folder}):
            for name, found in measured(size):
                save(given.out, size, name, found)
                print(f"{size} {name}: {json.dumps(found)}", flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main(sys.argv[1:])
