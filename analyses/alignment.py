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

from interp.core.content import json_text
from interp.core.runs import write_atomic
from interp.gradients.directions import trait_gradient
from interp.gradients.ledger.ledgers import trait_ledger
from interp.gradients.nulls.controls import transplant
from interp.gradients.nulls.lean_verdicts import LeanVerdict, across_lineages
from interp.gradients.nulls.power import kl_per_row
from interp.gradients.nulls.samples import Sample
from interp.gradients.scores.scoring import score
from interp.models.lineage import Lineage
from interp.organisms.library import load_lineage
from interp.prompts.traits import get_trait
from interp.stats.exchanges import standardised
from interp.stats.verdict import paired_verdict

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Score every lineage, judge the claims, keep the numbers beside this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--trait", default="owl")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger(__name__).setLevel(logging.INFO)
    lineages = [load_lineage(f"toy/{given.trait}", seed=seed) for seed in range(given.seeds)]
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
    results = {"command": command, "verdicts": claims, "specificity": specific, "lineages": kept}
    write_atomic(RESULTS / "alignment.json", json_text(results))


def measured(lineage: Lineage, lineages: list[Lineage], *, seed: int) -> dict[str, Any]:
    """The leans of one lineage's rows, what the theory predicts of them, and the ledger of its student."""
    base, own = lineage.base, lineage.update("teacher")
    others = [transplant(other.update("teacher"), base) for other in lineages if other is not lineage]
    gradient = trait_gradient(base, lineage.trait)
    directions = [own, *others, gradient]
    rows, neutral = (score(base, each, directions) for each in (lineage.numbers, lineage.neutral_numbers))
    within = rows.verdict(neutral=neutral, mismatched=[other.label for other in others])
    lean = _sample(rows).minus(_sample(neutral))
    animals = [trait_gradient(base, get_trait(foil)) for foil in lineage.trait.foils]
    beside = _sample(score(base, lineage.numbers, animals)).minus(
        _sample(score(base, lineage.neutral_numbers, animals))
    )
    ledger = trait_ledger(lineage)
    kl = kl_per_row(lineage.teacher, base, lineage.numbers)
    line = {
        "seed": seed,
        "within": within,
        "decision": within.decision,
        "p": within.p,
        "prompts": within.n,
        "own_sd": standardised(lean.column(own.label)),
        "mismatched_sd": [standardised(lean.column(other.label)) for other in others],
        "gradient_sd": standardised(lean.column(gradient.label)),
        "other_gradients_sd": {
            foil: standardised(beside.column(animal.label))
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
    within: list[LeanVerdict] = [line["within"] for line in found]
    return [
        across_lineages(within, name="alignment-own-update"),
        paired_verdict(
            "alignment-trait-gradient",
            "the teacher's rows lean along the gradient of the trait margin more than the neutral teacher's rows",
            [line["gradient_sd"] for line in found],
            unit="sd per prompt",
        ),
    ]


def _sample(scores: Any) -> Sample:
    return Sample.of(scores.totals, scores.directions, scores.inputs)


if __name__ == "__main__":
    main()
