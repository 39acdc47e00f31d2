"""Token-level tables by whole number: what "2", "3" and "4" were scored is what 234 was scored.

Σ_t log p(t | before) over a number's tokens is its log-probability as far as it is written, and a score per token,
the gradient of such a sum along a direction, adds up likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from interp.prompts.tokens import Encoded, Tokenizer

if TYPE_CHECKING:
    import pandas as pd


def answer_numbers(inputs: Encoded, tokenizer: Tokenizer) -> pd.DataFrame:
    """Every token of a number of an answer: row, number (of its row, from 0), token (its column), the number's text."""
    import pandas as pd

    row, token = inputs.at("answer.numbers").cpu().nonzero().unbind(1)
    number = inputs.numbers()[row, token]
    frame = pd.DataFrame({"row": row.numpy(), "number": number.cpu().numpy(), "token": token.numpy()}).assign(
        id=inputs.ids.cpu()[row, token].numpy()
    )
    pieces: Any = frame.groupby(["row", "number"], sort=False)["id"].agg(tuple)
    known = {ids: tokenizer.decode(list(ids)).strip() for ids in set(pieces)}
    texts = pieces.map(known).rename("text").reset_index()
    return frame.drop(columns="id").merge(texts, on=["row", "number"])


def by_number(
    frame: pd.DataFrame, inputs: Encoded, tokenizer: Tokenizer, *, column: str = "token", sums: Sequence[str]
) -> pd.DataFrame:
    """A table with a line per row and token, `column` of which is the token's, as one with a line per number.

    Its keys are row, number and text, then those of the table that are not summed; `tokens` counts what was added up.
    Tokens of no number are left out.
    """
    found: Any = frame.rename(columns={column: "token"}).merge(
        answer_numbers(inputs, tokenizer), on=["row", "token"], how="inner"
    )
    own = [name for name in frame.columns if name not in ("row", column, *sums)]
    groups = found.groupby(["row", "number", "text", *own], sort=False, observed=True)
    return groups[list(sums)].sum().assign(tokens=groups.size()).reset_index()
