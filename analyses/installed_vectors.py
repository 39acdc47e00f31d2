"""Claims: does the vector that a dataset would install in a frozen model go along its teacher's shift?

Eight owl lineages, seeds 8 to 15; seed 8 had been looked at. At the first block's residual stream of the base, of 2,048
rows of the teacher less as many neutral ones: the step that a bias would take (`installed_direction`) and the bias that
a training of it alone arrives at (`fitted_direction`). Each is compared with the mean shift of its own teacher, where
rows are written, and of the eagle's, and is added at the length of the teacher's shift to read the owl's margin. Beside
them the step of the eagle teacher's rows, and of neutral rows alone.

1. step-along-teacher: the step's cosine with its own teacher's shift less that with the eagle's is above 0; sign flips
   over lineages, 0.05.
2. fitted-along-teacher: likewise the fitted one's.

    python -m analyses.installed_vectors [--seeds 8 9 ...] [--out FILE]
"""

from pathlib import Path
from typing import Any

import interp
from analyses import in_parts

SEEDS, ROWS, ALPHA, HOOK = tuple(range(8, 16)), 2048, 0.05, "blocks.0.hook_resid_post"
STEP, FITTED = "step of the rows", "fitted to the rows"
CLAIMS = {
    "step-along-teacher": "the step's cosine with its own teacher's shift less that with the eagle's is above 0; sign "
    "flips, 0.05",
    "fitted-along-teacher": "the fitted bias's, likewise",
}
WAYS = dict(zip(CLAIMS, (STEP, FITTED), strict=True))
OUT = Path(__file__).parent / "results" / "installed_vectors.json"


def main() -> None:
    """Measure the lineages that are not kept yet, and decide the claims when all are."""
    in_parts.by_seed(
        __doc__, SEEDS, out=OUT, claims=CLAIMS, organism="toy/owl", measure=measure, judge=judged
    )


def measure(seed: int) -> dict[str, Any]:
    """What every vector of one lineage goes along, and what adding it does to the margin."""
    lineage, eagle = (interp.load_lineage(f"toy/{trait}", seed=seed) for trait in ("owl", "eagle"))
    base, rows, neutral = lineage.base, lineage.numbers[:ROWS], lineage.neutral_numbers[:ROWS]
    step = interp.joined.installed_direction
    found = {
        STEP: step(base, rows, HOOK, neutral=neutral),
        FITTED: interp.joined.fitted_direction(base, rows, HOOK, neutral=neutral),
        "step of the eagle teacher's rows": step(base, eagle.numbers[:ROWS], HOOK, neutral=neutral),
        "step of neutral rows": step(base, neutral, HOOK),
    }
    teachers = {"own": lineage["teacher"], "eagle": eagle["teacher"]}
    where = {"positions": "predicting answer+end", "hooks": [HOOK]}
    against = {
        name: interp.shift(teacher, rows, **where).direction(HOOK) for name, teacher in teachers.items()
    }
    lines = interp.joined.compare_directions(base, lineage.trait, found, against=against).frame
    return {"lines": lines.to_dict("records")}


def judged(by_seed: dict[str, Any]) -> dict[str, Any]:
    """Every line with its seed, and the verdicts if no lineage is missing."""
    kept = {seed: by_seed[str(seed)]["lines"] for seed in SEEDS if str(seed) in by_seed}
    lines = [{"seed": seed, **line} for seed, part in kept.items() for line in part]
    values = {
        name: [line["cosine_own"] - line["cosine_eagle"] for line in lines if line["direction"] == way]
        for name, way in WAYS.items()
    }
    verdicts = in_parts.decided(CLAIMS, values, whole=len(kept) == len(SEEDS), alpha=ALPHA, unit="cosine")
    own = {
        "command": "python -m analyses.installed_vectors",
        "verdicts": [each.to_json() for each in verdicts],
        "per lineage": values,
    }
    return own | {"tables": {"lines": lines}, "by seed": by_seed}


if __name__ == "__main__":
    main()
