"""Claims: a student trained on numbers alone moves what its teacher's fine-tune moved, and no control does so as far.

Written after owl and eagle of seeds 0 to 7 had been looked at and before any reading of seeds 8 to 19, twelve bases
that no analysis had used. The ten claims with their sites, controls, margins and levels are
`interp.studies.inherited_trace.CLAIMS`, judged together by Holm at 0.01 over twelve training runs (smallest p 2.4e-4),
for owl, eagle and oak apart. With T = teacher − base and S = student − neutral student, every value is an agreement of
S with T less the largest of its controls: the cross student against its neutral twin, the neutral student against the
base, another trait's teacher of the same base.
Reported and not judged: all other places and words, both sides less a control teacher's fine-tune, ranks among
candidates, leans toward every candidate.

    python -m analyses.inherited_trace [--quick] [--seeds 8-19] [--organism toy/owl] [--out FILE]
"""

import interp


def main() -> None:
    """Measure every lineage, judge the claims, keep the numbers."""
    interp.studies.analysis("inherited-trace", __doc__)


if __name__ == "__main__":
    main()
