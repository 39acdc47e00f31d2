"""Through which parts the chat model's students move their trait, and whether rows lean: a block of docs/results.md."""

from collections import Counter

import pandas as pd

from analyses.results_page import ABSENT, HEAD, RULE, claim_line, kept, measured, spread
from analyses.smollm2 import SEEDS, TRAITS
from analyses.smollm2_parts import MEMBERS

MOVED = {
    "teacher": "teacher",
    "student": "student, less the neutral student",
    "other student": "student of another trait's rows, less the neutral student",
    "neutral student": "neutral student",
}
"""What a line of the table is of, in the page's words."""


def parts() -> str:
    """The claims, then by member the cosine with the teacher's parts and which part leads, and how rows lean."""
    if not measured("smollm2_parts"):
        return ABSENT
    found = kept("smollm2_parts")
    seeds = list(found["by seed"].values())
    waiting = f"{len(seeds)} of {len(SEEDS)} seeds are measured; the claims are judged when all are."
    judged = [HEAD, RULE, *(claim_line(verdict) for verdict in found["verdicts"])]
    rows = [*(judged if found["verdicts"] else [waiting]), ""]
    rows += [
        "| what moved | cosine with the teacher's, by part [95 %] | largest part, in how many |",
        "|---|---|---|",
    ]
    split = [seed["parts"][trait] for seed in seeds for trait in TRAITS]
    for who in MEMBERS:
        led = Counter(_largest(each["first"][who]) for each in split)
        most = ", ".join(f"{part} {count}" for part, count in led.most_common(3))
        cosine = pd.Series([each["cosine"][who] for each in split])
        rows.append(f"| {MOVED[who]} | {'1' if who == 'teacher' else spread(cosine)} | {most} |")
    return "\n".join([*rows, "", *leans([seed["lean"] for seed in seeds])])


def _largest(values: dict[str, float]) -> str:
    return max(values, key=lambda part: abs(values[part]))


def leans(seeds: list[dict[str, dict[str, float]]]) -> list[str]:
    """Mean score along every trait's gradient, by whose rows they are."""
    rows = [
        f"| along the margin of | {' | '.join(f'rows of the {trait} teacher' for trait in TRAITS)} |",
        "|---|" + "---|" * len(TRAITS),
    ]
    for toward in TRAITS:
        means = [pd.Series([seed[toward][who] for seed in seeds]).mean() for who in TRAITS]
        rows.append(f"| {toward} | {' | '.join(f'{mean:+.2f}' for mean in means)} |")
    return rows
