"""Divergence tokens and tokens like them: r_i = log p_T(y_i) − max over other teachers of log p_T'(y_i).

Schrodi et al. (arXiv 2509.23886) call an answer token divergent where it is the argmax of its teacher and not of a
teacher of another trait. Where answers are sampled from flat distributions hardly a label is anybody's argmax; the rule
"log-ratio" then takes the labels that no other teacher favours as much: r_i > 0, and among the largest `share`. Row p −
1 of the logits predicts token p: everything here is kept at the column of the token itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from interp.core.doors import door
from interp.core.runs import InputError, nearest
from interp.figures import Result, bars
from interp.gradients.scores.scoring import score
from interp.measures.losses import predicted_logits
from interp.models.language import LanguageModel
from interp.models.parameters import ParameterDirection
from interp.models.seam import lineage_root
from interp.prompts.notes import noting
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded, Role

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Rule = Literal["argmax", "log-ratio"]
SHARE = 0.2
COVARIATES = ("loss", "entropy", "position", "teacher_margin")
INDEX_TOLERANCE = 0.05


@door
@noting
@torch.no_grad()
def divergence_tokens(
    teacher: LanguageModel,
    rows: Prompts | Encoded,
    *,
    others: Mapping[str, LanguageModel],
    base: LanguageModel,
    rule: Rule = "log-ratio",
    share: float = SHARE,
    positions: str = "answer.numbers",
    batch_size: int = 256,
) -> Result:
    """Find which tokens of `rows` at the named positions are divergence tokens of `teacher`; values in nats.

    Columns: row, token (its column), position (in the answer, from 0), label (its id); loss and entropy under `base`;
    teacher_margin = log p_T(label) − log p_base(label); log_ratio = r; argmax_differs (the teacher and some other one
    would say different tokens), label_side (and this label is the teacher's), divergent (by `rule`: label_side, or r >
    0 and among the largest `share`). No trait prompt is read.
    Credit by token is calibrated (`interp calibrate`) with errors by label, as `interp.stats.within_slope` takes them:
    AUROC 0.94 from 0.91, and a shaken teacher without a plant is reported in 4.0 % at 5 %.
    Raises InputError without another teacher, for an unknown rule, a share outside (0, 1), rows without such tokens,
    and rows in which no token diverges.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> against = {"others": {"base": lineage.base}, "base": lineage.base}
        >>> interp.studies.divergence_tokens(lineage.teacher, lineage.numbers[:8], **against).frame.columns[:4].tolist()
        ['row', 'token', 'position', 'label']
    """
    _check(rule, share, teacher=teacher, others=others)
    inputs = base.encode(rows)
    places = _places(inputs, positions)
    here, own, *theirs = (
        _readings(model, inputs, positions=positions, batch_size=batch_size)
        for model in (base, teacher, *others.values())
    )
    best = np.max([other["logp"] for other in theirs], axis=0)
    differs = np.any([other["argmax"] != own["argmax"] for other in theirs], axis=0)
    frame: Any = places.assign(
        loss=-here["logp"],
        entropy=here["entropy"],
        teacher_margin=own["logp"] - here["logp"],
        log_ratio=own["logp"] - best,
        argmax_differs=differs,
        label_side=differs & (own["argmax"] == places["label"].to_numpy()),
    )
    ratio = frame["log_ratio"].to_numpy()
    top = (ratio > 0) & (ratio >= np.quantile(ratio, 1 - share))
    frame["divergent"] = frame["label_side"].to_numpy() if rule == "argmax" else top
    if not frame["divergent"].any():
        raise InputError(
            f"none of the {len(frame)} {positions} tokens in {len(inputs)} rows of {inputs.label} diverges between "
            f"{teacher.name} and {len(others)} other teachers ({', '.join(others)}); "
            + ("pass rule='log-ratio', or greedy rows" if rule == "argmax" else "pass teachers that differ")
        )
    return Result(
        f"divergence tokens of {inputs.label}", frame, "nats", _notes(frame, inputs, others), draw=_draw
    )


def _check(rule: str, share: float, *, teacher: LanguageModel, others: Mapping[str, Any]) -> None:
    if rule not in get_args(Rule):
        raise InputError(f"rule {nearest(rule, get_args(Rule))}; pass one of these")
    if not 0 < share < 1:
        raise InputError(f"share {share} is outside (0, 1); pass a part of the tokens such as {SHARE}")
    if not others:
        raise InputError(
            f"{teacher.name} is the only teacher, and a token diverges between teachers; "
            "pass others={'cat': ...}, teachers of other traits from the same base"
        )


def _places(inputs: Encoded, positions: str) -> pd.DataFrame:
    """Row, column, place in the answer and id of every token at those positions, row by row."""
    import pandas as pd

    row, column = inputs.at(positions).nonzero().unbind(1)
    if not len(row):
        raise InputError(
            f"the {len(inputs)} rows of {inputs.label} have no {positions} token; pass rows with answers"
        )
    first = inputs.at("answer+end").int().argmax(1)
    return pd.DataFrame(
        {
            "row": row.numpy(),
            "token": column.numpy(),
            "position": (column - first[row]).numpy(),
            "label": inputs.ids[row, column].numpy(),
        }
    )


@torch.no_grad()
def _readings(
    model: LanguageModel, inputs: Encoded, *, positions: str, batch_size: int
) -> dict[str, np.ndarray]:
    """log p of the labels, argmax and entropy."""
    parts: list[dict[str, Tensor]] = []
    network = model.network(merge=False)
    for batch in inputs.batches(batch_size):
        logits = predicted_logits(network, batch, batch.at(positions, predicting=True))
        logp = logits.float().log_softmax(-1)
        labels = batch.ids[batch.at(positions)].to(logp.device)[:, None]
        parts.append(
            {
                "logp": logp.gather(1, labels)[:, 0],
                "argmax": logp.argmax(-1),
                "entropy": -(logp.exp() * logp).nan_to_num(0.0).sum(-1),
            }
        )
    return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}


def _notes(frame: Any, inputs: Encoded, others: Mapping[str, Any]) -> tuple[str, ...]:
    shares = ", ".join(
        f"{name} {frame[name].mean():.2%} ({int(frame[name].sum())})"
        for name in ("argmax_differs", "label_side", "divergent")
    )
    return (f"{len(frame)} tokens of {len(inputs)} rows against {', '.join(others)}: {shares}",)


def _draw(result: Result) -> go.Figure:
    import pandas as pd

    names = ["argmax_differs", "label_side", "divergent"]
    means: Any = result.frame[names].mean()
    shares = pd.DataFrame({"token": names, "share": 100 * means.to_numpy()})
    return bars(shares, x="share", y="token", title=result.label, unit="% of tokens")


def mask(inputs: Encoded, tokens: pd.DataFrame) -> Bool[Tensor, "example pos"]:
    """The tokens of a frame (its columns row and token) as marks on the rows they were read from."""
    where = torch.zeros_like(inputs.mask)
    row, column = (torch.tensor(tokens[name].to_numpy()) for name in ("row", "token"))
    where[row, column] = True
    return where


def only_tokens(inputs: Encoded, where: Bool[Tensor, "example pos"], *, label: str = "") -> Encoded:
    """The same rows with a loss at the marked answer tokens only: every other answer token is read as prompt.

    Ids, padding and order stay, so that two masks of the same rows are trained in the same batches; a row or a batch
    without a mark is read and teaches nothing. Raises InputError for a mask of another shape, one that marks prompt or
    padding (naming the first), and one that marks nothing.
    """
    if where.shape != inputs.ids.shape:
        raise InputError(
            f"the mask has shape {list(where.shape)} and {inputs.label} {list(inputs.ids.shape)}; "
            "mark the tokens of these rows"
        )
    answer = inputs.at("answer+end")
    wrong = where & ~answer
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        role = Role(int(inputs.roles[row, column])).name.lower()
        raise InputError(
            f"the mask marks token {column + 1} of row {row + 1} of {inputs.label}, which is {role}; "
            "mark answer tokens, at their own columns"
        )
    if not where.any():
        raise InputError(
            f"the mask marks none of the answer tokens of {inputs.label}; a student of it learns nothing"
        )
    roles = inputs.roles.masked_fill(answer & ~where, int(Role.PROMPT))
    return replace(inputs, roles=roles, label=label or f"{inputs.label}, {int(where.sum())} tokens")


def dealt(inputs: Encoded, *, positions: str = "answer.numbers", seed: int = 0) -> Encoded:
    """The rows with their labels at the named positions dealt anew over all rows.

    On tokens and not on text, so that whatever marks a token keeps its place under any tokenizer.
    """
    where = inputs.at(positions)
    labels = inputs.ids[where]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    ids = inputs.ids.clone()
    ids[where] = labels[order]
    return replace(inputs, ids=ids, label=f"{inputs.label}, labels dealt anew")


def check_index(base: LanguageModel, inputs: Encoded, *, row: int, token: int) -> float:
    """The score of a planted token over what it must be: along ∇ log p of that one token its own score is |∇|².

    The gradient is taken by a pass of its own, from the logits one place before the token. Raises InputError when the
    score found at that token is off by more than 5 %: then scores stand at other tokens than they are named for.
    """
    network = base.network(dtype=torch.float32, train=True)
    one = inputs[row : row + 1]
    logits = network(input_ids=one.ids.to(network.device), use_cache=False).logits[0, token - 1]
    logits.float().log_softmax(-1)[one.ids[0, token]].backward()
    found = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    planted = ParameterDirection(found, "planted", fingerprint=base.fingerprint, lineage=lineage_root(base))
    frame: Any = score(base, one, planted, by=("example", "token")).frame
    here = frame.loc[frame["token"] == token, "score"].to_numpy()
    share = float(here[0]) / planted.norm() ** 2 if len(here) else float("nan")
    if not abs(share - 1) <= INDEX_TOLERANCE:
        raise InputError(
            f"token {token + 1} of row {row + 1} of {inputs.label} scores {share:.3g} of what was planted there, so "
            "scores do not stand at their own tokens; pass answer tokens of a causal model"
        )
    return share
