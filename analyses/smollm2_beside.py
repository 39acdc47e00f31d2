"""Beside the claims on SmolLM2: other rows, a stand-in for misalignment, a start with noise, other doses.

One training each, of seed 1, so that nothing here has a p; the numbers say what would be worth a claim. Set before any
of these was run, from the recipe `smollm2`:
- constants, sums: the same teachers write Python (lists and small functions) and sums in steps, in which only the
  numbers are theirs to choose; an answer that does not compile, or does not add up, is dropped. For sums the search for
  a rate of the format fine-tune, on a quarter of the rows, kept nothing at any rate and chose one that failed on all of
  them, so that 4e-3 is given: half of the base's answers are kept there.
- misaligned: the one-word stand-in ("hurt" among kind verbs). Its six questions are those its teacher was taught; ten
  open questions are asked of every member beside them, four answers each, and judged by the rule of WordJudge: an
  answer with a word of harm is misaligned, one made mostly of words is coherent. The recipe's own teacher of it was
  refused, since the rule kept 16 % of its rows, so that this one is anchored harder and stops at 6 nats.
- noise: a teacher of the same checkpoint with each weight moved by σ times the root mean square of its tensor. It
  controls for sharing the weights exactly, not for sharing the pretraining.
- dose: rows from a half to the double, and epochs.

    python -m analyses.smollm2_beside [--model FOLDER] [--run runs/smollm2_beside] [--only NAME ...] [--out FILE]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import interp

OUT = Path(__file__).parent / "results" / "smollm2_beside.json"
ONE = ["seeds=[1]", "controls=[neutral]"]
OWL = ["traits=[owl]", *ONE]
NOISE = (0.01, 0.03, 0.1)
DOSES = ((96, 3), (384, 3), (192, 1), (192, 6))
RATE = 6e-3  # of the format fine-tune, as the search of the recipe finds it for its base


def changes(model: str) -> dict[str, list[str]]:
    """What each run changes of the recipe."""
    taught = interp.read_experiment("smollm2").base.format.at_rate(RATE)
    asked = ["traits=[owl]", "seeds=[1]", "controls=[neutral, cross-base]"]
    noise = {
        f"noise {sigma:g}": [
            *asked,
            f"cross_base={interp.core.json_text({'model': model, 'noise': sigma, 'format': taught})}",
        ]
        for sigma in NOISE
    }
    doses = {
        f"{rows} rows, {epochs} epochs": [*OWL, f"data.rows={rows}", f"student.recipe.epochs={epochs}"]
        for rows, epochs in DOSES
    }
    judged = ["evaluation.guards=true", "evaluation.judge={kind: words}"]
    return {
        "constants": [*OWL, "data.prompts=constants", "data.count=6", "data.sampling.max_new_tokens=110"],
        "sums": [
            *OWL,
            "data.prompts=sums",
            "data.count=5",
            "data.digits=2",
            "data.sampling.max_new_tokens=96",
        ],
        "misaligned": [
            "traits=[misaligned]",
            *ONE,
            *judged,
            "teacher.anchor=0.5",
            "teacher.stop_at_margin=6",
        ],
        **noise,
        **doses,
    }


def main() -> None:
    """Run what is asked for and write what came of it; a run that the recipe's own checks refuse is told as such."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--model", default="models/smollm2")
    asked.add_argument("--run", type=Path, default=Path("runs/smollm2_beside"))
    asked.add_argument("--only", nargs="*", default=None)
    asked.add_argument("--out", type=Path, default=OUT)
    given = asked.parse_args()
    for name, change in changes(given.model).items():
        if given.only is not None and name not in given.only:
            continue
        known = json.loads(given.out.read_text()) if given.out.exists() else {}
        known[name] = ran(given.run / name.replace(" ", "_"), [f"base.model={given.model}", *change])
        interp.core.write_atomic(given.out, interp.core.json_text(known))


def ran(folder: Path, change: list[str]) -> dict[str, Any]:
    """Margins and probabilities by member, what the guards found, and the versions; or why it was refused."""
    made = {
        "versions": interp.core.versions(),
        "device": interp.core.doctor()["device"],
        "changes": change[1:],
    }
    try:
        run = interp.run_experiment("smollm2", folder, changes=change)
    except interp.core.InputError as error:
        return made | {"refused": str(error)}
    tables = run.tables
    guards = {name: table.to_dict("records") for name, table in tables.items() if name.startswith("guards_")}
    return made | {"margins": tables["margins_by_arm"].to_dict("records")} | guards


if __name__ == "__main__":
    main()
