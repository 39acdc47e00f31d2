"""A claim written before its data: key = digest(name, claim, quantity, control, margin, alpha, kind, unit).

What was measured is stored beside the key, and a claim whose key is another one was edited after its data. A
"difference" claims a mean of more than 0, or of at least `margin` where that is not 0, and is tested against just that;
an "equivalence" claims a mean within ±margin. The values judged are one per independent training run. What is said of a
claim beside its words (`check`, `reading`, `seen`) is no part of its key and stands among the controls of its verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from interp.core.content import digest
from interp.core.doors import door
from interp.core.runs import InputError, nearest
from interp.stats.tests import Values
from interp.stats.verdict import Verdict, check_verdict, equivalence_verdict, paired_verdict

KINDS = ("difference", "equivalence")
SAID = ("check", "reading", "seen")
"""What stands beside the words of a claim, and is no part of its key."""


@door
@dataclass(frozen=True)
class Hypothesis:
    """A claim, the quantity that is judged, the control it is compared with, and the rule that judges it.

    `quantity` says what one training run contributes, in `unit`; `control` says what it is a difference to. `check`
    says why data cannot contradict the claim, so that it tests the code and finds nothing out; "" for a finding. A
    check has no p: its margin is the tolerance that every run must keep. `reading` says how the frozen words are read
    since a date, `seen` what was known of the runs when they were written, `withdrawn` why it is judged no more.
    Raises InputError for an unknown kind, an alpha outside (0, 0.5), a negative margin, and an equivalence without one.

    >>> gain = Hypothesis("gain", "owl rows teach owls", "margin", "neutral student", 0.5, 0.01, "difference", "nats")
    >>> gain.judge([0.9, 0.8, 1.2, 0.7, 0.8, 1.0, 0.6, 0.8]).decision
    'supported'
    >>> gain.judge([0.9, 0.2, 1.2, 0.7, 0.3, 1.0, 0.6, 0.8]).decision  # more than 0 in every run, but 0.5?
    'inconclusive'
    >>> gain.judge([0.9, 0.8]).decision
    'inconclusive'
    """

    name: str
    claim: str
    quantity: str
    control: str
    margin: float
    alpha: float
    kind: str
    unit: str = ""
    check: str = field(default="", compare=False)
    reading: str = field(default="", compare=False)
    seen: str = field(default="", compare=False)
    withdrawn: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind {nearest(self.kind, KINDS)}; pass one of these for {self.name!r}")
        if not 0 < self.alpha < 0.5:
            raise InputError(
                f"alpha {self.alpha} of {self.name!r} is outside (0, 0.5); give a level such as 0.01"
            )
        least = "a positive number" if self.kind == "equivalence" else "zero or a positive number"
        wrong = self.margin < 0 or (self.kind == "equivalence" and self.margin == 0)
        if wrong or not math.isfinite(self.margin):
            raise InputError(
                f"margin {self.margin} of {self.name!r} is not {least}; write one before the data"
            )

    @property
    def key(self) -> str:
        """16 hex characters that change with any word or number of the claim, and with nothing said beside it."""
        return digest("hypothesis", self)

    def judge(self, values: Values, *, controls: Mapping[str, Any] | None = None, seed: int = 0) -> Verdict:
        """The verdict on one value per training run; the key of the claim is kept among its controls."""
        said = {name: words for name in SAID if (words := getattr(self, name))}
        kept = {"claim key": self.key, "control": self.control, **said, **(controls or {})}
        if self.check:
            return check_verdict(
                self.name, self.claim, values,
                tolerance=self.margin, least=self.kind == "difference", unit=self.unit, controls=kept,
            )  # fmt: skip
        if self.kind == "equivalence":
            return equivalence_verdict(
                self.name, self.claim, values,
                margin=self.margin, alpha=self.alpha, unit=self.unit, controls=kept,
            )  # fmt: skip
        return paired_verdict(
            self.name, self.claim, values,
            minimum_effect=self.margin or None, alpha=self.alpha, unit=self.unit, controls=kept, seed=seed,
        )  # fmt: skip


def check_claim(recorded_key: str, hypothesis: Hypothesis) -> None:
    """InputError when the data were recorded under another wording, margin or level than the claim has now."""
    if recorded_key != hypothesis.key:
        raise InputError(
            f"the data of {hypothesis.name!r} were recorded under claim {recorded_key} and the claim is now "
            f"{hypothesis.key}: a claim edited after its data; restore its wording, or measure again under the new one"
        )
