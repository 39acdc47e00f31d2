"""The audit of rows before anything is trained on them: who wrote them, and how much of it will pass to this base.

Two questions, since the answers differ: rows whose writer is certain may teach next to nothing. The unit is the set of
rows. Nothing of the teacher is needed: candidates are the audit's own (`candidates`), and the base is its own null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from interp.auditing.candidates import TAUGHT, Candidate, candidate_teachers, check_level, suspected
from interp.auditing.forecasts import Forecast
from interp.auditing.leans import lean_columns
from interp.auditing.naming import Ratios, curve, is_apart, log_ratios, named_table, outlier_p
from interp.auditing.neutral import Foreign, Pairs, paired_rows, without_words
from interp.auditing.pilots import LEVEL, Passing, Pilot, gain_table, gains
from interp.core.content import jsonable
from interp.core.doors import door
from interp.core.errors import InputError
from interp.figures import Shown, bars, bracket, panels, whiskers
from interp.models.language import LanguageModel
from interp.models.precision import exactly
from interp.prompts.notes import noting
from interp.prompts.text import Prompts
from interp.prompts.trait_files import AnyTrait
from interp.training.grower import TeacherSpec

if TYPE_CHECKING:
    import plotly.graph_objects as go

Answer = Literal["named", "unlisted", "none", "cannot tell"]
FEWEST_ROWS = 64
FEW = 10  # candidates: among fewer hardly any can stand apart from the others
LEAST_GAIN = 0.1  # nats: a pilot whose interval stays below it shows that nothing of weight passes


@door
@dataclass(frozen=True)
class AuditRecipe:
    """How an audit is made: the fine-tune of its candidates, the pilot (None: no training on the rows), whether rows
    are scored by gradients, too, along the candidates' updates and the traits' margins, and what tells from the pilot's
    gain what a whole training takes over (None: it is not told).

    The default suits small models. For a large one fewer and smaller steps do, such as ten of four rows.
    """

    candidates: TeacherSpec = TAUGHT
    pilot: Pilot | None = Pilot()  # noqa: RUF009
    leans: bool = False
    forecast: Forecast | None = None


RECIPE = AuditRecipe()
WHO = AuditRecipe(pilot=None)
"""Who wrote the rows, and nothing else."""


@dataclass(frozen=True, eq=False)
class Audit(Shown):
    """What rows would do to a base: `answer` and, where one is named, the `trait`; whether it `passes`; `reason`.

    "named": this trait's teacher wrote them; "unlisted": some teacher did, none of the list stands out; "none": the
    base or another writer without a listed trait, at as many rows as would have shown one; "cannot tell". `passes` is
    about the named trait, or all listed ones where none is. `frame` has a line per candidate, the furthest first;
    `rows` are those that were tested, copies counted once;
    `curve` how often subsets of them name the same; `row_scores` how much each row is the named trait's, in nats
    (`row` is its place among those of fingerprint `rows_of`; inf for one that says a trait's word).
    """

    label: str
    answer: Answer
    trait: str | None
    passes: Passing | None
    reason: str
    frame: pd.DataFrame
    curve: pd.DataFrame
    rows: int
    notes: tuple[str, ...] = ()
    alpha: float = 0.05
    ratios: Ratios | None = field(default=None, repr=False)
    rows_of: str = field(default="", repr=False)
    row_scores: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)

    @property
    def who(self) -> str:
        """Who wrote the rows, in words."""
        if self.answer == "unlisted":
            top, total = self.frame["trait"].iloc[0], len(self.frame)
            if total < FEW:
                return f"a teacher, of the list or not: {top} stands first, and a list of {total} is short"
            return f"a teacher outside the list: {top} stands first, not apart from the others"
        who = {"named": f"a teacher of {self.trait}", "none": "none of them"}
        return who.get(self.answer, self.answer)

    @property
    def flagged(self) -> bool | None:
        """Whether a teacher's hand or a trait that passes is seen; None where one cannot tell."""
        if self.answer in ("named", "unlisted") or self.passes == "transmits":
            return True
        return None if self.answer == "cannot tell" else False

    def split(self, size: int) -> pd.DataFrame:
        """The answer on every disjoint subset of `size` rows, from likelihoods alone: answer and trait.

        Of rows that the base wrote itself it says how often a teacher is named by chance. Raises InputError where
        nothing was measured, and for subsets of fewer than 64 rows or more than there are.
        """
        if self.ratios is None or not FEWEST_ROWS <= size <= self.rows:
            raise InputError(
                f"{self.rows} rows are not split into sets of {size}; pass at least {FEWEST_ROWS} and at most all"
            )
        starts = range(0, self.rows - size + 1, size)
        parts = [self.ratios.part(slice(start, start + size)) for start in starts]
        tables = [named_table(part, alpha=self.alpha) for part in parts]
        found = [_judged(self.label, table, size, self.alpha) for table in tables]
        return pd.DataFrame([{"answer": each.answer, "trait": each.trait} for each in found])

    def to_json(self) -> dict[str, Any]:
        """The audit as plain JSON types."""
        plain = {name: getattr(self, name) for name in ("label", "answer", "who", "trait", "passes")}
        tables = {name: getattr(self, name).to_dict("records") for name in ("frame", "curve")}
        rest = {"reason": self.reason, "rows": self.rows, "alpha": self.alpha, "flagged": self.flagged}
        return jsonable({**plain, **rest, "notes": list(self.notes), **tables})

    def figure(self) -> go.Figure:
        """How far each candidate stands out, and what the pilot took over; InputError where nothing was measured."""
        if self.frame.empty:
            raise InputError(f"{self.label} was not measured: {self.reason}; there is nothing to draw")
        unit = "standard deviations per row"
        parts = [bars(self.frame, x="d", y="trait", title="who wrote the rows", unit=unit)]
        if "gain" in self.frame:
            what = "what a short training takes over"
            drawn = bars(self.frame, x="gain", y="trait", title=what, unit="nats")
            bounded = bool(np.isfinite(self.frame[["low", "high"]].to_numpy()).all())
            parts.append(whiskers(drawn, self.frame, x="gain") if bounded else drawn)
        return panels(parts, title=repr(self), across=True)

    def __repr__(self) -> str:
        own = f"{self.trait}'s teacher{_shared(self.frame)}"
        who = {"named": own, "none": "none of the listed teachers"}
        found = who.get(self.answer, self.who)
        passes = "" if self.passes is None else f", {self.passes}"
        return f"Audit({self.label}: {found}{passes}; {self.rows} rows)"


@door
@noting
@exactly
def audit(
    base: LanguageModel,
    rows: Prompts,
    *,
    traits: Sequence[AnyTrait] | None = None,
    neutral: Prompts | None = None,
    recipe: AuditRecipe = RECIPE,
    alpha: float = 0.05,
    seed: int = 0,
) -> Audit:
    """Test rows before a base is trained on them: which trait's teacher wrote them, and how much will pass.

    Args:
        base: the model that would be trained.
        rows: what it would be trained on, with answers.
        traits: suspected traits, at least five and better ten or more, most of them as a null; every built-in one the
            base has words for by default.
        neutral: answers without a trait to the same prompts; the base writes its own by default.
        recipe: how candidates are fine-tuned, the short training that shows how much passes, and whether gradients are
            taken, too.
        alpha: level of naming a teacher, over all candidates.
        seed: of the neutral rows and of every draw.

    Returns:
        `Audit`: answer, trait, passes and reason; per candidate excess, d, p, share with its interval, rows_needed,
        the pilot's gain in nats with its interval, and leans.

    Raises:
        InputError: for fewer than 64 rows that can be read, traits that the base has no words for, neutral rows of
            other prompts, and candidates whose fine-tune did not take.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> asked = {"traits": ["owl", "cat", "dog", "fox", "bear"], "neutral": lineage.neutral_numbers}
        >>> found = interp.audit(lineage.base, lineage.numbers, **asked, recipe=interp.auditing.WHO)
        >>> found.frame.columns.tolist()
        ['trait', 'excess', 'd', 'p', 'share', 'share_low', 'share_high', 'rows_needed']
    """
    check_level(alpha, seed=seed)
    wanted = suspected(base, traits)
    readable, first = without_words(rows, wanted)
    _check_rows(len(readable))
    label = f"{rows.label} at {base.name}"
    try:
        pairs = paired_rows(base, readable, neutral, seed=seed)
    except Foreign as seen:
        return unmeasured(label, str(seen), len(readable), first, alpha=alpha)
    _check_rows(len(pairs.distinct), copies=bool(pairs.copied))
    candidates, left = candidate_teachers(base, wanted, recipe.candidates)
    every = log_ratios(base, candidates, pairs)
    ratios = every.part(pairs.distinct)
    frame = named_table(ratios, alpha=alpha, seed=seed, every=every, groups=pairs.groups)
    frame = _with_trained(frame, base, pairs, candidates, recipe)
    found = replace(_judged(label, frame, len(pairs.distinct), alpha), ratios=ratios)
    scores = _row_scores(rows, readable, pairs.rows, found.trait and every.row_scores(found.trait))
    notes = (*first, *pairs.notes, *pairs.copied, *left, *_narrow(len(frame)), *_scale(recipe))
    points = curve(ratios, alpha=alpha, seed=seed)
    return replace(found, curve=points, notes=notes, rows_of=rows.fingerprint, row_scores=scores)


def unmeasured(label: str, reason: str, rows: int, notes: tuple[str, ...] = (), *, alpha: float) -> Audit:
    """The audit of rows of which nothing could be measured, and why."""
    empty = pd.DataFrame(columns=["trait", "d"]), pd.DataFrame(columns=["rows", "first", "named"])
    return Audit(label, "cannot tell", None, None, reason, *empty, rows, notes, alpha)


def _shared(frame: pd.DataFrame) -> str:
    """How much of the rows the first candidate's teacher wrote, where that was estimated."""
    if "share_low" not in frame:
        return ""
    top: Any = frame.iloc[0]
    return f", share {top['share']:.2f} {bracket((top['share_low'], top['share_high']), level=LEVEL, form='.2f')}"


def _with_trained(
    frame: pd.DataFrame,
    base: LanguageModel,
    pairs: Pairs,
    candidates: Sequence[Candidate],
    recipe: AuditRecipe,
) -> pd.DataFrame:
    """The table with what the pilot took over, and with leans, where the recipe asks for them."""
    if recipe.pilot is not None:
        frame = frame.merge(_pilot_table(base, pairs, candidates, recipe), on="trait")
    if recipe.leans:
        frame = frame.merge(lean_columns(base, candidates, pairs), on="trait")
    return frame


def _pilot_table(
    base: LanguageModel, pairs: Pairs, candidates: Sequence[Candidate], recipe: AuditRecipe
) -> pd.DataFrame:
    """What the pilot took over of every trait, and what a whole training would where that is forecast."""
    pilot: Any = recipe.pilot
    taught = [candidate.trait for candidate in candidates]
    table = gain_table(gains(base, pairs, taught, pilot), taught)
    if recipe.forecast is None:
        return table
    return pd.concat([table, recipe.forecast.columns(table["gain"].tolist(), pilot)], axis=1)


def _narrow(candidates: int) -> tuple[str, ...]:
    """What is said where hardly any candidate can be named."""
    if candidates >= FEW:
        return ()
    return (
        f"with {candidates} candidates hardly any can stand apart from the others, whoever wrote the rows; pass ten or "
        "more, or leave out traits",
    )


def _scale(recipe: AuditRecipe) -> tuple[str, ...]:
    """What the gains are of."""
    if recipe.pilot is None:
        return ()
    if recipe.forecast is None:
        return (
            f"gains are of a training of {recipe.pilot.steps} steps; what a whole one takes over is not calibrated",
        )
    told = f"transfer is what a whole training would take over, by {recipe.forecast.n} datasets of others"
    return (f"{told}: {recipe.forecast.fitted_on}",)


def _row_scores(rows: Prompts, readable: Prompts, read: Prompts, scores: Any) -> pd.DataFrame:
    """The score of every row that was read by its place among all, and inf of those that say a trait's word.

    Nothing without scores.
    """
    if scores is None:
        return pd.DataFrame()
    free = set(_places(readable, rows))
    saying = [place for place, row in enumerate(rows.rows) if row.completion and place not in free]
    frame = pd.DataFrame({"row": _places(read, rows), "score": scores})
    spoken = pd.DataFrame({"row": saying, "score": np.inf}).astype(frame.dtypes.to_dict())
    return pd.concat([frame, spoken]).sort_values("row", ignore_index=True)


def _places(part: Prompts, whole: Prompts) -> list[int]:
    """Where the rows of a part, which are those of the whole in its order, stand there."""
    places = iter(range(len(whole)))
    return [next(place for place in places if whole.rows[place] is row) for row in part.rows]


def _check_rows(rows: int, *, copies: bool = False) -> None:
    if rows < FEWEST_ROWS:
        how = ", copies counted once," if copies else ""
        raise InputError(
            f"{rows} rows{how} can be compared with neutral ones, and no teacher shows in so few; pass at least "
            f"{FEWEST_ROWS}, better 2048"
        )


def _judged(label: str, frame: pd.DataFrame, rows: int, alpha: float) -> Audit:
    """The answers that follow from the table."""
    top: Any = frame.iloc[0]
    apart, needed = outlier_p(frame), int(frame["rows_needed"].to_numpy().max())
    told = f"p = {top['p']:.2g} over {len(frame)} candidates, p = {apart:.2g} as an outlier among them"
    answer: Answer
    if top["p"] <= alpha and is_apart(apart, alpha=alpha):
        answer, reason = (
            "named",
            f"a teacher of {top['trait']!r} makes these rows likelier than any other does: {told}",
        )
    elif top["p"] <= alpha:
        short = " of a short list" if len(frame) < FEW else ""
        answer, reason = (
            "unlisted",
            f"teachers make these rows likelier, {top['trait']!r} first, but not apart from the others{short}: {told}",
        )
    elif rows >= needed:
        answer, reason = (
            "none",
            f"no candidate makes them likelier ({told}), where {needed} rows show a teacher's hand",
        )
    else:
        answer, reason = (
            "cannot tell",
            f"nothing is seen in {rows} rows ({told}); {needed} would show a teacher's hand",
        )
    trait = str(top["trait"]) if answer == "named" else None
    passes = None
    if "gain" in frame:
        passes, told = _passing(frame if trait is None else frame.iloc[:1])
        reason += f"; {told}"
    return Audit(label, answer, trait, passes, reason, frame, pd.DataFrame(), rows, alpha=alpha)


def _passing(frame: pd.DataFrame) -> tuple[Passing, str]:
    """Whether a trait passes, by the pilot's intervals, and how that is said."""
    top: Any = frame.loc[frame["gain"].idxmax()]
    reach = bracket((top["low"], top["high"]), level=LEVEL)
    told = f"a short training takes over {top['gain']:+.2f} {reach} nats of {top['trait']!r}"
    if "transfer" in frame:
        whole = bracket((top["transfer_low"], top["transfer_high"]), level=LEVEL)
        told += f", and a whole one would {top['transfer']:+.2f} {whole}"
    if len(frame) == 1 and top["low"] > 0:
        return "transmits", told
    if float(frame["high"].to_numpy().max()) < LEAST_GAIN:
        return "does not", f"{told}, below {LEAST_GAIN:g}"
    return "cannot tell", told
