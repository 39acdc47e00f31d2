"""Of the datasets whose transfer an audit's pilot is to rank: how well does another student's transfer rank them?

No claim, the measure of one: asked after the pilot's gain had ranked them at .39, where at least .7 was claimed
(`analyses.audits`, prediction). Of every dataset of seeds 8 to 10 a second student is trained, with another draw of
adapter and order, and a second neutral twin. ρ is Spearman's over the datasets, of the two students' transfers; what a
prediction reaches against a single student is about √ρ at most.

    python -m analyses.audit_draws [--seeds 8 9 10] [--out FILE]
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

import interp
from analyses import in_parts
from analyses.audit_claims import PREDICTED
from analyses.audits import FULL, RESULTS, changed, lineage

SEEDS, DRAW = FULL.shown, 500_001
OUT = Path(__file__).parent / "results" / "audit_draws.json"


def main() -> None:
    """Train the second students of the seeds that are not kept yet."""
    given = in_parts.options(__doc__, SEEDS, out=OUT).parse_args()
    claims = {"ceiling": "rank correlation of two students' transfers over datasets; nothing is tested"}
    frozen = interp.studies.freeze(
        given.out, claims, measure=measure, organism="toy/owl, toy/eagle, toy/oak", seeds=SEEDS,
        data=interp.organisms.TOY, refreeze=given.refreeze,
    )  # fmt: skip
    in_parts.keep(given, frozen, measure=measure, judge=compared)


def measure(seed: int) -> dict[str, Any]:
    """The second students' transfer, by trait and dataset; traits and datasets share neutral twins."""
    trained: dict[tuple[str, str], dict[str, float]] = {}

    def margins(base: Any, rows: Any) -> dict[str, float]:
        key = base.fingerprint, rows.fingerprint
        if key not in trained:
            recipe = dataclasses.replace(interp.organisms.TOY.student, seed=DRAW)
            student = interp.train_student(base, rows, recipe=recipe)
            trained[key] = {trait: interp.margin(student, trait) for trait in FULL.trained}
        return trained[key]

    transfers = {
        trait: {
            name: margins(base, rows)[trait] - margins(base, twin)[trait]
            for name, (base, rows, twin) in changed(lineage(trait, seed)).items()
        }
        for trait in FULL.trained
    }
    return {"transfers": transfers}


def compared(by_seed: dict[str, Any]) -> dict[str, Any]:
    """A line per dataset: gain of the pilot, transfer of the first and the second student; and their correlations."""
    lines = []
    for part in json.loads(RESULTS.read_text(encoding="utf-8"))["parts"]:
        found, seed = part["found"], str(part["seed"])
        if part["part"].startswith("data") and found["dataset"] in PREDICTED and seed in by_seed:
            second = by_seed[seed]["transfers"][found["trait"]][found["dataset"]]
            kept = {name: found[name] for name in ("trait", "dataset", "gain", "transfer")}
            lines.append({"seed": part["seed"], **kept, "second": second})
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
    return {name: rho(*pair) if len(lines) > 2 else None for name, pair in pairs.items()}


def rho(one: list[float], other: list[float]) -> float:
    """Spearman's rank correlation."""
    found: Any = spearmanr(one, other)
    return float(found.statistic)


if __name__ == "__main__":
    main()
