"""Claim: every method of the package finds what is planted in an organism, and little where nothing is planted.

The criteria, written into `interp.calibration.harness` before any organism was measured: the lower ends of the
95 % intervals of recovery and AUROC are at least 0.8, and false positives are not above 5 % by an exact binomial test
at 1 %. A method that misses them says so in its docstring.

    python -m analyses.planted [--quick] [--organisms 20] [--out FILE]
"""

import argparse
import logging
from pathlib import Path

import interp

CRITERIA = (
    "lower ends of the 95 % intervals of recovery and AUROC at least 0.8, false positives not above 5 % by an exact "
    "binomial test at 1 %"
)
RESULTS = Path(__file__).parent / "results" / "planted.json"


def main() -> None:
    """Run every method on every organism and keep the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two small organisms; nothing is kept")
    parser.add_argument("--organisms", type=int, default=20)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--refreeze", metavar="REASON", help="freeze claims that were edited after their data"
    )
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    frozen = {}
    if not given.quick:
        frozen = interp.studies.freeze(
            given.out, {"recovered": CRITERIA}, measure=main, organism="planted", seeds=range(given.organisms),
            data="planted", refreeze=given.refreeze,
        )  # fmt: skip
    found = interp.calibrate(organisms=given.organisms, quick=given.quick, workers=given.workers)
    logging.info("%s", found.frame.to_string())
    if not given.quick:
        kept = {
            "command": f"python -m analyses.planted --organisms {given.organisms}",
            "versions": interp.core.versions(),
            **frozen,
            "notes": list(found.notes),
            "methods": found.frame.to_dict("records"),
        }
        interp.core.write_atomic(given.out, interp.core.json_text(kept))


if __name__ == "__main__":
    main()
