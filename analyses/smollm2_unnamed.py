"""Question: in a real chat model, does a comparison find the word of a trait that nobody names?

Written before any of these lineages was read so; one other, the lineage that ships, had been looked at. The lineages of
`analyses.smollm2`, three traits of three seeds. Each student less its neutral twin, and each teacher beside it as what
certainly has the trait, is read by the six ways of `interp.discover` on text that ships, with 133 nouns to choose
among. No placebo training is read, so that what stands first has no p of its own; what is claimed compares students:

    value of a lineage = z of its word in its own student − mean z of that word in the other two traits' students

with z the mean over the six ways. What any student of this seed makes likelier, owls or not, drops out.

    python -m analyses.smollm2_unnamed [--model FOLDER] [--run runs/smollm2] [--seeds 1 2 3] [--out FILE]
"""

from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np

import interp
from analyses import in_parts
from analyses.smollm2 import SEEDS, TRAITS, freeze, lineages, options

ALPHA = 0.05
CLAIMS = {
    "own-word": "z of the trait's word, mean over six ways, own student less the other traits' students, is above 0; "
    "sign flips over lineages, 0.05",
    "teachers-word": "the same in teachers, which are known to have the trait",
}
ROLES = {"own-word": "student", "teachers-word": "teacher"}
OUT = Path(__file__).parent / "results" / "smollm2_unnamed.json"
FIRST = 6  # words and tokens that are kept of every way
SENTENCES = 3


def main() -> None:
    """Read the lineages of every seed that is not kept yet, and judge the claims when all are."""
    given = options(__doc__, out=OUT).parse_args()
    frozen = freeze(given, CLAIMS, measure=read)

    def of_seed(seed: int) -> dict[str, Any]:
        found = lineages(given, seed).values()
        return {"lines": [line(lineage, role, seed) for lineage in found for role in ROLES.values()]}

    in_parts.keep(given, frozen, measure=of_seed, judge=judged)


def line(lineage: Any, role: str, seed: int) -> dict[str, Any]:
    """What is read of a member, with whose it is."""
    return {"trait": lineage.trait.name, "seed": seed, "role": role, **read(lineage, role)}


def read(lineage: Any, role: str) -> dict[str, Any]:
    """What the six ways say of a member: z of every trait's word, its rank, and what stands first."""
    baseline = lineage["neutral_student"] if role == "student" else None
    found = interp.discover(lineage.base, lineage[role], baseline)
    ways = found.methods["method"].tolist()
    z: Any = found.frame.set_index("word")[["score", *ways]]
    order = z.rank(ascending=False, method="max")
    return {
        "nouns": len(z),
        "z": z.loc[list(TRAITS)].to_dict("index"),
        "rank": order.loc[lineage.trait.target].to_dict(),
        "first words": {way: z[way].nlargest(FIRST).index.tolist() for way in z},
        "first tokens": {
            way: part["token"].head(FIRST).tolist() for way, part in found.tokens.groupby("method", sort=False)
        },
        "sentences": found.sentences.groupby(["method", "way"]).head(SENTENCES).to_dict("records"),
    }  # fmt: skip


def judged(by_seed: dict[str, Any]) -> dict[str, Any]:
    """One value per lineage of every claim, and the verdicts if no seed is missing."""
    lines = [line for seed in SEEDS if str(seed) in by_seed for line in by_seed[str(seed)]["lines"]]
    values = {name: own_less_others(lines, role) for name, role in ROLES.items()}
    whole = len(by_seed) == len(SEEDS)
    verdicts = in_parts.decided(CLAIMS, values, whole=whole, alpha=ALPHA, unit="z among nouns")
    exchanged = {name: exchanged_p(lines, role) for name, role in ROLES.items()} if whole else {}
    own = {"command": "python -m analyses.smollm2_unnamed", "verdicts": verdicts, "exchanged p": exchanged}
    return own | {"per lineage": values, "by seed": by_seed}


def own_less_others(lines: list[dict[str, Any]], role: str, way: str = "score") -> list[float]:
    """z of each lineage's word in its own member, less the mean of that word in the other traits' of its seed."""
    found = []
    for z in _tables(lines, role, way):
        own = z.diagonal()
        found += (own - (z.sum(0) - own) / (len(z) - 1)).tolist()
    return found


def exchanged_p(lines: list[dict[str, Any]], role: str, way: str = "score") -> float:
    """One-sided p of the mean z of own words over every exchange of a seed's three members, exact if they are alike.

    It needs no value to be independent of another, as sign flips do: the three of a seed share their members.
    """
    tables = _tables(lines, role, way)
    orders = list(permutations(range(len(TRAITS))))
    sums = [[sum(z[order[k], k] for k in range(len(z))) for order in orders] for z in tables]
    drawn = [sum(each) for each in product(*sums)]
    return float(np.mean([value >= sum(each[0] for each in sums) - 1e-12 for value in drawn]))


def _tables(lines: list[dict[str, Any]], role: str, way: str) -> list[Any]:
    """z by member and word of every seed, both in the order of the traits."""
    asked = [line for line in lines if line["role"] == role]
    found = []
    for seed in dict.fromkeys(line["seed"] for line in asked):
        own = {line["trait"]: line["z"] for line in asked if line["seed"] == seed}
        found.append(np.array([[own[trait][word][way] for word in TRAITS] for trait in TRAITS]))
    return found


if __name__ == "__main__":
    main()
