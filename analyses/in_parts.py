"""Results that are measured in parts, seed by seed or set by set, some of them today and the others another day.

The file holds the parts by name, each with the versions, the code and the commit that measured it, and what is judged
of all that are there. A part is kept as soon as it is measured, and not measured again.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import interp

SEEDS = "by seed"


def options(doc: str, names: Sequence[Any], *, out: Path, flag: str = "--seeds") -> argparse.ArgumentParser:
    """A parser that asks for parts by name, all by default, for the file, and for a reason to freeze claims anew."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument(flag, dest="parts", type=type(names[0]), nargs="+", choices=names, default=names)
    found.add_argument("--out", type=Path, default=out)
    found.add_argument("--refreeze", metavar="REASON", help="freeze claims that were edited after their data")
    return found


def by_seed(
    doc: str,
    seeds: Sequence[int],
    *,
    out: Path,
    claims: Mapping[str, str],
    organism: str,
    measure: Callable[[int], dict[str, Any]],
    judge: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    """The command line of an analysis of toys: freeze, measure the seeds that are not kept yet, judge them."""
    given = options(doc, seeds, out=out).parse_args()
    frozen = interp.studies.freeze(
        given.out, claims, measure=measure, organism=organism, seeds=seeds, data=interp.organisms.TOY,
        refreeze=given.refreeze,
    )  # fmt: skip
    keep(given, frozen, measure=measure, judge=judge)


def decided(
    claims: Mapping[str, str], values: Mapping[str, Sequence[float]], *, whole: bool, alpha: float, unit: str
) -> list[Any]:
    """The verdict of every claim on its values, one per lineage; none while lineages are missing."""
    return [
        interp.stats.paired_verdict(name, claim, values[name], alpha=alpha, unit=unit)
        for name, claim in (claims.items() if whole else ())
    ]


def keep(
    given: argparse.Namespace,
    frozen: dict[str, Any],
    *,
    measure: Callable[[Any], dict[str, Any]],
    judge: Callable[[dict[str, Any]], dict[str, Any]],
    under: str = SEEDS,
) -> None:
    """Measure the parts that are asked for and not kept yet, and write the file anew after each."""
    kept = json.loads(given.out.read_text(encoding="utf-8"))[under] if given.out.exists() else {}
    for name in given.parts:
        if str(name) not in kept:
            made = {"versions": interp.core.versions(), "code": frozen["code"], "commit": frozen["commit"]}
            kept[str(name)] = measure(name) | made
            interp.core.write_atomic(given.out, interp.core.json_text(judge(kept) | frozen))
