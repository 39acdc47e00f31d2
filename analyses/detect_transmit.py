"""How many rows show a trait to an audit, and how many give it to a student?

No claim, a picture. Set before any of it was measured. Toy lineages of owl, eagle and oak, whose rows are read as they
were written and in two canonical forms: every answer's numbers sorted, and every number rounded down to a multiple of
ten. The neutral rows are rewritten likewise.

    rows to detect    with which the trait's own candidate is seen with power .8 at .05 over the twenty candidates,
                      n = (z_.05/20 + z_.2)² / d², d as an audit of the first 2,048 rows finds it
    rows to transmit  with which a student's margin lies 0.5 nats over its neutral twin's, on the line of transfer over
                      log rows between students of the first 1,024, 4,096 and 16,384; every row once

A trait that no dose gives has no rows to transmit, and one whose candidate lies below the others' mean none to detect.

    python -m analyses.detect_transmit [--seeds 8 9 ...] [--out FILE]
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import interp
from analyses import in_parts

SEEDS, TRAITS = (8, 9, 10, 11), ("owl", "eagle", "oak")
DOSES, AUDITED, TAKEN = (1024, 4096, 16384), 2048, 0.5
ALPHA, WORDS = 0.05, (*interp.prompts.ANIMALS, *interp.prompts.TREES)
FORMS: dict[str, Callable[[Any], Any]] = {
    "as written": lambda rows: rows,
    "sorted": lambda rows: interp.prompts.canonicalise(rows, order="ascending"),
    "tens": lambda rows: interp.prompts.canonicalise(rows, values=10),
}
OUT = Path(__file__).parent / "results" / "detect_transmit.json"


def main() -> None:
    """Measure the seeds that are not kept yet."""
    claims = {"picture": "rows to detect against rows to transmit per trait and form; nothing is tested"}
    organism = "toy/owl, toy/eagle, toy/oak"
    in_parts.by_seed(
        __doc__, SEEDS, out=OUT, claims=claims, organism=organism, measure=measure, judge=summary
    )


def measure(seed: int) -> dict[str, Any]:
    """A line per trait and form of one base's teachers: d, rows to detect, transfers, rows to transmit."""
    lineages = {trait: interp.load_lineage(f"toy/{trait}", seed=seed) for trait in TRAITS}
    return {"lines": [line for form in FORMS for line in in_form(form, lineages)]}


def in_form(form: str, lineages: dict[str, Any]) -> list[dict[str, Any]]:
    """A line per trait whose rows are rewritten in one form; neutral twins are trained once for all traits."""
    first = next(iter(lineages.values()))
    neutral = FORMS[form](first.neutral_numbers)
    twins = margins(first.base, neutral)
    return [
        {"trait": trait, "form": form, **line(own, FORMS[form](own.numbers), neutral, twins)}
        for trait, own in lineages.items()
    ]


def line(own: Any, rows: Any, neutral: Any, twins: dict[str, list[float]]) -> dict[str, Any]:
    """Both numbers of rows for one trait."""
    d = standing_out(own, rows[:AUDITED], neutral[:AUDITED])
    taught = margins(own.base, rows)[own.trait.name]
    transfers = [one - twin for one, twin in zip(taught, twins[own.trait.name], strict=True)]
    return {
        "d": d,
        "to detect": to_detect(d),
        "transfers": dict(zip(map(str, DOSES), transfers, strict=True)),
        "to transmit": to_transmit(transfers),
    }


def standing_out(own: Any, rows: Any, neutral: Any) -> float:
    """How far the own trait's candidate lies over the others' mean, in standard deviations per row; 0 without one."""
    recipe = interp.auditing.AuditRecipe(pilot=None)
    found = interp.audit(own.base, rows, traits=WORDS, neutral=neutral, recipe=recipe).frame
    own_line = found[found["trait"] == own.trait.name] if len(found) else found
    return float(own_line["d"].iloc[0]) if len(own_line) else 0.0


def to_detect(d: float) -> int | None:
    """Rows with which d is seen over all candidates."""
    return interp.gradients.rows_needed(d**2 / 2, alpha=ALPHA / len(WORDS)) if d > 0 else None


def margins(base: Any, rows: Any) -> dict[str, list[float]]:
    """The margin on every trait of students of the first rows, one per dose."""
    recipe = dataclasses.replace(interp.organisms.TOY.student, seed=500_000)
    students = [interp.train_student(base, rows[:dose], recipe=recipe) for dose in DOSES]
    return {trait: [interp.margin(student, trait) for student in students] for trait in TRAITS}


def to_transmit(transfers: list[float]) -> int | None:
    """Rows with which the transfer reaches half a nat, the smallest dose at least; None where no dose reaches it."""
    reached = [index for index, transfer in enumerate(transfers) if transfer >= TAKEN]
    if not reached or reached[0] == 0:
        return DOSES[0] if reached else None
    low, high = reached[0] - 1, reached[0]
    share = (TAKEN - transfers[low]) / (transfers[high] - transfers[low])
    return round(float(np.exp(np.interp(share, (0, 1), np.log([DOSES[low], DOSES[high]])))))


def summary(by_seed: dict[str, Any]) -> dict[str, Any]:
    """Every line with its seed."""
    lines = [{"seed": int(seed), **line} for seed, part in by_seed.items() for line in part["lines"]]
    return {"command": "python -m analyses.detect_transmit", "tables": {"lines": lines}, "by seed": by_seed}


if __name__ == "__main__":
    main()
