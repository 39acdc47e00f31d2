"""The claims of the studies, as they were written before their data: one file per family in `claims`."""

from __future__ import annotations

from pathlib import Path

from interp.core.records import packaged
from interp.hypotheses.claims import Hypothesis


def frozen_claims(name: str) -> tuple[Hypothesis, ...]:
    """The claims in that file, in its order."""
    return tuple(Hypothesis(**claim) for claim in packaged(Path(__file__).parent / "claims" / f"{name}.yaml"))
