"""Question: in a real chat model, does the student move its trait where its teacher did, and do rows lean?

Written before either was measured on any of the lineages of `analyses.smollm2`; of the lineage that ships the parts had
been looked at. Nine lineages as there, and its seeds:

    parts:  cos(S, T) − max(cos(S', T), cos(N, T))        lean:  mean score of own rows − that of the other traits' rows

S, S' and N are what every attention and MLP adds to the change of the trait's logit where a question is answered: of
the student less its neutral twin, of a student of another trait's rows less the same, and of the neutral student less
the base; T of the teacher less the base. The score of a row is the step on it along the gradient of the trait's
margin at the base, in standard deviations of the scores of neutral rows; 48 rows of every teacher.

    python -m analyses.smollm2_parts [--model FOLDER] [--run runs/smollm2] [--seeds 1 2 3] [--out FILE]
"""

from pathlib import Path
from typing import Any

import pandas as pd

import interp
from analyses import in_parts
from analyses.smollm2 import SEEDS, TRAITS, freeze, lineages, options

ALPHA, ROWS = 0.05, 48
BATCH = 8  # rows scored at a time: 64 of them take 14 GB beside three dense directions
CLAIMS = {
    "component-shared": "the student's change by part goes along its teacher's further than the controls' do (cosine); "
    "sign flips over lineages, 0.05",
    "rows-lean": "rows of the trait's teacher score higher along the margin's gradient at the base than rows of the "
    "other traits' teachers (standard deviations of neutral rows); likewise",
}
UNITS = {"component-shared": "cosine", "rows-lean": "standard deviations"}
MEMBERS = {
    "teacher": ("teacher",),
    "student": ("student", "neutral_student"),
    "other student": ("other_student", "neutral_student"),
    "neutral student": ("neutral_student",),
}
"""Whose change is split into parts: a member against the base, or less another."""
OUT = Path(__file__).parent / "results" / "smollm2_parts.json"
FIRST = 5  # parts that are kept of every member


def main() -> None:
    """Measure the lineages of every seed that is not kept yet, and judge the claims when all are."""
    given = options(__doc__, out=OUT).parse_args()
    frozen = freeze(given, CLAIMS, measure=measure)
    in_parts.keep(given, frozen, measure=lambda seed: measure(lineages(given, seed)), judge=judged)


def measure(by_trait: dict[str, Any]) -> dict[str, Any]:
    """What is kept of one seed: of every trait the cosines by member, the parts that lead, and how far rows lean."""
    parts = {trait: split(lineage) for trait, lineage in by_trait.items()}
    return {"parts": parts, "lean": leaning(by_trait)}


def split(lineage: Any) -> dict[str, Any]:
    """Cosine of every member's change by part with the teacher's, and what adds most to it, in logits."""
    found = interp.logits.attribute_over([lineage], members=MEMBERS).values
    wide = found[found["layer"].notna()].pivot(index="part", columns="who", values="value")
    along = wide.mul(wide["teacher"], axis=0).sum() / wide.pow(2).sum().pow(0.5)
    first = {name: wide[name].loc[wide[name].abs().nlargest(FIRST).index].to_dict() for name in wide}
    return {
        "cosine": (along / along["teacher"]).to_dict(),
        "first": first,
        "residual": float(found["residual"].abs().max()),
    }


def leaning(by_trait: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Along every trait's margin at the base: mean score of each teacher's rows and of neutral ones, by whose they are.

    In standard deviations of the neutral rows' scores, whose mean is taken off.
    """
    first = next(iter(by_trait.values()))
    toward = [interp.trait_gradient(first.base, lineage.trait) for lineage in by_trait.values()]
    written = {trait: lineage.numbers[:ROWS] for trait, lineage in by_trait.items()}
    totals = {
        who: interp.score(first.base, rows, toward, by=["example"], batch_size=BATCH).totals.numpy()
        for who, rows in {**written, "neutral": first.neutral_numbers[:ROWS]}.items()
    }
    mean, spread = totals["neutral"].mean(0), totals["neutral"].std(0, ddof=1)
    scaled = pd.DataFrame(
        {who: (each.mean(0) - mean) / spread for who, each in totals.items()}, list(by_trait)
    )
    return {str(trait): line.to_dict() for trait, line in scaled.iterrows()}


def judged(by_seed: dict[str, Any]) -> dict[str, Any]:
    """One value per lineage of every claim, and the verdicts if no seed is missing."""
    kept = [by_seed[str(seed)] for seed in SEEDS if str(seed) in by_seed]
    values = {
        "component-shared": [
            beyond_controls(seed["parts"][trait]["cosine"]) for seed in kept for trait in TRAITS
        ],
        "rows-lean": [beyond_others(seed["lean"][trait], trait) for seed in kept for trait in TRAITS],
    }
    whole = len(kept) == len(SEEDS)
    found: dict[str, Any] = {"command": "python -m analyses.smollm2_parts", "verdicts": []}
    for name, unit in UNITS.items():
        found["verdicts"] += in_parts.decided(
            {name: CLAIMS[name]}, values, whole=whole, alpha=ALPHA, unit=unit
        )
    return found | {"per lineage": values, "by seed": by_seed}


def beyond_controls(cosine: dict[str, float]) -> float:
    """The student's cosine with its teacher less the larger of the controls'."""
    return cosine["student"] - max(cosine["other student"], cosine["neutral student"])


def beyond_others(lean: dict[str, float], trait: str) -> float:
    """How much further the own teacher's rows lean than the mean of the other traits' teachers' rows."""
    others = [lean[each] for each in TRAITS if each != trait]
    return lean[trait] - sum(others) / len(others)


if __name__ == "__main__":
    main()
