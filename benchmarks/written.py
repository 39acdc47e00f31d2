"""What the backward lens costs over a scoring pass: its pass alone, and the whole call with what it reads in tokens.

Both passes go forward and back once over the same 32 rows of 64 tokens in fp32 on one thread; the one keeps Σ δ xᵀ of
every matrix, the other scores rows by module along one dense direction. The whole call decomposes the step of every
matrix besides and reads its largest direction as tokens; no question is asked. The step is first held against the rows'
own gradients along a direction, and a whole call against the largest singular values of its step.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.alignment import BELOW, ROWS, SMALL, make_task, ours
from benchmarks.alignment_peers import exact, linear_weights
from benchmarks.paired import Ratio, interleaved
from interp.gradients.scores.steps import gradient_step
from interp.gradients.written import BackwardLens, backward_lens


def over_scoring() -> dict[str, Ratio]:
    """Processor time of `gradient_step`, and of `backward_lens`, over that of `score` by module along one direction."""
    torch.set_num_threads(1)
    task = make_task(SMALL)
    step = partial(gradient_step, task.model, task.batch, batch_size=ROWS)
    along = task.dense[0].only(BELOW)
    expected = float(exact(task, [along], only=linear_weights(task.plain, below_unembedding=True)).mean())
    found = step().direction.dot(along)
    if abs(found - expected) > 1e-4 * abs(expected):
        raise ArithmeticError(f"the step leans by {found} and the rows by {expected}")
    whole = partial(backward_lens, task.model, task.batch, batch_size=ROWS)
    check(whole())
    ways = {"backward-lens-4m-over-score": step, "backward-lens-4m-whole-over-score": whole}
    return interleaved(ways, ours(task, task.dense[:1]))


def check(lens: BackwardLens) -> None:
    """ArithmeticError unless the largest direction of every module has that share of its step."""
    for module, read in zip(lens.frame["module"], lens.frame["share"].tolist(), strict=True):
        values = torch.linalg.svdvals(lens.step[f"{module}.weight"].double())
        share = float(values[0].square() / values.square().sum())
        if abs(read - share) > 1e-6:
            raise ArithmeticError(f"{module} has a share of {share} and reads {read}")


BENCHES = {"backward-lens": over_scoring}
