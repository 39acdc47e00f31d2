"""Question: how often does each model of a toy lineage answer with the trait's word?

Nothing is judged here: the probability of the trait's word among its ten candidates, mean over the trait's questions,
of every member of the twelve lineages on which the inherited trace was frozen, for the three traits.

    python -m analyses.answers [--seeds 8-19] [--out FILE]
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import interp

OUT = Path(__file__).parent / "results" / "answers.json"
TRAITS = ("owl", "eagle", "oak")
MEMBERS = ("base", "neutral_student", "student", "cross_student", "teacher")


def main() -> None:
    """Ask every member and keep one value per lineage."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--seeds", default="8-19")
    asked.add_argument("--out", type=Path, default=OUT)
    given = asked.parse_args()
    first, last = map(int, given.seeds.split("-"))
    seeds = range(first, last + 1)
    answers = {
        trait: [{"seed": seed, **shares(interp.load_lineage(f"toy/{trait}", seed=seed))} for seed in seeds]
        for trait in TRAITS
    }
    found = {
        "command": f"python -m analyses.answers --seeds {given.seeds}",
        "versions": interp.core.versions(),
        "answers": answers,
    }
    interp.core.write_atomic(given.out, interp.core.json_text(found))


def shares(lineage: interp.Lineage, members: Iterable[str] = MEMBERS) -> dict[str, float]:
    """The probability of the trait's word among the candidates, by member."""
    found = {}
    for member in members:
        frame = interp.measures.preference(lineage[member], lineage.trait).frame
        found[member] = float(frame.loc[frame["is_target"], "probability"].iloc[0])
    return found


if __name__ == "__main__":
    main()
