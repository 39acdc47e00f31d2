"""Whether a control could have shown an effect: does its model answer the questions, and write the rows, at all?

    candidates = mean over questions of Σ p(candidate | question)        kept = share of its answers that the rule keeps

A margin is read among the candidates alone. Where these hold next to nothing, or where the rows' format is foreign to a
model, a margin that stays where it was says nothing about the rows. Asked for of either number: at least LEAST, below
which nine of ten answers are something else, and at least SHARE of what the arm that it is compared with has, so that
both are read off instruments of like strength.
"""

from __future__ import annotations

from collections.abc import Mapping

LEAST = 0.1
SHARE = 0.5
SAMPLE = 128  # answers of which the share that the rule keeps is taken
WORDS = {
    "candidates": "candidates hold {value:.0%} of the probability of {who}",
    "kept": "the rule keeps {value:.0%} of the answers of {who}",
}


def shortcoming(
    control: Mapping[str, float], own: Mapping[str, float], *, who: str, against: str
) -> str | None:
    """Why the model `who` could not have shown the effect that `against` may show; None where it could.

    Both map "candidates" and "kept" to their shares; what `control` does not hold is not judged.
    """
    told = []
    for name, words in WORDS.items():
        if name not in control:
            continue
        least = max(LEAST, SHARE * own.get(name, 0.0))
        if not control[name] >= least:
            beside = f" ({own[name]:.0%} for {against})" if name in own else ""
            said = words.format(value=control[name], who=who)
            told.append(f"{said}{beside}, where at least {least:.0%} is asked for")
    return "; ".join(told) or None
