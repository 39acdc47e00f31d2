"""The base of a lineage folder that does not hold its checkpoint: from that checkpoint, and from no other.

It is known by its weights' fingerprint, and its chats must open as those opened that the members were trained on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from interp.core.errors import InputError
from interp.models.kept import how_to_get, kept_name
from interp.models.language import LanguageModel, load_model
from interp.models.merging import merge_adapter
from interp.prompts.chat import chat_difference, with_template


def given_base(
    folder: Path,
    entry: Mapping[str, Any],
    base: Any,
    *,
    chat: Mapping[str, Any],
    device: str | torch.device,
    check: bool,
) -> LanguageModel:
    """The base that `entry` of the manifest describes, from the checkpoint given or from where it was read before.

    Raises InputError where there is none, for other weights, and for chats that open otherwise than `chat` says.
    """
    if base is None and entry["source"] and Path(entry["source"]).exists():
        base = entry["source"]
    if base is None:
        raise InputError(
            f"{kept_name(folder.parent)} does not hold its base's checkpoint, which was read from {entry['source']!r}; "
            f"{how_to_get(folder.parent)}"
        )
    model = base
    if not isinstance(base, LanguageModel):
        model = load_model(base, dtype=entry["dtype"], device=device, check=check)
    if (weights := model.backbone.fingerprint) != entry["on"]:
        raise InputError(
            f"base={told_source(base)} has weights {weights} and the adapters in {folder.parent} are for "
            f"{entry['on']}; pass the checkpoint they were trained on"
        )
    model = _speaking(model, chat, told_source(base), folder.parent)
    if entry["kind"] == "given":
        return dataclasses.replace(model, name=folder.name)
    return merge_adapter(model, folder, name=folder.name)


def told_source(source: Any) -> str:
    """A source as a message calls it."""
    if isinstance(source, LanguageModel):
        return repr(source.name)
    return repr(str(source))[:80] if isinstance(source, str | Path) else f"<{type(source).__name__}>"


def _speaking(model: LanguageModel, chat: Mapping[str, Any], name: str, folder: Path) -> LanguageModel:
    """The model with the chat template that the folder names; InputError where that writes chats otherwise."""
    if chat.get("opening") is None or model.tokenizer is None:
        return model
    template = str(chat.get("template") or "own")
    if template != "own":
        model = dataclasses.replace(model, tokenizer=with_template(model.tokenizer, template))
    if (differ := chat_difference(model.tokenizer, chat)) is not None:
        then, now = differ
        date = chat.get("date")
        advice = f"set INTERP_TEMPLATE_DATE={date}, or " if date else ""
        raise InputError(
            f"the members in {folder} read chats written as {then!r}, and base={name} writes {now!r}; {advice}pass "
            "the checkpoint with the tokenizer and template they were trained by"
        )
    return model
