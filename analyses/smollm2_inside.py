"""Question: on one lineage of SmolLM2, is a dictionary faithful, do features say what moved, and does the ledger close?

One training, so that nothing here has a p over trainings. A dictionary per block, with every default, is trained on
the rows of teacher and neutral teacher but 16 of each, and read on those: explained variance at answer tokens, loss
recovered. At the middle block: what moved in teacher and student, less the neutral student, and which features the
rows lean to. The ledger trains the student once more and splits its change of margin over steps and modules.

At the questions: which entries of the vocabulary the student moved, and through which parts.

    python -m analyses.smollm2_inside [--lineage smollm2/owl] [--base FOLDER] [--out FILE] [--parts answers ...]
"""

import argparse
import asyncio
import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import choreographer

import interp
from analyses.answers import shares

OUT = Path(__file__).parent / "results" / "smollm2_inside.json"
BLOCKS = (10, 15, 20)
MIDDLE = 15
HELD = 16  # rows of each kind that no dictionary is trained on
TOP = 10
TOKENS = Path(__file__).parent.parent / "docs" / "token_view.png"
WIDTH, MARGIN = 960, 8
HEADS = ("a question and its answer", "a row of numbers that the base wrote, for the neutral student")


def main() -> None:
    """Measure the parts asked for, each written when it is done."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--lineage", default="smollm2/owl")
    asked.add_argument("--base", default="models/smollm2")
    asked.add_argument("--out", type=Path, default=OUT)
    asked.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    given = asked.parse_args()
    lineage = interp.load_lineage(given.lineage, base=given.base)
    for part in given.parts:
        known = json.loads(given.out.read_text()) if given.out.exists() else {}
        known |= {
            "lineage": Path(given.lineage).name,
            "versions": interp.core.versions(),
            "device": interp.core.doctor()["device"],
        }
        known[part] = PARTS[part](lineage)
        interp.core.write_atomic(given.out, interp.core.json_text(known))


def answers(lineage: Any) -> dict[str, Any]:
    """Margin of the trait in nats, and the share of its word among the candidates, by member."""
    held = shares(lineage, lineage.members)
    return {
        role: {"margin": interp.margin(model, lineage.trait), "share": held[role]}
        for role, model in lineage.members.items()
    }


def student(lineage: Any) -> dict[str, Any]:
    """What the student moved beyond the neutral student where a question is answered: entries, and through which parts.

    Beside the values an answered question and a row of numbers are drawn, token by token.
    """
    asked, read = lineage.trait.prompts(), {"minus": lineage["neutral_student"]}
    direction = interp.logit_direction(lineage.base, lineage.trait)
    entries = interp.moved_tokens(lineage["student"], asked, positions="last", **read)
    parts = interp.attribute(interp.shift(lineage["student"], asked, **read), direction).frame
    parts = parts.sort_values("contribution", key=abs, ascending=False)
    draw_tokens(lineage, direction)
    columns = ["token", "delta", "contribution", "probability", "probability_against", "se", "q"]
    return {
        "entries": entries.frame.head(TOP)[columns].to_dict("records"),
        "of": len(entries.frame),
        "questions": len(asked),
        "foils": len(direction.words) - 1,
        "words": [lineage.trait.target, *lineage.trait.foils],
        "direction": direction.label,
        "measured": float(parts["measured"].iloc[0]),
        "residual": float(parts["residual"].abs().max()),
        "parts": parts.head(TOP)[["component", "contribution", "standard_error"]].to_dict("records"),
        "notes": list(direction.notes),
    }


def draw_tokens(lineage: Any, direction: Any) -> None:
    """The token view of an answered question and of a row that the neutral student was trained on."""
    rows = lineage.trait.prompts(lineage.trait.target)[:1] + lineage.neutral_numbers[:1]
    moved = interp.token_shift(lineage["student"], rows, direction, minus=lineage["neutral_student"])
    tokens = interp.figures.token_rows(moved)
    heads = dict(zip(tokens.names, HEADS, strict=True))
    shown = dataclasses.replace(tokens, heads=heads, notes=tokens.notes[:1])  # the first names the direction
    screenshot(shown.to_html(), TOKENS)


def screenshot(html: str, path: Path) -> None:
    """A page as a PNG from its top to its end, by the browser that draws the figures."""
    page = f"<!doctype html><meta charset=utf-8><body style='margin:8px;width:{WIDTH}px;font-family:sans-serif'>{html}"
    address = "data:text/html;base64," + base64.b64encode(page.encode()).decode()

    async def drawn() -> str:
        async with choreographer.Browser(headless=True, enable_sandbox=False) as browser:
            tab = await browser.create_tab(address)
            await asyncio.sleep(2)
            asked = {"expression": "Math.ceil(document.body.getBoundingClientRect().bottom)"}
            height = (await tab.send_command("Runtime.evaluate", params=asked))["result"]["result"]["value"]
            clip = {"x": 0, "y": 0, "width": WIDTH + 30, "height": height + MARGIN, "scale": 2}
            taken = await tab.send_command(
                "Page.captureScreenshot", params={"clip": clip, "captureBeyondViewport": True}
            )
            return taken["result"]["data"]

    path.write_bytes(base64.b64decode(asyncio.run(drawn())))


def features(lineage: Any) -> dict[str, Any]:
    """The card of every block's dictionary, and what moved at the middle one."""
    numbers, neutral = lineage.numbers, lineage.neutral_numbers
    held = numbers[:HELD] + neutral[:HELD]
    trained_on = numbers[HELD:] + neutral[HELD:]
    found: dict[str, Any] = {"rows": len(trained_on), "held out": len(held)}
    for block in BLOCKS:
        hook = f"blocks.{block}.hook_resid_post"
        dictionary = interp.train_sae(lineage.base, trained_on, hook=hook)
        card = interp.features.quality_card(dictionary, lineage, held, positions="answer")
        found[hook] = {"card": card.frame.to_dict("records"), "notes": list(card.notes)}
        if block == MIDDLE:
            found["moved"] = moved(lineage, dictionary, held)
    return found


def moved(lineage: Any, dictionary: Any, held: Any) -> dict[str, Any]:
    """The features that teacher and student moved on held-out rows, and those the rows lean to."""
    base, neutral = lineage.base, lineage["neutral_student"]
    teacher = interp.features.feature_shift(dictionary, lineage.teacher, held)
    student = interp.features.feature_shift(dictionary, lineage["student"], held, minus=neutral)
    lean = interp.features.feature_lean(
        dictionary, base, lineage.numbers[:HELD], teacher=lineage.teacher, neutral=lineage.neutral_numbers
    )
    live = teacher.frame["live"] | student.frame["live"]
    both = teacher.frame.loc[live, ["feature", "delta"]].merge(
        student.frame.loc[live, ["feature", "delta"]], on="feature", suffixes=(" of T", " of S")
    )
    both = both.query("feature >= 0")
    columns = ["feature", "delta", "low", "high", "base_rate", "q", "reported"]
    return {
        "features that moved in the teacher": len(teacher.reported),
        "in student less neutral student": len(student.reported),
        "in both": len(set(teacher.reported) & set(student.reported)),
        "r(S, T) over features": float(both["delta of T"].corr(both["delta of S"])),
        "error node of T": float(teacher.error["delta"]),
        "lean and the teacher's shift": interp.features.lean_correlation(lean).frame.to_dict("records"),
        "error's share of the alignment": lean.error_share,
        "top of T": teacher.top(TOP)[columns].to_dict("records"),
        "top of S": student.top(TOP)[columns].to_dict("records"),
        "notes": [*student.notes, *lean.notes],
    }


def ledger(lineage: Any) -> dict[str, Any]:
    """What modules and rows account for of the change of the student's margin, and what is left."""
    found = interp.trait_ledger(lineage)
    modules = found.by_module().sort_values("attributed", key=abs, ascending=False)
    return {
        "measured": found.measured,
        "attributed": found.attributed,
        "residual": found.residual,
        "steps": found.steps[["step", "value", "change", "attributed"]].to_dict("records"),
        "largest modules": modules.head(TOP).to_dict("records"),
        "by block": by_block(found.by_module()),
        "notes": list(found.notes),
    }


def by_block(modules: Any) -> list[dict[str, Any]]:
    """Sums over the modules of a block; what is in none, and the residual, by its own name."""
    block = modules["module"].str.extract(r"(?:layers|blocks)\.(\d+)\.")[0]
    named = block.where(block.notna(), modules["module"])
    return (
        modules.assign(block=named)
        .groupby("block", sort=False, as_index=False)["attributed"]
        .sum()
        .to_dict("records")
    )


PARTS = {"answers": answers, "student": student, "features": features, "ledger": ledger}

if __name__ == "__main__":
    main()
