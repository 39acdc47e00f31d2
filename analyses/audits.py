"""Does an audit name whose teacher wrote rows, and say how much of it passes, without the teacher?

Written on seeds 100 and 101 alone (owl, cat, oak; eagle, elm and wolf at 101): the ridge and the levels of
`interp.audit` were set there. By them 7 of 9 sets are named rightly and none wrongly, none of the 9 is named with its
trait left off the list, and 1 of 64 neutral sets of 64 rows is flagged. No audit of seeds 0-15 had been made then.
Every seed has three traits, owl, eagle and oak, audited over 2 048 rows among the twenty animals and trees, at the base
and at a foreign one.

A. identity: the trait's candidate is first of twenty, over 48 sets; at least .9 of them.
B. detectors: trait against trait at 64 rows, AUROC by the audit's ratios at least .15 over the better of counts of
   values (naive Bayes) and a bag of numbers, mean over seeds.
C. false-positives: of at least 400 disjoint sets of 256 rows that the bases wrote, at most 5 % are flagged.
D. foreign: of the sets read at a foreign base at most 5 % name a trait; "cannot tell" counts as right.
E. unlisted: with its own trait left off the list at most 5 % of the sets name another.
F. prediction: the pilot's gain ranks datasets (all of the teacher's, half of them neutral, shuffled across answers,
   canonical, foreign) as the trained students' transfer does, ρ at least .7 over at least 40 of them, seeds 0-7.

A seed takes about 8 minutes of one core from grown lineages, seeds 0-7 about 15 more for their 15 datasets; what is
finished lies in --out and is not measured again, and trainings lie in $INTERP_CACHE.

    python -m analyses.audits [--seeds 16] [--workers 1] [--out runs/audits] [--quick]
"""

import argparse
import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import interp

TRAITS = ("owl", "eagle", "oak")
ROWS, SET, BAG, PREDICTED = 2048, 256, 64, 8
CLAIMS = {
    "identity": "the trait's candidate is first of twenty in at least .9 of the sets of 2048 rows",
    "detectors": "AUROC trait against trait at 64 rows at least .15 over naive Bayes and a bag of numbers",
    "false-positives": "at most 5 % of at least 400 sets of 256 rows that the base wrote are flagged",
    "foreign": "at most 5 % of the sets read at a foreign base name a trait",
    "unlisted": "at most 5 % of the sets whose trait is not listed name another",
    "prediction": "Spearman's rho of pilot gain and measured transfer at least .7 over at least 40 datasets",
}
RESULTS = Path(__file__).parent / "results" / "audits.json"


def main() -> None:
    """Freeze, measure what is not there yet, judge and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/audits"))
    parser.add_argument("--quick", action="store_true", help="seed 16, owl alone, 512 rows; nothing is kept")
    parser.add_argument(
        "--refreeze", metavar="REASON", help="freeze claims that were edited after their data"
    )
    given = parser.parse_args()
    if given.quick:
        print_lines(measured(16, traits=("owl",), predicted=False, count=512))
        return
    kept = interp.studies.freeze(
        RESULTS, CLAIMS, measure=measured, organism=f"toy/{', toy/'.join(TRAITS)}", seeds=range(given.seeds),
        data=interp.organisms.TOY, refreeze=given.refreeze,
    )  # fmt: skip
    measure = partial(cell, out=given.out)
    cells = interp.core.sweep(measure, range(given.seeds), workers=given.workers, label="audits", unit="seed")
    command = f"python -m analyses.audits --seeds {given.seeds}"
    found = {"command": command, **kept, "claims_judged": judged(cells), "seeds": cells}
    interp.core.write_atomic(RESULTS, interp.core.json_text(found))
    print_lines(found["claims_judged"])


def cell(seed: int, *, out: Path) -> dict[str, Any]:
    """What was measured on one seed, read where it is there."""
    path = out / f"seed-{seed}.json"
    if not path.is_file():
        found = measured(seed, predicted=seed < PREDICTED)
        interp.core.write_atomic(path, interp.core.json_text(found))
    return json.loads(path.read_text())


def measured(
    seed: int, *, traits: tuple[str, ...] = TRAITS, predicted: bool = True, count: int = ROWS
) -> dict[str, Any]:
    """Every audit of one seed."""
    lineages = {trait: interp.load_lineage(f"toy/{trait}", seed=seed) for trait in traits}
    first = lineages[traits[0]]
    words = [*interp.prompts.ANIMALS, *interp.prompts.TREES]
    who: dict[str, Any] = {"traits": words, "recipe": interp.auditing.WHO}
    neutral = interp.audit(first.base, first.neutral_numbers[: 4 * count], **who)
    audits = {
        trait: interp.audit(first.base, each.numbers[:count], traits=words)
        for trait, each in lineages.items()
    }
    lines = []
    for trait, each in lineages.items():
        found = audits[trait]
        others = [word for word in words if word != trait]
        unlisted = interp.audit(first.base, each.numbers[:count], traits=others, recipe=interp.auditing.WHO)
        foreign = interp.audit(each["cross_base"], each.numbers[:count], **who)
        rank = found.frame["trait"].tolist().index(trait) + 1
        line = {"trait": trait, "rank": rank, **told(found), "curve": found.curve.to_dict("records")}
        lines.append(line | {"unlisted": told(unlisted), "foreign": told(foreign)})
    flags = neutral.split(SET)["answer"].isin(["named", "unlisted"])
    return {
        "seed": seed,
        "sets": lines,
        "neutral": {"flagged": int(flags.sum()), "of": len(flags)},
        "detectors": against_detectors(audits, lineages),
        "datasets": datasets(lineages) if predicted else [],
    }


def told(found: Any) -> dict[str, Any]:
    """The answers of one audit and its first line."""
    top = found.frame[["trait", "d", "p", "share"]].to_dict("records")[0] if len(found.frame) else {}
    return {"answer": found.answer, "named": found.trait, "passes": found.passes, "top": top}


def against_detectors(audits: dict[str, Any], lineages: dict[str, Any]) -> list[dict[str, Any]]:
    """AUROC of bags of 64 rows, one trait's against another's, by the audit and by what counts numbers."""
    lines, names = [], list(audits)
    for one, other in [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]:
        columns = [audits[one].ratios.traits.index(name) for name in (one, other)]
        sides = [audits[name].ratios.excess[:, columns] @ np.array([1.0, -1.0]) for name in (one, other)]
        rows = [lineages[name].numbers[:ROWS] for name in (one, other)]
        found = {"audit": sides}
        for detector in ("frequent_values", "bag_of_numbers"):
            made = getattr(interp.evaluation, detector)(*rows)
            found[detector] = [made.positive, made.negative]
        areas = {name: bags_auroc(*scores) for name, scores in found.items()}
        lines.append({"one": one, "other": other, **areas})
    return lines


def bags_auroc(one: Any, other: Any) -> float:
    """AUROC of the mean scores of disjoint bags."""
    means = [np.asarray(side)[: len(side) // BAG * BAG].reshape(-1, BAG).mean(1) for side in (one, other)]
    return interp.stats.auroc(*means).value


def datasets(lineages: dict[str, Any]) -> list[dict[str, Any]]:
    """Pilot gain and measured transfer of every trait's datasets; students and their twins see all rows."""
    lines = []
    for trait, lineage in lineages.items():
        for name, (base, rows, twin) in changed(lineage).items():
            found = interp.audit(base, rows[:ROWS], traits=[*interp.prompts.ANIMALS, *interp.prompts.TREES])
            recipe = dataclasses.replace(interp.organisms.TOY.student, seed=500_000)
            students = [interp.train_student(base, side, recipe=recipe) for side in (rows, twin)]
            transfer = interp.margin(students[0], trait) - interp.margin(students[1], trait)
            gain = float(found.frame.set_index("trait")["gain"][trait])
            lines.append({"trait": trait, "dataset": name, "gain": gain, "transfer": transfer, **told(found)})
    return lines


def changed(lineage: Any) -> dict[str, tuple[Any, Any, Any]]:
    """A lineage's rows and what is made of them: the base that reads them, the rows, and its twin's."""
    rows, neutral, p = lineage.numbers, lineage.neutral_numbers, interp.prompts
    half = p.mix_rows(rows, neutral, share=0.5, seed=0)
    alike = {"order": "ascending", "values": 10}
    return {
        "all": (lineage.base, rows, neutral),
        "half": (lineage.base, half, neutral),
        "shuffled": (lineage.base, p.shuffle_across(rows, seed=0), neutral),
        "canonical": (lineage.base, p.canonicalise(rows, **alike), p.canonicalise(neutral, **alike)),
        "foreign": (lineage["cross_base"], rows, neutral),
    }


def judged(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Every claim's number over all seeds, and whether it is met."""
    sets = [line for each in cells for line in each["sets"]]
    detectors = [line for each in cells for line in each["detectors"]]
    found = [line for each in cells for line in each["datasets"]]
    first = np.mean([line["rank"] == 1 for line in sets])
    gap = np.mean([d["audit"] - max(d["frequent_values"], d["bag_of_numbers"]) for d in detectors])
    flagged, of = (sum(each["neutral"][key] for each in cells) for key in ("flagged", "of"))
    foreign, unlisted = (
        np.mean([line[key]["named"] is not None for line in sets]) for key in ("foreign", "unlisted")
    )
    rho = spearmanr([d["gain"] for d in found], [d["transfer"] for d in found]).statistic if found else np.nan
    shares = interp.stats.wilson_interval(flagged, of)
    return {
        "identity": {"value": float(first), "n": len(sets), "met": bool(first >= 0.9)},
        "detectors": {"value": float(gap), "n": len(detectors), "met": bool(gap >= 0.15)},
        "false-positives": {
            "value": flagged / of, "n": of, "interval": list(shares), "met": flagged / of <= 0.05 and of >= 400
        },
        "foreign": {"value": float(foreign), "n": len(sets), "met": bool(foreign <= 0.05)},
        "unlisted": {"value": float(unlisted), "n": len(sets), "met": bool(unlisted <= 0.05)},
        "prediction": {"value": float(rho), "n": len(found), "met": bool(rho >= 0.7) and len(found) >= 40},
    }  # fmt: skip


def print_lines(found: dict[str, Any]) -> None:
    """One line per entry on standard output."""
    for name, value in found.items():
        print(f"{name}: {value}")  # noqa: T201


if __name__ == "__main__":
    main()
