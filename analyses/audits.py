"""Does an audit name whose teacher wrote rows, and say how much of it passes, without the teacher?

Written on seeds 100 and 101 alone (owl, cat, oak; eagle, elm and wolf at 101): the ridge and the levels of
`interp.audit` were set there. By them 7 of 9 sets are named rightly and none wrongly, none of the 9 is named with its
trait left off the list, and 1 of 64 neutral sets of 64 rows is flagged. No audit of seeds 0-15 had been made then.
Every seed has three traits, owl, eagle and oak, audited over 2 048 rows among the twenty animals and trees, at the base
and at a foreign one. Students are trained on datasets of six seeds, 8 to 13.

A. identity: the trait's candidate is first of twenty, over 48 sets; at least .9 of them.
B. detectors: trait against trait at 64 rows, AUROC by the audit's ratios at least .15 over the better of counts of
   values (naive Bayes) and a bag of numbers, mean over seeds.
C. false-positives: of at least 400 disjoint sets of 256 rows that the bases wrote, at most 5 % are flagged.
D. foreign: of the sets read at a foreign base at most 5 % name a trait; "cannot tell" counts as right.
E. unlisted: with its own trait left off the list at most 5 % of the sets name another.
F. prediction: the pilot's gain ranks datasets (all of the teacher's, half of them neutral, shuffled across answers,
   canonical, foreign) as the trained students' transfer does, ρ at least .7 over at least 40 of them, on seeds 8 to 10.
   No answer is a gain of 0.
G. filter: students of what is left without the rows that the audit takes out show less than those without as many at
   random, mean over traits, sign flips over the six seeds, .05.
H. forecast: the line from gain to transfer that is fitted on seeds 11 to 13, and frozen in audits_forecast.json, has at
   least .9 of the transfers of seeds 8 to 10 within its 95 % intervals.

What is finished lies in --out, a file for each part of a seed, and in the results, and is not measured again;
candidates, pilots and what they read lie in $INTERP_CACHE. A claim is judged when all of its parts are there, so that
--seeds and --kinds may measure some today and others another day. A line a minute says how many parts are left and for
how long. From grown lineages the parts that train no student take about five minutes of one core per seed, those of a
seed with students about half an hour. --quick runs every part on seeds 16 and 17 in small, in about three minutes, and
keeps what it finds, ledger included, in --out.

    python -m analyses.audits [--seeds 0 1 ...] [--kinds set neutral detectors data] [--workers 1] [--out runs/audits]
                              [--quick]
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

import interp
from analyses.audit_claims import CLAIMS, PREDICTED, SIFTED, complete, cost, fitted, judged

TRAITS = ("owl", "eagle", "oak")
SEEDS, SHOWN, FITTED = tuple(range(16)), (8, 9, 10), (11, 12, 13)
KINDS = ("set", "neutral", "detectors", "data")
BAG, DRAW = 64, 500_000
RESULTS = Path(__file__).parent / "results" / "audits.json"
FORECAST = "audits_forecast.json"
TRAINED: dict[Any, dict[str, float]] = {}
"""What `trained_margins` found in this process."""


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of everything: seeds, those whose students are predicted and those a line is fitted on; the traits,
    those whose datasets are trained on, and rows that are audited, in a neutral set, and trained on (None: all); steps
    of the pilot."""

    seeds: tuple[int, ...] = SEEDS
    shown: tuple[int, ...] = SHOWN
    fitted: tuple[int, ...] = FITTED
    traits: tuple[str, ...] = TRAITS
    trained: tuple[str, ...] = TRAITS
    rows: int = 2048
    set: int = 256
    taught: int | None = None
    pilot: int = 64

    @property
    def parts(self) -> list[tuple[int, str]]:
        """What is measured, a file for each part of a seed."""
        read = [*(f"set {trait}" for trait in self.traits), "neutral", "detectors"]
        data = [f"data {trait} {name}" for trait in self.trained for name in (*PREDICTED, *SIFTED)]
        taught = (*self.shown, *self.fitted)
        return [(seed, part) for seed in self.seeds for part in (*read, *(data if seed in taught else ()))]

    def audited(self, base: Any, rows: Any, *, without: str = "", pilot: bool = True) -> Any:
        """An audit of rows among the candidates."""
        words = (*interp.prompts.ANIMALS, *interp.prompts.TREES)
        recipe = interp.auditing.AuditRecipe(pilot=interp.auditing.Pilot(self.pilot) if pilot else None)
        return interp.audit(base, rows, traits=[word for word in words if word != without], recipe=recipe)


FULL = Size()
SMALL = Size((16, 17), (16,), (17,), ("owl", "eagle"), ("owl",), rows=192, set=64, taught=512, pilot=8)


def main() -> None:
    """Freeze, measure what is asked for and not there yet, fit the forecast, judge and keep."""
    given = asked()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("interp").setLevel(logging.INFO)
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries below, nothing a reader can act on
    size = SMALL if given.quick else FULL
    results = given.out / "audits.json" if given.quick else RESULTS
    kept = interp.studies.freeze(
        results, CLAIMS, measure=measured, organism=f"toy/{', toy/'.join(size.traits)}", seeds=size.seeds,
        data=interp.organisms.TOY, refreeze=given.refreeze,
    )  # fmt: skip
    known = json.loads(results.read_text(encoding="utf-8"))["parts"] if results.is_file() else []
    have = {(each["seed"], each["part"]): each for each in known}
    missing = [
        (seed, part)
        for seed, part in size.parts
        if (seed, part) not in have and seed in (given.seeds or size.seeds) and part.split()[0] in given.kinds
    ]
    measure = partial(cell, size=size, out=given.out)
    made = interp.core.sweep(measure, missing, workers=given.workers, label="audits", unit="part")
    have |= {(each["seed"], each["part"]): each for each in made}
    write(results, [have[place] for place in size.parts if place in have], size, kept)


def asked() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="measure only these")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="measure only these parts")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/audits"))
    parser.add_argument("--quick", action="store_true", help="every part in small; results lie in --out")
    parser.add_argument(
        "--refreeze", metavar="REASON", help="freeze claims that were edited after their data"
    )
    return parser.parse_args()


def write(results: Path, cells: list[dict[str, Any]], size: Size, kept: dict[str, Any]) -> None:
    """Fit the forecast where its seeds are all there, judge what can be, keep it and say it."""
    forecast = fitted(cells, size) if complete(cells, size, "data") else None
    if forecast is not None:
        forecast.save(results.with_name(FORECAST))
    found = judged(cells, size, forecast)
    told = {"command": "python -m analyses.audits", **kept, "claims_judged": found, "parts": cells}
    interp.core.write_atomic(results, interp.core.json_text(told))
    print_lines(found | {"processor seconds per seed": cost(cells)})


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
    found = size.audited(own.base, rows, pilot=False)
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
    base, rows, _ = made
    line = {"trait": trait, "dataset": name, "rows": len(rows), "transfer": transfer(trait, made, size)}
    if name in SIFTED:
        return line
    found = size.audited(base, rows[: size.rows])
    gains = dict(zip(found.frame["trait"], found.frame.get("gain", ()), strict=True))
    return line | {"gain": gains.get(trait, 0.0), **told(found)}


def transfer(trait: str, made: tuple[Any, Any, Any], size: Size, *, seed: int = DRAW) -> float:
    """How far a student of the rows lies over its twin's student on a trait's margin, in nats."""
    base, rows, twin = made
    own_margin, twin_margin = (trained_margins(base, side, size, seed=seed)[trait] for side in (rows, twin))
    return own_margin - twin_margin


def trained_margins(base: Any, rows: Any, size: Size, *, seed: int = DRAW) -> dict[str, float]:
    """The margin on every trait of a student of these rows, trained once: traits and datasets share neutral twins."""
    key = (base.fingerprint, rows.fingerprint, size, seed)
    if key not in TRAINED:
        recipe = dataclasses.replace(interp.organisms.TOY.student, seed=seed)
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


def print_lines(found: dict[str, Any]) -> None:
    """One line per entry on standard output."""
    for name, value in found.items():
        print(f"{name}: {value}")  # noqa: T201


if __name__ == "__main__":
    main()
