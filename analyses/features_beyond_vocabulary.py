"""Claim (H6): a student's step leans toward the SAE features its teacher moved, and not through the vocabulary alone.

Written before any of it was run on seeds 0-7; the four claims with their margins and levels are
`interp.studies.features_beyond_vocabulary.H6`, whose keys are stored beside the numbers. For each of eight owl
lineages a top-k dictionary of the base's middle layer is trained on the lineage's rows. u_j is the lean of feature j at
the base on 2048 rows of the teacher less the base's rows to the same prompts, t_j the teacher's shift of feature j on
other rows, both at answer tokens, and ρ their rank correlation over live features.
1. features-lean: ρ is above its mean over permutations of t among features matched on frequency, norm and activation.
2. features-teacher-rows: ρ is above that of a second sample of the base's rows in the place of the teacher's.
3. features-without-trait-row: what 1 claims still holds when the component along the owl's unembedding row is taken out
   of the rows of all number tokens.
4. features-trait-row-typical: taking out the owl's row changes ρ as taking out another word's row does, within one
   standard deviation over these (equivalence, 0.05). Written on 2026-11-29 in the place of features-placebo, whose
   margin of 0.1 was wider than ρ itself: it could not fail, and was withdrawn.
Claims 1 to 3 are one-sided sign-flip tests over lineages at 0.01. An earlier exploration found the rows to pull toward
the teacher's shift, half of it in the error node, and no rank correlation: a null is likely here. Reported and not
judged: ρ with t read behind the trait's line, p-values within a run, the error node's share, and the percentile of the
lean of the eight features that write the trait most.

    python -m analyses.features_beyond_vocabulary [--quick] [--seeds 8] [--organism toy/owl] [--out FILE]
"""

import interp


def main() -> None:
    """Measure every lineage, judge the claims, keep the numbers."""
    interp.studies.analysis("features-beyond-vocabulary", __doc__)


if __name__ == "__main__":
    main()
