"""What is claimed of audits, and how the parts that `analyses.audits` measures decide it.

A claim is judged when every part of its kind is there. `cells` are those parts, each with its seed; `size` says which
there are to be.
"""

from typing import Any

import numpy as np
from scipy.stats import spearmanr

import interp

PREDICTED, SIFTED = ("all", "half", "shuffled", "canonical", "foreign"), ("filtered", "thinned")
CLAIMS = {
    "identity": "the trait's candidate is first of twenty in at least .9 of the sets of 2048 rows",
    "detectors": "AUROC trait against trait at 64 rows at least .15 over naive Bayes and a bag of numbers",
    "false-positives": "at most 5 % of at least 400 sets of 256 rows that the bases wrote are flagged",
    "foreign": "at most 5 % of the sets read at a foreign base name a trait",
    "unlisted": "with its own trait off the list at most 5 % of the sets name another",
    "prediction": "Spearman's rho of pilot gain and measured transfer at least .7 over at least 40 datasets",
    "filter": "transfer of what is left less that of as many rows at random is below 0; sign flips over 6 seeds, 0.05",
    "forecast": "at least .9 of the transfers lie in the 95 % intervals of the line fitted on the other seeds",
}


def complete(cells: list[dict[str, Any]], size: Any, kind: str) -> bool:
    """Whether every part of a kind is measured."""
    have = {(each["seed"], each["part"]) for each in cells}
    return all(place in have for place in size.parts if place[1].startswith(kind))


def fitted(cells: list[dict[str, Any]], size: Any) -> Any:
    """The line from gain to transfer over the datasets of the seeds it is fitted on; None without any."""
    found = data_of([each for each in cells if each["seed"] in size.fitted], *PREDICTED)
    if not found:
        return None
    seeds = sorted(size.fitted)
    said = f"toy, seeds {seeds[0]} to {seeds[-1]}, students of the toy's recipe"
    pilot = interp.auditing.Pilot(size.pilot)
    gains, transfers = ([line[name] for line in found] for name in ("gain", "transfer"))
    return interp.auditing.fit_forecast(gains, transfers, pilot=pilot, fitted_on=said)


def data_of(cells: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """The datasets of these names among the parts that were not refused, with their seed."""
    lines = [each["found"] | {"seed": each["seed"]} for each in cells if each["part"].startswith("data")]
    return [line for line in lines if "transfer" in line and line["dataset"] in names]


def judged(cells: list[dict[str, Any]], size: Any, forecast: Any) -> dict[str, Any]:
    """Every claim's number over what is measured, and whether it is met: None while parts are missing."""
    sets = [each["found"] for each in cells if each["part"].startswith("set")]
    found = data_of([each for each in cells if each["seed"] in size.shown], *PREDICTED)
    made = {
        "identity": ("set", share_judged([is_first(line) for line in sets], least=0.9)),
        "detectors": ("detectors", detectors_judged(cells)),
        "false-positives": ("neutral", flags_judged(cells)),
        "foreign": ("set", share_judged([line["foreign"]["named"] is not None for line in sets], most=0.05)),
        "unlisted": (
            "set",
            share_judged([line["unlisted"]["named"] is not None for line in sets], most=0.05),
        ),
        "prediction": ("data", prediction_judged(found)),
        "filter": ("data", filter_judged(cells)),
        "forecast": ("data", forecast_judged(found, forecast)),
    }
    return {
        name: line if complete(cells, size, kind) else line | {"met": None}
        for name, (kind, line) in made.items()
    }


def is_first(line: dict[str, Any]) -> bool:
    """Whether the trait's candidate is first; not where the audit measured no candidate, so that there is no first."""
    return line["rank"] == 1 and bool(line["top"])


def share_judged(values: list[bool], *, least: float = 0.0, most: float = 1.0) -> dict[str, Any]:
    """The share of sets of which something holds, with Wilson's 95 % interval."""
    if not values:
        return {"value": None, "n": 0, "met": False}
    share = sum(values) / len(values)
    interval = interp.stats.wilson_interval(sum(values), len(values))
    return {"value": share, "n": len(values), "interval": list(interval), "met": least <= share <= most}


def detectors_judged(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """How far the audit's AUROC lies over the better detector's, and each one's mean."""
    lines = [line for each in cells if each["part"] == "detectors" for line in each["found"]]
    if not lines:
        return {"value": None, "n": 0, "met": False}
    names = ("audit", "frequent_values", "bag_of_numbers")
    gap = float(np.mean([line["audit"] - max(line[name] for name in names[1:]) for line in lines]))
    means = {name: float(np.mean([line[name] for line in lines])) for name in names}
    return {"value": gap, "n": len(lines), "means": means, "met": gap >= 0.15}


def flags_judged(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """The share of sets of the bases' own rows that are flagged."""
    neutral = [each["found"] for each in cells if each["part"] == "neutral"]
    flagged, of = (sum(each[key] for each in neutral) for key in ("flagged", "of"))
    line = share_judged([True] * flagged + [False] * (of - flagged), most=0.05)
    return line | {"met": line["met"] and of >= 400}


def prediction_judged(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Rank correlation of gain and transfer over datasets."""
    if len(found) < 3:
        return {"value": None, "n": len(found), "met": False}
    rho = ranked_alike([d["gain"] for d in found], [d["transfer"] for d in found])
    return {"value": rho, "n": len(found), "met": rho >= 0.7 and len(found) >= 40}


def ranked_alike(one: list[float], other: list[float]) -> float:
    """Spearman's rank correlation."""
    found: Any = spearmanr(one, other)
    return float(found.statistic)


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


def cost(cells: list[dict[str, Any]]) -> dict[str, int]:
    """Processor seconds of one seed by kind, mean over the seeds that have it."""
    kinds = {each["part"].split()[0] for each in cells}
    by = {kind: [each for each in cells if each["part"].startswith(kind)] for kind in sorted(kinds)}
    return {
        kind: round(sum(each["seconds"] for each in part) / len({each["seed"] for each in part}))
        for kind, part in by.items()
    }
