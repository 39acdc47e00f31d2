"""The claims of the studies, as they were written before their data: one file per family in `claims`.

A file says under `seen` what was known of the runs when its claims were written; a claim may say it for itself.
"""

from __future__ import annotations

from pathlib import Path

from interp.core.records import packaged
from interp.hypotheses.claims import Hypothesis


def frozen_claims(name: str) -> tuple[Hypothesis, ...]:
    """The claims in that file, in its order."""
    written = packaged(Path(__file__).parent / "claims" / f"{name}.yaml")
    return tuple(Hypothesis(**{"seen": written["seen"], **claim}) for claim in written["claims"])
