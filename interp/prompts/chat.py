"""Chat templates by name, for base models that ship without one: "who speaks", a line break, the words, an end.

    dialogue   User:⏎{question}⏎⏎Assistant:⏎{answer}{eos}
    chatml     <|im_start|>user⏎{question}<|im_end|>⏎<|im_start|>assistant⏎{answer}{eos}

An answer starts after a line break, never after a space, because a byte-level tokenizer joins a space with the word
behind it: rows with and without an answer would then differ in a token before the answer. Every answer is written as
it is and ended by the tokenizer's own end token, the one that stops sampling. A conversation starts with the token that
the tokenizer puts in front of plain text, if there is one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from interp.core.errors import InputError, nearest
from interp.prompts.templates import apply_template
from interp.prompts.text import Prompts, Row
from interp.prompts.tokens import control_ids, start_ids

DIALOGUE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ 'Instructions:\\n' + message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User:\\n' + message['content'] + '\\n\\n' }}"
    "{% else %}{{ 'Assistant:\\n' + message['content'] + eos_token }}"
    "{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '<|im_end|>' }}{% endif %}"
    "{% if not loop.last or message['role'] != 'assistant' %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATES = MappingProxyType({"plain": None, "dialogue": DIALOGUE, "chatml": CHATML})
"""Template text by name; "plain" writes messages one to a line and has no template."""

MARK, ANSWER = "QUESTION", "ANSWER"  # stand for what a user and an assistant say
PROBE = Row((("system", "1"), ("user", "2"), ("assistant", "3, 4"), ("user", "5"), ("assistant", "6, 7")))


def chat_opening(tokenizer: Any) -> str:
    """What the tokenizer's template writes in front of a user's first words; "" without a template."""
    if not getattr(tokenizer, "chat_template", None):
        return ""
    (said,) = apply_template(tokenizer, [(("user", MARK),)], label="a probe of the chat template")
    return said.rpartition(MARK)[0]


def chat_written(tokenizer: Any) -> str:
    """How the tokenizer's template writes a question and its answer; "" without one, or where it refuses answers."""
    if not getattr(tokenizer, "chat_template", None):
        return ""
    try:
        asked = [(("user", MARK), ("assistant", ANSWER))]
        return apply_template(tokenizer, asked, label="a probe of the chat template")[0]
    except InputError:
        return ""


def chat_difference(tokenizer: Any, chat: Mapping[str, Any]) -> tuple[str, str] | None:
    """What a kept chat context says that its template wrote and what the tokenizer's writes, where they differ.

    `chat` is that of a lineage's folder: `opening` is before a user's words, `written` a question with its answer. What
    an older folder does not say is not compared.
    """
    for name, write in (("opening", chat_opening), ("written", chat_written)):
        then = chat.get(name)
        if then is not None and (now := write(tokenizer)) != then:
            return then, now
    return None


def with_template(tokenizer: Any, name: str | Path) -> Any:
    """Copy `tokenizer` so that it writes chats by the named template; the one given is left as it is.

    In the copy the end token is one token wherever it stands in a text, also where the original splits its letters.

    `name` is one of `TEMPLATES`, "own" for the template the tokenizer came with, or the path of a .jinja file.
    Raises InputError for an unknown name, for "own" without a template, for a template that needs an end token the
    tokenizer lacks, and for one that drops or rewrites an answer or ends it in a token that is not special.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> plain = with_template(lineage.base.tokenizer, "plain")
    >>> plain is lineage.base.tokenizer
    False
    """
    if str(name) == "own":
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(
                "The chat template 'own' is asked for, but the tokenizer came without one; "
                f"name one of {', '.join(TEMPLATES)}, or pass the path of a .jinja file."
            )
        return copy.deepcopy(tokenizer)
    template = _template(name)
    if template is not None and "eos_token" in template and tokenizer.eos_token is None:
        raise InputError(
            f"The chat template {str(name)!r} ends answers with the tokenizer's end token, which it does not have; "
            "set tokenizer.eos_token."
        )
    changed = copy.deepcopy(tokenizer)
    if str(name) in TEMPLATES and template is not None and start_ids(tokenizer) == [tokenizer.bos_token_id]:
        template = "{{ bos_token }}" + template
    changed.chat_template = template
    if template is not None:
        _keep_end_whole(changed)
        _check_template(changed, name, template)
    return changed


def _template(name: str | Path) -> str | None:
    if str(name) in TEMPLATES:
        return TEMPLATES[str(name)]
    if not str(name).endswith(".jinja"):
        raise InputError(
            f"Chat template {nearest(str(name), ('own', *TEMPLATES))}; name one, or pass the path of a .jinja file."
        )
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(
            f"The chat template {name} cannot be read ({reason}); pass the path of a .jinja file."
        ) from error


def _keep_end_whole(tokenizer: Any) -> None:
    """Let the end token be found in text, where a tokenizer that normalises text first would split its letters."""
    end = tokenizer.eos_token
    if (
        end is not None
        and tokenizer(f"0{end}", add_special_tokens=False)["input_ids"][-1] != tokenizer.eos_token_id
    ):
        tokenizer.add_special_tokens({"eos_token": end})


def _check_template(tokenizer: Any, name: str | Path, template: str) -> None:
    """Encode a conversation of two turns, without its system line where the template has no place for one."""
    rows = PROBE if "system" in template else Row(PROBE.messages[1:])
    encoded = Prompts((rows,), label=f"the probe of chat template {str(name)!r}").encode(tokenizer)
    if tokenizer.eos_token_id is not None and int(encoded.ids[0, -1]) not in control_ids(tokenizer):
        raise InputError(
            f"The chat template {str(name)!r} writes {tokenizer.decode(encoded.ids[0, -1:])!r} behind an answer and "
            f"not the end token {tokenizer.eos_token!r}, so a model trained on it would never stop; write "
            "{{ eos_token }} or another special token behind the answer, or nothing."
        )
