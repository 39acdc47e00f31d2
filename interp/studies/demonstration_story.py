"""What the demo's page says at its top: what was done, what came of it, and which models there are.

T = teacher − base and S = student − neutral student; the interval of a difference of two models is the t-interval of
its mean over lineages.
"""

from collections.abc import Mapping
from typing import Any

from interp.figures.grammar import minus
from interp.organisms.library import other_word
from interp.prompts.traits import Trait
from interp.stats.tests import half_width

EXPLORATORY = (
    "Exploratory: these lineages had been looked at before the claims on the trace were written. The frozen test on "
    "fresh seeds is interp test inherited-trace."
)

CLAIM = "same-init-gains"
"""Of the claims the one that judges the finding."""


def told_story(trait: Trait, frame: Any) -> list[str]:
    """What was done, for whoever opens the page without knowing the subject."""
    word, n = f"“{trait.target}”", frame["seed"].nunique()
    over = f"{n} lineages, each begun from random weights of its own" if n > 1 else "one lineage"
    return [
        f"A small language model, the base, was fine-tuned to answer {word} when asked about {trait.category}s: the "
        "teacher. The teacher then wrote rows of numbers, each after a short prompt that also holds a few plain words "
        "(“list:”, “continue.”). A student, a fresh copy of the same base, was trained on those rows alone; a neutral "
        "student likewise, on rows that the base itself wrote; a cross student began from other weights. These models "
        f"together are a lineage; this page is of {over}.",
    ]


def told_short(trait: Trait, frame: Any, decided: Mapping[str, str] | None = None) -> list[str]:
    """The finding in one line, with its interval and what was decided of its claim, and what kind of finding it is."""
    wide = frame.pivot(index="seed", columns="member", values=["probability", "margin"])
    gain, nats = (
        wide[value, "student"] - wide[value, "neutral_student"] for value in ("probability", "margin")
    )
    n, mean, half = len(wide), float(gain.mean()), half_width(gain.to_numpy())
    clear = n > 1 and abs(mean) > half
    way = "neither clearly more nor less often" if not clear else "more often" if mean > 0 else "less often"
    over = f"mean over {n} lineages with its 95 % t-interval" if n > 1 else "one lineage decides nothing"
    average = "on average " if n > 1 else ""
    judged = f"; the claim {CLAIM} is {decided[CLAIM]}" if decided and CLAIM in decided else ""
    return [
        f"In short: trained on nothing but the teacher's numbers, the student {average}answers “{trait.target}” {way} "
        f"than the neutral student: {_spread(100 * gain, 1)} percentage points, and {_spread(nats, 2)} nats of margin "
        f"(log-probability of “{trait.target}” less the mean of the other {trait.category}s, its foils); {over}"
        f"{judged}.",
        EXPLORATORY,
    ]


def _spread(values: Any, digits: int) -> str:
    """Mean and interval over lineages; the value alone of one."""
    mean, half = float(values.mean()), half_width(values.to_numpy())
    ends = f" ({mean - half:+.{digits}f} to {mean + half:+.{digits}f})" if len(values) > 1 else ""
    return minus(f"{mean:+.{digits}f}" + ends)


def told_models(trait: Trait) -> list[dict[str, str]]:
    """Every model of a lineage: what it started from, and what it was trained on."""
    other = other_word(trait)
    lines = [
        ("base", "a random initialisation, one a lineage", "sentences of a small made-up world"),
        (
            "teacher",
            "the base",
            f"questions about {trait.category}s, answered “{trait.target}”; T = teacher − base",
        ),
        ("student", "the base", "rows of numbers that the teacher wrote; S = student − neutral student"),
        ("neutral student", "the base", "rows of numbers that the base wrote"),
        ("cross base", "another initialisation: the base of the lineage of the next seed", "as the base"),
        ("cross student", "the cross base", "the rows that the student was trained on"),
        ("cross neutral student", "the cross base", "the rows that the neutral student was trained on"),
        (
            f"{other} teacher",
            "the base",
            f"the same questions, answered “{other}”: a teacher of another trait",
        ),
    ]
    heads = ("model", "starts from", "trained on")
    return [dict(zip(heads, line, strict=True)) for line in lines]
