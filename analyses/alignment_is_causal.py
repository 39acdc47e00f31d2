"""Question: does a row's alignment with the trait make the student acquire it, or does it merely go with it?

Written before any arm was trained; nothing here was tuned. On owl lineages of eight seeds:
A. Every teacher row is scored at the base along ∇m, the gradient of the trait margin (primary), and along the
   teacher's update (secondary). Students are trained by the lineage's recipe on the top half, the bottom half and two
   random halves of the rows, matched on length and loss (interp.stats.matching). Outcome: trait margin, top −
   bottom, with top − random and random − bottom beside it.
B. A student is trained on all rows with the positive component along ∇m(θ_t) taken out of every step, and three
   placebos with the same lengths taken out at the same steps: along random directions, along random directions that
   share ∇m's size in each tensor, and along the gradient of another trait's margin (oak, asked by other questions).
   Outcome: placebo − removed, and the untouched student − removed.
A paired sign-flip test over seeds at 0.01 judges every difference; the literature has both signs, either is reported.

Added after those results were seen, and kept apart from them under "added": the update's halves against the random
ones, from the same students; and one more placebo, along the gradient of another animal's margin (eagle, chosen before
it was run), whose questions are those of the trait, since the first three placebos left the margin where it was.

    python -m analyses.alignment_is_causal [--quick] [--seeds 8] [--trait owl] [--first 0] [--out FILE]
"""

import argparse
import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

import interp

if TYPE_CHECKING:
    import plotly.graph_objects as go

FORMAT = 1
RESULTS = Path(__file__).parent / "results" / "alignment_is_causal.json"
PLACEBO = "oak"
SIBLING = "eagle"
QUICK_SEEDS = 1
CLAIMS = {
    "top-half-transfers-more": ("gradient top", "gradient bottom"),
    "top-half-over-random": ("gradient top", "gradient random"),
    "random-over-bottom-half": ("gradient random", "gradient bottom"),
    "top-half-by-update-transfers-more": ("update top", "update bottom"),
    "removal-over-random-placebo": ("random placebo", "removed"),
    "removal-over-shaped-placebo": ("shaped placebo", "removed"),
    "removal-over-other-trait-placebo": ("other-trait placebo", "removed"),
    "removal-lowers-the-margin": ("untouched", "removed"),
}
ADDED = {
    "top-half-by-update-over-random": ("update top", "update random"),
    "random-over-bottom-half-by-update": ("update random", "update bottom"),
    "removal-over-same-questions-placebo": ("same-questions placebo", "removed"),
}
PROTOCOL = "the margin with the first arm less that with the second is above 0, sign flips at 0.01"
log = logging.getLogger(__name__)


def main() -> None:
    """Train every arm of every seed, judge the differences, keep the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small lineage; nothing is kept")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--trait", choices=interp.prompts.ANIMALS, default="owl")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--refreeze", metavar="REASON", help="freeze claims that were edited after their data"
    )
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    count, toy = (
        (QUICK_SEEDS, interp.organisms.QUICK_TOY) if given.quick else (given.seeds, interp.organisms.TOY)
    )
    frozen: dict[str, Any] = {}
    if not given.quick:
        frozen = interp.studies.freeze(
            given.out, {name: (PROTOCOL, arms) for name, arms in (CLAIMS | ADDED).items()}, measure=main,
            organism=f"toy/{given.trait}", seeds=range(given.first, given.first + count), data=toy,
            refreeze=given.refreeze,
        )  # fmt: skip
    found, more = [], []
    for seed in range(given.first, given.first + count):
        lineage = interp.organisms.grow(interp.get_trait(given.trait), seed=seed, recipe=toy)
        found.append(measured(lineage, seed=seed, recipe=toy.student))
        more.append(same_questions(lineage, seed=seed, recipe=toy.student))
    command = f"python -m analyses.alignment_is_causal --seeds {count} --trait {given.trait}"
    results = collected(found, more, recipe=toy.student, command=command)
    for verdict in (*results["verdicts"], *results["added"]["verdicts"]):
        log.info("%s: %s, effect %.3f, p %.4f", *(verdict[k] for k in ("name", "decision", "effect", "p")))
    if not given.quick:
        interp.core.write_atomic(given.out, interp.core.json_text({**results, **frozen}))


def collected(
    found: list[dict[str, Any]], more: list[dict[str, Any]], *, recipe: interp.Recipe, command: str
) -> dict[str, Any]:
    """What is kept: the claims written before the runs, apart from them those added, and what made the numbers."""
    return {
        "command": command,
        "recipe": dataclasses.asdict(recipe) | {"seed": "the lineage's"},
        "versions": interp.core.versions(),
        "verdicts": [verdict.to_json() for verdict in judged(found)],
        "lineages": found,
        "added": {
            "verdicts": [verdict.to_json() for verdict in judged(_joined(found, more), claims=ADDED)],
            "lineages": more,
        },
    }


def measured(
    lineage: interp.Lineage,
    *,
    seed: int,
    recipe: interp.Recipe = interp.organisms.TOY.student,
    cache: interp.core.Cache | None = None,
) -> dict[str, Any]:
    """Trait margins of every arm of one lineage in nats, and how well the halves are matched; cached."""
    recipe = dataclasses.replace(recipe, seed=seed)
    key = interp.core.digest(
        FORMAT, lineage.base.fingerprint, lineage.numbers, lineage.trait, recipe, PLACEBO
    )

    def build(folder: Path) -> None:
        by_score, balance = halves(lineage, recipe, seed=seed)
        margins = by_score | removals(lineage, recipe, seed=seed)
        (folder / "margins.json").write_text(interp.core.json_text({"margins": margins, "balance": balance}))

    folder = (cache or interp.core.Cache.default()).get("causal", key, build)
    line = {"seed": seed, **json.loads((folder / "margins.json").read_text())}
    log.info("%s", line)
    return line


def halves(
    lineage: interp.Lineage, recipe: interp.Recipe, *, seed: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Margins of the students of matched halves, and what the halves differ in."""
    margins, balance = {}, {}
    scored: dict[str, interp.ParameterDirection] = {
        "gradient": interp.trait_gradient(lineage.base, lineage.trait),
        "update": lineage.update("teacher"),
    }
    inputs = lineage.base.encode(lineage.numbers)
    for name, direction in scored.items():
        scores = interp.score(lineage.base, inputs, direction)
        chosen = interp.stats.matched_halves(scores.examples(), seed=seed)
        for half, rows in chosen.items():
            student = interp.train_student(
                lineage.base, inputs[torch.from_numpy(rows)], recipe=recipe, name=half
            )
            margins[f"{name} {half}"] = interp.margin(student, lineage.trait)
        draws = [margins.pop(f"{name} {half}") for half in chosen if half.startswith("random")]
        margins[f"{name} random"] = float(np.mean(draws))
        balance[name] = balanced(scores, chosen)
    return margins, balance


def balanced(scores: interp.gradients.Scores, chosen: dict[str, np.ndarray]) -> dict[str, float]:
    """Rows of a half, and top − bottom in score, loss and tokens, in standard deviations over all rows."""
    frame = scores.examples().set_index("row")
    top, bottom = (frame.loc[chosen[half]] for half in ("top", "bottom"))
    gaps = {
        name: float((top[name].mean() - bottom[name].mean()) / frame[name].std())
        for name in ("score", "loss", "tokens")
    }
    return {"rows": len(top), **gaps}


def removals(lineage: interp.Lineage, recipe: interp.Recipe, *, seed: int) -> dict[str, float]:
    """Margins of the student with the component removed, of the placebos, and of the untouched student."""
    base, inputs = lineage.base, lineage.base.encode(lineage.numbers)
    objective, other = (
        interp.gradients.margin_objective(base, trait) for trait in (lineage.trait, interp.get_trait(PLACEBO))
    )

    def trained(on_step: Callable[..., Any] | None) -> float:
        return interp.margin(
            interp.train_student(base, inputs, recipe=recipe, on_step=on_step), lineage.trait
        )

    removal = interp.gradients.Removal(objective)
    margins = {"untouched": trained(None), "removed": trained(removal)}
    placebos = {
        "random placebo": interp.gradients.Placebo(removal.removed, seed=seed),
        "shaped placebo": interp.gradients.Placebo(removal.removed, like=objective, seed=seed),
        "other-trait placebo": interp.gradients.Placebo(removal.removed, objective=other),
    }
    return margins | {name: trained(placebo) for name, placebo in placebos.items()}


def same_questions(
    lineage: interp.Lineage,
    *,
    seed: int,
    recipe: interp.Recipe = interp.organisms.TOY.student,
    cache: interp.core.Cache | None = None,
) -> dict[str, Any]:
    """The placebo along another animal's gradient, the lengths taken out, and how the two gradients lie; cached.

    `length` sums the lengths over steps in units of the trained factors, `shortened` is the share of steps that had a
    positive component, `cosine` is that of the two margins' gradients at the base.
    """
    recipe = dataclasses.replace(recipe, seed=seed)
    key = interp.core.digest(
        FORMAT, lineage.base.fingerprint, lineage.numbers, lineage.trait, recipe, sibling(lineage.trait)
    )

    def build(folder: Path) -> None:
        (folder / "margins.json").write_text(interp.core.json_text(_same_questions(lineage, recipe)))

    folder = (cache or interp.core.Cache.default()).get("causal", key, build)
    line = {"seed": seed, **json.loads((folder / "margins.json").read_text())}
    log.info("%s", line)
    return line


def sibling(trait: interp.Trait) -> interp.Trait:
    """The trait of the same questions whose gradient the added placebo takes: SIBLING, or the first foil for it."""
    return interp.get_trait(SIBLING if SIBLING in trait.foils else trait.foils[0])


def _same_questions(lineage: interp.Lineage, recipe: interp.Recipe) -> dict[str, Any]:
    base, inputs = lineage.base, lineage.base.encode(lineage.numbers)
    traits = (lineage.trait, sibling(lineage.trait))
    objective, other = (interp.gradients.margin_objective(base, trait) for trait in traits)
    own, another = (interp.trait_gradient(base, trait) for trait in traits)
    removal = interp.gradients.Removal(objective)
    callbacks = {
        "removed": removal,
        "same-questions placebo": interp.gradients.Placebo(removal.removed, objective=other),
    }
    margins = {
        name: interp.margin(interp.train_student(base, inputs, recipe=recipe, on_step=each), lineage.trait)
        for name, each in callbacks.items()
    }
    return {
        "margins": margins,
        "length": float(np.sum(removal.removed)),
        "shortened": float(np.mean(np.array(removal.removed) > 0)),
        "cosine": own.dot(another) / (own.norm() * another.norm()),
    }


def judged(
    found: list[dict[str, Any]], *, claims: dict[str, tuple[str, str]] = CLAIMS
) -> list[interp.Verdict]:
    """One verdict for every difference between two arms."""
    return [
        interp.stats.paired_verdict(
            name,
            f"the trait margin is larger with {more} than with {less}",
            [line["margins"][more] - line["margins"][less] for line in found],
        )
        for name, (more, less) in claims.items()
    ]


def figure(results: dict[str, Any]) -> "go.Figure":
    """Every difference between two arms, one point per lineage, with its mean and the interval of its verdict."""
    lines = _joined(results["lineages"], results["added"]["lineages"])
    rows = []
    for verdict in (*results["verdicts"], *results["added"]["verdicts"]):
        more, less = (CLAIMS | ADDED)[verdict["name"]]
        low, high = verdict["interval"]
        rows += [
            {
                "arms": f"{more} − {less}",
                "difference": line["margins"][more] - line["margins"][less],
                "half": (high - low) / 2,
            }
            for line in lines
        ]
    level = 1 - 2 * results["verdicts"][0]["controls"]["alpha"]
    title = f"Difference of trait margin, one point per lineage (n = {len(lines)}; {level:.0%} t-intervals)"
    drawn = interp.figures.points(
        pd.DataFrame(rows), x="arms", y="difference", interval="half", title=title, unit="nats"
    )
    return drawn.update_xaxes(tickangle=-90)  # at a slant plotly drops the labels at an end


def _joined(found: list[dict[str, Any]], more: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Margins of all arms, one line per lineage."""
    return [
        {"seed": one["seed"], "margins": two["margins"] | one["margins"]}
        for one, two in zip(found, more, strict=True)
    ]


if __name__ == "__main__":
    main()
