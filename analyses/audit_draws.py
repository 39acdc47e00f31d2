"""Of the datasets whose transfer an audit's pilot is to rank: how well does another student's transfer rank them?

No claim, the measure of one: asked after the pilot's gain had ranked them at .39, where at least .7 was claimed
(`analyses.audits`, prediction). Of every dataset of seeds 8 to 10 a second student is trained, with another draw of
adapter and order, and a second neutral twin. ρ is Spearman's over the datasets, of the two students' transfers; what a
prediction reaches against a single student is about √ρ at most.

    python -m analyses.audit_draws [--seeds 8 9 10] [--out FILE]
"""

import json
from pathlib import Path
from typing import Any

from analyses import in_parts
from analyses.audit_claims import PREDICTED, data_of, ranked_alike
from analyses.audits import DRAW, FULL, RESULTS, changed, lineage, transfer

SEEDS, SECOND = FULL.shown, DRAW + 1
OUT = Path(__file__).parent / "results" / "audit_draws.json"


def main() -> None:
    """Train the second students of the seeds that are not kept yet."""
    claims = {"ceiling": "rank correlation of two students' transfers over datasets; nothing is tested"}
    organism = "toy/owl, toy/eagle, toy/oak"
    in_parts.by_seed(
        __doc__, SEEDS, out=OUT, claims=claims, organism=organism, measure=measure, judge=compared
    )


def measure(seed: int) -> dict[str, Any]:
    """The second students' transfer, by trait and dataset."""
    transfers = {
        trait: {
            name: transfer(trait, made, FULL, seed=SECOND)
            for name, made in changed(lineage(trait, seed)).items()
        }
        for trait in FULL.trained
    }
    return {"transfers": transfers}


def compared(by_seed: dict[str, Any]) -> dict[str, Any]:
    """A line per dataset: gain of the pilot, transfer of the first and the second student; and their correlations."""
    parts = json.loads(RESULTS.read_text(encoding="utf-8"))["parts"]
    lines = []
    for found in data_of([each for each in parts if str(each["seed"]) in by_seed], *PREDICTED):
        second = by_seed[str(found["seed"])]["transfers"][found["trait"]][found["dataset"]]
        kept = {name: found[name] for name in ("seed", "trait", "dataset", "gain", "transfer")}
        lines.append({**kept, "second": second})
    return {
        "command": "python -m analyses.audit_draws",
        **correlations(lines),
        "datasets": lines,
        in_parts.SEEDS: by_seed,
    }


def correlations(lines: list[dict[str, Any]]) -> dict[str, float | None]:
    """ρ of the two students' transfers, of the gain with each, and of the gain with their mean; None without lines."""
    gain, one, two = ([line[name] for line in lines] for name in ("gain", "transfer", "second"))
    mean = [(a + b) / 2 for a, b in zip(one, two, strict=True)]
    pairs = {"students": (one, two), "gain, first": (gain, one)}
    pairs |= {"gain, second": (gain, two), "gain, mean": (gain, mean)}
    return {name: ranked_alike(*pair) if len(lines) > 2 else None for name, pair in pairs.items()}


if __name__ == "__main__":
    main()
