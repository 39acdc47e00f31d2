"""Where a sampled answer ends and what text it is: one answer for sampling, plain generate, vLLM and elicitation.

ends = {tokenizer's end} ∪ {control token the chat template writes behind an answer} ∪ {ends the checkpoint declares}
text = decode(tokens before the first end), less the space the template puts before an answer
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from interp.core.errors import InputError
from interp.prompts.templates import habits
from interp.prompts.tokens import control_ids, template_end

if TYPE_CHECKING:
    from interp.models.language import LanguageModel

log = logging.getLogger(__name__)


def end_tokens(model: LanguageModel) -> tuple[int, ...]:
    """Ids that end an answer, sorted: the tokenizer's end, the control token its chat template writes behind an answer,
    and every end of the checkpoint's generation configuration.

    Raises InputError for a model without any.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError(f"{model.name} has no tokenizer; load it with tokenizer=")
    known = [tokenizer.eos_token_id, template_end(tokenizer), *_declared(model)]
    ends = tuple(sorted({int(token) for token in known if token is not None}))
    if not ends:
        raise InputError(
            f"{model.name} has no end token, so its answers would never end; set tokenizer.eos_token to the text that "
            "ends an answer"
        )
    return ends


def other_ends(model: LanguageModel) -> tuple[int, ...]:
    """The ends that the checkpoint's generation configuration adds to those of its tokenizer: what no key over weights
    and tokenizer holds."""
    own = {model.tokenizer.eos_token_id, template_end(model.tokenizer)}
    return tuple(end for end in end_tokens(model) if end not in own)


def _declared(model: LanguageModel) -> list[int]:
    """The ends of the generation configuration that lie within the vocabulary."""
    declared = getattr(getattr(model.hf, "generation_config", None), "eos_token_id", None)
    ids = declared if isinstance(declared, (list, tuple)) else [] if declared is None else [declared]
    known = [int(token) for token in ids if 0 <= int(token) < len(model.tokenizer)]
    for token in sorted({*known} - control_ids(model.tokenizer)):
        _say(model.name, model.tokenizer.decode([token]))
    return known


@cache
def _say(name: str, text: str) -> None:
    log.warning("%s declares %r, an ordinary token, to end an answer", name, text)


def cut(tokens: Sequence[Sequence[int]], ends: Sequence[int]) -> list[list[int]]:
    """Every row up to its first end."""
    stops = frozenset(ends)
    return [list(row[: next((i for i, t in enumerate(row) if t in stops), len(row))]) for row in tokens]


def answer_texts(tokenizer: Any, tokens: Sequence[Sequence[int]], ends: Sequence[int]) -> list[str]:
    """Each row's answer as the words a row holds: up to its end, without the space that the template writes before."""
    texts = tokenizer.batch_decode(cut(tokens, ends), skip_special_tokens=True)
    space = habits(tokenizer).space
    return [text.removeprefix(space) for text in texts]
