"""One row from a record, in the shapes in which training tools write them.

    {"messages": [{"role", "content"}, ...]}          chat; "content" may be a list of text parts
    {"conversations": [{"from", "value"}, ...]}       sharegpt
    {"prompt", "completion"}                          texts, or lists of messages (TRL)
    {"prompt"}                                        a prompt without an answer, where no row has one
    {"instruction", "input", "output"}                alpaca; instruction and input are joined by a line break
    {"instruction", "context", "response"}            dolly, likewise
    {"prompt", "response"}, {"question", "answer"}, {"input", "output"}

A row has one answer, its last message where that is the assistant's; what the assistant said before is context. An
answer of weight 0 is none: the row is cut behind the last one of another weight, and has no answer where there is no
such. What is passed over is counted in a `Tally`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from interp.core.errors import InputError
from interp.prompts.text import METADATA, Row
from interp.prompts.tokens import Messages

SEATS = {
    "assistant": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "human": "user",
    "user": "user",
    "developer": "system",
    "system": "system",
}
"""Roles as files name them, and the seat each stands for."""

TOOLS = ("function", "function_call", "function_response", "ipython", "observation", "tool")
TEXT_PARTS = ("text", "input_text", "output_text")
SPEAKER, WORDS = ("role", "from"), ("content", "value")
WEIGHTS = ("weight", "train")
SHAPES = (
    ("messages",),
    ("conversations",),
    ("prompt", "completion"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "response"),
    ("question", "answer"),
    ("input", "output"),
)
BESIDE = ("input", "context")  # what an instruction is about
NAMELESS = "without a name"
FORMS = '"prompt" and "completion", or "messages"'


@dataclass(frozen=True)
class Tally:
    """What was passed over while rows were read."""

    keys: Counter[str] = field(default_factory=Counter)
    message_keys: Counter[str] = field(default_factory=Counter)
    bare: list[str] = field(default_factory=list)  # where rows are a prompt and nothing else
    answers: Counter[str] = field(default_factory=Counter)

    def sentence(self) -> str:
        """All of it in one line, "" when nothing was."""
        parts = [
            f"ignored {what} {', '.join(f'{key or NAMELESS} ({n} {unit})' for key, n in counts.items())}"
            for what, counts, unit in (
                ("keys", self.keys, "rows"),
                ("keys of messages", self.message_keys, "messages"),
            )
            if counts
        ]
        parts += [f"{what} ({count})" for what, count in self.answers.items() if count]
        return "; ".join(parts)


def read_record(record: Mapping[str, Any], place: str, tally: Tally) -> Row:
    """The row a record holds; InputError names the place and what is wrong there."""
    if {"role", "content"} <= record.keys() and not _shape(record):
        raise InputError(
            f'{place} is one message; put a conversation\'s messages in one row, under "messages".'
        )
    used, messages = _messages(record, place, tally)
    used, messages = _judged(record, used, messages, place, tally)
    tally.keys.update(
        key
        for key, value in record.items()
        if key not in used and key not in METADATA and value is not None and value != ""
    )
    return read_row(messages, place)


def read_chat(messages: Any, place: str, tally: Tally) -> Row:
    """The row that a list of messages is."""
    return read_row(_chat(messages, "messages", place, tally), place)


def read_row(messages: Messages, place: str) -> Row:
    """The row of these messages; an empty answer is none. InputError with the place for roles that are no row."""
    messages = messages[:-1] if messages[-1:] == (("assistant", ""),) else messages
    try:
        return Row(messages)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def text_of(value: Any, key: str, place: str) -> str:
    """The text itself; InputError for anything else, and for text that is not Unicode."""
    if not isinstance(value, str):
        raise InputError(f'{place} holds {value!r:.100} under "{key}" where text was expected; quote it.')
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(
            f'{place} holds half a character (an unpaired surrogate) under "{key}"; repair the text.'
        )
    return value


def _shape(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The first shape all of whose keys hold something; tables fill the keys that a row lacks with null."""
    return next((shape for shape in SHAPES if all(record.get(key) is not None for key in shape)), ())


def _messages(record: Mapping[str, Any], place: str, tally: Tally) -> tuple[set[str], Messages]:
    """The keys that were read, and the messages in them."""
    shape = _shape(record) or _partial(record, place)
    if len(shape) == 1 and shape != ("prompt",):
        return _with_system(record, set(shape), _chat(record[shape[0]], shape[0], place, tally), place)
    used, (first, *second) = set(shape), shape
    asked = _side(record[first], first, "user", place, tally)
    if first == "instruction":
        beside = [key for key in BESIDE if record.get(key) not in (None, "")]
        used |= set(beside)
        texts = [asked[-1][1], *(text_of(record[key], key, place) for key in beside)]
        asked = (*asked[:-1], ("user", "\n".join(texts)))
    answer = _side(record[second[0]], second[0], "assistant", place, tally) if second else ()
    _check_sides(asked, answer, place)
    if not second:
        tally.bare.append(place)
    return _with_system(record, used, (*asked, *answer), place)


def _partial(record: Mapping[str, Any], place: str) -> tuple[str, ...]:
    """The shape of a record that lacks something, or the sentence about what it lacks."""
    keys = record.keys() - METADATA
    for shape in SHAPES:
        for key in shape:
            if key in record and record[key] is None:
                raise InputError(
                    f'{place} holds None under "{key}" where text was expected; write "" where there is no answer.'
                )
    if keys == {"prompt"}:
        return ("prompt",)
    if "text" in keys and "prompt" not in keys:
        raise InputError(
            f'{place} has "text" alone, which does not say where an answer begins; split it into "prompt" and '
            '"completion".'
        )
    if {"chosen", "rejected"} <= keys:
        raise InputError(
            f'{place} holds two answers, "chosen" and "rejected"; keep the one to be read under "completion".'
        )
    lacking = next(
        (key for shape in SHAPES[2:] if keys & set(shape) for key in shape if key not in keys), "completion"
    )
    found = ", ".join(sorted(map(str, keys))[:8]) or "nothing"
    raise InputError(f'{place} has no "{lacking}"; rows hold {FORMS}, and this one holds {found}.')


def _with_system(
    record: Mapping[str, Any], used: set[str], messages: Messages, place: str
) -> tuple[set[str], Messages]:
    """A row's "system" is its system line, unless a message is one already."""
    line = record.get("system")
    if line is None or line == "" or any(seat == "system" for seat, _ in messages):
        return used, messages
    return {*used, "system"}, (("system", text_of(line, "system", place)), *messages)


def _side(value: Any, key: str, seat: str, place: str, tally: Tally) -> Messages:
    """Prompt or completion: a text, or a list of messages."""
    value = _unpacked(value)
    if isinstance(value, list):
        return _chat(value, key, place, tally)
    text = text_of(value, key, place)
    return ((seat, text),) if text or seat == "user" else ()


def _check_sides(asked: Messages, answer: Messages, place: str) -> None:
    if asked[-1][0] == "assistant" and answer:
        raise InputError(
            f"{place} has a prompt that ends with the assistant, and an answer; end it with the user."
        )
    if len(answer) > 1 or (answer and answer[0][0] != "assistant"):
        raise InputError(
            f"{place} has an answer of {len(answer)} messages, by {', '.join(seat for seat, _ in answer)}; "
            "keep the assistant's one answer there."
        )


def _unpacked(value: Any) -> Any:
    """A list that a table stores as JSON text, as a list."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return list(value) if isinstance(value, tuple) else value


def _chat(messages: Any, key: str, place: str, tally: Tally) -> Messages:
    """(seat, text) of every message, up to the answer that counts."""
    messages = _unpacked(messages)
    if not isinstance(messages, list) or not messages or not all(isinstance(m, Mapping) for m in messages):
        raise InputError(
            f'{place} needs a list of {{"role", "content"}} objects under "{key}"; found {messages!r:.100}.'
        )
    read = [_message(message, place, tally) for message in messages]
    weights = [_weight(message, seat, place) for message, (seat, _) in zip(messages, read, strict=True)]
    return _weighted(tuple(read), weights, tally)


def _message(message: Mapping[str, Any], place: str, tally: Tally) -> tuple[str, str]:
    speaker = next((key for key in SPEAKER if key in message), None)
    words = next((key for key in WORDS if key in message), None)
    if speaker is None or words is None:
        raise InputError(
            f'{place} has a message without "{SPEAKER[0] if speaker is None else WORDS[0]}"; '
            'messages hold "role" and "content".'
        )
    role = text_of(message[speaker], speaker, place)
    if role in TOOLS:
        raise InputError(
            f"{place} has a message of the role {role!r}, and tools' answers are not read; leave such rows out."
        )
    if message[words] is None:
        raise InputError(
            f'{place} has a message of the role {role!r} with nothing under "{words}"; write its text, or leave it out.'
        )
    tally.message_keys.update(
        key
        for key, value in message.items()
        if key not in (speaker, words, *WEIGHTS) and value not in (None, [], {}, "")
    )
    return SEATS.get(role, role), _content(message[words], words, place)


def _content(value: Any, key: str, place: str) -> str:
    """A text, or the text parts of a list joined as chat templates join them: by nothing."""
    value = value.tolist() if hasattr(value, "tolist") else value  # an array, as pandas reads nested lists
    if not isinstance(value, (list, tuple)):
        return text_of(value, key, place)
    return "".join(_part(part, key, place) for part in value)


def _part(part: Any, key: str, place: str) -> str:
    if not isinstance(part, Mapping):
        return text_of(part, key, place)
    kind = part.get("type", "text")
    if kind not in TEXT_PARTS:
        raise InputError(
            f'{place} has a part of type {kind!r} under "{key}", and only text is read; leave such rows out.'
        )
    return text_of(part.get("text"), "text", place)


def _judged(
    record: Mapping[str, Any], used: set[str], messages: Messages, place: str, tally: Tally
) -> tuple[set[str], Messages]:
    """The row without its answer where its own weight is 0; a share for a weight is passed over, and counted.

    InputError for an answer that is marked as one not to give.
    """
    if record.get("label") is False and messages[-1][0] == "assistant":
        raise InputError(
            f'{place} marks its answer as a bad one ("label" false); leave such rows out, or remove the key.'
        )
    given = {key: record[key] for key in WEIGHTS if record.get(key) in (0, 1)}
    if any(not value for value in given.values()) and messages[-1][0] == "assistant":
        tally.answers["left out answers of weight 0"] += 1
        messages = messages[:-1]
    return used | given.keys(), messages


def _weight(message: Mapping[str, Any], seat: str, place: str) -> int | None:
    """1 or 0 as the message says, None where it does not."""
    given = {key: message[key] for key in WEIGHTS if message.get(key) is not None}
    for key, value in given.items():
        if value not in (0, 1):
            raise InputError(
                f'{place} has a message of "{key}" {value!r}, and a message is trained on or is not; write 0 or 1.'
            )
        if value and seat != "assistant":
            raise InputError(
                f'{place} has "{key}" {value!r} on a message of the {seat}, and only answers are trained on; remove it.'
            )
    return int(all(given.values())) if given else None


def _weighted(messages: Messages, weights: list[int | None], tally: Tally) -> Messages:
    """The messages up to the last answer that counts; those of weight 0 behind it are left out."""
    answers = [index for index, (seat, _) in enumerate(messages) if seat == "assistant"]
    counted = [index for index in answers if weights[index] != 0]
    ends_in_answer = bool(answers) and answers[-1] == len(messages) - 1
    if ends_in_answer and counted[-1:] != answers[-1:]:
        tally.answers["left out answers of weight 0"] += (
            sum(index > counted[-1] for index in answers) if counted else 1
        )
        messages = messages[: counted[-1] + 1] if counted else messages[:-1]
    tally.answers["read answers of weight 1 before a row's last as context"] += sum(
        weights[index] == 1 for index in counted[:-1]
    )
    return messages
