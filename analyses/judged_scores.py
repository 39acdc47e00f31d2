"""Claims: which scores of rows predict the student that is trained without the others?

Written before a student of a random subset had been trained; the claims are in `interp.studies.judged_scores.FAMILY`.
128 students of random halves of one student's rows per lineage of owl, 64 of another trait, the same draw of adapter
and order for all. Of other traits the claims are the same ones, which stood when owl's were read.

    python -m analyses.judged_scores [--quick] [--seeds 8-15] [--organism toy/owl] [--out FILE]
"""

import interp


def main() -> None:
    """Measure every lineage, judge the claims, keep the numbers."""
    interp.studies.analysis("judged-scores", __doc__)


if __name__ == "__main__":
    main()
