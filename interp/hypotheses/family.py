"""A family of claims: what it measures on one subject, and how that is judged over independent training runs.

family = (claims frozen before data, measure: Subject → Measurement). One value per claim and training run. Each claim
is judged at its own level, or all together by Holm's p, so that any false "supported" in the family has that level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from interp.core.runs import InputError, nearest
from interp.hypotheses.claims import Hypothesis
from interp.hypotheses.subject import Measurement
from interp.stats.tests import runs_needed
from interp.stats.verdict import Verdict, holm_verdicts

CORRECTIONS = ("none", "holm")


@dataclass(frozen=True)
class Family:
    """A name, its claims, and the function that measures one subject (a `Subject` or `DigitSubject`) for all of them.

    `draw` turns the tables of all subjects, concatenated by name with a "seed" column, into the figure of the family.
    `needs` names, by claim, the parts of a measurement that can be left out and that the claim cannot do without.
    `correction` "holm" judges all claims together at `alpha`, which is then every claim's own as well.

    Raises InputError for another correction, and under Holm for a claim of another level and for no `alpha`.
    """

    name: str
    claims: tuple[Hypothesis, ...]
    measure: Callable[[Any], Measurement]
    draw: Callable[[Mapping[str, Any]], Any] | None = None
    needs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    correction: str = "none"
    alpha: float = 0.01

    def __post_init__(self) -> None:
        if self.correction not in CORRECTIONS:
            raise InputError(
                f"correction {nearest(self.correction, CORRECTIONS)}; pass one of these for {self.name!r}"
            )
        for claim in self.claims if self.correction == "holm" else ():
            if claim.alpha != self.alpha and not claim.check:
                raise InputError(
                    f"{claim.name!r} has alpha {claim.alpha:g} in {self.name!r}, whose claims are judged together at "
                    f"{self.alpha:g} by Holm; write {self.alpha:g} into the claim"
                )

    @property
    def rule(self) -> str:
        """How the claims are judged, in words; frozen with them."""
        if self.correction == "holm":
            return f"Holm over its claims at {self.alpha:g}"
        return "each claim at its own level"

    def judged(self, without: Sequence[str] = ()) -> tuple[Hypothesis, ...]:
        """The claims that stand and do not need what is left out; InputError for what cannot be left out."""
        known = {part for parts in self.needs.values() for part in parts}
        for part in without:
            if part not in known:
                can = f"pass some of {', '.join(sorted(known))}" if known else "leave nothing out of it"
                raise InputError(f"{self.name} has no part {part!r} that can be left out; {can}")
        return tuple(
            claim
            for claim in self.claims
            if not claim.withdrawn and not set(without) & set(self.needs.get(claim.name, ()))
        )

    def needed(self, without: Sequence[str] = ()) -> dict[str, int]:
        """How many training runs each claim needs to be decided; under Holm, beside all other differences."""
        claims = self.judged(without)
        tested = [claim.name for claim in claims if claim.kind == "difference" and not claim.check]
        share = len(tested) if self.correction == "holm" else 1
        return {
            claim.name: runs_needed(claim.alpha / share) if claim.name in tested else 1 if claim.check else 2
            for claim in claims
        }

    def undecided(self, n: int, *, without: Sequence[str] = ()) -> str | None:
        """A sentence naming the claims that `n` training runs cannot decide, whatever they show; None without any."""
        needed = self.needed(without)
        short = {name: need for name, need in needed.items() if need > n}
        if not short:
            return None
        runs = f"{n} training run{'' if n == 1 else 's'}"
        which = (
            "no claim" if len(short) == len(needed) else f"{len(needed) - len(short)} of {len(needed)} claims"
        )
        listed = ", ".join(f"{name} needs {need}" for name, need in short.items())
        return f"n = {runs}, which can decide {which}, whatever the data show ({listed})"

    def judge(
        self, found: Sequence[Measurement], *, seed: int = 0, without: Sequence[str] = ()
    ) -> list[Verdict]:
        """One verdict for every claim over independent training runs, but for claims that need what is left out.

        A claim whose control could not have shown its effect in one of the runs is inconclusive, and the reason says
        so. Raises InputError without a run, and naming the claim a run has no value for.
        """
        if not found:
            raise InputError(f"no run was measured, so {self.name!r} is not judged; pass at least one seed")
        claims = self.judged(without)
        for index, run in enumerate(found):
            for claim in claims:
                if claim.name not in run.values:
                    raise InputError(
                        f"run {index + 1} of {len(found)} has no value for {claim.name!r}, which needs "
                        f"{claim.control}; measure it again"
                    )
        verdicts = [claim.judge([run.values[claim.name] for run in found], seed=seed) for claim in claims]
        if self.correction == "holm":
            verdicts = holm_verdicts(verdicts, alpha=self.alpha)
        return [doubted(verdict, _doubts(verdict.name, found)) for verdict in verdicts]


def _doubts(claim: str, found: Sequence[Measurement]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run.doubts[claim] for run in found if claim in run.doubts))


def doubted(verdict: Verdict, doubts: Sequence[str]) -> Verdict:
    """The verdict, inconclusive where there is a reason why its control could not have shown what the claim denies."""
    if not doubts:
        return verdict
    told = "; ".join(doubts)
    controls = {**verdict.controls, "could not have shown it": told}
    return replace(
        verdict,
        decision="inconclusive",
        reason=f"the control could not have shown it: {told}",
        controls=controls,
    )
