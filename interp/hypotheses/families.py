"""The six families of claims by name; each says what it measures on one subject, and how that is judged.

family = (claims frozen before data, measure: Subject → Measured). One value per claim and training run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from interp.hypotheses.claims import Hypothesis
from interp.hypotheses.subject import Measured
from interp.runs import InputError, nearest
from interp.verdict import Verdict

WHERE = {
    "lemma": "interp.hypotheses.lemma_family",
    "sustained-alignment": "interp.hypotheses.sustained_alignment",
    "shared-initialisation": "interp.hypotheses.shared_initialisation",
    "one-direction": "interp.hypotheses.one_direction",
    "divergence-tokens": "interp.hypotheses.divergence_tokens",
    "features-beyond-vocabulary": "interp.hypotheses.features_beyond_vocabulary",
}
"""Where each family is; every module holds one `FAMILY`."""
DIGITS = "interp.hypotheses.digit_families"


@dataclass(frozen=True)
class Family:
    """A name, its claims, and the function that measures one subject (a `Subject` or `DigitSubject`) for all of them.

    `draw` turns the tables of all subjects, concatenated by name with a "seed" column, into the figure of the family.
    """

    name: str
    claims: tuple[Hypothesis, ...]
    measure: Callable[[Any], Measured]
    draw: Callable[[Mapping[str, Any]], Any] | None = None

    def judge(self, found: Sequence[Measured], *, seed: int = 0) -> list[Verdict]:
        """One verdict for every claim over independent training runs.

        Raises InputError without a run, and naming the claim a run has no value for.
        """
        if not found:
            raise InputError(f"no run was measured, so {self.name!r} is not judged; pass at least one seed")
        for index, run in enumerate(found):
            for claim in self.claims:
                if claim.name not in run.values:
                    raise InputError(
                        f"run {index + 1} of {len(found)} has no value for {claim.name!r}, which needs "
                        f"{claim.control}; measure it again"
                    )
        return [claim.judge([run.values[claim.name] for run in found], seed=seed) for claim in self.claims]


def family(name: str, *, organism: str = "folder") -> Family:
    """The family of that name, for lineages of language models or for "digits".

    Raises InputError with the nearest names for another one, and for a family that digits have no tokens for.
    """
    if name not in WHERE:
        raise InputError(f"hypothesis {nearest(name, WHERE)}; pass one of {', '.join(WHERE)}")
    if organism != "digits":
        return import_module(WHERE[name]).FAMILY
    known = import_module(DIGITS).FAMILIES
    if name not in known:
        raise InputError(
            f"{name!r} is about tokens, and digits have none; test {' or '.join(known)} there, or {name} on toy/owl"
        )
    return known[name]
