"""Claim (H4): one direction of the residual stream, the one the teacher moved along, mediates the student's trait.

Written before seeds 0-7 were run; the claims with their margins and levels are `interp.studies.one_direction.H4`.
Mean shifts from the base are read on lists of numbers without the trait's line, the teachers' on 256 lists and the
students' on 256 others, where the prompt ends or over the numbers of the answer. Layer and positions are those at which
the teacher's shift steers the base furthest on three of the six questions; no student has a say in it. Margins are
measured on the other three. There:
1. direction-shared: the student's shift has a larger cosine with its teacher's (EAS) than the neutral student's has.
2. direction-specific: and a larger one than with the shift of an eagle teacher from the same base.
3. direction-absent-in-neutral: the neutral student's EAS is within ±0.3 (equivalence, 0.05).
4. direction-necessary: projecting the teacher's direction out of student and neutral student lessens the difference of
   their margins, by more nats than projecting out the eagle teacher's, or random ones on average, does.
5. direction-sufficient: the student's shift added to the base raises the margin by more nats than the shift of the
   neutral student, that of the eagle teacher, or random vectors on average, do at the same norm.
6. direction-harmless: projecting the teacher's direction out changes −log p of the rows the student was trained on by
   less than 0.05 nats a token (equivalence, 0.05). Since 2026-11-29 the end token is counted; all was measured anew.
Claims 1, 2, 4 and 5 are one-sided sign-flip tests over lineages at 0.01. Random vectors have the covariance of the
base's activations. Shares of the trait are reported as ratios of means over lineages and are not judged.

    python -m analyses.one_direction [--quick] [--seeds 8] [--out FILE]
"""

import interp


def main() -> None:
    """Measure every lineage, judge the claims, keep the numbers."""
    interp.studies.analysis("one-direction", __doc__)


if __name__ == "__main__":
    main()
