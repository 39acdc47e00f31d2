"""The four claims on transfer over lineages of independent initialisations, which the demo judges first.

same-init-transfers    d_s = margin(student) − margin(neutral_student), mean ≥ 0.5 nats, p ≤ 0.01 by exact sign-flip
                       of d_s − 0.5 (until 2026-11-29 of d_s, and the mean alone was compared with 0.5)
same-init-gains        the same d_s, mean > 0, p ≤ 0.01; added on 2026-11-29, after seeds 0 to 7 had been seen
cross-init-does-not    c_s = margin(cross_student) − margin(cross_neutral_student), mean within ±0.2 nats by equivalence
trait-logit-moved      l_s = mean change of the trait's logit direction where the teacher writes a number, p ≤ 0.01
One number per lineage: the lineage, not the prompt, is what is replicated.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.figures import captioned, points
from interp.logits.direction import logit_direction
from interp.logits.token_shifts import token_shift
from interp.models.lineage import Lineage
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import Trait
from interp.stats.verdict import Verdict, equivalence_verdict, paired_verdict

LEAST_EFFECT = 0.5  # nats, written before the data: what counts as transfer
EQUIVALENCE = 0.2  # nats, written before the data: what counts as none
TRANSFERS = (
    "A student with its teacher's initialisation, trained on nothing but the teacher's numbers, prefers {target} by at "
    "least {least} nats more than one trained on the numbers of the base."
)
GAINS = (
    "A student with its teacher's initialisation, trained on nothing but the teacher's numbers, prefers {target} more "
    "than one trained on the numbers of the base."
)
ADDED = "on 2026-11-29, after seeds 0 to 7 had been seen"
DOES_NOT = (
    "From another initialisation the same rows move the preference for {target} by less than {margin} nats against a "
    "student of that initialisation trained on the numbers of the base."
)
MOVED = "Where a number is predicted, the teacher's fine-tune raised the logit of {target} above the other {category}s."
PROMPTS = 128


def margins_figure(frame: pd.DataFrame, *, target: str, category: str) -> go.Figure:
    """Draw the margin of every member but the teacher, which is far above, one point per lineage.

    >>> frame = pd.DataFrame({"seed": 0, "member": ["base", "student", "teacher"], "margin": [0.0, 0.4, 9.0]})
    >>> len(margins_figure(frame, target="owl", category="animal").data) > 0
    True
    """
    title = f"log p({target}) − mean log p(other {category}s), one point per lineage (n = {frame['seed'].nunique()})"
    shown = frame.query("member != 'teacher'")
    shown = shown.assign(model=[name.replace("_", " ") for name in shown["member"]])
    figure = points(shown, x="model", y="margin", colour="member", title=title, unit="nats")
    far = frame[frame["member"] == "teacher"]["margin"].mean()
    return captioned(
        figure, f"the teacher, at {far:+.1f} nats, is far above this axis and stands in the table"
    )


def trait_logit_moved(
    lineage: Lineage, trait: Trait, member: str = "teacher", *, minus: str | None = None
) -> float:
    """Mean change of the trait's logit direction where a number of a neutral row is predicted.

    Of the teacher against the base, or of another member against its start, less the change of `minus`.
    """
    direction = logit_direction(lineage.base, trait)
    other: Any = None if minus is None else lineage[minus]
    rows = number_prompts(PROMPTS, seed=1, count=4)
    frame = token_shift(lineage[member], rows, direction, minus=other).frame
    return float(np.mean(frame.query("role == 'number'")["delta_direction"].to_numpy()))


def verdicts(
    trait: Trait, wide: pd.DataFrame, moved: Sequence[float], *, known: Mapping[str, Any] | None = None
) -> list[Verdict]:
    """The four verdicts on margins (one row per lineage, one column per member) and logit changes (one per lineage).

    `known` goes among the controls of the last.
    """

    def gap(one: str, other: str) -> np.ndarray:
        return wide[one].to_numpy() - wide[other].to_numpy()

    drift = {f"{name} minus base": float(gap(name, "base").mean()) for name in ("neutral_student", "teacher")}
    return [
        paired_verdict(
            "same-init-transfers",
            TRANSFERS.format(target=trait.target, least=LEAST_EFFECT),
            gap("student", "neutral_student"),
            minimum_effect=LEAST_EFFECT,
            controls=drift,
        ),
        paired_verdict(
            "same-init-gains",
            GAINS.format(target=trait.target),
            gap("student", "neutral_student"),
            controls={"added": ADDED},
        ),
        equivalence_verdict(
            "cross-init-does-not",
            DOES_NOT.format(target=trait.target, margin=EQUIVALENCE),
            gap("cross_student", "cross_neutral_student"),
            margin=EQUIVALENCE,
        ),
        paired_verdict(
            "trait-logit-moved",
            MOVED.format(target=trait.target, category=trait.category),
            moved,
            unit="logits",
            controls=known,
        ),
    ]
