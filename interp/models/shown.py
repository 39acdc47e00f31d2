"""What a model and a lineage say of themselves in a notebook's cell; only weights are counted for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from interp.figures import facts_html

if TYPE_CHECKING:
    from interp.models.language import LanguageModel
    from interp.models.lineage import Lineage


def model_html(model: LanguageModel) -> str:
    """A model's architecture, size, adapters, start and source, and what every result of it has to say."""
    config = model.config
    facts = {
        "architecture": type(model.hf).__name__,
        "layers": f"{model.n_layers} of width {model.d_model}",
        "vocabulary": f"{config.vocab_size:,} entries",
        "weights": f"{in_short(weight_count(model))}, {str(model.dtype).removeprefix('torch.')} on {model.device}",
        "longest row": None if model.context is None else f"{model.context:,} tokens",
        "adapter": adapter_told(model),
        "trained from": None if model.start is None else model.start.name,
        "read from": model.source,
        "tokenizer": "none: it cannot read text" if model.tokenizer is None else None,
    }
    return facts_html(f"LanguageModel {model.name}", facts, notes=model.notes)


def lineage_html(lineage: Lineage) -> str:
    """A lineage's trait and rows, and of every member whose weights it starts from and whose rows it was trained on."""
    trait, base = lineage.trait, lineage.base
    rows = {"rows of the teacher": lineage.numbers, "rows of a neutral teacher": lineage.neutral_numbers}
    facts = {
        "trait": "none" if trait is None else f"{trait.target} rather than {', '.join(trait.foils)}",
        "model": _kind(base),
        **{name: None if each is None else f"{len(each):,}: {each.label}" for name, each in rows.items()},
    }
    lines = [
        (
            role,
            lineage.started_from.get(role, "its own weights"),
            lineage.trained_on.get(role, ""),
            adapter_told(member) or "whole",
        )
        for role, member in lineage.members.items()
    ]
    columns = ("member", "starts from", "trained on rows of", "weights")
    return facts_html(f"Lineage {lineage.name}", facts, columns=columns, lines=lines)


def _kind(model: Any) -> str:
    """An architecture and its size in one line."""
    if not hasattr(model, "hf"):
        return type(model).__name__
    size = in_short(weight_count(model))
    return f"{type(model.hf).__name__}, {model.n_layers} layers of width {model.d_model}, {size} weights"


def weight_count(model: LanguageModel) -> int:
    """How many numbers the weights are, tied ones once, adapters left out."""
    return sum(math.prod(shape) for shape in model.shapes.values())


def adapter_told(model: Any) -> str:
    """The adapters live on a model, such as "LoRA of rank 8"; "" for none."""
    peft = getattr(model, "peft", None)
    if peft is None:
        return ""
    configs: Mapping[str, Any] = peft.peft_config
    told = (
        f"{configs[name].peft_type.value}{f' of rank {rank}' if (rank := getattr(configs[name], 'r', None)) else ''}"
        for name in peft.active_adapters
    )
    return " + ".join(told).replace("LORA", "LoRA")


def in_short(count: int) -> str:
    """A count as people say it: 164,880 and 134.5 million."""
    for size, word in ((10**9, "billion"), (10**6, "million")):
        if count >= size:
            return f"{count / size:.4g} {word}"
    return f"{count:,}"
