"""What the pass of the backward lens costs over a scoring pass: the step of all matrices against scores by module.

Both go forward and back once over the same 32 rows of 64 tokens in fp32 on one thread; the one keeps Σ δ xᵀ of every
matrix, the other meets one dense direction. The step is first held against the rows' own gradients along a direction.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.alignment import BELOW, ROWS, SMALL, make_task, ours
from benchmarks.alignment_peers import exact, linear_weights
from benchmarks.paired import Ratio, paired
from interp.gradients.scores.steps import gradient_step


def over_scoring() -> dict[str, Ratio]:
    """Processor time of `gradient_step` over that of `score` by module along one direction."""
    torch.set_num_threads(1)
    task = make_task(SMALL)
    step = partial(gradient_step, task.model, task.batch, batch_size=ROWS)
    along = task.dense[0].only(BELOW)
    expected = float(exact(task, [along], only=linear_weights(task.plain, below_unembedding=True)).mean())
    found = step().direction.dot(along)
    if abs(found - expected) > 1e-4 * abs(expected):
        raise ArithmeticError(f"the step leans by {found} and the rows by {expected}")
    return {"backward-lens-4m-over-score": paired(step, ours(task, task.dense[:1]))}


BENCHES = {"backward-lens": over_scoring}
