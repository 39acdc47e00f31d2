"""Claims: a student of more rows takes over more of the trait, and moves the logits more as its teacher did.

Written before any margin of seeds 8 to 15 was read; the two claims are in `interp.studies.student_arms.DOSE_FAMILY`.
Students of the first 2^9, ..., 2^15 rows of one teacher, each with its twin on as many neutral rows, every row once.

    python -m analyses.dose [--quick] [--seeds 8-15] [--organism toy/owl] [--out FILE]
"""

import interp


def main() -> None:
    """Measure every lineage, judge the claims, keep the numbers."""
    interp.studies.analysis("dose", __doc__)


if __name__ == "__main__":
    main()
