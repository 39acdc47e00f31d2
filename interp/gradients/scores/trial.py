"""What `score` tries first: whether a batch fits, and whether a row alone and among others scores the same.

The second is tried once for everything it can depend on: what it found is kept in the cache under the
weights, the modules and how they compute, the kind of direction, the size of the trial, the installed versions and the
code that scores; a network with hooks of its own is tried by every call.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from interp.core.content import digest
from interp.core.errors import InputError
from interp.core.provenance import versions
from interp.core.runs import Cache
from interp.gradients.scores.work import Work
from interp.models.memory import check_memory, saved_bytes
from interp.prompts.tokens import Encoded

log = logging.getLogger(__name__)

# of the root mean square score, between two companies; RMS norms work in fp32 whatever the weights are
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
HALF_TOLERANCE = 0.2
MOST = 16  # rows in the company


def try_once(work: Work, rows: Encoded, *, weights: str, batch_size: int) -> float:
    """`check_padding`, or what it found before for the same `weights` (their fingerprint), route and size of trial.

    Rows count, and so do their length and how far they differ in it, in powers of two. Raises InputError as it does.
    """
    count = min(len(rows), batch_size, MOST)
    if count < 2:
        return check_padding(work, rows, batch_size=batch_size)
    lengths = rows.lengths
    sizes = (count, int(lengths.max()), int(lengths.max() - lengths.min()))
    size = [each.bit_length() for each in sizes]
    apart = _found_once(
        "apart", work, partial(check_padding, work, rows, batch_size=batch_size), weights, size
    )
    return _checked(apart, work, rows)


def check_room(work: Work, rows: Encoded, *, weights: str, batch_size: int) -> None:
    """InputError when a batch of the longest rows cannot fit into memory, by what one of them leaves there, measured.

    What a pass needs beside that, the gradients of activations and the workspace of a product, is left out.
    """
    longest = rows.lengths.argmax()[None]
    row = next(rows[longest].batches(1))
    left = _found_once(
        "left",
        work,
        lambda: float(saved_bytes(work.network, lambda: work.block(row, longest))),
        weights,
        int(rows.lengths.max()),
    )
    check_memory(
        int(left) * min(batch_size, len(rows)),
        f"scoring {rows.label}",
        device=work.network.device,
        advice=f"lower batch_size (now {batch_size}), or free some",
    )


def _found_once(what: str, work: Work, find: Callable[[], float], *rests_on: Any) -> float:
    """What was found on trial, from the cache for the same work; a network with own hooks is tried always."""
    if _is_hooked(work.network):
        return find()

    def build(folder: Path) -> None:
        (folder / "trial.json").write_text(json.dumps(find()))

    key = digest(what, *rests_on, _computing(work), versions(), _code())
    return float(json.loads((Cache.default().get("trials", key, build) / "trial.json").read_text()))


def check_padding(work: Work, rows: Encoded, *, batch_size: int) -> float:
    """Largest change of a row's score between being alone and being in a batch, over the root mean square score.

    The shortest row is taken, which the batch pads most. Raises InputError when it is more than the dtype allows.
    """
    count = min(len(rows), batch_size, MOST)
    order = rows.lengths.argsort(stable=True)
    picked = order[torch.linspace(0, len(order) - 1, count).long()]
    together = work.block(next(rows[picked].batches(count)), picked).found.totals()
    alone = work.block(next(rows[picked[:1]].batches(1)), picked[:1]).found.totals()
    scale = together.square().mean(1).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    apart = float(((together[:, 0] - alone[:, 0]).abs() / scale).max())
    log.info("%s: a row alone and among %d others differs by %.1e of the typical score",
             rows.label, count - 1, apart)  # fmt: skip
    return _checked(apart, work, rows)


def _checked(apart: float, work: Work, rows: Encoded) -> float:
    """The difference, whenever it was found; InputError when it is more than the dtype allows."""
    allowed = TOLERANCE.get(work.network.dtype, HALF_TOLERANCE)
    if not apart <= allowed:
        limit = _long_factors(work.network)
        if limit is not None and int(rows.lengths.max()) > limit:
            raise InputError(
                f"{rows.label}: rows of up to {limit} tokens (original_max_position_embeddings) get other rotary "
                "frequencies beside longer ones, so their scores would depend on the batch; pass rows of one side of "
                f"{limit} tokens in a call"
            )
        raise InputError(
            f"{rows.label}: a row's score changes by {apart:.1e} of the typical score with the rows beside it, more "
            f"than {allowed:.0e}; load the model with dtype='float32' or attn_implementation='eager'"
        )
    return apart


def _long_factors(network: Any) -> int | None:
    """The length beyond which a longrope network takes other frequencies for the whole batch; None for others."""
    config = network.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    found = rope.get("original_max_position_embeddings")
    return found or getattr(config, "original_max_position_embeddings", None)


def _is_hooked(network: Any) -> bool:
    """Whether something that no fingerprint covers acts in a forward or backward pass."""
    hooks = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
    )
    return any(
        "forward" in vars(module) or any(getattr(module, name) for name in hooks)
        for module in network.modules()
    )


def _computing(work: Work) -> Any:
    """Modules, kernels and kind of direction: what decides how a score is computed, but for the weights' values."""
    network = work.network
    modules = [(name, type(module).__qualname__) for name, module in network.named_modules()]
    moved = [
        (site.name, site.kind, leaf, len(stack.dense_at), len(stack.thin_at))
        for site in work.sites
        for leaf, stack in site.stacks.items()
    ]
    device = network.device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.get_num_threads()
    kernel = str(getattr(network.config, "_attn_implementation", None))
    return (
        modules,
        moved,
        kernel,
        str(network.dtype),
        device.type,
        where,
        work.plan.route,
        work.by,
        work.cosine,
    )


@cache
def _code() -> str:
    """Of the files that compute scores."""
    return digest([path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))])
