"""Claim (H1): a student's first gradient step leans toward its teacher by exactly what Lemma 1 says, and only so.

Written before any of it was run; the six claims with their margins and levels are `interp.studies.lemma.H1`, whose
keys are stored beside the numbers. For each of eight owl lineages, with d the teacher's update from the base:
1. lemma-ratio: for teachers θ_0 + ε d / |d| with ε down to |d| / 128 and soft labels over number tokens, A(ε) / Q
   reaches 1 within 0.05 (equivalence over lineages, 0.05).
2. lemma-slope: |A / Q − 1| shrinks at least like ε^0.9 over the four smallest ε (until 2026-11-29 tested against 0).
3. lemma-sampled: unfiltered answers of the real teacher lean along d, more than the base's own answers.
4. lemma-mismatched, soft labels: more than those of the cat, eagle and oak teachers of the same base, the largest.
5. lemma-filtered: the same on 2048 filtered rows each, all less the filtered rows of the base.
6. lemma-foreign: and more than at a foreign base along the update of that base's own owl teacher.
Claims 2 to 6 are one-sided sign-flip tests over lineages at 0.01. Reported and not judged: the whole vocabulary as soft
label, filtered rows at the foreign base, and the same step under sign, Adam and LoRA metrics, which promise no sign.

    python -m analyses.lemma [--quick] [--seeds 8] [--organism toy/owl] [--out FILE]
"""

import interp


def main() -> None:
    """Measure every lineage, judge the claims, keep the numbers."""
    interp.studies.analysis("lemma", __doc__)


if __name__ == "__main__":
    main()
