"""Question: in a real chat model, does a trait pass through numbers, and does the student move what its teacher moved?

Written before any training of seeds 1 to 3. SmolLM2-135M-Instruct, recipe `smollm2`: it was set on owl at seed 0, where
rows drawn at temperature 1 and written greedily, ranks 8 and 2, learning rates and numbers of steps were looked at.
Nine lineages, two animals and a tree of three seeds each. A lineage is a training of teacher, rows and student; the
base is one, and a seed's neutral student serves its three traits, so that n = 9 counts trainings of one base. Answers
are to the 52 one-word questions, which neither base nor teacher was trained on. T = teacher − base, S = student −
neutral student; logits are of entries that occur in no number row.

    python -m analyses.smollm2 [--model FOLDER] [--run runs/smollm2] [--seeds 1 2 3] [--workers N] [--out FILE]

Every seed is kept as soon as it is measured, so that a few may be trained today and the others another day; the claims
are judged when all three are there.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import interp
from analyses import in_parts

LEAST, ALPHA = 0.4, 0.05
CLAIMS = {
    "transfers": f"student − neutral student is above {LEAST} nats of trait margin; sign flips over lineages, 0.05",
    "own-trait": "student − student of another trait's rows is above 0 nats; likewise",
    "doubles": "log2 of P(target), student over neutral student, is above 1; likewise",
    "others-stay": "the mean margin of the other two traits, student − neutral student, is within 0.4 nats",
    "numbers-shared": "where numbers are predicted, r(S, T) less r(S of another trait's student, T) is above 0",
    "prompt-shared": "at the end of the number prompt, the same",
}
TRAITS, SEEDS = ("owl", "dog", "oak"), (1, 2, 3)
OUT = Path(__file__).parent / "results" / "smollm2.json"
ROWS = 48  # number rows that logits are read on
PLACES = {"numbers-shared": "where numbers are predicted", "prompt-shared": "prompt end"}
MINIMA = {"transfers": LEAST, "doubles": 1.0}
UNITS = {"doubles": "doublings", "numbers-shared": "correlation", "prompt-shared": "correlation"}


def main() -> None:
    """Train and read the lineages of every seed that is not kept yet, and judge the claims when all are."""
    asked = options(__doc__, out=OUT)
    asked.add_argument("--workers", type=int, default=None)
    given = asked.parse_args()
    frozen = freeze(given, CLAIMS, measure=measure)

    def of_seed(seed: int) -> dict[str, Any]:
        return measure(grown(given.run, seed, given.model, workers=given.workers), seed=seed)

    in_parts.keep(given, frozen, measure=of_seed, judge=judged)


def options(doc: str, *, out: Path) -> argparse.ArgumentParser:
    """A parser for an analysis of these lineages: their seeds, the model, the folder of the runs, and the file."""
    asked = in_parts.options(doc, SEEDS, out=out)
    asked.add_argument("--model", default="models/smollm2")
    asked.add_argument("--run", type=Path, default=Path("runs/smollm2"))
    return asked


def freeze(given: argparse.Namespace, claims: dict[str, str], *, measure: Any) -> dict[str, Any]:
    """The claims on these lineages as they stand in the ledger."""
    return interp.studies.freeze(
        given.out, claims, measure=measure, organism="SmolLM2-135M-Instruct, 4-bit weights dequantised",
        seeds=SEEDS, data=["smollm2", f"seeds={list(SEEDS)}"], refreeze=given.refreeze,
    )  # fmt: skip


def lineages(given: argparse.Namespace, seed: int) -> dict[str, interp.Lineage]:
    """Those of a seed by trait, grown where they are not there."""
    folder = grown(given.run, seed, given.model).folder / "lineages"
    return {trait: interp.load_lineage(folder / f"{trait}-{seed}") for trait in TRAITS}


def grown(folder: Path, seed: int, model: str, *, workers: int | None = None) -> interp.Run:
    """The run of a seed in its part of the folder, gone on with where it was."""
    changes = [f"base.model={model}", f"seeds=[{seed}]"]
    return interp.run_experiment("smollm2", folder / f"seed-{seed}", changes=changes, workers=workers)


def measure(run: interp.Run, *, seed: int) -> dict[str, Any]:
    """What is kept of one seed: every margin, and one value per trait of every claim."""
    values = answered(run.tables["margins_by_arm"], run.tables["confusion"]) | agreed(run, seed=seed)
    return {"margins": run.tables["margins_by_arm"].to_dict("records"), "values": values}


def judged(by_seed: dict[str, Any]) -> dict[str, Any]:
    """All seeds together: margins, one value per lineage of every claim, and the verdicts if no seed is missing."""
    kept = [by_seed[str(seed)] for seed in SEEDS if str(seed) in by_seed]
    values = {name: [each for seed in kept for each in seed["values"][name]] for name in CLAIMS}
    verdicts = verdicts_of(values) if len(kept) == len(SEEDS) else []
    margins = [line for seed in kept for line in seed["margins"]]
    own = {"command": "python -m analyses.smollm2", "verdicts": verdicts, "margins": margins}
    return own | {"per lineage": values, "by seed": by_seed}


def verdicts_of(values: dict[str, list[float]]) -> list[interp.Verdict]:
    """The decision on every claim, from one value per lineage."""
    found = [
        interp.stats.paired_verdict(
            name,
            CLAIMS[name],
            values[name],
            alpha=ALPHA,
            minimum_effect=MINIMA.get(name),
            unit=UNITS.get(name, "nats"),
        )
        for name in CLAIMS
        if name != "others-stay"
    ]
    stays = interp.stats.equivalence_verdict(
        "others-stay", CLAIMS["others-stay"], values["others-stay"], margin=LEAST
    )
    return [*found, stays]


def answered(margins: pd.DataFrame, confusion: pd.DataFrame) -> dict[str, list[float]]:
    """The claims on answers for one seed, one value per trait, from the tables of its run."""
    margin, p = (
        margins.pivot(index="trait", columns="arm", values=name).loc[list(TRAITS)]
        for name in ("margin", "p_target")
    )
    moved = confusion.query("`rows of` != asked").groupby("rows of")["transmission"].mean()
    found = {
        "transfers": margin["student"] - margin["neutral_student"],
        "own-trait": margin["student"] - margin["other_student"],
        "doubles": np.log2(p["student"] / p["neutral_student"]),
        "others-stay": moved.loc[list(TRAITS)],
    }
    return {name: values.tolist() for name, values in found.items()}


def agreed(run: interp.Run, *, seed: int) -> dict[str, list[float]]:
    """How much more S agrees with its own teacher's T than what another trait's rows moved does, per trait."""
    found: dict[str, list[float]] = {name: [] for name in PLACES}
    asked: dict[str, Any] = {"at": list(PLACES.values()), "words": ["unseen"]}
    for trait in TRAITS:
        lineage = interp.load_lineage(run.folder / "lineages" / f"{trait}-{seed}")
        rows, r = lineage.neutral_numbers[:ROWS], {}
        for member in ("student", "other_student"):
            table = interp.joined.agreement(lineage, member, **asked, prompts=rows).frame
            own = table.query("site == 'logits' and member == @member and against == 'teacher'")
            r[member] = own.set_index("place")["r"]
        for name, place in PLACES.items():
            found[name].append(float(r["student"][place] - r["other_student"][place]))
    return found


if __name__ == "__main__":
    main()
