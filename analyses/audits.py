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
   canonical, foreign) as the trained students' transfer does, ρ at least .7 over at least 40 of them, on the first half
   of the seeds. No answer is a gain of 0.
G. filter: students of what is left without the rows that the audit takes out show less than those without as many at
   random, mean over traits, sign flips over all seeds, .05.
H. forecast: the line from gain to transfer that is fitted on the second half of the seeds, and frozen in
   audits_forecast.json, has at least .9 of the first half's transfers within its 95 % intervals.

What is finished lies in --out, a file for each part of a seed, and is not measured again; candidates, pilots and what
they read lie in $INTERP_CACHE. A line a minute says how many parts are left and for how long. By the audits that were
timed (84 s of one core for 2 048 rows and a pilot, where candidates are cached) a seed takes about 50 minutes of one
core from grown lineages. --quick runs every part on seeds 16 and 17 in small, in about three minutes, and keeps what it
finds, ledger included, in --out.

    python -m analyses.audits [--seeds 16] [--workers 1] [--out runs/audits] [--quick]
"""

import argparse
import dataclasses
import json
import logging
import time
import warnings
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import interp

TRAITS = ("owl", "eagle", "oak")
PREDICTED, SIFTED = ("all", "half", "shuffled", "canonical", "foreign"), ("filtered", "thinned")
BAG = 64
CLAIMS = {
    "identity": "the trait's candidate is first of twenty in at least .9 of the sets of 2048 rows",
    "detectors": "AUROC trait against trait at 64 rows at least .15 over naive Bayes and a bag of numbers",
    "false-positives": "at most 5 % of at least 400 sets of 256 rows that the bases wrote are flagged",
    "foreign": "at most 5 % of the sets read at a foreign base name a trait",
    "unlisted": "with its own trait off the list at most 5 % of the sets name another",
    "prediction": "Spearman's rho of pilot gain and measured transfer at least .7 over at least 40 datasets",
    "filter": "transfer of what is left less that of as many rows at random is below 0; sign flips over seeds, 0.05",
    "forecast": "at least .9 of the transfers lie in the 95 % intervals of the line fitted on the other seeds",
}
RESULTS = Path(__file__).parent / "results" / "audits.json"
FORECAST = "audits_forecast.json"
TRAINED: dict[Any, dict[str, float]] = {}
"""What `trained_margins` found in this process."""


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of everything: the traits, those whose datasets are trained on, and rows that are audited, in a neutral
    set, and trained on (None: all); steps of the pilot."""

    traits: tuple[str, ...] = TRAITS
    trained: tuple[str, ...] = TRAITS
    rows: int = 2048
    set: int = 256
    taught: int | None = None
    pilot: int = 64

    @property
    def parts(self) -> list[str]:
        """What is measured of one seed, a file each."""
        data = [f"data {trait} {name}" for trait in self.trained for name in (*PREDICTED, *SIFTED)]
        return [*(f"set {trait}" for trait in self.traits), "neutral", "detectors", *data]

    def audited(self, base: Any, rows: Any, *, without: str = "", pilot: bool = True) -> Any:
        """An audit of rows among the candidates."""
        words = (*interp.prompts.ANIMALS, *interp.prompts.TREES)
        recipe = interp.auditing.AuditRecipe(pilot=interp.auditing.Pilot(self.pilot) if pilot else None)
        return interp.audit(base, rows, traits=[word for word in words if word != without], recipe=recipe)


FULL = Size()
SMALL = Size(("owl", "eagle"), ("owl",), rows=192, set=64, taught=512, pilot=8)


def main() -> None:
    """Freeze, measure what is not there yet, fit the forecast, judge and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/audits"))
    parser.add_argument("--quick", action="store_true", help="every part in small; results lie in --out")
    parser.add_argument(
        "--refreeze", metavar="REASON", help="freeze claims that were edited after their data"
    )
    given = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("interp").setLevel(logging.INFO)
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries below, nothing a reader can act on
    size, seeds = (SMALL, [16, 17]) if given.quick else (FULL, list(range(given.seeds)))
    results = given.out / "audits.json" if given.quick else RESULTS
    kept = interp.studies.freeze(
        results, CLAIMS, measure=measured, organism=f"toy/{', toy/'.join(size.traits)}", seeds=seeds,
        data=interp.organisms.TOY, refreeze=given.refreeze,
    )  # fmt: skip
    parts = [(seed, part) for seed in seeds for part in size.parts]
    measure = partial(cell, size=size, out=given.out)
    cells = interp.core.sweep(measure, parts, workers=given.workers, label="audits", unit="part")
    shown = seeds[: -(-len(seeds) // 2)]
    forecast = fitted([each for each in cells if each["seed"] not in shown], size)
    if forecast is not None:
        forecast.save(results.with_name(FORECAST))
    command = f"python -m analyses.audits --seeds {given.seeds}"
    found = {"command": command, **kept, "claims_judged": judged(cells, shown, forecast), "parts": cells}
    interp.core.write_atomic(results, interp.core.json_text(found))
    print_lines(found["claims_judged"] | {"processor seconds per seed": round(cost(cells))})


def cell(place: tuple[int, str], *, size: Size, out: Path) -> dict[str, Any]:
    """What was measured of one part of a seed, read where it is there."""
    seed, part = place
    path = out / f"seed-{seed}" / f"{part.replace(' ', '-')}.json"
    if not path.is_file():
        began = time.process_time()
        found = {"seed": seed, "part": part, "found": measured(seed, part, size)}
        found["seconds"] = time.process_time() - began
        interp.core.write_atomic(path, interp.core.json_text(found))
    return json.loads(path.read_text())


def measured(seed: int, part: str, size: Size) -> Any:
    """One part of a seed: a trait's set, the neutral sets, the detectors, or a dataset and its students."""
    kind, *names = part.split()
    if kind == "set":
        return named(lineage(names[0], seed), size)
    if kind == "neutral":
        first = lineage(size.traits[0], seed)
        found = size.audited(first.base, first.neutral_numbers[: 4 * size.rows], pilot=False)
        flags = found.split(size.set)["answer"].isin(["named", "unlisted"])
        return {"flagged": int(flags.sum()), "of": len(flags)}
    if kind == "detectors":
        return against_detectors({trait: lineage(trait, seed) for trait in size.traits}, size)
    return transferred(lineage(names[0], seed), names[1], size)


@cache
def lineage(trait: str, seed: int) -> Any:
    """A toy lineage, loaded once."""
    return interp.load_lineage(f"toy/{trait}", seed=seed)


def named(own: Any, size: Size) -> dict[str, Any]:
    """The audit of one trait's rows, with its trait left off the list, and at a foreign base."""
    trait, rows = own.trait.name, own.numbers[: size.rows]
    found = size.audited(own.base, rows)
    unlisted = size.audited(own.base, rows, without=trait, pilot=False)
    foreign = size.audited(own["cross_base"], rows, pilot=False)
    order = found.frame["trait"].tolist()
    rank = (
        order.index(trait) + 1 if trait in order else len(order) + 1
    )  # last, where its candidate did not take
    line = {"trait": trait, "rank": rank, **told(found), "curve": found.curve.to_dict("records")}
    return line | {"unlisted": told(unlisted), "foreign": told(foreign)}


def told(found: Any) -> dict[str, Any]:
    """The answers of one audit and its first line."""
    top = found.frame[["trait", "d", "p", "share"]].to_dict("records")[0] if len(found.frame) else {}
    return {"answer": found.answer, "named": found.trait, "passes": found.passes, "top": top}


def against_detectors(lineages: dict[str, Any], size: Size) -> list[dict[str, Any]]:
    """AUROC of bags of 64 rows, one trait's against another's, by the audit and by what counts numbers."""
    lines, names = [], list(lineages)
    rows = {name: each.numbers[: size.rows] for name, each in lineages.items()}
    ratios = {name: size.audited(lineages[name].base, rows[name], pilot=False).ratios for name in names}
    for one, other in [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]:
        if not {one, other} <= {*ratios[one].traits}:
            continue  # a candidate that did not take tells nothing
        columns = [ratios[one].traits.index(name) for name in (one, other)]
        found = {"audit": [ratios[name].excess[:, columns] @ np.array([1.0, -1.0]) for name in (one, other)]}
        for detector in ("frequent_values", "bag_of_numbers"):
            made = getattr(interp.evaluation, detector)(rows[one], rows[other])
            found[detector] = [made.positive, made.negative]
        areas = {name: bags_auroc(*scores) for name, scores in found.items()}
        lines.append({"one": one, "other": other, **areas})
    return lines


def bags_auroc(one: Any, other: Any) -> float:
    """AUROC of the mean scores of disjoint bags."""
    means = [np.asarray(side)[: len(side) // BAG * BAG].reshape(-1, BAG).mean(1) for side in (one, other)]
    return interp.stats.auroc(*means).value


def transferred(own: Any, name: str, size: Size) -> dict[str, Any]:
    """Measured transfer of a trait's dataset, and the pilot's gain where it is to be predicted.

    Nothing where rows are to be taken out and none are.
    """
    trait = own.trait.name
    made = sifted(own, name, size) if name in SIFTED else changed(own, size)[name]
    if made is None:
        return {"trait": trait, "dataset": name, "refused": True}
    base, rows, twin = made
    own_margin, twin_margin = (trained_margins(base, side, size)[trait] for side in (rows, twin))
    transfer = own_margin - twin_margin
    line = {"trait": trait, "dataset": name, "rows": len(rows), "transfer": transfer}
    if name in SIFTED:
        return line
    found = size.audited(base, rows[: size.rows])
    gains = dict(zip(found.frame["trait"], found.frame.get("gain", ()), strict=True))
    return line | {"gain": gains.get(trait, 0.0), **told(found)}


def trained_margins(base: Any, rows: Any, size: Size) -> dict[str, float]:
    """The margin on every trait of a student of these rows, trained once: traits and datasets share neutral twins."""
    key = (base.fingerprint, rows.fingerprint, size)
    if key not in TRAINED:
        recipe = dataclasses.replace(interp.organisms.TOY.student, seed=500_000)
        student = interp.train_student(base, rows, recipe=recipe)
        TRAINED[key] = {trait: interp.margin(student, trait) for trait in size.trained}
    return TRAINED[key]


def changed(own: Any, size: Size = FULL) -> dict[str, tuple[Any, Any, Any]]:
    """A lineage's rows and what is made of them: the base that reads them, the rows, and its twin's."""
    rows, neutral, p = own.numbers[: size.taught], own.neutral_numbers[: size.taught], interp.prompts
    half = p.mix_rows(rows, neutral, share=0.5, seed=0)
    alike = {"order": "ascending", "values": 10}
    return {
        "all": (own.base, rows, neutral),
        "half": (own.base, half, neutral),
        "shuffled": (own.base, p.shuffle_across(rows, seed=0), neutral),
        "canonical": (own.base, p.canonicalise(rows, **alike), p.canonicalise(neutral, **alike)),
        "foreign": (own["cross_base"], rows, neutral),
    }


def sifted(own: Any, name: str, size: Size) -> tuple[Any, Any, Any] | None:
    """The rows without those that the audit takes out, or without as many at random, and neutral ones at their prompts.

    None where no trait is named, so that nothing is taken out.
    """
    rows, neutral = own.numbers[: size.taught], own.neutral_numbers[: size.taught]
    found = size.audited(own.base, rows, pilot=False)
    if found.trait is None:
        return None
    left, _ = interp.auditing.sift_rows(found, rows)
    if name == "thinned":
        chosen = np.random.default_rng(0).choice(len(rows), len(left), replace=False)
        left = dataclasses.replace(rows, rows=tuple(rows.rows[i] for i in sorted(chosen)))
    return own.base, *interp.prompts.match_prompts(left, neutral)


def fitted(cells: list[dict[str, Any]], size: Size) -> Any:
    """The line from gain to transfer over the datasets of some seeds; None without any."""
    found = data_of(cells, *PREDICTED)
    if not found:
        return None
    seeds = sorted({each["seed"] for each in cells})
    said = f"toy, seeds {seeds[0]} to {seeds[-1]}, students of the toy's recipe"
    pilot = interp.auditing.Pilot(size.pilot)
    gains, transfers = ([line[name] for line in found] for name in ("gain", "transfer"))
    return interp.auditing.fit_forecast(gains, transfers, pilot=pilot, fitted_on=said)


def data_of(cells: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """The datasets of these names among the parts that were not refused, with their seed."""
    lines = [each["found"] | {"seed": each["seed"]} for each in cells if each["part"].startswith("data")]
    return [line for line in lines if "transfer" in line and line["dataset"] in names]


def judged(cells: list[dict[str, Any]], shown: list[int], forecast: Any) -> dict[str, Any]:
    """Every claim's number over all seeds, and whether it is met."""
    sets = [each["found"] for each in cells if each["part"].startswith("set")]
    detectors = [line for each in cells if each["part"] == "detectors" for line in each["found"]]
    neutral = [each["found"] for each in cells if each["part"] == "neutral"]
    found = data_of([each for each in cells if each["seed"] in shown], *PREDICTED)
    first = np.mean([line["rank"] == 1 for line in sets])
    gap = np.mean([d["audit"] - max(d["frequent_values"], d["bag_of_numbers"]) for d in detectors])
    flagged, of = (sum(each[key] for each in neutral) for key in ("flagged", "of"))
    foreign, unlisted = (
        np.mean([line[key]["named"] is not None for line in sets]) for key in ("foreign", "unlisted")
    )
    ranked: Any = spearmanr([d["gain"] for d in found], [d["transfer"] for d in found]) if found else None
    rho = np.nan if ranked is None else ranked.statistic
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
        "filter": filter_judged(cells),
        "forecast": forecast_judged(found, forecast),
    }  # fmt: skip


def filter_judged(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """How much less students of filtered rows show than those of as many at random, a value per seed."""
    pairs: dict[int, dict[str, dict[str, float]]] = {}
    for line in data_of(cells, *SIFTED):
        pairs.setdefault(line["seed"], {}).setdefault(line["trait"], {})[line["dataset"]] = line["transfer"]
    gaps = [[t["thinned"] - t["filtered"] for t in each.values() if len(t) == 2] for each in pairs.values()]
    values = [float(np.mean(each)) for each in gaps if each]
    if not values:
        return {"value": None, "n": 0, "met": False}
    tested = interp.stats.sign_flip_test(values)
    return {"value": -tested.mean, "n": tested.n, "p": tested.p, "met": tested.p <= 0.05}


def forecast_judged(found: list[dict[str, Any]], forecast: Any) -> dict[str, Any]:
    """How many transfers lie in the intervals of a line that was fitted on other seeds."""
    if forecast is None or not found:
        return {"value": None, "n": 0, "met": False}
    reach = [forecast.transfer(line["gain"])[1:] for line in found]
    held = np.mean([low <= line["transfer"] <= high for line, (low, high) in zip(found, reach, strict=True)])
    return {"value": float(held), "n": len(found), "met": bool(held >= 0.9)}


def cost(cells: list[dict[str, Any]]) -> float:
    """Processor seconds of one seed."""
    return sum(each["seconds"] for each in cells) / len({each["seed"] for each in cells})


def print_lines(found: dict[str, Any]) -> None:
    """One line per entry on standard output."""
    for name, value in found.items():
        print(f"{name}: {value}")  # noqa: T201


if __name__ == "__main__":
    main()
