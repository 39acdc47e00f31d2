"""Tokens with roles: how a conversation becomes token ids, and the named positions on them.

A conversation is rendered to text once (chat template, else its messages joined by newlines) and tokenised
once; roles come from character offsets, so prompt and answer are never tokenised apart. Index rule: the
logits at position p - 1 predict the token at p.
"""

import copy
import logging
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cache, cached_property, partial
from itertools import chain
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.core.content import digest
from interp.core.errors import InputError, nearest
from interp.prompts.notes import hear
from interp.prompts.templates import Messages, Rendered, Tokenizer, habits, render

log = logging.getLogger(__name__)

SAID_UNKNOWN, MOST_UNKNOWN = 0.01, 0.20  # shares of unknown tokens that are said, and that are refused
SHOWN_UNKNOWN = 3  # of them, quoted
ACCEPTED = "accepts_unknown"  # an attribute of a tokenizer, which all members of a lineage share


class Role(IntEnum):
    """What a token is; the answer's tokens and its end are the roles from OTHER upwards.

    NUMBER is a number's first token, CONTINUED each further one: 234 is one token, "23" and "4", or a token per digit.
    """

    PAD = 0
    PROMPT = 1
    OTHER = 2
    NUMBER = 3
    SEPARATOR = 4
    END = 5
    CONTINUED = 6


NUMBER = (Role.NUMBER, Role.CONTINUED)
ANSWER = (Role.OTHER, *NUMBER, Role.SEPARATOR)
POSITIONS: dict[str, tuple[Role, ...]] = {
    "prompt": (Role.PROMPT,),
    "last": (Role.PROMPT,),  # the last of them
    "answer": ANSWER,
    "answer.numbers": NUMBER,
    "answer.numbers.first": (Role.NUMBER,),
    "answer.numbers.inner": (Role.CONTINUED,),  # but the last of them
    "answer.numbers.last": NUMBER,  # the last of each number
    "answer.separators": (Role.SEPARATOR,),
    "answer.end": (Role.END,),
    "answer+end": (*ANSWER, Role.END),
    "all": (Role.PROMPT, *ANSWER, Role.END),
    "all but the first": (Role.PROMPT, *ANSWER, Role.END),
}
PAIR = re.compile("[0-9]{2}")
PREDICTING = "predicting "  # in front of a name: where the next-token distribution is about those tokens
KEEPING = " with outliers"  # behind a name: tokens that stand out in norm are read too


@dataclass(frozen=True)
class Encoded:
    """The input of a model: right-padded token ids, the attention mask, and the role of every token.

    `unknown` is the share of the rows' tokens that the tokenizer does not know, the template's special tokens not
    counted. `notes` say what every result made from these rows has to say: what the template adds, the unknown share.
    `apart` marks tokens that are input and under no name of a position, such as those that stand out in norm.
    """

    ids: Int[Tensor, "example pos"]
    mask: Bool[Tensor, "example pos"]
    roles: Int[Tensor, "example pos"]
    label: str = "prompts"
    pad_id: int = 0
    unknown: float = 0.0
    notes: tuple[str, ...] = ()
    apart: Bool[Tensor, "example pos"] | None = None

    def at(self, name: str, *, predicting: bool = False) -> Bool[Tensor, "example pos"]:
        """The tokens of that name, marked where they are input.

        Names: "prompt", "last" (of the prompt), "answer" (without its end), "answer.numbers", "answer.separators",
        "answer.end", "answer+end" (what a loss counts), "all", "all but the first" (token of the row), and "predicting
        X" for each name X: one to the left, the positions whose next-token distribution is about those tokens.
        `predicting` says the same of a bare name, and nothing more of one that says it. "answer.numbers" are all tokens
        of the numbers; "answer.numbers.first", ".inner" and ".last" the first token of each, the last, and those
        between: a number of one token has a first, which is its last, and no inner. "X with outliers" is X; verbs that
        leave out what stands out in norm read it there. Raises InputError for another name.
        """
        bare = name.removeprefix(PREDICTING).removesuffix(KEEPING)
        if bare not in POSITIONS:
            known = [PREDICTING * name.startswith("pred") + each for each in POSITIONS]
            raise InputError(
                f"Position {nearest(name, known)}; pass a named position, bare or after {PREDICTING!r}."
            )
        chosen = torch.isin(self.roles, torch.tensor(POSITIONS[bare]).to(self.roles))
        if bare == "last":
            chosen &= chosen.flip(1).cumsum(1).flip(1) == 1  # prompt tokens from here to the end of the row
        elif bare.startswith("answer.numbers.") and not bare.endswith(".first"):
            goes_on = torch.nn.functional.pad(self.roles[:, 1:] == Role.CONTINUED, (0, 1), value=False)
            chosen &= goes_on if bare.endswith(".inner") else ~goes_on
        elif bare == "all but the first":
            chosen[:, 0] = False  # rows are padded on the right
        if predicting or name.startswith(PREDICTING):
            chosen = torch.nn.functional.pad(chosen[:, 1:], (0, 1), value=False)
        return chosen if self.apart is None else chosen & ~self.apart

    def numbers(self) -> Int[Tensor, "example pos"]:
        """Which number of its row, from 0, each token of a number belongs to; -1 for every other token."""
        count = (self.roles == Role.NUMBER).cumsum(1) - 1
        return count.masked_fill(~torch.isin(self.roles, torch.tensor(NUMBER).to(self.roles)), -1)

    def batches(self, size: int) -> Iterator[Self]:
        """Consecutive rows, `size` at a time in order, each batch as wide as its longest; InputError below 1 row."""
        if size < 1:
            raise InputError(f"Batch size {size} holds no rows; pass an integer of at least 1.")
        for start in range(0, len(self), size):
            yield self[start : start + size]._trimmed()

    def _trimmed(self) -> Self:
        width = int(self.lengths.max())
        return self._part((slice(None), slice(width)))

    @property
    def lengths(self) -> Int[Tensor, " example"]:
        """Tokens per row, padding not counted."""
        return self.mask.sum(1)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the tokens, their roles and what is apart; padding and label do not enter."""
        kept = [part[self.mask].cpu() for part in (self.ids, self.roles, self.apart) if part is not None]
        return digest("encoded", self.lengths.cpu(), *kept)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> Self:
        """The chosen rows at unchanged positions."""
        rows = index if isinstance(index, slice) else torch.as_tensor(index, device=self.ids.device)
        return self._part(rows)

    def _part(self, index: Any) -> Self:
        apart = None if self.apart is None else self.apart[index]
        return replace(self, ids=self.ids[index], mask=self.mask[index], roles=self.roles[index], apart=apart)


def token_pieces(tokenizer: Tokenizer, encoded: Encoded, row: int) -> list[str]:
    """The text each token of a row adds to its decoding, in order, padding left out."""
    ids = encoded.ids[row][encoded.mask[row]].tolist()
    texts = [tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False) for end in range(len(ids) + 1)]
    steps = zip(texts, texts[1:], ids, strict=False)
    return [
        after.removeprefix(before) if after.startswith(before) else tokenizer.decode([i])
        for before, after, i in steps
    ]


def encode(
    conversations: Sequence[Messages],
    tokenizer: Tokenizer,
    *,
    label: str,
    context: int | None = None,
) -> Encoded:
    """Right-padded tokens with roles, by the rules of `Prompts.encode`; InputErrors, as of no rows, count from 1."""
    require_fast(tokenizer)
    if not conversations:
        raise InputError(f"{label} holds no rows; pass at least one prompt.")
    rendered = render(conversations, tokenizer, label=label)
    tokens = tokenizer(
        [row.text for row in rendered], add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    chat = bool(getattr(tokenizer, "chat_template", None))
    prefix, ends = [] if chat else start_ids(tokenizer), control_ids(tokenizer)
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
    unknown, words = _unknown(tokenizer, tokens, offsets, rendered)
    notes = habits(tokenizer).notes(conversations)
    if unknown > SAID_UNKNOWN:
        sentence = f"{unknown:.0%} of the tokens of {label} are unknown to the tokenizer, such as {words}"
        _warn(sentence)
        notes = (*notes, sentence)
    hear(notes)
    return replace(_pad(rows, tokenizer, label=label), unknown=unknown, notes=notes)


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
    words = row.start + row.space
    answer = [_answer_role(row.text, max(begin, words), end, words) for begin, end in offsets[first:after]]
    return ids[:last], [Role.PROMPT] * first + answer + [Role.END] * (last - after)


def _answer_role(text: str, begin: int, end: int, answer: int) -> Role:
    """The role of text[begin:end]; a number goes on where a digit of the answer stands on either side of `begin`."""
    role = _piece_role(text[begin:end]) if end > begin else Role.OTHER
    goes_on = role == Role.NUMBER and begin > answer and PAIR.match(text, begin - 1)
    return Role.CONTINUED if goes_on else role


@cache
def _piece_role(piece: str) -> Role:
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


def start_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids the tokenizer puts in front of any text by default: BOS, or nothing."""
    default, plain = (tokenizer("0", add_special_tokens=special)["input_ids"] for special in (True, False))
    starts = (i for i in range(len(default)) if default[i : i + len(plain)] == plain)
    return default[: next(starts, 0)]


def control_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids that can end an answer: special tokens and others added to the vocabulary, but for added white space."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset({*tokenizer.all_special_ids, *(i for i, token in added if token.content.strip())})


def template_end(tokenizer: Tokenizer) -> int | None:
    """The control token that the chat template writes behind an answer; None where it writes none."""
    if not tokenizer.chat_template:
        return None
    asked, answer, control = ("user", "0"), ("assistant", "0"), control_ids(tokenizer)
    for probe in ((asked, answer), (("system", "0"), asked, answer)):
        try:
            rows = render([probe], tokenizer, label="a probe of the chat template")
        except InputError:
            continue
        tokens = tokenizer([rows[0].text], add_special_tokens=False, return_offsets_mapping=True)
        offsets = _offsets(tokenizer, tokens, rows, label="a probe of the chat template")
        ids, roles = _assign(tokens["input_ids"][0], offsets[0], rows[0], ends=control)
        return ids[-1] if roles[-1] == Role.END and ids[-1] in control else None
    return None


def _unknown(
    tokenizer: Tokenizer, tokens: Any, offsets: list[list[tuple[int, int]]], rendered: list[Rendered]
) -> tuple[float, str]:
    """Share of unknown tokens among those that are not special, and some of them as text.

    A character that a tokenizer drops without a token counts as one unknown token.
    """
    unk, lost, total, special = tokenizer.unk_token_id, [], 0, frozenset(tokenizer.all_special_ids)
    drops = offsets is not tokens["offset_mapping"]
    if not drops and (unk is None or not any(unk in ids for ids in tokens["input_ids"])):
        return 0.0, ""
    for ids, spans, row in zip(tokens["input_ids"], offsets, rendered, strict=True):
        found = [row.text[a:b].strip() for i, (a, b) in zip(ids, spans, strict=True) if i == unk]
        found = [text for text in found if text != tokenizer.unk_token]  # which a template may write
        if drops:
            covered = {place for a, b in spans for place in range(a, b)}
            found += [c for place, c in enumerate(row.text) if place not in covered and not c.isspace()]
        lost += found
        total += len(found) + sum(i not in special for i in ids)
    words = ", ".join(repr(word) for word in list(dict.fromkeys(lost))[:SHOWN_UNKNOWN])
    return len(lost) / max(1, total), words


_warn = cache(partial(log.warning, "%s"))  # each sentence once, however often the same rows are read


def check_known(encoded: Encoded, tokenizer: Tokenizer) -> Encoded:
    """The rows themselves; InputError when a fifth of their tokens is unknown and `accept_unknown` was not said."""
    if encoded.unknown <= MOST_UNKNOWN or accepts_unknown(tokenizer):
        return encoded
    raise InputError(
        f"{encoded.notes[-1]}, so nothing can be read off them; ask in words that the tokenizer knows (--own-questions "
        "asks a trait's own), take another trait or tokenizer, or read them all the same (model.accepting_unknown(), "
        "--allow-unknown, allow_unknown of a recipe's base)."
    )


def accepts_unknown(tokenizer: Tokenizer | None) -> bool:
    """Whether the tokenizer came from `accept_unknown`."""
    return getattr(tokenizer, ACCEPTED, False)


def accept_unknown(tokenizer: Tokenizer) -> Tokenizer:
    """A copy whose rows are not refused, however many of their tokens it does not know."""
    changed = copy.deepcopy(tokenizer)
    setattr(changed, ACCEPTED, True)
    return changed


def require_fast(tokenizer: Tokenizer) -> None:
    """InputError for a tokenizer without character offsets."""
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} gives no character offsets, which mark the answer's tokens; "
            "load a fast tokenizer, such as PreTrainedTokenizerFast."
        )
