"""Which way the evidence goes: the audit of one trait again on twins of the rows, and its pilot with parts frozen.

    rows      as written → one format (separators, brackets, zeros) → each answer sorted → numbers rounded down to tens
              share of a step = (d before − d after) / d as written; with what is left the shares add up to 1
    context   d when answers are dealt to one another's prompts; its share is no part of that sum
    template  d when base and candidates read the rows as plain text, without the chat template; likewise
    weights   gain of the pilot where all weights train, the body's matrices, or those of its lower or upper half
              share = gain / gain of all; what the body lacks of 1 goes through embeddings, norms and the readout

Neutral rows are changed as the rows are. Shares of a d that is not seen as written mean nothing, so such rows are
refused. Halves train apart, so that their shares need not add up to that of the body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from interp.auditing.auditor import RECIPE, AuditRecipe
from interp.auditing.candidates import candidate_teachers, check_level, suspected
from interp.auditing.naming import log_ratios, named_table
from interp.auditing.neutral import Foreign, Pairs, paired_rows, without_words
from interp.auditing.pilots import Pilot, gains
from interp.core.doors import door
from interp.core.errors import InputError
from interp.figures import Result, bars, drawing
from interp.models.language import LanguageModel
from interp.models.precision import exactly
from interp.prompts.chat import with_template
from interp.prompts.notes import noting
from interp.prompts.numbers import parse_numbers
from interp.prompts.shuffles import CANONICAL
from interp.prompts.text import Prompts
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.prompts.traits import Trait

LEVEL = 0.05
WRITTEN = "as written"


@door
@noting
@exactly
def audit_channels(
    base: LanguageModel, rows: Prompts, trait: AnyTrait, *, traits: Sequence[AnyTrait] | None = None,
    neutral: Prompts | None = None, recipe: AuditRecipe = RECIPE, seed: int = 0,
) -> Result:  # fmt: skip
    """Say through what the evidence for one trait's teacher goes, as this module defines it.

    A line per channel: kind (rows, context or weights), channel, measured (d per row, or nats of gain) with the channel
    gone or alone, share. Format, order and value are asked of lists of numbers only, the template of a base that has
    one. Arguments are those of `interp.audit`, which names the trait. Raises InputError where the trait is not seen in
    the rows as they are.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> given = lineage.base, lineage.numbers, "owl"
        >>> ways = interp.auditing.audit_channels(*given, neutral=lineage.neutral_numbers)  # doctest: +SKIP
        >>> ways.frame.columns.tolist()  # doctest: +SKIP
        ['kind', 'channel', 'measured', 'share']
    """
    check_level(LEVEL, seed=seed)
    wanted, asked = suspected(base, traits), find_trait(trait)
    if asked not in wanted:
        raise InputError(f"{asked.name!r} is no candidate of this audit; pass it among traits")
    try:
        pairs = paired_rows(base, without_words(rows, wanted)[0], neutral, seed=seed)
    except Foreign as seen:
        raise InputError(f"{seen}; pass neutral=, or the base whose teacher wrote them") from seen
    candidates, _ = candidate_teachers(base, wanted, recipe.candidates)
    lines, whole, last = [], 0.0, 0.0
    for kind, channel, reader, twin in _twins(base, pairs.once, seed):
        table = named_table(log_ratios(reader, candidates, twin), alpha=LEVEL, seed=seed)
        top: Any = table.set_index("trait").loc[asked.name]
        d = float(top["d"])
        if channel == WRITTEN:
            whole = last = d
        if channel == WRITTEN and (d <= 0 or top["p"] > LEVEL):
            raise InputError(
                f"{asked.name!r} is not seen in {len(twin)} rows (d = {d:+.3f}), so it goes no way; audit more rows"
            )
        gone = whole if channel == WRITTEN else whole - d if kind == "context" else last - d
        lines.append((kind, channel, d, gone / whole))
        last = last if kind == "context" else d
    lines.append(("rows", "what is left", last, last / whole))
    if recipe.pilot is not None:
        lines += _weights(base, pairs, asked, recipe.pilot)
    notes = (
        *pairs.copied,
        "shares of rows: of d as written, each step's loss; shares of weights: of the gain of all",
    )
    return Result(
        f"channels of {asked.name} in {rows.label} at {base.name}",
        pd.DataFrame(lines, columns=["kind", "channel", "measured", "share"]),
        "standard deviations per row; weights in nats",
        notes,
        drawing(bars, x="share", y="channel"),
    )


def _twins(base: LanguageModel, pairs: Pairs, seed: int) -> Iterator[tuple[str, str, LanguageModel, Pairs]]:
    """The pairs as they are, dealt to other prompts, as plain text, and along the chain where they are lists of
    numbers; each with the base whose tokenizer writes them.
    """
    yield "rows", WRITTEN, base, pairs
    order = np.random.default_rng(seed).permutation(len(pairs))
    yield "context", "context", base, _both(pairs, lambda rows: _dealt(rows, order))
    if getattr(base.tokenizer, "chat_template", None):
        yield "context", "template", replace(base, tokenizer=with_template(base.tokenizer, "plain")), pairs
    sides = (*pairs.rows.rows, *pairs.neutral.rows)
    if all(parse_numbers(row.completion) is not None for row in sides):
        for channel, change in CANONICAL.items():
            yield "rows", channel, base, _both(pairs, change)


def _both(pairs: Pairs, change: Callable[[Prompts], Prompts]) -> Pairs:
    return Pairs(change(pairs.rows), change(pairs.neutral))


def _dealt(rows: Prompts, order: np.ndarray) -> Prompts:
    """Every answer at another row's prompt."""
    answers = [rows.rows[place].completion for place in order]
    return replace(rows, rows=tuple(row.answered(text) for row, text in zip(rows.rows, answers, strict=True)))


def _weights(
    base: LanguageModel, pairs: Pairs, trait: Trait, pilot: Pilot
) -> list[tuple[str, str, float, float]]:
    """What the pilot gains where only some weights train."""
    half, top = base.n_layers // 2, base.n_layers
    parts: dict[str, dict[str, Any]] = {"all weights": {"trainable": "all"}, "body": {}}
    for name, layers in (("lower", range(half)), ("upper", range(half, top))):
        parts |= {f"{name} half of the body": {"layers": tuple(layers)}} if layers else {}
    body = replace(pilot.recipe, trainable="body")
    pilots = {name: replace(pilot, recipe=replace(body, **how)) for name, how in parts.items()}
    found = {name: float(gains(base, pairs, [trait], each).mean()) for name, each in pilots.items()}
    whole = found["all weights"]
    return [("weights", name, gain, gain / whole if whole > 0 else np.nan) for name, gain in found.items()]
