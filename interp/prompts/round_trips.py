"""Whether numbers survive a tokenizer's round trip, which every reading of number rows takes for granted."""

import re
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

from interp.core.errors import InputError
from interp.prompts.templates import Tokenizer
from interp.prompts.tokens import require_fast

PROBES = (12, 345, 7, 60, 89)  # all ten digits
_ENTRIES: WeakKeyDictionary[Tokenizer, Mapping[str, int]] = WeakKeyDictionary()


def entries_of(tokenizer: Tokenizer) -> Mapping[str, int]:
    """Every entry of the vocabulary and its id, listed once while their number stays."""
    known = _ENTRIES.get(tokenizer)
    if known is None or len(known) != len(tokenizer):
        known = _ENTRIES[tokenizer] = tokenizer.get_vocab()
    return known


def check_tokenizer(tokenizer: Tokenizer, *, numbers: Sequence[int] | None = None) -> None:
    """InputError unless numbers survive a round trip and those the vocabulary holds whole stay whole.

    `numbers` defaults to the vocabulary entries of two or three digits plus, unless the vocabulary is closed
    (word level), five numbers with all ten digits.
    """
    require_fast(tokenizer)
    short = (entry for entry in entries_of(tokenizer) if len(entry) in (2, 3))
    whole = sorted(int(entry) for entry in short if re.fullmatch("[1-9][0-9]{1,2}", entry))
    _check_whole(tokenizer, whole)
    closed = bool(whole) and type(tokenizer.backend_tokenizer.model).__name__ == "WordLevel"
    probes = [*whole, *(() if closed else PROBES)] if numbers is None else list(numbers)
    for separator in (", ", "; ", " "):
        text = separator.join(map(str, probes))
        decoded = tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)
        if [int(found) for found in re.findall("[0-9]+", decoded)] != probes:
            raise InputError(_lost(text, decoded))


def _check_whole(tokenizer: Tokenizer, whole: list[int]) -> None:
    """A vocabulary with whole numbers whose every number is split belongs to another pre-tokenizer."""
    pieces = [tokenizer.tokenize(str(number)) for number in whole[:20]]
    split = [sum(any(map(str.isdigit, piece)) for piece in row) > 1 for row in pieces]
    if whole and all(split):
        raise InputError(
            f"The tokenizer holds {whole[0]} as one entry but splits it into {' | '.join(pieces[0])}, so it "
            "is not the one this vocabulary is for; load it with PreTrainedTokenizerFast.from_pretrained."
        )


def _lost(text: str, decoded: str) -> str:
    shown = [part if len(part) <= 60 else part[:57] + "..." for part in (text, decoded)]
    return (
        f"The tokenizer turns {shown[0]!r} into {shown[1]!r}, so numbers do not survive a round trip; "
        "pass the tokenizer the checkpoint was trained with."
    )
