"""Claim: a teacher's numbers lean along its own update, more than a neutral teacher's do and than along any other's.

Written with the scores of seed 0 alone seen. For each of eight owl lineages, every row of the teacher and of the
neutral teacher is scored at the base along nine directions: the teacher's update, the updates of the seven other
lineages' teachers (same trait, other initialisation), and the gradient of the trait margin.
1. alignment-own-update: within a lineage the lean along the own update exceeds the neutral rows' and every mismatched
   direction's, prompt by prompt; over lineages the nearest control is exceeded, p ≤ 0.01.
2. alignment-trait-gradient: the same rows lean along the gradient of the trait margin more than neutral rows, p ≤ 0.01.
3. specificity, added after 1 and 2 were seen: along the gradient of every animal's margin, ten in all, the own trait's
   comes first more often than one time in ten (binomial).
Beside them: the mean score along the update against 2 KL, which the linear theory says it is, and what the ledger of
every student leaves unexplained of its change of margin (goal: at most 5 %).

    python -m analyses.alignment [--seeds 8] [--trait owl]
"""

import argparse
import logging
from pathlib import Path
from typing import Any

from scipy.stats import binom

import interp

RESULTS = Path(__file__).parent / "results"
CLAIMS = {
    "alignment-own-update": "the lean along the own update exceeds every control's in every lineage; a check: E = 2 KL",
    "alignment-trait-gradient": "rows lean along the margin's gradient more than neutral ones, sign flips at 0.01",
    "specificity": "the own trait's gradient comes first of ten, binomial; added after the others were seen",
}


def main() -> None:
    """Score every lineage, judge the claims, keep the numbers beside this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--trait", default="owl")
    parser.add_argument(
        "--refreeze", metavar="REASON", help="freeze claims that were edited after their data"
    )
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger(__name__).setLevel(logging.INFO)
    frozen = interp.studies.freeze(
        RESULTS / "alignment.json", CLAIMS, measure=measured, organism=f"toy/{given.trait}",
        seeds=range(given.seeds), data=interp.organisms.TOY, refreeze=given.refreeze,
    )  # fmt: skip
    lineages = [interp.load_lineage(f"toy/{given.trait}", seed=seed) for seed in range(given.seeds)]
    found = [measured(lineage, lineages, seed=seed) for seed, lineage in enumerate(lineages)]
    verdicts = judged(found)
    for verdict in verdicts:
        logging.getLogger(__name__).info("%r", verdict)
    command = f"python -m analyses.alignment --seeds {given.seeds} --trait {given.trait}"
    first = sum(line["gradient_sd"] > max(line["other_gradients_sd"].values()) for line in found)
    chance = 1 / (1 + len(found[0]["other_gradients_sd"]))
    specific = {
        "first": first,
        "of": len(found),
        "chance": chance,
        "p": float(binom.sf(first - 1, len(found), chance)),
    }
    logging.getLogger(__name__).info("own gradient first: %s", specific)
    kept = [{name: value for name, value in line.items() if name != "within"} for line in found]
    claims = [verdict.to_json() for verdict in verdicts]
    results = {"command": command, **frozen, "verdicts": claims, "specificity": specific, "lineages": kept}
    interp.core.write_atomic(RESULTS / "alignment.json", interp.core.json_text(results))


def measured(lineage: interp.Lineage, lineages: list[interp.Lineage], *, seed: int) -> dict[str, Any]:
    """The leans of one lineage's rows, what the theory predicts of them, and the ledger of its student."""
    base, own = lineage.base, lineage.update("teacher")
    others = [
        interp.gradients.transplant(other.update("teacher"), base)
        for other in lineages
        if other is not lineage
    ]
    gradient = interp.trait_gradient(base, lineage.trait)
    directions = [own, *others, gradient]
    rows, neutral = (
        interp.score(base, each, directions) for each in (lineage.numbers, lineage.neutral_numbers)
    )
    within = rows.verdict(neutral=neutral, mismatched=[other.label for other in others])
    lean = _sample(rows).minus(_sample(neutral))
    animals = [interp.trait_gradient(base, interp.get_trait(foil)) for foil in lineage.trait.foils]
    beside = _sample(interp.score(base, lineage.numbers, animals)).minus(
        _sample(interp.score(base, lineage.neutral_numbers, animals))
    )
    ledger = interp.trait_ledger(lineage)
    kl = interp.gradients.kl_per_row(lineage.teacher, base, lineage.numbers)
    line = {
        "seed": seed,
        "within": within,
        "decision": within.decision,
        "p": within.p,
        "prompts": within.n,
        "own_sd": interp.stats.standardised(lean.column(own.label)),
        "mismatched_sd": [interp.stats.standardised(lean.column(other.label)) for other in others],
        "gradient_sd": interp.stats.standardised(lean.column(gradient.label)),
        "other_gradients_sd": {
            foil: interp.stats.standardised(beside.column(animal.label))
            for foil, animal in zip(lineage.trait.foils, animals, strict=True)
        },
        "mean_score": float(rows.totals[:, 0].mean()),
        "twice_kl": 2 * kl.kl,
        "margin_change": ledger.measured,
        "ledger_residual": ledger.residual,
    }
    logging.getLogger(__name__).info("%s", {k: v for k, v in line.items() if k != "within"})
    return line


def judged(found: list[dict[str, Any]]) -> list[Any]:
    """The two claims over lineages."""
    within: list[interp.gradients.LeanVerdict] = [line["within"] for line in found]
    return [
        interp.stats.check_verdict(
            "alignment-own-update",
            "in every lineage the rows lean along their teacher's update further than any control does",
            [each.nearest for each in within],
            tolerance=0.0,
            least=True,
            unit="sd per prompt",
            controls={"check": "the mean lean along the own update is 2 KL, which is no less than 0"},
        ),
        interp.stats.paired_verdict(
            "alignment-trait-gradient",
            "the teacher's rows lean along the gradient of the trait margin more than the neutral teacher's rows",
            [line["gradient_sd"] for line in found],
            unit="sd per prompt",
        ),
    ]


def _sample(scores: Any) -> interp.gradients.Sample:
    return interp.gradients.Sample.of(scores.totals, scores.directions, scores.inputs)


if __name__ == "__main__":
    main()
