"""The features that moved most, a line each: how far, the texts that it fires on, and the words that it raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.activations.shifts import own_start
from interp.features.cards import Context, FeatureCard, feature_cards
from interp.figures import Result, signed

if TYPE_CHECKING:
    from interp.features.dictionary import Dictionary
    from interp.features.shift import FeatureShift
    from interp.models.seam import Model
    from interp.prompts.text import Prompts

MOST, TEXTS, AROUND, WORDS = 10, 3, 5, 6
"""Features, texts of each, tokens on either side of the one it fires on, and words that it raises."""


def feature_examples(
    found: FeatureShift, dictionary: Dictionary, member: Model, prompts: Prompts, *, positions: str
) -> Result:
    """Examples of the features that `found` reports of a member, largest change first, at the positions it read.

    Each is read where it became the more active: in the member, or in its start. The token it fires on stands between
    « and »; the words are those that it raises most by its direct path. Where the dictionary says under which name
    Neuronpedia shows it, a line ends with the address of the feature's page.
    """
    change: Any = found.frame.set_index("feature")["delta"]
    wanted = list(found.reported[:MOST])
    lines: dict[int, dict[str, Any]] = {}
    for model, sign in ((member, 1.0), (own_start(member), -1.0)):
        mine = [feature for feature in wanted if sign * change[feature] > 0]
        look: dict[str, Any] = {"positions": positions, "top": TEXTS, "context": AROUND}
        for card in feature_cards(dictionary, model, prompts, mine, **look) if mine else ():
            lines[card.feature] = _line(card, float(change[card.feature]))
    note = (
        "a feature fires on the token between « and »; the words are those that its direct path raises most"
    )
    frame = pd.DataFrame([lines[feature] for feature in wanted])
    return Result("What the features that moved most fire on", frame, found.unit, (note,))


def said_features(found: FeatureShift) -> str:
    """How many features moved, and which one most."""
    frame: Any = found.frame.set_index("feature")
    reported = found.reported
    live = int(frame["live"].sum()) - 1  # without the error node
    told = f"{len(reported)} of {live} live features moved at a false discovery rate of {found.alpha:g}"
    if not reported:
        return f"{told}."
    direct = f"{len(found.direct)} of them by themselves and not through the others"
    return f"{told}, {direct}; feature {reported[0]} moved most, by {signed(frame['delta'][reported[0]])}."


def _line(card: FeatureCard, change: float) -> dict[str, Any]:
    texts = {f"example {at}": _marked(context) for at, context in enumerate(card.contexts, start=1)}
    raised = ", ".join(str(token).strip() for token in card.logits["token"].head(WORDS))
    line = {"feature": card.feature, "change": change, "read in": card.model, **texts, "raises": raised}
    return line | ({"neuronpedia": card.link} if card.link else {})


def _marked(context: Context) -> str:
    pieces = enumerate(context.pieces)
    return "".join(f"«{piece}»" if at == context.peak else piece for at, piece in pieces)
