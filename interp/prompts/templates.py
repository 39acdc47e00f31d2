"""Conversations as text: where an answer begins, which date a template sees, which system line it adds by itself.

    asked      = template(messages, add_generation_prompt=True)       what a model continues
    answered   = template(messages + answer) = asked + space + answer + end

An answer begins where the template's own generation prompt stops; white space that the template writes behind it is
the answer's, since a model has to write it. What a template does besides is found once, by rendering probes.
"""

import datetime
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from interp.core.errors import InputError
from interp.core.provenance import template_date

log = logging.getLogger(__name__)

Messages = tuple[tuple[str, str], ...]
Tokenizer = Any  # a fast transformers tokenizer, whose own annotations are unions of everything
MARKER = (
    "\u2983answer\u2984"  # stands for the answer while a template is rendered, to find where it writes one
)
QUESTION, LATER, SYSTEM = "\u2983question\u2984", "\u2983later\u2984", "\u2983system\u2984"
BARE = re.compile(r"[0-9]+(?:[ ,;\n]+[0-9]+)*")  # an answer that no template has a reason to rewrite
DIRECTIVES = "aAbBcdfGHIjmMpSuUVwWxXyYzZ"
COMPOSED = {"F": "%Y-%m-%d", "T": "%H:%M:%S", "D": "%m/%d/%y", "R": "%H:%M", "h": "%b"}
SHOWN = 160  # characters of a template's own text that a note quotes


@dataclass(frozen=True)
class Rendered:
    """A conversation as text; the answer is text[start:stop], and there is none when `answered` is false.

    The first `space` characters of the answer are the template's, which stand behind its generation prompt.
    """

    text: str
    start: int
    stop: int
    answered: bool
    space: int = 0


@dataclass(frozen=True)
class Habits:
    """What a tokenizer's template does of itself: see `habits`.

    `space` stands between generation prompt and answer; `ignores` says that the template has no generation prompt and
    writes more than space before an answer; `between` is such text where it has one. `system` is the system line it
    adds to a conversation without one, or other text of its own; `dated` whether it writes a date.
    """

    space: str = ""
    ignores: bool = False
    between: str = ""
    system: str = ""
    dated: bool = False
    said: tuple[str, ...] = ()

    def notes(self, conversations: Sequence[Messages]) -> tuple[str, ...]:
        """Sentences on what these rows, or without any all rows, hold that nobody wrote into them."""
        alone = not conversations or any(messages[0][0] != "system" for messages in conversations)
        system = f"the chat template adds a system line of its own to rows without one: {_short(self.system)}"
        date = (
            f"the chat template writes a date, which is {template_date()} (INTERP_TEMPLATE_DATE sets another)"
        )
        return (*([system] if self.system and alone else []), *([date] if self.dated else []), *self.said)


_KNOWN: WeakKeyDictionary[Any, dict[Any, Habits]] = WeakKeyDictionary()
_PARTS: WeakKeyDictionary[Any, dict[str, bool]] = WeakKeyDictionary()


def render(conversations: Sequence[Messages], tokenizer: Tokenizer, *, label: str) -> list[Rendered]:
    """Every conversation as the text a model reads; one without an answer is the template's own generation prompt.

    Where an answer stands is found by rendering a stand-in for it. A template without a generation prompt that writes
    a header before an answer has the text up to the answer for one. Raises InputError for a template that drops or
    rewrites the answer.
    """
    if not getattr(tokenizer, "chat_template", None):
        return [_render_plain(messages) for messages in conversations]
    found = habits(tokenizer)
    answered = [m for m in conversations if answer_of(m) or found.ignores]
    done = iter(_place_answers(answered, tokenizer, found, label=label))
    bare = [m for m in conversations if not (answer_of(m) or found.ignores)]
    asked = iter(apply_template(tokenizer, [asked_of(m) for m in bare], label=label, generate=True))
    return [next(done) if answer_of(m) or found.ignores else _unanswered(next(asked)) for m in conversations]


def _place_answers(
    conversations: Sequence[Messages], tokenizer: Tokenizer, found: Habits, *, label: str
) -> Iterator[Rendered]:
    marked = [(*asked_of(messages), ("assistant", MARKER)) for messages in conversations]
    texts = apply_template(tokenizer, marked, label=label)
    wordy = [m for m in conversations if not BARE.fullmatch(answer_of(m) or "0")]
    full = dict(zip(wordy, apply_template(tokenizer, wordy, label=label), strict=True))
    for index, (messages, text) in enumerate(zip(conversations, texts, strict=True)):
        head, marker, tail = text.rpartition(MARKER)
        answer = answer_of(messages)
        row = _place_answer(answer, full.get(messages, head + answer + tail), head=head, tail=tail)
        if row is None or not marker:
            raise InputError(
                f"Row {index + 1} of {label}: the chat template drops or rewrites the answer, so its tokens "
                "cannot be found; set tokenizer.chat_template to one that writes the answer as it is."
            )
        yield _with_space(row, found.space)


def _place_answer(answer: str, text: str, *, head: str, tail: str) -> Rendered | None:
    """Where the answer sits in the rendered text; None when more than the space around it was changed."""
    if not answer:
        return _unanswered(head)
    row = Rendered(text, len(head), len(text) - len(tail), answered=True)
    found = text[row.start : row.stop]
    intact = text.startswith(head) and text.endswith(tail) and found.strip() == answer.strip()
    return row if intact else None


def _with_space(row: Rendered, space: str) -> Rendered:
    """The answer with the template's space before it; a row without an answer stops before that space."""
    if not space or not row.text[: row.start].endswith(space):
        return row
    start = row.start - len(space)
    if not row.answered:
        return _unanswered(row.text[:start])
    return Rendered(row.text, start, row.stop, answered=True, space=len(space))


def _unanswered(text: str) -> Rendered:
    return Rendered(text, len(text), len(text), answered=False)


def _render_plain(messages: Messages) -> Rendered:
    head = "".join(f"{content}\n" for _, content in asked_of(messages))
    answer = answer_of(messages)
    return Rendered(head + answer, len(head), len(head) + len(answer), answered=bool(answer))


def asked_of(messages: Messages) -> Messages:
    """The messages before the answer."""
    return messages[:-1] if messages[-1][0] == "assistant" else messages


def answer_of(messages: Messages) -> str:
    """The answer, "" where there is none."""
    return messages[-1][1] if messages[-1][0] == "assistant" else ""


def apply_template(
    tokenizer: Tokenizer,
    conversations: Sequence[Messages],
    *,
    label: str,
    generate: bool = False,
    date: datetime.date | None = None,
) -> list[str]:
    """The template's text for every conversation, with its generation prompt if `generate`, on a fixed date.

    Raises InputError where the template refuses one.
    """
    from jinja2 import TemplateError

    if not conversations:
        return []
    parts = takes_parts(tokenizer)
    chats = [[_message(seat, text, parts=parts) for seat, text in messages] for messages in conversations]
    try:
        return tokenizer.apply_chat_template(
            chats, tokenize=False, add_generation_prompt=generate, **_on_a_day(tokenizer, date)
        )
    except TemplateError as error:
        raise InputError(
            f"The chat template refuses a conversation of {label} ({error.message}); "
            "change its messages, or put a system message's text into the user's."
        ) from error


def _message(seat: str, text: str, *, parts: bool) -> dict[str, Any]:
    return {"role": seat, "content": [{"type": "text", "text": text}] if parts else text}


def takes_parts(tokenizer: Tokenizer) -> bool:
    """Whether the template writes a message's text only where it comes as a list of parts, as multimodal ones do.

    Raises InputError for a template that writes the user's words in neither form.
    """
    known, template = _PARTS.setdefault(tokenizer, {}), str(tokenizer.chat_template)
    if template not in known:
        texts = [_tried(tokenizer, parts=parts) for parts in (False, True)]
        writes = [QUESTION.lower() in (text or "").lower() for text in texts]
        if not any(writes) and texts[0] is not None:  # a refusal is said when rows are read
            raise InputError(
                "The chat template leaves out what the user says, so rows would be read without it; set "
                "tokenizer.chat_template to one that writes message['content']."
            )
        known[template] = writes == [False, True]
    return known[template]


def _tried(tokenizer: Tokenizer, *, parts: bool) -> str | None:
    from jinja2 import TemplateError

    chat, day = [_message("user", QUESTION, parts=parts)], _on_a_day(tokenizer, None)
    try:
        return tokenizer.apply_chat_template(chat, tokenize=False, **day)
    except (TemplateError, TypeError):  # it joins texts, and got a list
        return None


# --- which date it sees ----------------------------------------------------------------------------------------------


def _on_a_day(tokenizer: Tokenizer, date: datetime.date | None) -> dict[str, str]:
    """Arguments that give a template which asks for today's date a fixed one: nothing for any other template.

    A template's own date_string is replaced where $INTERP_TEMPLATE_DATE is set, and stays what it is otherwise.
    """
    given = tokenizer.chat_template
    template = tokenizer.get_chat_template() if isinstance(given, dict) else given
    asks, named = "strftime_now" in template, "date_string" in template
    if not asks and not named:
        return {}
    chosen = date is not None or bool(os.environ.get("INTERP_TEMPLATE_DATE"))
    date = date or fixed_date()
    words = {"date_string": date.strftime("%d %b %Y")} if named and chosen else {}
    return words | ({"chat_template": _clock(date) + template} if asks else {})


def _clock(date: datetime.date) -> str:
    """A macro in front of a template that answers strftime_now(format) with one date, at midnight."""
    moment = datetime.datetime.combine(date, datetime.time())
    words = {f"%{letter}": moment.strftime(f"%{letter}") for letter in DIRECTIVES}
    words |= {f"%{letter}": moment.strftime(form) for letter, form in COMPOSED.items()}
    bare = {f"%-{key[1]}": word.lstrip("0") or "0" for key, word in words.items() if word.isdigit()}
    steps = [("%%", "\u2983"), *bare.items(), *words.items(), ("%e", f"{moment.day:2d}")]
    chain = "".join(f" | replace({old!r}, {new!r})" for old, new in [*steps, ("\u2983", "%")])
    return "{% macro strftime_now(format) %}{{ format" + chain + " }}{% endmacro %}\n"


def fixed_date() -> datetime.date:
    """The date that templates see; InputError for an $INTERP_TEMPLATE_DATE that is none."""
    text = template_date()
    try:
        if re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            return datetime.date.fromisoformat(text)
    except ValueError:
        pass
    raise InputError(
        f"INTERP_TEMPLATE_DATE={text!r} is no date; write it as YEAR-MONTH-DAY, such as 2025-01-31."
    )


def template_key(tokenizer: Tokenizer) -> str | None:
    """What a key over chats has to hold: the template and, where it writes one, the date; None without a template."""
    template = tokenizer.chat_template
    return f"{template_date()} {template}" if template and habits(tokenizer).dated else template


# --- what it does of itself ------------------------------------------------------------------------------------------


def habits(tokenizer: Tokenizer) -> Habits:
    """What the template does beside writing messages, found when it is first used and logged then."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return Habits()
    known = _KNOWN.setdefault(tokenizer, {})
    key = (str(template), len(tokenizer), template_date())
    if key not in known:
        known[key] = _probed(tokenizer)
        for sentence in known[key].notes(()):
            log.info("%s", sentence)
    return known[key]


def _probed(tokenizer: Tokenizer) -> Habits:
    asked = (("user", QUESTION),)
    try:
        plain, prompt = (apply_template(tokenizer, [asked], label="", generate=g)[0] for g in (False, True))
        full = apply_template(tokenizer, [(*asked, ("assistant", MARKER))], label="")[0]
    except InputError:
        return Habits()
    head, marker, _ = full.rpartition(MARKER)
    facts = {"system": _own_line(tokenizer, plain), "dated": _dated(tokenizer, asked, plain)}
    if not marker or head == prompt:
        return Habits(**facts, said=_joins(tokenizer, prompt))
    rest = head.removeprefix(prompt) if head.startswith(prompt) else None
    if rest is not None and not rest.strip():
        return Habits(space=rest, **facts, said=_joins(tokenizer, prompt, rest))
    if prompt == plain:
        space = head[len(head.rstrip()) :]
        space = space if _joins(tokenizer, head) else ""
        return Habits(space=space, ignores=True, **facts, said=(_no_prompt(head, plain),))
    return Habits(between=rest or "", **facts, said=(_unlike(tokenizer, prompt, head, rest),))


def _no_prompt(head: str, plain: str) -> str:
    own = head.removeprefix(plain)
    return (
        f"the chat template ignores add_generation_prompt, so rows without an answer end in {own.rstrip()!r}, "
        "which it writes before an answer"
    )


def _unlike(tokenizer: Tokenizer, prompt: str, head: str, rest: str | None) -> str:
    if rest is None:
        shared = _alike(prompt, head)
        return (
            f"the chat template's generation prompt ends in {prompt[shared:]!r} where a row with an answer has "
            f"{head[shared:]!r} before it: rows with and without an answer are read behind different texts"
        )
    advice = "; '{% set enable_thinking = false %}' in front of the template puts both behind it"
    return (
        f"the chat template writes {rest!r} between its generation prompt and an answer: rows with an answer are read "
        f"behind it, rows without one stop before it{advice * ('enable_thinking' in str(tokenizer.chat_template))}"
    )


def _joins(tokenizer: Tokenizer, prompt: str, space: str = "") -> tuple[str, ...]:
    """A sentence when the last tokens of a prompt are others where the first word of an answer follows."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    alone = ids(prompt)
    if all(ids(f"{prompt}{space}{word}")[: len(alone)] == alone for word in ("The", "7")):
        return ()
    return (
        f"the tokenizer reads the end of the generation prompt, {prompt[-8:]!r}, as other tokens where an answer "
        "follows: rows with and without an answer differ there",
    )


def _dated(tokenizer: Tokenizer, asked: Messages, plain: str) -> bool:
    """Whether another day is another text."""
    if not _on_a_day(tokenizer, None) and "date_string" not in str(tokenizer.chat_template):
        return False
    days = (datetime.date(1999, 12, 31), datetime.date(2031, 3, 5))
    try:
        texts = {apply_template(tokenizer, [asked], label="", generate=True, date=day)[0] for day in days}
    except InputError:
        return False
    return len(texts) > 1 and bool(_on_a_day(tokenizer, None))


def _own_line(tokenizer: Tokenizer, plain: str) -> str:
    """The system line a template adds to a conversation without one, or what else it writes before the first word.

    Its place is where the system line of a conversation that has one stands; else it is what the first question has
    before it and a later one has not.
    """
    before = plain.partition(QUESTION)[0]
    try:
        with_line = apply_template(tokenizer, [(("system", SYSTEM), ("user", QUESTION))], label="")[0]
        left, found, right = with_line.partition(QUESTION)[0].partition(SYSTEM)
        inner = len(before) - len(left) - len(right)
        if found and inner > 0 and before.startswith(left) and before.endswith(right):
            return before[len(left) : len(left) + inner].strip()
    except InputError:
        pass
    turns = (("user", QUESTION), ("assistant", MARKER), ("user", LATER))
    try:
        text = apply_template(tokenizer, [turns], label="")[0]
    except InputError:
        return ""
    between = text.partition(MARKER)[2].partition(LATER)[0]
    first, later = (_units(tokenizer, part) for part in (before, between))
    shared = _alike(first[::-1], later[::-1])
    own = [unit for unit in first[: len(first) - shared] if len(unit) == 1]
    line = " ".join("".join(own).split())
    return line if re.search(r"\w", line) else ""


def _units(tokenizer: Tokenizer, text: str) -> list[str]:
    """The text as special and other added tokens whole, and all else by character."""
    marks = sorted((m for m in tokenizer.get_added_vocab() if len(m) > 1), key=len, reverse=True)
    pattern = "|".join([*map(re.escape, marks), "."])
    return re.findall(pattern, text, flags=re.DOTALL)


def _alike(one: Sequence[str], other: Sequence[str]) -> int:
    """How many elements two sequences have in common from the first."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} ... {text[-SHOWN // 2 :]}")
