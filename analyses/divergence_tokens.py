"""Claim (H5): the credit that moves a student toward its teacher's trait sits on label-side divergence tokens.

Written before any of it was run on seeds 0 to 7; the six claims with their margins and levels are
`interp.studies.divergence_family.H5`. For each of eight owl lineages, on the teacher's own filtered rows:

A divergence token is usually a label that is its teacher's argmax and not another teacher's. On the toy's sampled rows
that is one number token in a thousand (22 of 24 670 on seed 100, where this was piloted), so the rule here, chosen
before the data, is by log-ratio: number tokens whose label the owl teacher gives a higher probability than both the cat
and the eagle teacher of the same base do, the fifth of the tokens where it exceeds the better of the two by most. The
share by argmax is reported beside it. Each is paired with another number token of the same rows, within a quarter of a
standard deviation of it in loss and entropy under the base, place in the answer, and teacher's margin over the base.
1. divergence-enriched: <∇ log p(label), ∇m> at the base tells divergence tokens from matched ones, AUROC > 0.5.
2. divergence-enriched-adapter: the same under the metric of the student's fresh adapter.
3. divergence-own-trait: and more than along the gradient of an unrelated trait's margin (oak).
4. divergence-in-labels: with labels dealt anew over the same places AUROC is 0.5 within 0.05 (equivalence, 0.05).
5. divergence-transfers: a student of divergence tokens alone has a larger margin than one of as many neutral ones.
6. divergence-over-matched: and than one of the matched tokens, which learns in the same batches.
Claims 1 to 3, 5 and 6 are one-sided sign-flip tests over lineages at 0.01. Reported and not judged: AUROC with the
teacher's margin left unmatched, the student of all tokens, and one of divergence tokens of neutral rows, which the
teacher selects without having written them.

    python -m analyses.divergence_tokens [--quick] [--seeds 8] [--out FILE]
"""

import interp


def main() -> None:
    """Measure every lineage, judge the claims, keep the numbers."""
    interp.studies.analysis("divergence-tokens", __doc__)


if __name__ == "__main__":
    main()
