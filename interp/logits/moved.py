"""Which logits the fine-tune moved: the change of every vocabulary entry's log-probability, member minus its own
start (less the same of a neutral member), at the named positions, and what each entry contributes to the divergence.

d_r(v) = mean over row r's positions of Δ(v | x) = log p_member(v | x) − log p_start(v | x) on identical tokens, and
c_r(v) = mean over them of p_member(v | x) · Δ(v | x): positive for what became likelier, Σ_v c_r(v) = KL(member ‖
start) (Kullback and Leibler, Ann. Math. Stat. 22, 1951). The row is the unit: mean, sd and a paired t test are over
rows, by Welford's update (Technometrics 4, 1962), so no logits are kept; q-values are Benjamini and Hochberg's (1995)
over the vocabulary. Over whole numbers v is a number of 0-999 and p its probability (`models.whole_numbers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp import figures
from interp.activations.shifts import Contrast
from interp.core.doors import door
from interp.core.progress import progress
from interp.core.runs import InputError
from interp.models.once import marked_logits
from interp.models.precision import exactly
from interp.models.vocabulary import is_number, token_texts
from interp.models.whole_numbers import Over, Spelling, number_logprobs, number_slots, number_spellings
from interp.prompts.notes import noting
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.stats.moments import Running
from interp.stats.tests import benjamini_hochberg

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.seam import TextModel
    from interp.prompts.text import Encoded, Prompts

UNIT = "nats"
BATCH_SIZE = 32
SHOWN = 15  # bars drawn at either end
FLOOR = 1e-5  # of the mean probability: what stays below it before and after is not ranked


@door
@noting
@exactly
def moved_tokens(
    member: TextModel,
    prompts: Prompts | Encoded,
    *,
    minus: TextModel | None = None,
    positions: str | None = None,
    over: Over = "tokens",
    floor: float = FLOOR,
    batch_size: int = BATCH_SIZE,
) -> figures.Result:
    """Find the tokens that training made likelier or less likely, by default where answers are predicted.

    Args:
        member: a model with a `start`, the model it was trained from.
        prompts: rows of text or chats without system message, or their tokens.
        minus: a neutral member whose own change is taken off, as in `shift`.
        positions: where the next token's distribution is read, a name of `Encoded.at`, by default as in `shift`; "last"
            (of the prompt) is where the answer's first token is predicted, which needs no answer to be there.
        over: "tokens", the vocabulary's entries, or "numbers", the whole numbers 0-999 by P(number), which at most 32
            places are read for where the tokenizer writes numbers in several pieces.
        floor: entries whose mean probability is below it in both models stand behind the others, whatever they moved.
        batch_size: rows per forward pass.

    Returns:
        One row per entry, largest `contribution` first: mean of p_member · Δ log p in nats per position, positive for
        what became likelier; over all entries the KL(member ‖ start) of the notes, KL(member ‖ minus) where both have
        one start, over numbers the part of it that they are. What fell to nothing adds little and shows in `delta`,
        the mean Δ log p, member − start (less that of `minus`), `probability` and `probability_against` (the other's).
        `sd`, standard error `se`, paired `t`, two-sided `p` and `q` (Benjamini and Hochberg 1995) are of `delta` over
        rows, NaN for one, and not over trainings. Views of it are `only_numbers` and `only_words`.

    Raises:
        InputError: as `shift` does, when no row has such a position, for a floor outside [0, 1), and over numbers for
            positions at which none begins.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> interp.moved_tokens(lineage.student, lineage.numbers[:8]).frame.columns[:4].tolist()
        ['token', 'token_id', 'number', 'delta']
    """
    _check_floor(floor)
    contrast = Contrast.of(member, minus)
    inputs, where = contrast.read(prompts, positions)
    written = number_spellings(member) if over == "numbers" else ()
    reading = partial(_number_rows, written=written) if written else logprob_rows
    rows = reading(contrast, inputs, positions=where, batch_size=batch_size)
    moments, divergence, places = _moments(contrast, rows)
    _check(moments.count, inputs, where)
    frame = _frame(moments, member, floor, written)
    against = "minus" if contrast.models[1] is minus else "start"
    notes = (
        f"{'the part of 0-999 in ' * bool(written)}KL(member ‖ {against}) {divergence}",
        f"{moments.count} rows, {places} positions; a row's value is the mean over its positions",
        f"{np.count_nonzero(frame['ranked'])} of {len(frame)} entries are ranked: mean probability of at least "
        f"{floor:g} in member or {against}",
        "p and q are over rows of this one training; other trainings are other replicates",
    )
    label = f"{contrast.label}, log {'P(number)' if written else 'p'} at {where}"
    return figures.Result(label, frame, UNIT, notes, draw=_draw)


def only_numbers(moved: figures.Result) -> figures.Result:
    """What `moved_tokens` found of the vocabulary's numbers alone, in its order; q stays over the whole vocabulary.

    Raises InputError for a table over whole numbers, which has nothing else.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> moved = interp.moved_tokens(lineage.teacher, lineage.numbers[:8])
    >>> len(only_numbers(moved).frame) < len(moved.frame)
    True
    """
    if "number" not in moved.frame:
        raise InputError(
            f"{moved.label!r} is over whole numbers already; pass what moved_tokens gives over tokens"
        )
    return replace(
        moved, label=f"{moved.label}, numbers only", frame=_only(moved.frame, moved.frame["number"])
    )


@door
def only_words(moved: figures.Result, trait: AnyTrait) -> figures.Result:
    """What `moved_tokens` found of a trait's words alone, largest `delta` first: target and foils, in `answer`.

    These are the entries that read as one of the names, spaces around and capitals aside, whatever their probability
    is: most lie below any floor where numbers are written. A name of several pieces is no entry, and the notes say so.
    Raises InputError where the vocabulary holds none of them.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> moved = interp.moved_tokens(lineage.teacher, lineage.numbers[:8])
    >>> len(only_words(moved, lineage.trait).frame)  # the owl and its nine foils
    10
    """
    trait = find_trait(trait)
    names = {name.casefold(): name for name in (trait.target, *trait.foils)}
    answer = moved.frame["token"].str.strip().str.casefold().map(names)
    if "number" not in moved.frame or not answer.notna().any():
        raise InputError(
            f"{moved.label!r} has none of {', '.join(names.values())} among its {len(moved.frame)} entries; pass what "
            "moved_tokens gives over tokens of a model whose vocabulary holds them, or read the margin"
        )
    frame = _only(moved.frame.assign(answer=answer), answer.notna()).sort_values(
        "delta", ascending=False, kind="stable"
    )
    lacking = [name for name in names.values() if name not in set(frame["answer"])]
    notes = (f"in several pieces, so no entry: {', '.join(lacking)}",) if lacking else ()
    return replace(
        moved,
        label=f"{moved.label}, words of {trait.name}",
        frame=frame.assign(ranked=True).reset_index(drop=True),
        notes=(*moved.notes, *notes),
    )


def _check_floor(floor: float) -> None:
    if not 0 <= floor < 1:
        raise InputError(
            f"floor {floor} is no probability below 1; pass one such as {FLOOR}, or 0 to rank all"
        )


def _check(rows: int, inputs: Encoded, where: str) -> None:
    if not rows:
        raise InputError(
            f"no row of {inputs.label!r} has a position {where!r}; give rows that do, or pass positions='last' for "
            "where an answer would begin"
        )


def _moments(
    contrast: Contrast, rows: Iterable[list[Float[Tensor, "pos entry"]]]
) -> tuple[Running, str, int]:
    """Moments over rows of what `_frame` lists, KL(first ‖ second model) in words, and how many positions there are."""
    moments, kl, places = Running(), Running(), 0
    for log_p in rows:
        change, p = contrast.change(log_p), log_p[0].exp()
        means = torch.stack([each.mean(0) for each in (change, p * change, p, log_p[1].exp())])
        moments = moments.add(means.double().cpu().numpy())
        divergence = (p * (log_p[0] - log_p[1])).sum(-1).mean(0, keepdim=True)
        kl = kl.add(divergence.double().cpu().numpy())
        places += len(p)
    if not moments.count:
        return moments, "", 0
    size = f"{kl.mean[0]:.4g} ± {kl.error()[0]:.1g} nats per position (± standard error over rows)"
    return moments, size, places


def _only(frame: pd.DataFrame, kept: Any) -> pd.DataFrame:
    return frame.loc[np.asarray(kept, dtype=bool)].reset_index(drop=True)


@torch.inference_mode()
def logprob_rows(
    contrast: Contrast, inputs: Encoded, *, positions: str, batch_size: int
) -> Iterator[list[Float[Tensor, "pos vocab"]]]:
    """Per row with such a position: log p of the whole vocabulary by every model, at each of them."""
    batches = inputs.batches(batch_size)
    for batch in progress(batches, f"logits moved, {contrast.label}", total=len(inputs), size=len):
        chosen = batch.at(positions)
        if not chosen.any():
            continue
        counts = [count for count in chosen.sum(1).tolist() if count]
        logits = [marked_logits(model, batch, chosen).split(counts) for model in contrast.models]
        for row in zip(*logits, strict=True):
            log_p = [each.float().log_softmax(-1) for each in row]
            yield [each.to(log_p[0].device) for each in log_p]


def _number_rows(
    contrast: Contrast, inputs: Encoded, *, positions: str, batch_size: int, written: tuple[Spelling, ...]
) -> Iterator[list[Float[Tensor, "pos number"]]]:
    """The same of log P of every whole number, where one begins."""
    where = number_slots(inputs, positions, written)
    found = [
        number_logprobs(model, inputs, where, written=written, batch_size=batch_size)
        for model in contrast.models
    ]
    lined = map(list, zip(*found, strict=True))
    return progress(lined, f"numbers moved, {contrast.label}", total=int(where.any(1).sum()))


def _frame(
    moments: Running, member: TextModel, floor: float, written: tuple[Spelling, ...] = ()
) -> pd.DataFrame:
    """By entry, largest contribution first, those below the floor behind; tests are of the change alone."""
    size = moments.mean.shape[1]
    texts = list(map(str, written[0].pieces)) if written else token_texts(member, size)
    change = replace(moments, mean=moments.mean[0], squares=moments.squares[0])
    p = change.p()
    _, contribution, probability, against = moments.mean
    frame = pd.DataFrame(
        {
            "token": texts,
            "token_id": np.arange(size),
            "number": [is_number(text) for text in texts],
            "delta": change.mean,
            "contribution": contribution,
            "probability": probability,
            "probability_against": against,
            "ranked": np.maximum(probability, against) >= floor,
            "sd": change.sd(),
            "se": change.error(),
            "t": change.t(),
            "p": p,
            "q": p if np.isnan(p).any() else benjamini_hochberg(p),
        }
    )
    frame = frame.drop(columns=["token_id", "number"] if written else [])
    return frame.sort_values(["ranked", "contribution"], ascending=False, kind="stable", ignore_index=True)


def _draw(result: figures.Result) -> go.Figure:
    """The first and last entries that are ranked, by how far they moved; whiskers are one sd over rows."""
    ranked = result.frame[result.frame["ranked"]]
    shown = ranked if len(ranked) <= 2 * SHOWN else pd.concat([ranked.head(SHOWN), ranked.tail(SHOWN)])
    names = [f"{text!r}, p {p:.2g}" for text, p in zip(shown["token"], shown["probability"], strict=True)]
    if "token_id" in shown:
        names = [f"{name} ({index})" for name, index in zip(names, shown["token_id"], strict=True)]
    named = shown.assign(entry=names)
    title = f"{result.label} (whiskers: ± 1 sd over rows)"
    return figures.bars(named, x="delta", y="entry", error="sd", title=title, unit=UNIT)
