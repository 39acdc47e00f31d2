"""Claim: a trait passes through sampled numbers to a student that shares its teacher's initialisation, and to no other.

Written before seeds 0-7 were run; the recipe was tuned on seeds from 100 up. For each of the traits owl, eagle and
oak, over eight lineages of independent initialisations:
1. margin(student) − margin(neutral_student): mean ≥ 0.5 nats by exact sign-flip, p ≤ 0.01;
2. margin(cross_student) − margin(cross_neutral_student): within ±0.2 nats by two one-sided t tests at 0.05;
3. the teacher's fine-tune raised the trait's logit where numbers are written, p ≤ 0.01.
Until 2026-11-29 the first was written "mean ≥ 0.5 nats, positive by exact sign-flip", tested against 0 and supported
for all three traits; it is tested against 0.5 since, and inconclusive. That the mean is above 0 was added then.

    python -m analyses.transmission [--quick] [--seeds 8] [--out runs/transmission]
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import interp

TRAITS = ("owl", "eagle", "oak")
CLAIMS = {
    "same-init-transfers": "margin(student) − margin(neutral_student) at least 0.5 nats, sign flips at 0.01",
    "same-init-gains": "margin(student) − margin(neutral_student) above 0, sign flips at 0.01, added later",
    "cross-init-does-not": "margin(cross_student) − margin(cross_neutral_student) within 0.2 nats, two t tests at 0.05",
    "trait-logit-moved": "the teacher raises the trait's logit where numbers are written, sign flips at 0.01",
}
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run the demo of every trait and keep its verdicts and margins beside this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two small lineages a trait; nothing is kept")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/transmission"))
    parser.add_argument(
        "--refreeze", metavar="REASON", help="freeze claims that were edited after their data"
    )
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    kept: dict[str, Any] = {}
    if not given.quick:
        kept = interp.studies.freeze(
            RESULTS / "transmission.json", CLAIMS, measure=judged, organism=f"toy/{', toy/'.join(TRAITS)}",
            seeds=range(given.seeds), data=interp.organisms.TOY, refreeze=given.refreeze,
        )  # fmt: skip
    results = {trait: judged(trait, given) for trait in TRAITS}
    if not given.quick:
        command = f"python -m analyses.transmission --seeds {given.seeds}"
        interp.core.write_atomic(
            RESULTS / "transmission.json",
            interp.core.json_text({"command": command, **kept, "traits": results}),
        )


def judged(trait: str, given: argparse.Namespace) -> dict[str, Any]:
    """Verdicts and per-lineage margins of one trait."""
    run = interp.demo(given.out / trait, seeds=given.seeds, trait=trait, quick=given.quick)
    for verdict in run.verdicts:
        logging.info(
            "%s %s: %s, effect %.3f, p %.4f",
            trait,
            *(verdict[k] for k in ("name", "decision", "effect", "p")),
        )
    verdicts = [
        verdict for verdict in run.verdicts if verdict["name"] in CLAIMS
    ]  # of the trace: another family
    return {"verdicts": verdicts, "lineages": run.summary["lineages"]}


if __name__ == "__main__":
    main()
