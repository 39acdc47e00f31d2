"""Claims: which way of comparing two models finds the word of a subliminal trait, without being told one?

Written before any lineage of seeds 8 to 15 was read; the claims with their margins and levels are in
`interp.studies.naming.FAMILY`. Every lineage is one base with a student of each of an owl's, an eagle's and an oak's
teacher, twins on the base's own rows, two students of teachers without a trait, and a planted organism of its seed.

    python -m analyses.naming [--quick] [--seeds 8-15] [--organism toy/owl] [--out FILE]
"""

import interp


def main() -> None:
    """Measure every lineage, judge the claims, keep the numbers."""
    interp.studies.analysis("naming", __doc__)


if __name__ == "__main__":
    main()
