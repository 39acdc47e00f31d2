"""Claims: the trait passes whatever of the student is trained, on bases that no analysis had used before.

Written before any margin of seeds 8 to 19 was read; the five claims with their margins and levels are in
`interp.studies.student_arms.ARMS_FAMILY`. For every lineage of owl, eagle and oak a student and its neutral twin are
trained with an adapter of their own draw, with the body's matrices and no adapter, and with every parameter; beside
them stand the other initialisation, and a student of a control teacher that was fine-tuned on the same questions
answered by every candidate equally often.

    python -m analyses.student_arms [--quick] [--seeds 8-19] [--organism toy/owl] [--out FILE]
"""

import interp


def main() -> None:
    """Measure every lineage, judge the claims, keep the numbers."""
    interp.studies.analysis("student-arms", __doc__)


if __name__ == "__main__":
    main()
