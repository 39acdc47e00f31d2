"""What exact scores cost: every route of `score`, and every peer, over one plain forward and backward pass.

The reference is what Hugging Face's model does on the same 32 rows of 64 tokens (8 of the prompt, 56 of the answer) in
fp32 under sdpa with one thread: logits at every position, gradients of every parameter. A way's scores are first held
against those from every row's own gradient: what is wrong is not timed.
"""

from __future__ import annotations

import gc
import logging
import os
import tempfile
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from benchmarks.alignment_peers import (
    PEERS,
    PROMPT,
    Peer,
    Task,
    Way,
    exact,
    exact_biases,
    linear_weights,
    training_pass,
)
from benchmarks.capture import tokenizer
from benchmarks.paired import REPETITIONS, Ratio, Skipped, cpu_seconds, interleaved, summary
from interp.gradients.scores.engine import find_sites
from interp.gradients.scores.plan import check_keys, make_plan
from interp.gradients.scores.preparation import prepared
from interp.gradients.scores.scoring import Scores, score
from interp.gradients.scores.work import Work
from interp.models.language import LanguageModel, load_model
from interp.models.parameters import LowRank, ParameterDirection
from interp.models.seam import lineage_root
from interp.prompts.text import Encoded, Role

log = logging.getLogger("benchmarks")

ROWS, LENGTH, RANK, DIRECTIONS = 32, 64, 8, 8
TOLERANCE = 1e-5  # of the root mean square score
THEIRS = 1e-4  # for peers: some add a whole gradient up in one fp32 sum
MANY, SHORT = 512, 16  # rows and tokens per row where `score` itself is timed and weighed


class Shape(NamedTuple):
    """A Llama: untied, full attention."""

    width: int
    layers: int
    heads: int
    inner: int
    vocabulary: int


SMALL = Shape(256, 4, 8, 688, 1024)  # 3.7 M parameters
LARGE = Shape(384, 8, 6, 768, 4096)  # 14.9 M
BELOW = "model.layers.*_proj.weight"  # the linear layers bergson reaches
FEW = ("dense-1", "dense-8", "rank8-1", "rank8-8", "linear-1")  # of the routes, at the larger size
FASTEST = {"bergson": (PEERS["bergson"][0], ("bergson-1",))}


def small() -> dict[str, Ratio | Skipped]:
    """Every route and every peer at 3.7 M parameters, and what telling positions apart adds to modules alone."""
    torch.set_num_threads(1)
    task = make_task(SMALL)
    ways = routes(task)
    results = beside(ways, PEERS, task, size="4m")
    several = Way(ours(task, task.dense[:1], by=("example", "position", "module")), ways["dense-1"].expected)
    check(several, "position")
    return {**results, **interleaved({"alignment-4m-position": several.call}, ways["dense-1"].call)}


def large() -> dict[str, Ratio | Skipped]:
    """The routes that meet weights, and the fastest peer, at 14.9 M parameters."""
    torch.set_num_threads(1)
    task = make_task(LARGE)
    return beside({name: way for name, way in routes(task).items() if name in FEW}, FASTEST, task, size="15m")


def scaling() -> dict[str, Ratio | Skipped]:
    """`score` from rows to table with nothing cached: time at 4 N rows over N, and the bytes it keeps for a row."""
    torch.set_num_threads(1)
    model = hosted(SMALL)
    direction = dense_direction(model, 0)
    few, many = rows(MANY, SHORT, SMALL.vocabulary), rows(4 * MANY, SHORT, SMALL.vocabulary)
    run = partial(scored, model, direction)
    run(few[:ROWS])
    times = [cpu_seconds(partial(run, many)) / cpu_seconds(partial(run, few)) for _ in range(REPETITIONS)]
    counts = range(MANY // 2, MANY // 2 + REPETITIONS)
    kept = [kept_bytes(partial(run, few[:count]), count) for count in counts]
    return {"alignment-score-4N": summary(times), "alignment-score-bytes-per-row": summary(kept)}


BENCHES: dict[str, Callable[[], dict[str, Ratio | Skipped]]] = {
    "alignment": small,
    "alignment-15m": large,
    "alignment-scaling": scaling,
}


def beside(
    ways: Mapping[str, Way], peers: Mapping[str, tuple[Peer, Sequence[str]]], task: Task, *, size: str
) -> dict[str, Ratio | Skipped]:
    """Our ways and the peers in one interleaved run; a peer that is missing, fails or disagrees says so instead."""
    for name, way in ways.items():
        check(way, name)
    found, skipped = installed(peers, task)
    torch.set_num_threads(1)  # whatever a peer has set
    timed = {**ways, **found}
    ratios = interleaved({name: way.call for name, way in timed.items()}, training_pass(task))
    for name, way in timed.items():
        if way.approximate:
            ratios[name]["note"] = f"approximate, r = {correlation(way):.2f} with the exact scores"
    return {f"alignment-{size}-{name}": result for name, result in {**ratios, **skipped}.items()}


def installed(
    peers: Mapping[str, tuple[Peer, Sequence[str]]], task: Task
) -> tuple[dict[str, Way], dict[str, Skipped]]:
    """The peers whose scores are right, and why the others are not timed."""
    ways: dict[str, Way] = {}
    skipped: dict[str, Skipped] = {}
    for peer, names in peers.values():
        try:
            built = peer(task)
            for name in names:
                check(built[name], name, tolerance=THEIRS)
            ways |= {name: built[name] for name in names}
        except Exception as error:  # whatever a stranger's code raises is the reason that is kept
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            skipped |= {name: Skipped(skipped=reason) for name in names}
    return ways, skipped


def check(way: Way, name: str, *, tolerance: float = TOLERANCE) -> None:
    """RuntimeError unless the scores are those of the rows' own gradients, or approximate by nature."""
    found = way.call().double()
    apart = float((found - way.expected).abs().max() / way.expected.square().mean().sqrt())
    log.info("%s: differs by %.1e of the root mean square score", name, apart)
    if not way.approximate and not apart <= tolerance:
        raise RuntimeError(
            f"{name} differs by {apart:.1e} of the root mean square score, over {tolerance:.0e}"
        )


def correlation(way: Way) -> float:
    """Of approximate scores with exact ones."""
    return float(torch.corrcoef(torch.stack([way.call().double().flatten(), way.expected.flatten()]))[0, 1])


def routes(task: Task) -> dict[str, Way]:
    """Our ways, each with the scores it has to reach."""
    below = linear_weights(task.plain, below_unembedding=True)
    linear = [direction.only(BELOW) for direction in task.dense]
    whole, thin, reached = (
        exact(task, task.dense),
        exact(task, task.thin),
        exact(task, task.dense, only=below),
    )
    return {
        "dense-1": Way(ours(task, task.dense[:1]), whole[:1]),
        "dense-8": Way(ours(task, task.dense), whole),
        "rank8-1": Way(ours(task, task.thin[:1]), thin[:1]),
        "rank8-8": Way(ours(task, task.thin), thin),
        "activation": Way(ours(task, [task.virtual]), exact_biases(task)),
        "token": Way(ours(task, task.dense[:1], by=("example", "token")), whole[:1]),
        "linear-1": Way(ours(task, linear[:1], by=("example",)), reached[:1]),
        "linear-8": Way(ours(task, linear, by=("example",)), reached),
        "linear-token": Way(ours(task, linear[:1], by=("example", "token")), reached[:1]),
    }


def ours(
    task: Task, directions: Sequence[ParameterDirection], *, by: Sequence[str] = ("example", "module")
) -> Callable[[], Tensor]:
    """What `score` does with one batch; finding the modules and stacking the directions comes once before them all."""
    network = prepared(task.model, directions)
    sites, keys = find_sites(network, directions), check_keys(by)
    plan = make_plan(sites, by=keys, length=float(task.batch.ids.shape[1]))
    work = Work(network, sites, tuple(directions), keys, plan)
    index = torch.arange(len(task.batch))
    return lambda: work.block(task.batch, index).found.totals()


def make_task(shape: Shape) -> Task:
    """Weights, rows and directions of one shape, from seeds."""
    model = hosted(shape)
    generator = torch.Generator().manual_seed(2)
    vectors = {
        f"blocks.{layer}.hook_resid_post": torch.randn(shape.width, generator=generator)
        for layer in range(shape.layers)
    }
    return Task(
        model=model,
        plain=hugging_face(shape),
        batch=rows(ROWS, LENGTH, shape.vocabulary),
        dense=[dense_direction(model, seed) for seed in range(DIRECTIONS)],
        thin=[thin_direction(model, seed) for seed in range(DIRECTIONS)],
        virtual=ParameterDirection({}, "biases", model.fingerprint, lineage_root(model), vectors),
    )


def hugging_face(shape: Shape) -> Any:
    """The random model as transformers builds it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=256,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.set_attn_implementation("sdpa")
    return model.eval()


def hosted(shape: Shape) -> LanguageModel:
    """The same weights behind the seam."""
    return load_model(hugging_face(shape), tokenizer=tokenizer(), name="random", device="cpu", check=False)


def rows(count: int, length: int, vocabulary: int) -> Encoded:
    """Random tokens without padding; all but the first eight are answer."""
    ids = torch.randint(5, vocabulary, (count, length), generator=torch.Generator().manual_seed(0))
    roles = torch.full_like(ids, int(Role.OTHER))
    roles[:, :PROMPT] = int(Role.PROMPT)
    return Encoded(ids, torch.ones_like(ids).bool(), roles)


def dense_direction(model: LanguageModel, seed: int) -> ParameterDirection:
    """A random change of every weight, embeddings and norms too."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in model.shapes.items()}
    return ParameterDirection(dict(tensors), f"dense {seed}", model.fingerprint, lineage_root(model))


def thin_direction(model: LanguageModel, seed: int) -> ParameterDirection:
    """A random change of rank 8 of every linear layer below the unembedding, as a LoRA adapter makes."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator)
    tensors = {
        name: LowRank(draw(shape[0], RANK), draw(RANK, shape[1]))
        for name, shape in model.shapes.items()
        if fnmatchcase(name, BELOW)
    }
    return ParameterDirection(dict(tensors), f"rank 8, {seed}", model.fingerprint, lineage_root(model))


def scored(model: LanguageModel, direction: ParameterDirection, inputs: Encoded) -> Scores:
    """`score` by module in a cache of its own, which is thrown away."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"INTERP_CACHE": folder}):
        return score(model, inputs, direction, by=("example", "module"), batch_size=ROWS)


def kept_bytes(run: Callable[[], Scores], count: int) -> float:
    """What is held after a run and was not before, a row: Python's and NumPy's memory, and the tensors it made."""
    gc.collect()
    known = tensors()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = run()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        made = sum(size for place, size in tensors().items() if place not in known)
        del result
    finally:
        tracemalloc.stop()
    return (grown + made) / count


def tensors() -> dict[int, int]:
    """Bytes of every storage that Python holds, by where it lies."""
    held = [each.untyped_storage() for each in gc.get_objects() if issubclass(type(each), Tensor)]
    return {storage.data_ptr(): storage.nbytes() for storage in held}
