"""The joined trace: one line per token, with what the teacher made likelier, which features moved, and the gradient.

Line p of a row is its token at position p, predicted at p − 1, and on it stand
    delta_logprob  log p_teacher(token_p | before) − log p_base(token_p | before)           in nats
    features       f_j(h_teacher) − f_j(h_base) at p − 1, the largest first                  in units of the feature
    score          <∇θ log p_base(token_p | before), θ_teacher − θ_base>, total and by module   in nats
    row_share      what the row adds to the student's change of trait margin (the ledger)    in nats, one per row
The score is what the log-probability would gain if it were linear in the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.shifts import shared_inputs
from interp.core.doors import door
from interp.core.runs import InputError
from interp.features.dictionary import Dictionary
from interp.features.reading import feature_statistics
from interp.features.shift import feature_shift
from interp.figures import Result, token_rows
from interp.gradients.ledger.ledgers import Ledger
from interp.gradients.scores.preparation import check_rows
from interp.joined.rows import Chosen, choose
from interp.joined.self_test import self_test
from interp.joined.sources import Sources
from interp.joined.view import joined_figure, signed_or_dash
from interp.models.lineage import Lineage
from interp.prompts.notes import noting
from interp.prompts.numbers import answer_positions
from interp.prompts.text import Encoded, Prompts

ROWS = 20  # shown when none are named
SHIFT_ROWS = 512  # of the training, on which the features are tested


@door
@noting
def joined_trace(
    lineage: Lineage,
    rows: int | Sequence[int] | Prompts = ROWS,
    *,
    dictionary: Dictionary | None = None,
    student: str | None = "student",
    ledger: Ledger | None = None,
    features: int = 3,
) -> Result:
    """Join, token by token, what the teacher made likelier, which features moved, and what the gradient wants.

    Args:
        lineage: a lineage with a trait.
        rows: indices of training rows, `Prompts` (looked up among those), or how many, half of largest, half of
            smallest share.
        dictionary: the features; `default_dictionary` by default.
        student: the member whose ledger gives the row's share; None for none.
        ledger: that ledger, where it is there already.
        features: how many of the largest changes to show, at least 1, of the features that `feature_shift` reports for
            the teacher, or the live ones when there are none.

    Returns:
        One line per row and token after the first: row (index, or place in the Prompts), position, token, role,
        delta_logprob (nats), delta_direction (logits toward the trait), features (text), feature_k and change_k, score
        and score:<module> (nats; NaN on prompt tokens, which have no loss), row_share (nats; NaN where `student` is
        None, was not trained here, or never saw the row).

    Raises:
        InputError: for a lineage without a trait, rows without answers or with a system message, an index out of range,
            whatever a verb it joins refuses, and when another number, planted in a row by every call, does not first
            change the columns where it should.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> sae = interp.joined.default_dictionary(lineage)
        >>> interp.joined_trace(lineage, lineage.numbers[:2], dictionary=sae).unit  # doctest: +SKIP
        'nats'
    """
    if features < 1:
        raise InputError(f"features={features} names none; pass an integer of at least 1")
    chosen = choose(lineage, rows, student=student, ledger=ledger)
    sources = Sources.of(lineage, dictionary)
    inputs = shared_inputs(lineage.teacher, lineage.base, chosen.prompts)
    check_rows(inputs)
    notes = [*chosen.notes, self_test(sources, chosen.prompts)]
    candidates, how = _candidates(sources, chosen)
    frame = sources.likelihoods(chosen.prompts)
    frame = frame.merge(_moved(sources, inputs, candidates, features), on=["row", "position"], how="left")
    frame = frame.merge(sources.scores(inputs), on=["row", "position"], how="left")
    frame["row_share"] = np.array(chosen.shares)[frame["row"].to_numpy()]
    frame["row"] = np.array(chosen.labels)[frame["row"].to_numpy()]
    label = f"{lineage.name}: joined trace of {len(chosen.labels)} rows"
    noted = (*dict.fromkeys([*sources.notes, how, *notes]),)
    return Result(label, frame, "nats", notes=noted, draw=joined_figure, look=token_rows)


def _candidates(sources: Sources, chosen: Chosen) -> tuple[Int[Tensor, "feature"], str]:
    """The features that may stand in the table, and how they were found."""
    rows = (chosen.training or chosen.prompts)[:SHIFT_ROWS]
    reported, why = _reported(sources, rows)
    if reported:
        return torch.tensor(sorted(reported)), why
    positions = answer_positions(rows)
    statistics = feature_statistics(sources.dictionary, sources.lineage.base, rows, positions=positions)
    live = statistics.loc[statistics["live"], "feature"].tolist()
    if not live:
        raise InputError(
            f"no feature of {sources.dictionary.label} fires on {rows.label}; pass a dictionary trained on such rows"
        )
    return torch.tensor(live), f"{why}; shown are the largest changes among {len(live)} live features"


def _reported(sources: Sources, rows: Prompts) -> tuple[tuple[int, ...], str]:
    """The features that differ between teacher and base after correction, and what to say of them."""
    try:
        found = feature_shift(
            sources.dictionary,
            sources.lineage.teacher,
            rows,
            positions=answer_positions(rows),
            trait=sources.lineage.trait,
        )
    except InputError as error:
        return (), f"features were not tested: {error}"
    if not found.reported:
        return (), f"no feature differs between teacher and base on {len(rows)} rows after correction"
    count = f"{len(found.reported)} that differ between teacher and base on {len(rows)} rows (FDR {found.alpha:g})"
    return found.reported, f"features: the largest changes among the {count}"


def _moved(sources: Sources, rows: Encoded, candidates: Int[Tensor, "feature"], count: int) -> pd.DataFrame:
    """row, position, the `count` largest changes as text and as feature_k, change_k."""
    count, parts = min(count, len(candidates)), []
    for examples, positions, change in sources.changes(rows):
        among = change[:, candidates]
        order = among.abs().argsort(dim=1, descending=True, stable=True)[:, :count]
        values, ids = among.gather(1, order), candidates[order]
        columns = {"row": examples.numpy(), "position": positions.numpy(), "features": _words(ids, values)}
        for k in range(count):
            columns[f"feature_{k + 1}"] = ids[:, k].numpy()
            columns[f"change_{k + 1}"] = values[:, k].numpy()
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _words(ids: Int[Tensor, "token k"], values: Float[Tensor, "token k"]) -> list[str]:
    """ "17 +0.42, 203 −0.11", without the features that did not change."""
    return [
        ", ".join(f"{feature} {signed_or_dash(value)}" for feature, value in zip(*line, strict=True) if value)
        for line in zip(ids.tolist(), values.tolist(), strict=True)
    ]
