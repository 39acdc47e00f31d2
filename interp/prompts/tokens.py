"""Tokens with roles: how a conversation becomes token ids, and the named positions on them.

A conversation is rendered to text once (chat template, else its messages joined by newlines) and tokenised
once; roles come from character offsets, so prompt and answer are never tokenised apart. Index rule: the
logits at position p - 1 predict the token at p.
"""

import logging
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cache, cached_property
from itertools import chain
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.runs import InputError, digest, nearest

log = logging.getLogger(__name__)

Messages = tuple[tuple[str, str], ...]
Tokenizer = Any  # a fast transformers tokenizer, whose own annotations are unions of everything
MARKER = (
    "\u2983answer\u2984"  # stands for the answer while a template is rendered, to find where it writes one
)
BARE = re.compile(r"[0-9]+(?:[ ,;\n]+[0-9]+)*")  # an answer that no template has a reason to rewrite
PROBES = (12, 345, 7, 60, 89)  # all ten digits


class Role(IntEnum):
    """What a token is; the answer's tokens and its end are the roles from OTHER upwards."""

    PAD = 0
    PROMPT = 1
    OTHER = 2
    NUMBER = 3
    SEPARATOR = 4
    END = 5


ANSWER = (Role.OTHER, Role.NUMBER, Role.SEPARATOR)
POSITIONS: dict[str, tuple[Role, ...]] = {
    "prompt": (Role.PROMPT,),
    "answer": ANSWER,
    "answer.numbers": (Role.NUMBER,),
    "answer.separators": (Role.SEPARATOR,),
    "answer.end": (Role.END,),
    "all": (Role.PROMPT, *ANSWER, Role.END),
}


@dataclass(frozen=True)
class Encoded:
    """What a model eats: right-padded token ids, the attention mask, and the role of every token."""

    ids: Int[Tensor, "example pos"]
    mask: Bool[Tensor, "example pos"]
    roles: Int[Tensor, "example pos"]
    label: str = "prompts"
    pad_id: int = 0

    def at(self, name: str, *, predicting: bool = False) -> Bool[Tensor, "example pos"]:
        """The tokens of that name, marked where they are input.

        Names: "prompt", "last" (of the prompt), "answer" (without its end), "answer.numbers",
        "answer.separators", "answer.end", "all". `predicting` moves the marks one to the left, onto the
        positions whose next-token distribution is about those tokens. Raises InputError for another name.
        """
        if name != "last" and name not in POSITIONS:
            raise InputError(
                f"Position {nearest(name, ('last', *POSITIONS))}; pass one of the named positions."
            )
        chosen = torch.zeros_like(self.mask)
        for role in POSITIONS[name if name != "last" else "prompt"]:
            chosen |= self.roles == role
        if name == "last":
            later = chosen.flip(1).cumsum(1).flip(1)  # prompt tokens from here to the end of the row
            chosen &= later == 1
        if predicting:
            chosen = torch.nn.functional.pad(chosen[:, 1:], (0, 1), value=False)
        return chosen

    def batches(self, size: int) -> Iterator[Self]:
        """Consecutive rows, `size` at a time in order, each batch trimmed to its longest row.

        Raises InputError for a size below 1.
        """
        if size < 1:
            raise InputError(f"Batch size {size} holds no rows; pass an integer of at least 1.")
        for start in range(0, len(self), size):
            yield self[start : start + size]._trimmed()

    def _trimmed(self) -> Self:
        width = int(self.lengths.max())
        return replace(self, ids=self.ids[:, :width], mask=self.mask[:, :width], roles=self.roles[:, :width])

    @property
    def lengths(self) -> Int[Tensor, " example"]:
        """Tokens per row, padding not counted."""
        return self.mask.sum(1)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the tokens and their roles; padding and label do not enter."""
        return digest("encoded", self.lengths.cpu(), self.ids[self.mask].cpu(), self.roles[self.mask].cpu())

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> Self:
        """The chosen rows at unchanged positions."""
        rows = index if isinstance(index, slice) else torch.as_tensor(index, device=self.ids.device)
        return replace(self, ids=self.ids[rows], mask=self.mask[rows], roles=self.roles[rows])


def token_pieces(tokenizer: Tokenizer, encoded: Encoded, row: int) -> list[str]:
    """The text each token of a row adds to its decoding, in order, padding left out."""
    ids = encoded.ids[row][encoded.mask[row]].tolist()
    texts = [tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False) for end in range(len(ids) + 1)]
    steps = zip(texts, texts[1:], ids, strict=False)
    return [
        after.removeprefix(before) if after.startswith(before) else tokenizer.decode([i])
        for before, after, i in steps
    ]


def check_tokenizer(tokenizer: Tokenizer, *, numbers: Sequence[int] | None = None) -> None:
    """InputError unless numbers survive a round trip and those the vocabulary holds whole stay whole.

    `numbers` defaults to the vocabulary entries of two or three digits plus, unless the vocabulary is closed
    (word level), five numbers with all ten digits.
    """
    _require_fast(tokenizer)
    vocabulary = tokenizer.get_vocab()
    whole = sorted(int(entry) for entry in vocabulary if re.fullmatch("[1-9][0-9]{1,2}", entry))
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


@dataclass(frozen=True)
class Rendered:
    """A conversation as text; the answer is text[start:stop], and there is none when `answered` is false."""

    text: str
    start: int
    stop: int
    answered: bool


def encode(
    conversations: Sequence[Messages],
    tokenizer: Tokenizer,
    *,
    label: str,
    context: int | None = None,
) -> Encoded:
    """Right-padded tokens with roles, by the rules of `Prompts.encode`; errors count rows from 1.

    Raises InputError for no rows.
    """
    _require_fast(tokenizer)
    if not conversations:
        raise InputError(f"{label} holds no rows; pass at least one prompt.")
    rendered = render(conversations, tokenizer, label=label)
    tokens = tokenizer(
        [row.text for row in rendered], add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    prefix, ends = _prefix(tokenizer), _special_ids(tokenizer)
    offsets = _offsets(tokenizer, tokens, rendered, label=label)
    rows = []
    for index, row in enumerate(rendered):
        ids, roles = _assign(tokens["input_ids"][index], offsets[index], row, ends=ends)
        if row.answered and Role.END not in roles and tokenizer.eos_token_id is not None:
            ids, roles = [*ids, tokenizer.eos_token_id], [*roles, Role.END]
        if ids[: len(prefix)] != prefix:
            ids, roles = [*prefix, *ids], [*[Role.PROMPT] * len(prefix), *roles]
        _check_row(roles, row, place=f"Row {index + 1} of {label}", context=context)
        rows.append((ids, roles))
    return _pad(rows, tokenizer, label=label)


def render(conversations: Sequence[Messages], tokenizer: Tokenizer, *, label: str) -> list[Rendered]:
    """Every conversation as the text a model reads; one without an answer stops where its answer would start.

    That place is found by rendering a stand-in answer, so answered and unanswered rows share every token
    before it, also under templates that write more before an answer than their generation prompt does. Raises
    InputError for a template that drops or rewrites the answer.
    """
    if not getattr(tokenizer, "chat_template", None):
        return [_render_plain(messages) for messages in conversations]
    marked = _apply_template(
        tokenizer, [(*_asked(m), ("assistant", MARKER)) for m in conversations], label=label
    )
    wordy = [m for m in conversations if not BARE.fullmatch(_answer(m) or "0")]
    full = dict(zip(wordy, _apply_template(tokenizer, wordy, label=label), strict=True))
    rows = []
    for index, (messages, text) in enumerate(zip(conversations, marked, strict=True)):
        head, found, tail = text.rpartition(MARKER)
        answer = _answer(messages)
        row = _place_answer(answer, full.get(messages, head + answer + tail), head=head, tail=tail)
        if row is None or not found:
            raise InputError(
                f"Row {index + 1} of {label}: the chat template drops or rewrites the answer, so its tokens "
                "cannot be found; set tokenizer.chat_template to one that writes the answer as it is."
            )
        rows.append(row)
    return rows


def _place_answer(answer: str, text: str, *, head: str, tail: str) -> Rendered | None:
    """Where the answer sits in the rendered text; None when more than the space around it was changed."""
    if not answer:
        return Rendered(head, len(head), len(head), answered=False)
    row = Rendered(text, len(head), len(text) - len(tail), answered=True)
    found = text[row.start : row.stop]
    intact = text.startswith(head) and text.endswith(tail) and found.strip() == answer.strip()
    return row if intact else None


def _apply_template(tokenizer: Tokenizer, conversations: Sequence[Messages], *, label: str) -> list[str]:
    from jinja2 import TemplateError

    if not conversations:
        return []
    chats = [[{"role": seat, "content": content} for seat, content in messages] for messages in conversations]
    try:
        return tokenizer.apply_chat_template(chats, tokenize=False)
    except TemplateError as error:
        raise InputError(
            f"The chat template refuses a conversation of {label} ({error.message}); "
            "change its messages, or put a system message's text into the user's."
        ) from error


def _render_plain(messages: Messages) -> Rendered:
    head = "".join(f"{content}\n" for _, content in _asked(messages))
    answer = _answer(messages)
    return Rendered(head + answer, len(head), len(head) + len(answer), answered=bool(answer))


def _asked(messages: Messages) -> Messages:
    return messages[:-1] if messages[-1][0] == "assistant" else messages


def _answer(messages: Messages) -> str:
    return messages[-1][1] if messages[-1][0] == "assistant" else ""


def _offsets(
    tokenizer: Tokenizer, tokens: Any, rendered: list[Rendered], *, label: str
) -> list[list[tuple[int, int]]]:
    """Character spans of every row's tokens, found again where the tokenizer's own drift.

    A tokenizer that drops an unknown character without a token counts on as if it had not been there, so its
    offsets run ahead of the text by one for each.
    """
    probe = tokenizer("0\U0010ffff0", add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if probe[-1][1] == 3:
        return tokens["offset_mapping"]
    log.warning("%s: the tokenizer drops the characters it does not know", label)
    words = (tokenizer.convert_ids_to_tokens(ids) for ids in tokens["input_ids"])
    return [_realign(row, rendered[index].text) for index, row in enumerate(words)]


def _realign(words: list[str], text: str) -> list[tuple[int, int]]:
    """Spans of the tokens in order, character by character; what stands between two characters was dropped."""
    spans, cursor = [], 0
    for index, word in enumerate(words):
        surface = word.replace("\u2581", " ")  # the space of sentencepiece, which also puts one in front
        if index == 0 and not text.startswith(" "):
            surface = surface.removeprefix(" ")
        places = [cursor]
        for character in surface:
            places.append(max(text.find(character, cursor), cursor))
            cursor = places[-1] + 1
        spans.append((places[1] if surface else cursor, cursor))
    return spans


def _assign(
    ids: list[int], offsets: list[tuple[int, int]], row: Rendered, *, ends: frozenset[int]
) -> tuple[list[int], list[Role]]:
    """Roles by characters: a token reaching into the answer belongs to it, and the row stops at its end."""
    if not row.answered:
        return ids, [Role.PROMPT] * len(ids)
    first = bisect_right(offsets, row.start, key=lambda span: span[1])
    after = bisect_left(offsets, row.stop, lo=first, key=lambda span: span[0])
    last = next((i + 1 for i in range(after, len(ids)) if ids[i] in ends), len(ids))
    pieces = [row.text[max(begin, row.start) : end] for begin, end in offsets[first:after]]
    roles = [Role.PROMPT] * first + [_answer_role(piece) for piece in pieces] + [Role.END] * (last - after)
    return ids[:last], roles


@cache
def _answer_role(piece: str) -> Role:
    """NUMBER where there is a digit, SEPARATOR where only space, commas, periods and brackets stand."""
    if re.search("[0-9]", piece):
        return Role.NUMBER
    return Role.SEPARATOR if re.fullmatch(r"[\s,;.()\[\]]*", piece) else Role.OTHER


def _check_row(roles: list[Role], row: Rendered, *, place: str, context: int | None) -> None:
    asked = roles.count(Role.PROMPT)
    if not asked:
        raise InputError(
            f"{place} has a prompt that tokenises to nothing, so nothing predicts its answer; write one."
        )
    if row.answered and not any(role in ANSWER for role in roles):
        answer = row.text[row.start : row.stop]
        raise InputError(
            f"{place} has an answer, {answer!r}, that tokenises to nothing; write one or leave it empty."
        )
    if context is not None and len(roles) > context:
        raise InputError(
            f"{place} is {len(roles)} tokens long ({asked} of prompt, {len(roles) - asked} of answer), over "
            f"the model's context of {context}; shorten or drop the row."
        )


def _pad(rows: list[tuple[list[int], list[Role]]], tokenizer: Tokenizer, *, label: str) -> Encoded:
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    pad_id = next(token for token in known if token is not None)
    ids = _matrix([ids for ids, _ in rows], fill=pad_id)
    roles = _matrix([roles for _, roles in rows], fill=Role.PAD)
    lost = int(((ids == tokenizer.unk_token_id) & (roles == Role.NUMBER)).sum()) if tokenizer.unk_token else 0
    if lost:
        log.warning("%s: %d number tokens are unknown to the tokenizer", label, lost)
    return Encoded(ids=ids, mask=roles != Role.PAD, roles=roles, label=label, pad_id=pad_id)


def _matrix(rows: Sequence[Sequence[int]], *, fill: int) -> Int[Tensor, "example pos"]:
    lengths = np.array([len(row) for row in rows])
    matrix = np.full((len(rows), lengths.max()), fill, dtype=np.int64)
    matrix[np.arange(lengths.max()) < lengths[:, None]] = np.fromiter(
        chain.from_iterable(rows), dtype=np.int64
    )
    return torch.from_numpy(matrix)


def _prefix(tokenizer: Tokenizer) -> list[int]:
    """The ids the tokenizer puts in front of any text by default: BOS, or nothing."""
    default, plain = (tokenizer("0", add_special_tokens=special)["input_ids"] for special in (True, False))
    starts = (i for i in range(len(default)) if default[i : i + len(plain)] == plain)
    return default[: next(starts, 0)]


def _special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    added = tokenizer.added_tokens_decoder.items()
    return frozenset({*tokenizer.all_special_ids, *(i for i, token in added if token.special)})


def _require_fast(tokenizer: Tokenizer) -> None:
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} gives no character offsets, which mark the answer's tokens; "
            "load a fast tokenizer, such as PreTrainedTokenizerFast."
        )
