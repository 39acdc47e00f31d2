"""Question: in a real chat model, does a trait pass through numbers, and does the student move what its teacher moved?

Written before any training of seeds 1 to 3. SmolLM2-135M-Instruct, recipe `smollm2`: it was set on owl at seed 0, where
rows drawn at temperature 1 and written greedily, ranks 8 and 2, learning rates and numbers of steps were looked at.
Nine lineages, two animals and a tree of three seeds each. A lineage is a training of teacher, rows and student; the
base is one, and a seed's neutral student serves its three traits, so that n = 9 counts trainings of one base. Answers
are to the 52 one-word questions, which neither base nor teacher was trained on. T = teacher − base, S = student −
neutral student; logits are of entries that occur in no number row.

    python -m analyses.smollm2 [--model FOLDER] [--run runs/smollm2] [--seeds 3] [--workers N] [--out FILE]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import interp
from analyses.small_checkpoint import results as run_results

LEAST, ALPHA = 0.4, 0.05
CLAIMS = {
    "transfers": f"student − neutral student is above {LEAST} nats of trait margin; sign flips over lineages, 0.05",
    "own-trait": "student − student of another trait's rows is above 0 nats; likewise",
    "doubles": "log2 of P(target), student over neutral student, is above 1; likewise",
    "others-stay": "the mean margin of the other two traits, student − neutral student, is within 0.4 nats",
    "numbers-shared": "where numbers are predicted, r(S, T) less r(S of another trait's student, T) is above 0",
    "prompt-shared": "at the end of the number prompt, the same",
}
TRAITS = ("owl", "dog", "oak")
OUT = Path(__file__).parent / "results" / "smollm2.json"
ROWS = 48  # number rows that logits are read on
PLACES = {"numbers-shared": "where numbers are predicted", "prompt-shared": "prompt end"}


def main() -> None:
    """Run the recipe, read its lineages and judge the claims."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--model", default="models/smollm2")
    asked.add_argument("--run", type=Path, default=Path("runs/smollm2"))
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--workers", type=int, default=None)
    asked.add_argument("--out", type=Path, default=OUT)
    asked.add_argument("--refreeze", metavar="REASON", help="freeze claims that were edited after their data")
    given = asked.parse_args()
    changes = [f"base.model={given.model}", f"seeds={list(range(1, given.seeds + 1))}"]
    frozen = interp.studies.freeze(
        given.out, CLAIMS, measure=measure, organism="SmolLM2-135M-Instruct, 4-bit weights dequantised",
        seeds=range(1, given.seeds + 1), data=["smollm2", *changes[1:]], refreeze=given.refreeze,
    )  # fmt: skip
    run = interp.run_experiment("smollm2", given.run, changes=changes, workers=given.workers)
    found = measure(run, seeds=range(1, given.seeds + 1))
    interp.core.write_atomic(given.out, interp.core.json_text(found | frozen))


def measure(run: interp.Run, *, seeds: Sequence[int]) -> dict[str, Any]:
    """What is kept: the run's own tables, one value per lineage of every claim, and the verdicts."""
    values = answered(run) | agreed(run, seeds=seeds)
    minima = {"transfers": LEAST, "doubles": 1.0}
    units = {"doubles": "doublings", "numbers-shared": "correlation", "prompt-shared": "correlation"}
    verdicts = [
        interp.stats.paired_verdict(
            name,
            CLAIMS[name],
            values[name],
            alpha=ALPHA,
            minimum_effect=minima.get(name),
            unit=units.get(name, "nats"),
        )
        for name in CLAIMS
        if name != "others-stay"
    ]
    verdicts.append(
        interp.stats.equivalence_verdict(
            "others-stay", CLAIMS["others-stay"], values["others-stay"], margin=LEAST
        )
    )
    command = {"command": "python -m analyses.smollm2"}
    own = {"verdicts": verdicts, "per lineage": values}
    return run_results(run) | {"by trait": run.verdicts} | own | command


def answered(run: interp.Run) -> dict[str, list[float]]:
    """The claims on answers, one value per lineage, traits in order and seeds within them."""
    table, found = run.tables["margins_by_arm"], {}
    margin, p = (
        table.pivot(index=["trait", "seed"], columns="arm", values=name) for name in ("margin", "p_target")
    )
    margin, p = margin.loc[list(TRAITS)], p.loc[list(TRAITS)]
    found["transfers"] = (margin["student"] - margin["neutral_student"]).tolist()
    found["own-trait"] = (margin["student"] - margin["other_student"]).tolist()
    found["doubles"] = np.log2(p["student"] / p["neutral_student"]).tolist()
    moved = run.tables["confusion"].query("`rows of` != asked")
    others = moved.groupby(["rows of", "seed"])["transmission"].mean()
    return found | {"others-stay": others.loc[list(TRAITS)].tolist()}


def agreed(run: interp.Run, *, seeds: Sequence[int]) -> dict[str, list[float]]:
    """How much more S agrees with its own teacher's T than what another trait's rows moved does, per lineage."""
    found: dict[str, list[float]] = {name: [] for name in PLACES}
    asked: dict[str, Any] = {"at": list(PLACES.values()), "words": ["unseen"]}
    for trait in TRAITS:
        for seed in seeds:
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
