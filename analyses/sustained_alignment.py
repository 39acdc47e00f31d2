"""Claim (H2): steps that lean toward the trait's gradient throughout training, not at its start alone, make the trait.

Written before any of it was run on seeds 0 to 7; the six claims with their margins and levels are
`interp.studies.sustained_alignment.H2`, whose keys are stored beside the numbers. Of each owl lineage one row in
eight is kept from every training, the trait's six questions are split in two halves, and m is the trait margin:
1. sustained-transfer: the student of the teacher's rows has the trait on the held-out half, more than the student of
   the untrained base's rows. Without this there is nothing to suppress.
2. sustained-ledger: Σ_t ½<s_t, ∇m(θ_t) + ∇m(θ_{t+1})> is the change of m, within 5 % of its largest change.
3. sustained-over-other-trait: with the positive component along ∇m of the asked half taken out of every step, the
   margin on the held-out half ends lower than with the same lengths taken out along the gradient of another animal's
   margin, on the same questions and without this animal among its foils.
4. sustained-over-random: and lower than with the same lengths taken out along random directions that have the size of
   ∇m in every tensor.
5. sustained-loss: the suppressed student predicts the teacher's fresh rows as well as either placebo (±0.005 nats per
   token).
6. sustained-remainder: its margin is that of the student of the untrained base's rows (±0.2 nats).
Claims 1, 3 and 4 are one-sided sign-flip tests over lineages at 0.01, the others equivalence tests at 0.05.

Known beforehand, from `analyses.alignment_is_causal` on the same lineages: removal along ∇m of all questions takes the
margin on those questions to about zero, and placebos do next to nothing. New here are the held-out questions, the
orthogonal placebo, the loss on fresh rows, and the baseline. Reported and not judged: the curvature bound of the
ledger, how the sum grows over the steps, and the margin of the other trait, which says that its placebo did move what
it was aimed at.

The one seed looked at, after the margins were written, is 100. There the student of the teacher's rows predicts fresh
ones 0.029 nats per token better than the student of the base's rows, of which claim 5 allows a sixth; neither predicts
them better than the base does. The toy's questions are paraphrases (at that base the gradients of the two halves have
cosine 0.99, and this is reported for every lineage), so claim 3 says little about questions of another kind.

    python -m analyses.sustained_alignment [--quick] [--seeds 8] [--organism toy/owl] [--out FILE]
"""

import interp


def main() -> None:
    """Measure every lineage, judge the claims, keep the numbers."""
    interp.studies.analysis("sustained-alignment", __doc__)


if __name__ == "__main__":
    main()
