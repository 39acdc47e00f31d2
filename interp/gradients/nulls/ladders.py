"""The ladder of nulls, N0 to N7: each says what it holds fixed and what it breaks, and tests the observed lean.

The lean of rows along a direction is their mean score <grad log p(y|x), v> per prompt, less that of a neutral teacher's
rows at the same prompts where there are any. Isotropic random directions are no null: gradients share common modes.
A single lineage exchanges prompts, directions or networks; none of these is an independent training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.core.doors import door
from interp.core.runs import InputError
from interp.figures import Result, bars, drawing
from interp.gradients.nulls.controls import Shuffle, random_network, shuffle_numbers, transplant
from interp.gradients.nulls.samples import NEUTRAL, Sample
from interp.gradients.scores.scoring import score
from interp.models.parameters import ParameterDirection
from interp.models.seam import Model
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.stats.exchanges import Matrix, Paired, Ranked, TwoSample, standardised

if TYPE_CHECKING:
    from interp.models.lineage import Lineage

Scoring = Callable[[Any, Any, Sequence[ParameterDirection]], Any]
"""(model, rows, directions) -> scores [row direction]"""


def scored(model: Any, rows: Prompts | Encoded, directions: Sequence[ParameterDirection]) -> Any:
    """Scores [row direction] of `interp.gradients.scores.scoring.score`, in nats per unit of each direction."""
    return score(model, rows, list(directions)).totals


@door
@dataclass(frozen=True, eq=False)
class Observation:
    """Rows whose lean along a direction is in question, the model they are scored at, and a neutral teacher's rows.

    With `neutral`, every lean is the difference of the two at each shared prompt: what any teacher's rows would show
    cancels. `score` computes scores [row direction]; tests pass stand-ins.
    """

    model: Model
    rows: Prompts | Encoded
    direction: ParameterDirection
    neutral: Prompts | Encoded | None = None
    score: Scoring = scored

    @classmethod
    def of(cls, lineage: "Lineage", *, role: str = "teacher") -> Self:
        """The numbers of a lineage's teacher along that member's update, at the base, against its neutral numbers.

        Raises InputError for a lineage without numbers.
        """
        if lineage.numbers is None:
            raise InputError(
                f"lineage {lineage.name!r} holds no numbers; build Observation(model, rows, direction)"
            )
        direction: Any = lineage.update(role)
        return cls(lineage["base"], lineage.numbers, direction, lineage.neutral_numbers)

    def sample(
        self, rows: Prompts | Encoded | None = None, *, directions: Sequence[ParameterDirection] | None = None
    ) -> Sample:
        """Scores of these rows (default: the observed ones) along these directions (default: the observed one)."""
        chosen = self.rows if rows is None else rows
        along = [self.direction] if directions is None else list(directions)
        return Sample.of(self.score(self.model, chosen, along), [d.label for d in along], chosen)

    def lean(self, directions: Sequence[ParameterDirection] | None = None) -> Sample:
        """Mean score of every prompt [prompt direction], minus the neutral one if there are neutral rows."""
        ours = self.sample(directions=directions)
        if self.neutral is None:
            return ours.by_prompt()
        return ours.minus(self.sample(self.neutral, directions=directions))

    @cached_property
    def own(self) -> Float[np.ndarray, "prompt"]:
        """The lean along the observed direction."""
        return self.lean().scores[:, 0]

    def shuffled(self, *, how: Shuffle, seed: int) -> Self:
        """The same with the numbers of its rows, and of its neutral rows, shuffled.

        Raises InputError for rows that are tokens already.
        """
        if isinstance(self.rows, Encoded) or isinstance(self.neutral, Encoded):
            raise InputError("numbers are shuffled in text and these rows are tokens; observe Prompts")
        neutral = None if self.neutral is None else shuffle_numbers(self.neutral, how=how, seed=seed)
        return replace(self, rows=shuffle_numbers(self.rows, how=how, seed=seed), neutral=neutral)


@dataclass(frozen=True, eq=False)
class BaseSamples:
    """N0: the rows are the base's own samples, whose mean is zero, or that of `control` where it is given.

    Zero is exact for whole answers, end token included, sampled at temperature 1 from the whole vocabulary and
    neither filtered nor deduplicated. Anything else needs `control`: base rows that went through the same filter.
    """

    control: Prompts | Encoded | None = None
    name: ClassVar[str] = "N0 base samples"
    describes: ClassVar[str] = (
        "holds the prompts and the direction, breaks the teacher: the base itself answers"
    )

    def evidence(self, observed: Observation) -> Paired | TwoSample:
        """Means per prompt against zero (asymptotic: scores need not be symmetric), or against the control's."""
        ours = observed.sample().by_prompt().scores[:, 0]
        if self.control is None:
            return Paired(ours, np.zeros_like(ours))
        return TwoSample(ours, observed.sample(self.control).by_prompt().scores[:, 0])


@dataclass(frozen=True, eq=False)
class NeutralTeacher:
    """N1: a neutral teacher answers the same prompts; under the null two answers to a prompt could change places."""

    name: ClassVar[str] = NEUTRAL
    describes: ClassVar[str] = (
        "holds prompts, filter and direction, breaks the trait: a neutral teacher answers"
    )

    def evidence(self, observed: Observation) -> Paired:
        """Both means at every prompt that survived both filters; exact.

        Raises InputError for an observation without neutral rows.
        """
        if observed.neutral is None:
            raise InputError(
                "the observation has no neutral rows; pass neutral= the neutral teacher's numbers"
            )
        ours, theirs = observed.sample().paired(observed.sample(observed.neutral))
        return Paired(ours.scores[:, 0], theirs.scores[:, 0])


@dataclass(frozen=True, eq=False)
class OtherTraits:
    """N2: every trait's rows along every trait's direction; under the null any rows could belong to any direction."""

    others: tuple[Observation, ...]
    name: ClassVar[str] = "N2 other traits"
    describes: ClassVar[str] = (
        "holds rows and directions, breaks which belongs to which: the diagonal is compared"
    )

    def evidence(self, observed: Observation) -> Matrix:
        """Standardised leans, direction by data set, all at the observed model.

        Raises InputError with one trait only.
        """
        every = [observed, *(replace(o, model=observed.model) for o in self.others)]
        if len(every) < 2:
            raise InputError("a matrix of 1 trait has no other labels; pass observations of other traits")
        directions = [one.direction for one in every]
        columns = [[standardised(c) for c in one.lean(directions).scores.T] for one in every]
        return Matrix(np.array(columns).T)


@dataclass(frozen=True, eq=False)
class RandomTokenPairs:
    """N3: directions that raise one random word over another, as the trait's raises its target over its foils."""

    directions: tuple[ParameterDirection, ...]
    name: ClassVar[str] = "N3 random token pairs"
    describes: ClassVar[str] = (
        "holds rows, questions and shape, breaks the words: gradients of random margins"
    )

    def evidence(self, observed: Observation) -> Ranked:
        """The standardised lean among those along the random pairs; exact for a trait that is one such pair."""
        leans = observed.lean([observed.direction, *self.directions]).scores
        own, *others = [standardised(column) for column in leans.T]
        return Ranked(own, np.array(others), "random token pairs")


@dataclass(frozen=True, eq=False)
class OtherTeachers:
    """N4: updates of teachers from another initialisation or family, held against one lineage's rows."""

    directions: tuple[ParameterDirection, ...]
    name: ClassVar[str] = "N4 mismatched teachers"
    describes: ClassVar[str] = (
        "holds rows and shape, breaks the shared start: the update of another lineage's teacher"
    )

    def evidence(self, observed: Observation) -> Paired:
        """Standardised lean along the own update against the mismatched one that comes nearest, prompt by prompt."""
        others = [transplant(direction, observed.model) for direction in self.directions]
        return nearest_mismatch(observed.lean([observed.direction, *others]).scores)


@dataclass(frozen=True, eq=False)
class ShuffledNumbers:
    """N5: the same numbers in another order, within answers or exchanged across them.

    One draw is paired with the original, prompt by prompt (for "across" conservative, since the shuffled rows share the
    original's numbers). Several draws rank the original among them, which is exact.
    """

    how: Shuffle = "within"
    seed: int = 0
    draws: int = 1
    describes: ClassVar[str] = "holds prompts, counts, separators and the numbers used, breaks their order"

    @property
    def name(self) -> str:
        return f"N5 numbers shuffled {self.how} answers"

    def evidence(self, observed: Observation) -> Paired | Ranked:
        """Leans of the original and of the shuffled rows."""
        draws = [observed.shuffled(how=self.how, seed=self.seed + i).own for i in range(self.draws)]
        if self.draws == 1:
            return Paired(observed.own, draws[0])
        return Ranked(float(observed.own.mean()), np.array([lean.mean() for lean in draws]), "shuffles")


@dataclass(frozen=True, eq=False)
class RandomNetworks:
    """N6: networks of the same configuration with random weights, scored along the same tensors."""

    seeds: tuple[int, ...] = tuple(range(19))
    name: ClassVar[str] = "N6 random networks"
    describes: ClassVar[str] = (
        "holds rows, architecture and tensors, breaks all that was learnt: random weights"
    )

    def evidence(self, observed: Observation) -> Ranked:
        """The standardised lean at the trained weights among those at random ones."""
        trained: Any = observed.model
        networks = [random_network(trained, seed=seed) for seed in self.seeds]
        leans = [
            replace(observed, model=model, direction=transplant(observed.direction, model)).own
            for model in networks
        ]
        return Ranked(
            standardised(observed.own), np.array([standardised(lean) for lean in leans]), "random networks"
        )


@dataclass(frozen=True, eq=False)
class ModuleSigns:
    """N7: signs of the modules' mean contributions: free and weakest, as modules are neither alike nor independent."""

    contributions: Mapping[str, float]
    name: ClassVar[str] = "N7 module signs"
    describes: ClassVar[str] = "holds the size of every module's contribution, breaks its sign"

    @classmethod
    def of(cls, frame: pd.DataFrame, *, direction: str) -> Self:
        """Mean contribution of each module from a score frame with the columns row, direction, module and score.

        Raises InputError for a frame without modules or without that direction.
        """
        chosen: Any = frame[frame["direction"] == direction]
        if "module" not in frame or chosen.empty:
            raise InputError(f"no module scores along {direction!r}; score with by=('example', 'module')")
        means = chosen.groupby("module", sort=False)["score"].sum() / chosen["row"].nunique()
        return cls({str(module): float(mean) for module, mean in means.items()})

    def evidence(self, observed: Observation) -> Paired:
        """Contributions against zero; nothing is scored."""
        values = np.array(list(self.contributions.values()), dtype=float)
        return Paired(values, np.zeros_like(values), "modules")


Null = (
    BaseSamples
    | NeutralTeacher
    | OtherTraits
    | RandomTokenPairs
    | OtherTeachers
    | ShuffledNumbers
    | RandomNetworks
    | ModuleSigns
)


def nearest_mismatch(leans: Float[np.ndarray, "prompt direction"]) -> Paired:
    """The first column against the other that is hardest to tell from it, each in units of its standard deviation.

    Claiming that the first exceeds every other is as safe as its weakest comparison (Berger 1982), so that p is
    its p. Raises InputError for fewer than two columns.
    """
    if leans.shape[1] < 2:
        raise InputError("no mismatched direction was scored; pass the update of at least one other teacher")
    spreads = leans.std(axis=0, ddof=1) if len(leans) > 1 else np.ones(leans.shape[1])
    own, *others = (leans / np.where(spreads > 0, spreads, 1.0)).T
    pairs = [Paired(own, other) for other in others]
    return min(pairs, key=lambda pair: standardised(pair.differences))


@door
def ladder(observed: Observation, nulls: Sequence[Null], *, seed: int = 0) -> Result:
    """Test a lean against every null, one row each: null, observed, control, effect, p, smallest_p, n, unit, describes.

    The p-values are not adjusted for their number: each null is another question, and a claim must survive all.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> given = lineage.base, lineage.numbers[:8], lineage.update("teacher"), lineage.neutral_numbers[:8]
        >>> from interp.gradients.nulls.ladders import NeutralTeacher
        >>> found = interp.gradients.ladder(interp.gradients.Observation(*given), [NeutralTeacher()])
    """
    tests = [null.evidence(observed).test(null.name, seed=seed) for null in nulls]
    frame = pd.DataFrame([asdict(test) for test in tests])
    frame["describes"] = [null.describes for null in nulls]
    label = f"lean along {observed.direction.label} against {len(nulls)} nulls"
    return Result(label, frame, "standard deviations", draw=drawing(bars, x="effect", y="null"))
