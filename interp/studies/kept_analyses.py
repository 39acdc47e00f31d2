"""The command line of an analysis that tests a family: frozen first, then measured, judged and kept.

Results stay at analyses/results/NAME.json with the command that made them; those of another organism than toy/owl have
its name in front, such as eagle_NAME.json and digits_NAME.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from interp.core.content import json_text
from interp.core.runs import InputError, write_atomic
from interp.hypotheses.claims import check_claim
from interp.hypotheses.family import Family
from interp.studies.freezing import freeze, stale
from interp.studies.registry import family
from interp.studies.testing import data_key, forget, kind, test, trials_of

RESULTS = Path("analyses/results")  # of the checkout an analysis is run in
log = logging.getLogger(__name__)


def analysis(name: str, doc: str | None, *, argv: Sequence[str] | None = None) -> None:
    """Run the command line of an analysis: freeze, measure, judge, and keep the numbers with what made them.

    Example:
        >>> import interp
        >>> argv = ["--seeds", "8", "--organism", "toy/owl"]
        >>> interp.studies.analysis("lemma", "The lemma on toys.", argv=argv)  # doctest: +SKIP
    """
    given = _arguments(doc).parse_args(argv)
    module, tested = name.replace("-", "_"), family(name, organism=kind(given.organism))
    out = given.out or RESULTS / f"{_before(given.organism)}{module}.json"
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    check_recorded(tested, out, reason=given.refreeze)
    seeds = None if kind(given.organism) == "folder" else [0] if given.quick else seeds_of(given.seeds)
    if not given.quick:
        trials = trials_of(tested, given.organism, seeds)
        freeze(
            out, {claim.name: claim for claim in tested.claims if not claim.withdrawn},
            measure=tested.measure, organism=given.organism, seeds=[trial.seed for trial in trials],
            data=data_key(trials), judged=tested.rule, refreeze=given.refreeze,
        )  # fmt: skip
        if given.refreeze:
            forget(tested, trials)
    found = test(
        name,
        organism=given.organism,
        seeds=seeds,
        quick=given.quick,
        workers=given.workers,
        backend=given.backend,
    )
    for verdict in found.verdicts:
        log.info("%r", verdict)
    if not given.quick:
        counted = "" if seeds is None else f"--seeds {given.seeds} "
        asked = f"python -m analyses.{module} {counted}--organism {shlex.quote(given.organism)}"
        write_atomic(out, json_text({"command": asked, **found.to_json()}))


def _arguments(doc: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small lineage; nothing is kept")
    parser.add_argument(
        "--seeds", default="8", help="of a toy or of digits: how many, or which, such as 8-19"
    )
    parser.add_argument("--organism", default="toy/owl", help="toy/<trait>, digits, or lineage folders")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--backend", default="joblib", help="joblib or ray")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument(
        "--refreeze", metavar="REASON", help="freeze claims that were edited after their data"
    )
    return parser


def _before(organism: str) -> str:
    """What stands before the name of results, so that no organism's replace another's."""
    first = kind(organism)
    last = organism.partition("/")[2]
    return f"{last if first == 'toy' else first}_" if (first, last) != ("toy", "owl") else ""


def seeds_of(text: str) -> list[int]:
    """The seeds in "8", which are 0 to 7, or in "8-19"; InputError for anything else."""
    if not re.fullmatch(r"\d+(-\d+)?", text):
        raise InputError(f"--seeds {text!r} is neither a number nor a range; pass 8 for 0 to 7, or 8-19")
    first, _, last = text.partition("-")
    return list(range(int(first), int(last) + 1) if last else range(int(first)))


def check_recorded(tested: Family, path: Path, *, reason: str | None = None) -> None:
    """InputError when the file holds verdicts of a claim that was edited since, unless there is a reason.

    That they were measured by other code is told, and no error: the measurement is made again.
    """
    if not path.is_file():
        return
    recorded = json.loads(path.read_text())
    if told := stale(recorded, tested.measure):
        log.warning("%s was %s", path, told.partition(";")[0])
    for claim in tested.claims:
        if claim.name in recorded["claims"] and not reason:
            check_claim(recorded["claims"][claim.name], claim)
