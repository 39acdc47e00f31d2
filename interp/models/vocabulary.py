"""The vocabulary as text: what each entry decodes to, and which entries are numbers.

A number token is an entry whose text, spaces around it aside, is ASCII digits: 0-999 whole where a tokenizer
holds them whole, the ten digits where it splits. What numbers of several tokens are worth is `whole_numbers`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interp.models.seam import Model

DIGITS = re.compile(r"\s*[0-9]+\s*")


def token_texts(model: Model, size: int) -> list[str]:
    """Text of the first `size` vocabulary entries; their index where the model reads no text.

    An entry that decodes to nothing has its name in the vocabulary, and a row of the output matrix that the tokenizer
    has no token for is "<#49152>", by its index.
    """
    if model.tokenizer is None:
        return [str(index) for index in range(size)]
    texts = [model.tokenizer.decode([index]) for index in range(size)]
    return [
        text or model.tokenizer.convert_ids_to_tokens(index) or f"<#{index}>"
        for index, text in enumerate(texts)
    ]


def is_number(text: str) -> bool:
    """Whether a decoded vocabulary entry is digits only."""
    return DIGITS.fullmatch(text) is not None


def number_tokens(model: Model, size: int) -> list[int]:
    """Ids, below `size`, of the vocabulary entries that are numbers."""
    return [index for index, text in enumerate(token_texts(model, size)) if is_number(text)]
