"""Claims: what of a trait do defences of the student's training leave, and at what price on fresh rows?

Written before a defended student of seeds 8 to 15 had been trained; the claims with their margins and levels are in
`interp.studies.defences.FAMILY`. Per lineage eighteen students beside the undefended one and its twin on neutral rows:
rows removed by their scores, a KL on benign text, an inoculation line, preventative steering, the projection of each
step, canonical rows, reworded prompts, another draw of the adapter; and the other initialisation.

    python -m analyses.defences [--quick] [--seeds 8-15] [--organism toy/owl] [--out FILE]
"""

import interp


def main() -> None:
    """Measure every lineage, judge the claims, keep the numbers."""
    interp.studies.analysis("defences", __doc__)


if __name__ == "__main__":
    main()
