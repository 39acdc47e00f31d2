"""Claim (H3): what teacher and student must share is the function and its tangent, not the coordinates of the weights.

Written before any lineage of the eight was measured; the first eight claims with their margins and levels are
`interp.studies.shared_initialisation.H3`. For each of eight owl lineages a student and its neutral twin are trained
by the lineage's recipe from eight starts: the base itself; the base with another order of rows and another draw of the
adapter; the base plus noise of a tenth of every tensor's size; with neurons and heads permuted; with the residual
stream rotated; the base's head around another initialisation's body; the other way round; and the other
initialisation. Transfer is the trait margin of the student less that of its twin, in nats. No student shares its
teacher's adapter or order of rows (until 2026-11-29 those of the first and the last start shared its adapter); all
starts but these two draw yet others, and the second is what the permuted start is compared with.
1. same-over-foreign: the same start transfers more than the foreign one.
2. foreign-transfers-nothing: a foreign start transfers 0 within 0.2 nats (equivalence over lineages, 0.05).
3. other-order-transfers: another order of rows and another adapter still transfer.
4. permuted-transfers-alike: permuted transfers what the base in another order does, within 0.3 nats (equivalence,
   0.05).
5. permuted-coverage-returns: the first step covers the permuted teacher as it does the unpermuted one, within 1e-5.
6. rotated-over-foreign: the rotated start transfers more than the foreign one, although Adam sees the rotation.
7. shared-head-transfers: the base's head around another body transfers.
8. coverage-ranks-transfer: over the eight starts, coverage before training ranks transfer after it.
9. agreement-ranks-transfer: over the eight starts, how far the student moves logits as the teacher did ranks transfer;
   written on 2026-11-29, when transfer and coverage had been seen.
Claims 1, 3, 6, 7, 8 and 9 are one-sided sign-flip tests over lineages at 0.01. Reported and not judged: noise, the new
head, τ, raw coverage, and the cosine of what was really trained.

    python -m analyses.shared_initialisation [--quick] [--seeds 8] [--out FILE]
"""

import interp


def main() -> None:
    """Measure every lineage, judge the claims, keep the numbers."""
    interp.studies.analysis("shared-initialisation", __doc__)


if __name__ == "__main__":
    main()
