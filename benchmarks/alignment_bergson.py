"""bergson (EleutherAI) on the same rows and directions, in process: its collector, scorer and forward-mode scores.

No projection, so its inner products are exact. It reaches the linear layers below the unembedding and sums over
modules; its weights are frozen but for the embedding, as its own worker leaves them. Reading rows and writing files,
which its worker also does, are left out.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.alignment_peers import Task, Way, exact, labels, linear_weights

if TYPE_CHECKING:
    from interp.models.parameters import ParameterDirection


def ways(task: Task) -> dict[str, Way]:
    """Scores of whole rows along one and eight directions, and of loss tokens along one."""
    frozen = copy.deepcopy(task.plain).requires_grad_(False)
    frozen.get_input_embeddings().requires_grad_(True)
    reached = linear_weights(task.plain, below_unembedding=True)
    expected = exact(task, task.dense, only=reached)
    return {
        "bergson-1": Way(_rows(task, frozen, 1), expected[:1]),
        "bergson-8": Way(_rows(task, frozen, len(task.dense)), expected),
        "bergson-token": Way(_tokens(task), expected[:1]),
    }


def _queries(model: Any, directions: Any) -> dict[str, Tensor]:
    """[direction, weight] by the module names of `model.base_model`."""
    names = [name for name, module in model.base_model.named_modules() if isinstance(module, torch.nn.Linear)]
    return {name: torch.stack([_flat(direction, name) for direction in directions]) for name in names}


def _flat(direction: ParameterDirection, module: str) -> Tensor:
    return direction[f"model.{module}.weight"].flatten()


def _rows(task: Task, model: Any, count: int) -> Any:
    from bergson.collector.collector import fwd_bwd_factory
    from bergson.collector.gradient_collectors import GradientCollector
    from bergson.config import IndexConfig
    from bergson.gradients import GradientProcessor
    from bergson.score.score_writer import InMemorySequenceScoreWriter
    from bergson.score.scorer import Scorer
    from datasets import Dataset

    queries, examples = _queries(model, task.dense[:count]), len(task.batch)
    writer = InMemorySequenceScoreWriter(examples, count)
    scorer = Scorer(queries, list(queries), writer, torch.device("cpu"), torch.float32)
    cfg = IndexConfig(run_path="unused", loss_reduction="sum")
    collector = GradientCollector(
        model=model.base_model,
        cfg=cfg,
        processor=GradientProcessor(),
        target_modules=None,
        data=Dataset.from_dict({"input_ids": task.batch.ids.tolist()}),
        scorer=scorer,
    )
    pass_both_ways, targets = fwd_bwd_factory(cfg), labels(task.batch)

    def call() -> Tensor:
        with collector.with_batch(task.batch.mask):
            losses = pass_both_ways(model, task.batch.ids, targets, {})
        collector.process_batch(list(range(examples)), losses=losses)
        return -writer.scores.T

    return call


def _tokens(task: Task) -> Any:
    """Forward mode; its worker loads the model with eager attention for it."""
    from bergson.collector.gradient_collectors import GradientCollector
    from bergson.config import IndexConfig
    from bergson.score.output_influence import output_token_influence, query_directions

    model = copy.deepcopy(task.plain)
    model.set_attn_implementation("eager")
    cfg = IndexConfig(run_path="unused", loss_reduction="sum")
    queries = {name: rows.T for name, rows in _queries(model, task.dense[:1]).items()}
    directions = query_directions(model, queries, GradientCollector.discover_targets(model.base_model))
    targets = labels(task.batch)

    def call() -> Tensor:
        rates, _ = output_token_influence(model, task.batch.ids, targets, directions, cfg)
        return -rates.sum(1).T

    return call
