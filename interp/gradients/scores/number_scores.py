"""Scores of whole numbers: a number's is the sum of its tokens', as log p(number) is of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp.core.doors import door
from interp.core.errors import InputError
from interp.figures import Result, bars
from interp.prompts.number_tables import by_number

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.gradients.scores.scoring import Scores

SHOWN = 15  # numbers drawn at either end


@door
def score_numbers(scores: Scores) -> Result:
    """Add up the scores of the tokens of every number in the answers, whatever pieces it is written in.

    Args:
        scores: scores by "example" and "token", and any other key.

    Returns:
        One line per row, number of its answer and key of the scores: row, number, text, direction, score, in the
        scores' unit, and how many tokens were added up. Tokens of no number are left out.

    Raises:
        InputError: for scores that do not tell the tokens of a row apart, and rows without a number.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> along = interp.trait_gradient(lineage.base, "owl")
        >>> scores = interp.score(lineage.base, lineage.numbers[:8], along, by=["example", "token"])
        >>> interp.gradients.score_numbers(scores).frame.columns.tolist()
        ['row', 'number', 'text', 'direction', 'score', 'tokens']
    """
    if not {"example", "token"} <= set(scores.by):
        raise InputError(
            f"scores by {', '.join(scores.by)} do not tell the tokens of a row apart; "
            "score with by=['example', 'token']"
        )
    frame = by_number(scores.frame, scores.inputs, scores.tokenizer, sums=("score",))
    if frame.empty:
        raise InputError(f"no answer of {scores.inputs.label!r} holds a number; score rows of numbers")
    return Result(f"{scores.label}, by number", frame, scores.unit, scores.notes, draw=_draw)


def _draw(result: Result) -> go.Figure:
    """The numbers of highest and lowest mean score along the first direction."""
    import pandas as pd

    label = result.frame["direction"].iloc[0]
    frame = result.frame.loc[result.frame["direction"] == label]
    along = frame.groupby(["row", "number", "text"], as_index=False)["score"].sum()
    means = along.groupby("text", as_index=False)["score"].mean().sort_values("score", ascending=False)
    shown = means if len(means) <= 2 * SHOWN else pd.concat([means.head(SHOWN), means.tail(SHOWN)])
    return bars(shown, x="score", y="text", title=f"{result.label}, mean along {label}", unit=result.unit)
