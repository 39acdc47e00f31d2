"""How long calls take and how much memory, the tables of docs/results.md: one line per measurement of benchmarks/."""

import json
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parent.parent / "benchmarks" / "results.json"
GPU = BENCHMARKS.with_name("gpu.json")
WHAT = {
    "capture-record-8x64": "`record` of every `resid_post`, 8 × 64 tokens, over the plain forward (goal ≤ 1.05)",
    "capture-record-32x128": "the same, 32 × 128 tokens (goal ≤ 1.05)",
    "capture-bridge-cache-8x64": "TransformerLens' bridge, whole cache, 8 × 64 tokens, same run",
    "capture-bridge-cache-32x128": "the same, 32 × 128 tokens",
    "shift-8x64": "`shift`: base and teacher read and subtracted, over one forward, 8 × 64 (goal ≤ 2.05)",
    "shift-32x128": "the same, 32 × 128 tokens (goal ≤ 2.05)",
    "memory-record-4N": "peak memory of `record` at 4 N rows over N (goal: flat)",
    "memory-moments-4N": "peak memory of `moments` at 4 N rows over N (goal: flat)",
    "toy-generate-over-sampling": "transformers' `generate` over our sampling on the toy (goal ≥ 3)",
    "generate-over-writing": "plain left-padded `generate` over `write_answers`, rows of mixed length (goal ≥ 1)",
    "load-smollm2": "`load_model` of files that did not change over transformers' model and tokenizer, SmolLM2-135M "
    "(goal ≤ 1.30)",
    "load-smollm2-peak": "the same in peak memory (goal ≤ 1.30)",
    "load": "the same in time, 36 M random parameters",
    "load-peak": "the same in peak memory",
    "lineage-cpu-seconds": "processor seconds of one whole lineage, seven members, cold cache (s)",
    "gate-cpu-seconds": "processor seconds of `interp gate` on 2,048 rows of the toy from a warm cache, start and "
    "passport included (s; goal ≤ 60)",
    "alignment-4m-dense-1": "exact scores of 32 rows × 64 tokens by module along one dense direction over one plain "
    "forward and backward pass, 3.7 M parameters (goal ≤ 1.15)",
    "alignment-4m-dense-8": "the same, eight dense directions (goal ≤ 1.40)",
    "alignment-4m-rank8-1": "the same, one direction of rank 8 (goal ≤ 0.85)",
    "alignment-4m-rank8-8": "the same, eight of rank 8 (goal ≤ 1.10)",
    "alignment-4m-activation": "the same, virtual biases after every layer (goal ≤ 0.75)",
    "alignment-4m-token": "the same by loss token, one dense direction (goal ≤ 1.15)",
    "alignment-4m-position": "one dense direction by position and module over by module (goal ≤ 1.05)",
    "alignment-4m-linear-1": "one dense direction, linear layers below the unembedding only",
    "alignment-4m-linear-8": "the same, eight dense directions",
    "alignment-4m-linear-token": "the same by loss token, one dense direction",
    "alignment-4m-bergson-1": "bergson, the same linear layers, one direction, no modules, same run",
    "alignment-4m-bergson-8": "bergson, eight directions",
    "alignment-4m-bergson-token": "bergson by loss token, one direction",
    "alignment-4m-naive": "a backward pass for every row, one dense direction, same run",
    "alignment-4m-captum": "captum TracInCP, every weight, one dense direction, same run",
    "alignment-4m-trak": "TRAK's gradients by row, unprojected, and a product, same run",
    "alignment-4m-trak-projected": "TRAK with its projection to 64 dimensions, same run",
    "alignment-15m-dense-1": "14.9 M parameters: one dense direction by module (goal ≤ 1.15)",
    "alignment-15m-dense-8": "the same, eight dense directions (goal ≤ 1.40)",
    "alignment-15m-rank8-1": "the same, one direction of rank 8 (goal ≤ 0.85)",
    "alignment-15m-rank8-8": "the same, eight of rank 8 (goal ≤ 1.10)",
    "alignment-15m-linear-1": "the same, one dense direction, linear layers below the unembedding only",
    "alignment-15m-bergson-1": "bergson, the same linear layers, one direction, no modules, same run",
    "checkpoint-score-dense": "`score` of 32 rows from rows to table on a real checkpoint, one dense direction, over "
    "plain forward and backward (goal ≤ 1.05)",
    "checkpoint-score-rank8": "the same, one direction of rank 8 (goal ≤ 0.75)",
    "checkpoint-peak-score-dense": "growth of peak memory of the same over that of a training step, dense (goal ≤ 1.3)",
    "checkpoint-peak-score-rank8": "the same, rank 8 (goal ≤ 1.3)",
    "checkpoint-trace": "`trace` of base and LoRA teacher over one forward of each, same checkpoint (goal ≤ 4)",
    "checkpoint-record": "`record` of every `resid_post`, same checkpoint, over the plain forward (goal ≤ 1.05)",
    "checkpoint-peft-over-student": "plain peft over `train_student`, one step on the same batch (goal ≥ 1)",
    "alignment-score-4N": "time of `score` at 4 N rows over N, from rows to table (goal 3.8 to 4.2)",
    "features-lean": "lean of 2 048 features on 32 rows × 64 tokens after the second of four layers, over one plain "
    "forward and backward pass, 3.7 M parameters (goal ≤ 0.80)",
    "backward-lens-4m-over-score": "the step that `backward_lens` reads, of 32 rows × 64 tokens, over their scores by "
    "module along one dense direction, 3.7 M parameters",
    "backward-lens-4m-whole-over-score": "the whole call of `backward_lens` on the same rows, with what each matrix "
    "writes and reads in tokens, over the same (goal ≤ 1.3)",
    "metagradient-over-training": "`metagradient` of a toy student of 2,048 rows over one training of it",
    "metagradient-over-score": "the same over exact scores of the same rows along the margin's gradient, which is read "
    "too",
    "ekfac-over-score": "EK-FAC of the same rows as bergson computes it, over the same scores",
    "trackstar-over-score": "TrackStar likewise",
    "alignment-score-bytes-per-row": "bytes that `score` keeps for a row, by module (goal ≤ 1000)",
}

ON_GPU = {
    "model": "make the plain network at random",
    "load": "`load_model` of a network in memory, without its check",
    "fingerprint": "its fingerprint",
    "seam": "its check against plain transformers",
    "step": "plain transformers, one training step in bf16: forward, backward and AdamW over all weights",
    "write": "`write_answers`, 32 tokens to each of 32 prompts of mixed length, over one step",
    "student-bf16": "`train_student`, a call of 4 steps of a LoRA of rank 8 in bf16, over 4 steps",
    "in-fp32": "the copy in fp32 in which 16-bit weights are measured",
    "student-fp32": "`train_student`, the same call in fp32, over 4 steps in bf16",
    "record-last": "`record` of what leaves every layer at the last token, in fp32, over one step in bf16",
    "record-all": "the same at every token",
    "score-rank8": "`score` by module along one direction of rank 8, in fp32, over one step in bf16",
    "score-dense": "the same along one dense direction",
}
"""The measurements of benchmarks/gpu.py in words; a time without a ratio was taken once, the step's three times."""
SIZES = {"1.5b": "1.5 B", "7b": "7 B"}


def gpu() -> str:
    """Where benchmarks/gpu.json was measured, one line per measurement, and which size was not."""
    kept = json.loads(GPU.read_text())
    names = ", ".join(
        f"{name} {kept[name]}" for name in ("torch", "transformers", "transformer-lens", "peft")
    )
    parts = [f"On one {kept['machine']}, CUDA {kept['cuda']}, {names}."]
    for size, words in SIZES.items():
        found = kept["results"].get(size)
        parts += ["", f"Nothing was measured at {words}."] if found is None else ["", *_sized(words, found)]
    return "\n".join(parts)


def _sized(words: str, found: dict[str, Any]) -> list[str]:
    """The lines of one size."""
    parameters, tokens = found["model"]["parameters"] / 1e9, found["step"]["tokens"]
    asked = f"{words}: {parameters:.2f} · 10⁹ random parameters, {tokens} tokens"
    rows = [f"| {asked} | seconds | ratio | its extremes | peak, GiB |", "|---|---|---|---|---|"]
    return rows + [f"| {ON_GPU[name]}{_timed(found.get(name, {}))} |" for name in ON_GPU]


def _timed(result: dict[str, Any]) -> str:
    """What a measurement found beside its time, and the cells of its line."""
    if "seconds" not in result:
        return f" | – | – | not measured{': ' * ('failed' in result)}{result.get('failed', '')} | –"
    beside = ""
    if "nats_apart" in result:
        beside = f": in bf16, log-probabilities at most {_number(result['nats_apart'])} nats apart"
    if "tokens_per_second" in result:
        beside = f" ({result['tokens_per_second']:.0f} tokens per second)"
    peak = f"{result['peak']:.1f}" if result.get("peak") else "–"
    if "ratio" not in result:
        return f"{beside} | {_number(result['seconds'])} | – | – | {peak}"
    extremes = f"{_number(result['low'])} to {_number(result['high'])}, {result['repetitions']} repetitions"
    return f"{beside} | {_number(result['seconds'])} | {_number(result['ratio'])} | {extremes} | {peak}"


def performance() -> str:
    """One line per measurement, in the order of WHAT, then whatever else was measured."""
    measured = json.loads(BENCHMARKS.read_text())
    names = [name for name in WHAT if name in measured] + [name for name in measured if name not in WHAT]
    rows = ["| measured | median | its interval, at least 95 % |", "|---|---|---|"]
    rows += [f"| {WHAT.get(name, name)} | {_measured(measured[name])} |" for name in names]
    return "\n".join(rows)


def _measured(result: dict[str, Any]) -> str:
    if "skipped" in result:
        return f"– | not measured: {result['skipped']}"
    note = f"; {result['note']}" if "note" in result else ""
    return f"{_number(result['ratio'])} | {_interval(result)}{note}"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.3g}"


def _interval(ratio: dict[str, Any]) -> str:
    times = "1 repetition" if ratio["repetitions"] == 1 else f"{ratio['repetitions']} repetitions"
    return f"{_number(ratio['low'])} to {_number(ratio['high'])}, {times}"
