"""Question: does the whole experiment work on a small pretrained checkpoint, and what then does not transfer?

Written before the run. The recipe `small` was set on a pilot, owl at seed 0 with 8 192 rows, in which students at rates
of 2e-3 and 5e-3 and of one and three epochs were looked at; then rows and the teacher's steps were cut to fit the run
into twenty minutes of two cores, before any margin of seeds 1 to 3 was seen. Three traits: owl, oak, and the one-word
stand-in for misalignment. A seed draws teacher, rows and students anew from one base, so n counts trainings of that
base. Three seeds reach p = 0.125 at best: no verdict on a difference can be "supported" at 0.05, and the intervals are
what is to be read.
A. student − neutral student, in nats of trait margin: positive for each trait.
B. student − student of another trait's rows: positive, so that it is the trait and not the fine-tune.
C. cross student − cross neutral student: within ±0.2 nats. The other initialisation has not seen the pretraining text,
   so it is another initialisation and a weaker model at once.
D. Rows read in context move the base less than training on them does.
Beside them: which detectors tell the trait's rows from neutral ones.

    python -m analyses.small_checkpoint --model FOLDER [--run runs/small] [--quick] [--seeds 3] [--out FILE]
"""

import argparse
from pathlib import Path
from typing import Any

import interp

CLAIMS = {
    "A": "student − neutral student above 0 nats of trait margin for each of owl, oak, misaligned",
    "B": "student − student of another trait's rows above 0",
    "C": "cross student − cross neutral student within 0.2 nats",
    "D": "rows in context move the base less than training on them does",
}
OUT = Path(__file__).parent / "results" / "small_checkpoint.json"


def main() -> None:
    """Run the recipe and write what it found."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--model", required=True)
    asked.add_argument("--run", type=Path, default=Path("runs/small"))
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--quick", action="store_true")
    asked.add_argument("--out", type=Path, default=OUT)
    asked.add_argument("--refreeze", metavar="REASON", help="freeze claims that were edited after their data")
    given = asked.parse_args()
    changes = [
        f"base.model={given.model}",
        f"cross_base.model={given.model}",
        f"seeds={list(range(1, given.seeds + 1))}",
    ]
    if given.quick:
        changes += ["data.rows=512", "data.fresh=64", "evaluation.samples=0", "detectors=64"]
    frozen = {}
    if not given.quick:
        frozen = interp.studies.freeze(
            given.out, CLAIMS, measure=results, organism="a story model of 0.66 M parameters",
            seeds=range(1, given.seeds + 1), data=["small", *changes[2:]], refreeze=given.refreeze,
        )  # fmt: skip
    run = interp.run_experiment("small", given.run, changes=changes)
    interp.core.write_atomic(
        given.out, interp.core.json_text(results(run) | frozen | {"seeds": given.seeds, "quick": given.quick})
    )


def results(run: interp.Run) -> dict[str, Any]:
    """What is kept of a run: verdicts, transmission by arm, the confusion of traits, detectors, margins."""
    tables = run.tables
    transmission = tables["transmission"]
    lines = []
    for key in dict.fromkeys(zip(transmission["trait"], transmission["arm"], strict=True)):
        values = transmission.query("trait == @key[0] and arm == @key[1]")["transmission"].tolist()
        low, high = interp.stats.t_interval(values)
        mean = sum(values) / len(values)
        lines.append(
            {"trait": key[0], "arm": key[1], "values": values, "mean": mean, "low": low, "high": high}
        )
    detectors = {
        name.removeprefix("detectors_"): table.to_dict("records")
        for name, table in tables.items()
        if name.startswith("detectors_")
    }
    return {
        "command": "python -m analyses.small_checkpoint --model FOLDER",
        "versions": interp.core.versions(),
        "verdicts": run.verdicts,
        "transmission": lines,
        "confusion": tables["confusion"].to_dict("records") if "confusion" in tables else [],
        "detectors": detectors,
        "margins": tables["margins_by_arm"].to_dict("records"),
    }


if __name__ == "__main__":
    main()
