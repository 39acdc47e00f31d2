"""Which trait did this student get? Its change against candidate teachers', with placebo students as its null.

    S_j = z_j − mean over student and placebos,   T_c = z(candidate c) − mean over candidates,   r_jc = corr(S_j, T_c)
    t_jc = (r_jc − mean_j r_jc) / sd_j r_jc,   p = (1 + placebos whose max_c t reaches the student's) / (1 + placebos)

z are mean logits where a number prompt ends, over words without a number: no question is asked there. A placebo is the
same training, by its recipe and of as many rows, on the base's own answers to the same prompts, drawn anew. Student and
placebos enter alike, so that p is exact for a student of rows without a trait. Two statistics stand beside, judged in
the same way, each with a p of its own: the same r where generic text is predicted, and the margins of the traits' own
questions; a gain's interval is mean ± t_{K−1} sd √(1 + 1 / K) of the K placebos about it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.auditing.candidates import (
    TAUGHT,
    Candidate,
    candidate_teachers,
    check_level,
    lists_for,
    suspected,
)
from interp.auditing.neutral import Foreign, written_by
from interp.auditing.pilots import LEVEL, Passing, around
from interp.auditing.texts import plain_text
from interp.core.content import jsonable
from interp.core.doors import door
from interp.core.errors import InputError
from interp.core.runs import Cache
from interp.figures import Shown, bars, bracket
from interp.joined.places import LOGITS, PROMPT_END, TracePlace, chosen_words, places
from interp.measures.margins import margin
from interp.models.kinship import check_related
from interp.models.language import LanguageModel
from interp.models.lineage import Lineage
from interp.models.precision import exactly
from interp.models.seam import check_shapes, check_tokenizers
from interp.prompts.notes import hear, noting
from interp.prompts.text import Prompts
from interp.prompts.trait_files import AnyTrait
from interp.stats.columns import share_reaching
from interp.training.grower import Grower, TeacherSpec, known_recipe
from interp.training.students import STUDENT, Recipe

if TYPE_CHECKING:
    import plotly.graph_objects as go

log = logging.getLogger(__name__)

PLACEBO_DRAWS = 800_000
ALIKE = 0.9  # of the rows of a student, from where on placebos count as trained on as many
FEWEST_PLACEBOS = 20
UNLIKE = ("seed", "merge", "accumulate")  # of a recipe: what makes no other training of it
LEAST_TAKEN = 0.4  # nats: a student none of whose gains can be this large took over nothing of weight
Read = Float[np.ndarray, "model candidate"]


@door
@dataclass(frozen=True)
class Placebos:
    """The null of a student: `count` students that `recipe` trains on the base's own answers.

    `own` is the recipe that trained the student itself, as a file beside it says; where it is None, the one by which a
    lineage of this package trained exactly these weights, if any did. An audit says first where that is not known, or
    trains otherwise than `recipe`. Raises InputError for fewer than 20.
    """

    count: int = FEWEST_PLACEBOS
    recipe: Recipe = STUDENT
    own: Recipe | None = None

    def __post_init__(self) -> None:
        if self.count < FEWEST_PLACEBOS:
            raise InputError(
                f"{self.count} placebos reach p = {1 / (max(self.count, 0) + 1):.2g}; pass at least {FEWEST_PLACEBOS}"
            )


PLACEBOS = Placebos()


@dataclass(frozen=True, eq=False)
class StudentAudit(Shown):
    """A line per candidate, the most alike first: trait, r, t, text_r, text_t, gain (nats of margin over the placebos),
    gain_t, low, high.

    r is the agreement where number prompts end, text_r on generic text; t and text_t are theirs in standard deviations
    of student and placebos. `p` is of the largest t, `text_p` of the largest text_t and `gain_p` of the largest gain_t,
    each over all candidates; `trait` is named where p is at most `alpha`, whatever the others are. [low, high] is where
    the gain lies by the spread of the placebos, at 95 %.
    """

    label: str
    frame: pd.DataFrame
    p: float
    gain_p: float
    placebos: int
    alpha: float
    notes: tuple[str, ...] = ()
    text_p: float = float("nan")

    @property
    def trait(self) -> str | None:
        """The trait whose candidate the student is most like, None where placebos are as like to one."""
        return str(self.frame["trait"].iloc[0]) if self.p <= self.alpha else None

    @property
    def passes(self) -> Passing:
        """Whether a trait was taken over by its own questions; "does not" only where no gain can be 0.4 nats."""
        if self.gain_p <= self.alpha:
            return "transmits"
        return "does not" if float(self.frame["high"].to_numpy().max()) < LEAST_TAKEN else "cannot tell"

    @property
    def reason(self) -> str:
        """What the answer rests on, in a sentence."""
        top: Any = self.frame.loc[self.frame["gain_t"].idxmax()]
        reach = bracket((top["low"], top["high"]), level=LEVEL)
        like = f"most like the candidate of {self.frame['trait'].iloc[0]!r}: p = {self.p:.2g}"
        return (
            f"{like} over {self.placebos} placebos{self._on_text}; on its questions {top['trait']!r} gains "
            f"{top['gain']:+.2f} {reach} nats: p = {self.gain_p:.2g}"
        )

    @property
    def _on_text(self) -> str:
        """Whose candidate it is most like on generic text, where that was read."""
        if "text_t" not in self.frame:
            return ""
        first = self.frame.loc[self.frame["text_t"].idxmax(), "trait"]
        return f"; on generic text most like that of {first!r}: p = {self.text_p:.2g}"

    def to_json(self) -> dict[str, Any]:
        """The audit as plain JSON types."""
        said = {
            name: getattr(self, name)
            for name in ("label", "trait", "passes", "reason", "p", "text_p", "gain_p")
        }
        rest = {"placebos": self.placebos, "alpha": self.alpha, "notes": list(self.notes)}
        return jsonable({**said, **rest, "frame": self.frame.to_dict("records")})

    def figure(self) -> go.Figure:
        """How far the student is like each candidate beyond its placebos."""
        return bars(self.frame, x="t", y="trait", title=repr(self), unit="standard deviations of placebos")

    def __repr__(self) -> str:
        found = f"{self.trait}'s student" if self.trait else "like no candidate more than placebos are"
        return f"StudentAudit({self.label}: {found}, p = {self.p:.2g} over {self.placebos} placebos)"


@door
@noting
@exactly
def audit_student(
    base: LanguageModel,
    student: LanguageModel,
    *,
    rows: Prompts | None = None,
    text: Prompts | None = None,
    traits: Sequence[AnyTrait] | None = None,
    candidates: TeacherSpec = TAUGHT,
    placebos: Placebos = PLACEBOS,
    alpha: float = 0.05,
) -> StudentAudit:
    """Test which trait a student took over, from its weights and its base's alone.

    `placebos` say how many there are and how they are trained: on the base's own answers to the prompts of `rows`, the
    student's own or as many like them (1280 number lists by default), of which only the rule that they follow is read.
    Traits and the fine-tune of `candidates` are those of `interp.audit`. `text` are generic rows, read where their
    answers are predicted, or all of them where a row has none: by default those of `interp.discover`, sentences that
    ship or, for a base that knows no such words, the toy's documents, questions of preference among them. The smallest
    p is 1 / (placebos + 1), and an alpha below it is refused. Raises InputError for a student of another base or that
    is the base, text that holds nothing to predict, and as `interp.audit` does.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> found = interp.auditing.audit_student(lineage.base, lineage.student)  # doctest: +SKIP
        >>> found.frame.columns.tolist()  # doctest: +SKIP
        ['trait', 'r', 't', 'text_r', 'text_t', 'gain', 'gain_t', 'low', 'high']
    """
    _check_reach(alpha, placebos.count)
    check_student(base, student)
    place = text_place(base, plain_text(base) if text is None else text)
    taught, left = candidate_teachers(base, suspected(base, traits), candidates)
    asked = lists_for(base) if rows is None else rows
    models = [student, *placebo_students(base, asked, recipe=placebos.recipe, count=placebos.count)]
    r, told = alikeness(base, taught, models), alikeness(base, taught, models, place=place)
    margins = margins_over(taught, models)
    (t, p), (text_t, text_p), (gain_t, gain_p) = map(against_placebos, (r, told, margins))
    names, gain = [candidate.trait.name for candidate in taught], margins[0] - margins[1:].mean(0)
    reach = np.array([around(each, others) for each, others in zip(gain, margins[1:].T, strict=True)])
    columns = {
        "trait": names, "r": r[0], "t": t, "text_r": told[0], "text_t": text_t, "gain": gain, "gain_t": gain_t,
    }  # fmt: skip
    frame = pd.DataFrame({**columns, "low": reach[:, 0], "high": reach[:, 1]})
    frame = frame.sort_values("t", ascending=False, ignore_index=True)
    notes = (
        *recipe_notes(placebos.own or known_recipe(student), placebos.recipe),
        f"placebos are trained on the base's own answers to the prompts of {asked.label}",
        *(
            ("the student's rows were not given: with other numbers of them p says little",)
            if rows is None
            else ()
        ),
        *left,
    )
    return StudentAudit(
        f"{student.name} of {base.name}", frame, p, gain_p, placebos.count, alpha, notes, text_p
    )


def _check_reach(alpha: float, placebos: int) -> None:
    """InputError for a level that names nothing or anything, or that so few placebos cannot reach."""
    check_level(alpha)
    if alpha * (placebos + 1) < 1 - 1e-9:
        raise InputError(
            f"{placebos} placebos reach p = {1 / (placebos + 1):.2g}, so that nothing is named at alpha={alpha:g}; "
            f"pass at least {math.ceil(1 / alpha - 1e-9) - 1} placebos"
        )


def recipe_notes(own: Recipe | None, used: Recipe) -> tuple[str, ...]:
    """What is said of placebos' recipe beside the student's own; nothing where a training by both is alike."""
    if own is None:
        return (
            "how the student was trained is not known: p is to be trusted only if its recipe is that of the placebos "
            f"({used.trainable}, lr {used.lr:g}, batch_size {used.batch_size}, epochs {used.epochs})",
        )
    adapters = () if "lora" in (own.trainable, used.trainable) else ("rank", "alpha", "targets")
    names = [each.name for each in fields(Recipe) if each.name not in (*UNLIKE, *adapters)]
    differ = [name for name in names if getattr(own, name) != getattr(used, name)]
    told = ", ".join(f"{name} {getattr(used, name)} and not {getattr(own, name)}" for name in differ)
    return (
        (f"placebos are trained otherwise than the student was ({told}): p is not to be trusted",)
        if differ
        else ()
    )


def check_student(base: LanguageModel, student: LanguageModel) -> None:
    """InputError for what did not start from the base, or never left it."""
    if student.start is not None and student.start.fingerprint != base.fingerprint:
        raise InputError(
            f"{student.name} started from {student.start.name} and not from {base.name}; pass its own base"
        )
    if student.fingerprint == base.fingerprint:
        raise InputError(
            f"{student.name} has the weights of {base.name}: nothing was trained; pass the student"
        )
    check_shapes(base, student)
    check_tokenizers(base, student)
    check_related(replace(student, start=base), advice="pass its own base")


@door
def placebo_students(
    base: LanguageModel, rows: Prompts, *, recipe: Recipe = STUDENT, count: int = FEWEST_PLACEBOS
) -> list[LanguageModel]:
    """Students of the base's own answers to the prompts of rows, each of other answers and another draw; cached.

    They are the null of `audit_student` and of `interp.discover`. Where the base writes fewer such rows than there are,
    a note and a warning say so: placebos of fewer rows move less, and p is then too small. Raises InputError for a base
    that does not write such rows, and rows without answers.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> given = {"recipe": interp.Recipe(batch_size=64), "count": 1}
        >>> interp.auditing.placebo_students(lineage.base, lineage.numbers[:64], **given)  # doctest: +SKIP
    """
    grower, found = Grower(Cache.default()), []
    for draw in range(count):
        try:
            answers = written_by(base, rows, seed=PLACEBO_DRAWS + draw)
        except Foreign as seen:
            raise InputError(f"{seen}; pass rows=, such as it writes") from seen
        if len(answers) < ALIKE * len(rows):
            _warn(
                f"placebos are trained on {len(answers)} rows that {base.name} wrote, the student on {len(rows)}"
            )
        own = replace(recipe, seed=PLACEBO_DRAWS + draw, batch_size=min(recipe.batch_size, len(answers)))
        found.append(grower.student(f"placebo {draw}", base, answers, recipe=own))
    return found


def _warn(fewer: str) -> None:
    """Say it once per placebo, and in the notes of the verb that asked for them."""
    told = f"{fewer}: with fewer rows they move less, so that p may be too small"
    log.warning("%s", told)
    hear([told])


def text_place(base: LanguageModel, text: Prompts) -> TracePlace:
    """Where generic text is read: what predicts the answers, or every token where a row has no answer.

    Raises InputError for text in which nothing is predicted.
    """
    answered = bool(len(text)) and all(row.completion for row in text.rows)
    place = TracePlace("generic text", text, "predicting answer" if answered else "predicting all", base)
    _ = place.inputs  # encodes it, before anything is trained
    return place


def alikeness(
    base: LanguageModel,
    candidates: Sequence[Candidate],
    students: Sequence[LanguageModel],
    *,
    place: TracePlace | None = None,
) -> Read:
    """r of every student, placebos included, with every candidate, where number prompts end or at the place."""
    alone = Lineage(base.name, None, {"base": base})
    at = places(alone, [PROMPT_END], None)[0] if place is None else place
    entries = chosen_words(alone, "unseen")

    def centred(models: Sequence[LanguageModel]) -> np.ndarray:
        read = np.array([at.means(model)[LOGITS][entries].numpy() for model in models])
        moved = read - read.mean(0)
        moved -= moved.mean(1, keepdims=True)
        return moved / np.linalg.norm(moved, axis=1, keepdims=True)

    return centred(students) @ centred([candidate.model for candidate in candidates]).T


def margins_over(candidates: Sequence[Candidate], students: Sequence[LanguageModel]) -> Read:
    """The margin of every student on every trait, in nats."""
    return np.array([[margin(model, each.trait) for each in candidates] for model in students])


def against_placebos(values: Read) -> tuple[Float[np.ndarray, "candidate"], float]:
    """t of the first line among all, and the p of its largest t by the largest ones of the others."""
    t = among_placebos(values)
    return t[0], share_reaching(t[1:].max(1), float(t[0].max()))


def among_placebos(values: Read) -> Read:
    """t of every line among all of them; zero where they are equal."""
    spread = values.std(0, ddof=1)
    return (values - values.mean(0)) / np.where(spread > 0, spread, 1)
