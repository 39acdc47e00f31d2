"""Claims: which scores of single tokens predict the student that those tokens make?

Written before any student of masked rows was trained, but for eight of seed 8 in a trial of the code. Eight owl
lineages, seeds 8 to 15; 64 students each, whose loss counts a random half of the answers' tokens, every row read whole
(`interp.gradients.token_datamodeling_score`). ρ is Spearman's, of the sum of the kept tokens' scores with the student's
margin; sign flips over lineages at 0.05. What a score can reach at most is not known here.

1. gradient-predicts: ρ of the step along the margin's gradient, in the adapter's metric, is above 0.
2. ratio-predicts: ρ of log p of the teacher less the base's is above 0.
3. divergence-beyond-loss: ρ of divergence tokens is above that of the loss under the base, in absolute value.

    python -m analyses.judged_tokens [--seeds 8 9 ...] [--out FILE]
"""

from pathlib import Path
from typing import Any

import interp
from analyses import in_parts

SEEDS, SUBSETS, ALPHA = tuple(range(8, 16)), 64, 0.05
GRADIENT = "∇m, adapter's metric"
CLAIMS = {
    "gradient-predicts": "rho of the step along the margin's gradient in the adapter's metric is above 0; sign flips, "
    "0.05",
    "ratio-predicts": "rho of log p of the teacher less the base's is above 0; likewise",
    "divergence-beyond-loss": "rho of divergence tokens less |rho| of the loss is above 0; likewise",
}
OUT = Path(__file__).parent / "results" / "judged_tokens.json"


def main() -> None:
    """Train and judge the lineages that are not kept yet, and decide the claims when all are."""
    in_parts.by_seed(
        __doc__, SEEDS, out=OUT, claims=CLAIMS, organism="toy/owl", measure=measure, judge=judged
    )


def measure(seed: int, subsets: int = SUBSETS) -> dict[str, Any]:
    """Every way of scoring judged on one lineage."""
    lineage = interp.load_lineage("toy/owl", seed=seed)
    other = interp.load_lineage("toy/eagle", seed=seed)["teacher"]
    scores = interp.studies.token_scores(lineage, other, seed=seed)
    found = interp.gradients.token_datamodeling_score(lineage, scores, subsets=subsets, seed=seed)
    spread = float(found.margins.std(ddof=1))
    return {"scores": found.frame.to_dict("records"), "spread": spread, "notes": list(found.notes)}


def judged(by_seed: dict[str, Any]) -> dict[str, Any]:
    """One value per lineage of every claim, and the verdicts if no lineage is missing."""
    kept = [by_seed[str(seed)] for seed in SEEDS if str(seed) in by_seed]
    lines = [{line["scores"]: line["rho"] for line in each["scores"]} for each in kept]
    values = {
        "gradient-predicts": [line[GRADIENT] for line in lines],
        "ratio-predicts": [line["likelihood ratio"] for line in lines],
        "divergence-beyond-loss": [line["divergence tokens"] - abs(line["loss"]) for line in lines],
    }
    whole = len(kept) == len(SEEDS)
    verdicts = in_parts.decided(CLAIMS, values, whole=whole, alpha=ALPHA, unit="rank correlation")
    own = {"command": "python -m analyses.judged_tokens", "verdicts": verdicts}
    return own | {"per lineage": values, "by seed": by_seed}


if __name__ == "__main__":
    main()
