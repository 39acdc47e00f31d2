"""Claims: do EK-FAC and TrackStar, as bergson computes them, BM25 or Adam's metric say which rows pass the trait?

Written before either was judged on any lineage. The retrainings are those of `analyses.judged_scores`: 128 students of
random halves of one student's rows per lineage, the same draw of adapter and order for all; the rank correlation is of
the sum of a half's scores with its student's margin. Scores are of the rows at the base; the query is the loss of the
trait's word after its questions. Beside them stand the metagradient, this package's directions, the gradient of the
margin in the metric of the student's own Adam, and BM25 of a row's words for those of the questions.

    python -m analyses.judged_peers [--seeds 8 9 ...] [--workers N] [--out FILE]

Needs the extra bergson. Every seed is kept as soon as it is measured, so that some may be measured today and others
another day; the claims are judged when seeds 8 to 15 are all there.
"""

from pathlib import Path
from typing import Any

import interp
from analyses import in_parts

ALPHA = 0.01
CLAIMS = {
    "ekfac-over-gradient": f"EK-FAC's rank correlation is above the adapter-metric ∇m's; sign flips, {ALPHA}",
    "trackstar-above-zero": f"TrackStar's rank correlation is above 0; sign flips over lineages, {ALPHA}",
    "adam-over-plain-steps": "∇m as the adapter follows it by Adam ranks above ∇m as it does by gradient descent; sign "
    f"flips, {ALPHA}",
}
SEEDS = tuple(range(8, 16))
SUBSETS = 128
OUT = Path(__file__).parent / "results" / "judged_peers.json"


def main() -> None:
    """Judge the scores of every seed that is not kept yet, and the claims when all are."""
    asked = in_parts.options(__doc__, SEEDS, out=OUT)
    asked.add_argument("--workers", type=int, default=1)
    given = asked.parse_args()
    frozen = interp.studies.freeze(
        given.out, CLAIMS, measure=measure, organism="toy/owl", seeds=SEEDS,
        data=interp.organisms.TOY, refreeze=given.refreeze,
    )  # fmt: skip

    def of_seed(seed: int) -> dict[str, Any]:
        return measure(interp.load_lineage("toy/owl", seed=seed), seed=seed, workers=given.workers)

    in_parts.keep(given, frozen, measure=of_seed, judge=judged)


def measure(
    lineage: interp.Lineage, *, seed: int, subsets: int = SUBSETS, workers: int = 1
) -> dict[str, Any]:
    """The rank correlation of every way of scoring on one lineage, and a value for every claim."""
    scores = interp.studies.peer_scores(lineage)
    found = interp.gradients.datamodeling_score(
        lineage, scores, subsets=subsets, repeats=0, seed=seed, workers=workers
    )
    rho: Any = found.frame.set_index("scores")["rho"]
    values = {
        "ekfac-over-gradient": float(rho["EK-FAC"] - rho["∇m, adapter's metric"]),
        "trackstar-above-zero": float(rho["TrackStar"]),
        "adam-over-plain-steps": float(rho["∇m, adapter's Adam"] - rho["∇m, adapter's metric"]),
    }
    return {"scores": found.frame.to_dict("records"), "values": values}


def judged(by_seed: dict[str, Any]) -> dict[str, Any]:
    """All seeds together: a line per way and seed, a value per lineage of every claim, and all verdicts or none."""
    seeds = [str(seed) for seed in SEEDS if str(seed) in by_seed]
    lines = [{"seed": int(seed), **line} for seed in seeds for line in by_seed[seed]["scores"]]
    values = {name: [by_seed[seed]["values"][name] for seed in seeds] for name in CLAIMS}
    whole = len(seeds) == len(SEEDS)
    verdicts = in_parts.decided(CLAIMS, values, whole=whole, alpha=ALPHA, unit="rank correlation")
    own = {
        "command": "python -m analyses.judged_peers",
        "verdicts": [each.to_json() for each in verdicts],
        "per lineage": values,
    }
    return own | {"tables": {"scores": lines}, "by seed": by_seed}


if __name__ == "__main__":
    main()
