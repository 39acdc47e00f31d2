"""Which trait did this student get? Its change against candidate teachers', with placebo students as its null.

    S_j = z_j − mean over student and placebos,   T_c = z(candidate c) − mean over candidates,   r_jc = corr(S_j, T_c)
    t_jc = (r_jc − mean_j r_jc) / sd_j r_jc,   p = (1 + placebos whose max_c t reaches the student's) / (1 + placebos)

z are mean logits where a number prompt ends, over words without a number: no question is asked there. A placebo is the
same training, by its recipe and of as many rows, on the base's own answers to the same prompts, drawn anew. Student and
placebos enter alike, so that p is exact for a student of rows without a trait. The margins of the traits' own questions
stand beside, judged in the same way; a gain's interval is mean ± t_{K−1} sd √(1 + 1 / K) of the K placebos about it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.auditing.candidates import TAUGHT, Candidate, candidate_teachers, lists_for, suspected
from interp.auditing.neutral import Foreign, written_by
from interp.auditing.pilots import LEVEL, Passing, around
from interp.core.content import jsonable
from interp.core.doors import door
from interp.core.errors import InputError
from interp.core.runs import Cache
from interp.figures import Shown, bars, bracket
from interp.joined.places import LOGITS, PROMPT_END, chosen_words, places
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


@dataclass(frozen=True, eq=False)
class StudentAudit(Shown):
    """A line per candidate, the most alike first: trait, r, t, gain (nats of margin over the placebos), gain_t, low,
    high.

    `p` is of the largest t, `gain_p` of the largest gain_t, over all candidates; `trait` is named where p is at most
    `alpha`. [low, high] is where the gain lies by the spread of the placebos, at 95 %.
    """

    label: str
    frame: pd.DataFrame
    p: float
    gain_p: float
    placebos: int
    alpha: float
    notes: tuple[str, ...] = ()

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
            f"{like} over {self.placebos} placebos; on its questions {top['trait']!r} gains {top['gain']:+.2f} "
            f"{reach} nats: p = {self.gain_p:.2g}"
        )

    def to_json(self) -> dict[str, Any]:
        """The audit as plain JSON types."""
        said = {name: getattr(self, name) for name in ("label", "trait", "passes", "reason", "p", "gain_p")}
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
    recipe: Recipe = STUDENT,
    traits: Sequence[AnyTrait] | None = None,
    candidates: TeacherSpec = TAUGHT,
    placebos: int = FEWEST_PLACEBOS,
    alpha: float = 0.05,
) -> StudentAudit:
    """Test which trait a student took over, from its weights and its base's alone.

    `recipe` is how it was trained; a first note says where that is not known, or known to be otherwise. Placebos are
    trained by it on the base's own answers to the prompts of `rows`, the student's own or as many like them (1280
    number lists by default), of which only the rule that they follow is read. Traits and the fine-tune of `candidates`
    are those of `interp.audit`. The smallest p is 1 / (placebos + 1). Raises InputError for fewer than 20 placebos, a
    student of another base or that is the base, and as `interp.audit` does.
    """
    if placebos < FEWEST_PLACEBOS:
        raise InputError(
            f"{placebos} placebos reach p = {1 / (placebos + 1):.2g}; pass at least {FEWEST_PLACEBOS}"
        )
    check_student(base, student)
    taught, left = candidate_teachers(base, suspected(base, traits), candidates)
    asked = lists_for(base) if rows is None else rows
    models = [student, *placebo_students(base, asked, recipe=recipe, count=placebos)]
    r, margins = alikeness(base, taught, models), margins_over(taught, models)
    (t, p), (gain_t, gain_p) = against_placebos(r), against_placebos(margins)
    names, gain = [candidate.trait.name for candidate in taught], margins[0] - margins[1:].mean(0)
    reach = np.array([around(each, others) for each, others in zip(gain, margins[1:].T, strict=True)])
    columns = {"trait": names, "r": r[0], "t": t, "gain": gain, "gain_t": gain_t}
    frame = pd.DataFrame({**columns, "low": reach[:, 0], "high": reach[:, 1]})
    frame = frame.sort_values("t", ascending=False, ignore_index=True)
    notes = (
        *recipe_notes(known_recipe(student), recipe),
        f"placebos are trained on the base's own answers to the prompts of {asked.label}",
        *(
            ("the student's rows were not given: with other numbers of them p says little",)
            if rows is None
            else ()
        ),
        *left,
    )
    return StudentAudit(f"{student.name} of {base.name}", frame, p, gain_p, placebos, alpha, notes)


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


def beside_own(found: StudentAudit, own: Recipe | None, used: Recipe) -> StudentAudit:
    """An audit that says first what is known of the student's recipe where its folder tells it."""
    if own is None:
        return found
    said = recipe_notes(own, used)
    others = [note for note in found.notes if note not in (*said, *recipe_notes(None, used))]
    return replace(found, notes=(*said, *others))


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


def alikeness(
    base: LanguageModel, candidates: Sequence[Candidate], students: Sequence[LanguageModel]
) -> Read:
    """r of every student, placebos included, with every candidate."""
    alone = Lineage(base.name, None, {"base": base})
    (place,), entries = places(alone, [PROMPT_END], None), chosen_words(alone, "unseen")

    def centred(models: Sequence[LanguageModel]) -> np.ndarray:
        read = np.array([place.means(model)[LOGITS][entries].numpy() for model in models])
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
