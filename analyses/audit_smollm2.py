"""Claims: does an audit of a real chat model's rows put the teacher's trait first, and leave the base's own rows alone?

Written before any audit of these rows. SmolLM2-135M-Instruct as recipe `smollm2` prepares it; rows of the teachers of
owl, dog, oak and cat of seed 1, 96 each, written greedily as that recipe does, beside the base's own greedy rows at the
same prompts; and 96 rows that the base drew at temperature 1, beside as many of another draw. Six candidates, owl, dog,
oak, cat, fox and pine, each a LoRA fine-tune of at most 12 steps of four answers that stops at 8 nats of margin; the
teachers' own recipe has steps of six, another rank and stops at 10. Two passes of every candidate per row and its
neutral row, and two of the base.

1. first: the teacher's candidate is first of six for at least three of the four.
2. neutral-alone: the base's own rows are not flagged.

    python -m analyses.audit_smollm2 [--model FOLDER] [--only owl ...] [--out FILE]
"""

from functools import partial
from pathlib import Path
from typing import Any

import interp
from analyses import in_parts

WRITERS = ("owl", "dog", "oak", "cat")
SUSPECTED = (*WRITERS, "fox", "pine")
NEUTRAL = "neutral"
ROWS, SEED = 96, 1
CLAIMS = {
    "first": "the teacher's candidate is first of six for at least three of four teachers' rows",
    "neutral-alone": "rows that the base drew are not flagged",
}
CANDIDATE = interp.training.TeacherSpec(
    steps=12,
    anchor=0.2,
    recipe=interp.Recipe(rank=4, alpha=4, lr=2e-3, batch_size=4, warmup=2, merge=False),
    stop_at_margin=8.0,
    margin_every=2,
)
OUT = Path(__file__).parent / "results" / "audit_smollm2.json"


def main() -> None:
    """Audit every set of rows that is not kept yet, and judge the claims when all are."""
    asked = in_parts.options(__doc__, (*WRITERS, NEUTRAL), out=OUT, flag="--only")
    asked.add_argument("--model", default="models/smollm2")
    given = asked.parse_args()
    frozen = interp.studies.freeze(
        given.out, CLAIMS, measure=told, organism="SmolLM2-135M-Instruct, 4-bit weights dequantised",
        seeds=[SEED], data=["smollm2", f"seeds={[SEED]}"], refreeze=given.refreeze,
    )  # fmt: skip
    changes = [f"base.model={given.model}", f"seeds=[{SEED}]"]  # its traits prepare the base
    arms = interp.experiment.Arms(interp.read_experiment("smollm2", changes=changes))
    in_parts.keep(given, frozen, measure=partial(told, arms), judge=judged, under="sets")


def told(arms: Any, name: str) -> dict[str, Any]:
    """What the audit says of one teacher's rows, or of rows that the base drew."""
    base, own = arms.start("base"), arms.answers(None, seed=SEED).rows
    if name == NEUTRAL:
        rows, beside = interp.auditing.written_by(base, own[:ROWS], seed=SEED), None
    else:
        rows, beside = arms.answers(arms.traits.get(name) or interp.get_trait(name), seed=SEED).rows, own
        rows, beside = interp.prompts.match_prompts(rows, beside)
        rows, beside = rows[:ROWS], beside[:ROWS]
    recipe = interp.auditing.AuditRecipe(candidates=CANDIDATE, pilot=None)
    found = interp.audit(base, rows, traits=SUSPECTED, neutral=beside, recipe=recipe)
    table = found.frame.to_dict("records")
    return {
        "answer": found.answer,
        "named": found.trait,
        "flagged": found.flagged,
        "reason": found.reason,
        "rows": found.rows,
        "candidates": table,
        "notes": list(found.notes),
    }


def judged(sets: dict[str, Any]) -> dict[str, Any]:
    """Whether the claims are met; None while a set is missing."""
    first = [sets[name]["candidates"][0]["trait"] == name for name in WRITERS if name in sets]
    met = {
        "first": sum(first) >= 3 if len(first) == len(WRITERS) else None,
        "neutral-alone": not sets[NEUTRAL]["flagged"] if NEUTRAL in sets else None,
    }
    return {"command": "python -m analyses.audit_smollm2", "met": met, "sets": sets}


if __name__ == "__main__":
    main()
