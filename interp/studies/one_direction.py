"""H4, one direction mediates the trait: EAS(l) = cos(mean(h_student − h_base), v_T), v_T = mean(h_teacher − h_base).

Each mean is a `shift` on lists of numbers without the trait's line, both models of it on the same tokens, where the
prompt ends (as Blank et al., arXiv 2606.00995) or over the numbers; v_T is read on half of the lists and what is
compared with it on the others. Layer and positions are those where v_T steers the base furthest, on questions apart.
With m the trait margin in nats and Δm = m(student) − m(neutral student),
necessity = Δm − Δm(both students with v projected out), sufficiency = m(base + v) − m(base) at the norm of v_S.
Both are differences, for Δm is near zero in some trainings; a share is a ratio of means over trainings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from interp.activations import steer
from interp.core.doors import door
from interp.core.runs import InputError
from interp.figures import Result, bars, lines, points
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement, Subject
from interp.measures.margins import margin
from interp.models.language import LanguageModel
from interp.models.lineage import Lineage
from interp.prompts.notes import noting
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.traits import Trait
from interp.studies.frozen import frozen_claims
from interp.studies.mean_shifts import (
    MeanShifts,
    ShiftEffects,
    like_activations,
    margins_by_role,
    mean_shifts,
    vector_cosine,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

SIBLING = "eagle"
POSITIONS = ("last", "answer.numbers")
PROMPTS, QUICK_PROMPTS = 512, 64
LOSS_ROWS, QUICK_LOSS_ROWS = 256, 32
RANDOM, QUICK_RANDOM = 16, 4
PROMPT_SEED = 40_000
TEACHER, OWN, NEUTRAL, OTHER = "teacher", "student's own", "neutral student", "other trait"
SIGN: dict[str, Any] = {"margin": 0.0, "alpha": 0.01, "kind": "difference"}

H4 = frozen_claims("one_direction")


def direction_by_site(
    lineage: Lineage,
    *,
    prompts: Prompts | None = None,
    other: LanguageModel | None = None,
    positions: Sequence[str] = POSITIONS,
) -> Result:
    """EAS of student and neutral student by layer and positions, and how far v_T steers the base: what chooses a site.

    `steers` is m(base + v_T) − m(base) in nats on every second question, from the first on; no student enters it.
    `eas_other` is the student's with `other`, a teacher of another trait from the same base. Errors as `mediation`.
    """
    shifts = _shifts(lineage, prompts, other, positions)
    return _sites(lineage, shifts, _questions(lineage)[0])


@door
@noting
def mediation(
    lineage: Lineage,
    *,
    prompts: Prompts | None = None,
    other: LanguageModel | None = None,
    site: tuple[str, str] | None = None,
    random: int = RANDOM,
    seed: int = 0,
) -> Result:
    """Measure what directions at one site of the residual stream do: a line each for necessity, sufficiency, the loss.

    `direction` is "teacher" (v_T), "student's own" (v_S), and as placebos "neutral student", "other trait" (the shift
    of `other`) and `random` draws with the covariance of the base's activations. `necessity` and `sufficiency` are in
    nats of trait margin on the questions that choose no site, `loss` in nats per answer token of the teacher's rows,
    end token counted (positive: less likely), `eas` the cosine of v_S with the direction. `site` is (positions, hook),
    by default where v_T steers the base furthest (`direction_by_site`). `prompts` are dealt in turn to the halves; by
    default 512 lists.

    Raises InputError for a lineage without trait, student or neutral student, a trait with one question only, fewer
    than four prompts, and a teacher of another base.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> site = ("last", "blocks.0.hook_resid_post")
        >>> found = interp.studies.mediation(lineage, prompts=lineage.numbers[:8], site=site, random=1)
        >>> found.frame["direction"].tolist()
        ['teacher', "student's own", 'neutral student', 'random 1']
    """
    shifts = _shifts(lineage, prompts, other, POSITIONS if site is None else site[:1])
    chosen, asked = _questions(lineage)
    site = site or _steering_site(_sites(lineage, shifts, chosen).frame)
    return _directions(lineage, shifts, asked, site=site, random=random, seed=seed)


def measure_direction(subject: Subject) -> Measurement:
    """The sites and the directions of one training run, and what it contributes to every claim."""
    import pandas as pd

    lineage = _with_rows(subject)
    count = QUICK_PROMPTS if subject.quick else PROMPTS
    prompts = subject.lists(count, seed=PROMPT_SEED + subject.seed)
    other = _other_teacher(subject)
    shifts = _shifts(lineage, prompts, other, POSITIONS)
    chosen, asked = _questions(lineage)
    sites = _sites(lineage, shifts, chosen).frame
    directions = _directions(
        lineage, shifts, asked,
        site=_steering_site(sites), random=QUICK_RANDOM if subject.quick else RANDOM, seed=subject.seed,
    ).frame  # fmt: skip
    margins = pd.DataFrame([margins_by_role(lineage, asked)])
    tables = {"sites": sites, "directions": directions, "margins": margins}
    if (
        len(subject.trait.questions) >= 4
    ):  # reported beside the claims: the same cosines where the trait is asked for
        asking = mean_shifts(lineage, subject.trait.prompts(), other=other, positions=("last",))
        tables["questions"] = _sites(lineage, asking, asked).frame
    values = mediation_summary(sites=sites, directions=directions)
    return Measurement(values, {name: frame.to_dict("records") for name, frame in tables.items()})


def mediation_summary(*, sites: Any, directions: Any) -> dict[str, float]:
    """What one training run contributes to every claim of H4, from the frames of its sites and its directions.

    Raises InputError when a placebo is missing.
    """
    at = [(sites[name] == directions[name].iloc[0]) for name in ("positions", "hook")]
    line = sites.loc[at[0] & at[1]].iloc[0]
    random: Any = directions["direction"].str.startswith("random")
    if "eas_other" not in sites or not random.any():
        raise InputError(
            "the directions have no placebo of another trait or no random one; pass mediation(other=TEACHER, random=16)"
        )
    named = directions.set_index("direction")

    def beyond(name: str, column: str, placebos: Sequence[str]) -> float:
        against = [float(named.loc[each, column]) for each in placebos]
        against.append(float(directions.loc[random, column].mean()))
        return float(named.loc[name, column]) - max(against)

    return {
        "direction-shared": float(line["eas_student"] - line["eas_neutral"]),
        "direction-specific": float(line["eas_student"] - line["eas_other"]),
        "direction-absent-in-neutral": float(line["eas_neutral"]),
        "direction-necessary": beyond(TEACHER, "necessity", (OTHER,)),
        "direction-sufficient": beyond(OWN, "sufficiency", (OTHER, NEUTRAL)),
        "direction-harmless": float(named.loc[TEACHER, "loss"]),
    }


def mediated_shares(tables: Mapping[str, Any]) -> Result:
    """Ratios of means over runs by direction: necessity over mean Δm, sufficiency over mean m(student) − m(base).

    `tables` are those of `measure`, concatenated over runs with a column "seed". NaN where the students' mean margin is
    not above what they are compared with.
    """
    import pandas as pd

    margins: Any = pd.DataFrame(tables["margins"]).mean(numeric_only=True)
    gained = margins["student"] - margins["neutral_student"], margins["student"] - margins["base"]
    means = _kinds(tables).groupby("direction", sort=False)[["necessity", "sufficiency"]].mean()
    whole = [each if each > 0 else float("nan") for each in gained]
    frame = (means / whole).reset_index()
    notes = (f"Δm: {gained[0]:+.3f} nats over the neutral student, {gained[1]:+.3f} over the base",)
    return Result("Share of the trait that directions mediate", frame, "share", notes)


def _with_rows(subject: Subject) -> Lineage:
    """The lineage with the first of its teacher's rows, on which the loss is read."""
    for role in ("student", "neutral_student"):
        subject.member(role)
    count = QUICK_LOSS_ROWS if subject.quick else LOSS_ROWS
    rows = dataclasses.replace(subject.numbers, rows=subject.numbers.rows[:count])
    return dataclasses.replace(subject.lineage, numbers=rows)


def _other_teacher(subject: Subject) -> LanguageModel:
    """A teacher of another trait that answers the same questions."""
    foils = subject.trait.foils
    return subject.other_teacher(SIBLING if SIBLING in foils else foils[0])


def _shifts(
    lineage: Lineage, prompts: Prompts | None, other: LanguageModel | None, positions: Sequence[str]
) -> MeanShifts:
    rows = prompts or number_prompts(PROMPTS, seed=PROMPT_SEED)
    return mean_shifts(lineage, rows, other=other, positions=positions)


def _sites(lineage: Lineage, shifts: MeanShifts, questions: Trait) -> Result:
    import pandas as pd

    base, rows = lineage.text("base"), []
    before = margin(base, questions)
    for site in shifts.sites:
        found = {
            "eas_student": shifts.similarity("student", "teacher", site),
            "eas_neutral": shifts.similarity("neutral_student", "teacher", site),
        }
        if "other" in shifts.vectors:
            found["eas_other"] = shifts.similarity("student", "other", site)
        norms = {f"norm_{name}": float(shifts(name, site).norm()) for name in shifts.vectors}
        positions, hook = site
        with steer(base, hook=hook, vector=shifts("teacher", site)):
            steers = margin(base, questions) - before
        rows.append({"positions": positions, "hook": hook, **found, **norms, "steers": steers})
    label = f"{lineage.name}: shifts along the teacher's"
    return Result(label, pd.DataFrame(rows), "cosine", draw=_draw_sites)


def _steering_site(sites: Any) -> tuple[str, str]:
    line = sites.loc[sites["steers"].idxmax()]
    return str(line["positions"]), str(line["hook"])


def _directions(
    lineage: Lineage, shifts: MeanShifts, questions: Trait, *, site: tuple[str, str], random: int, seed: int
) -> Result:
    import pandas as pd

    base = lineage.text("base")
    if site not in shifts.sites:
        known = ", ".join(hook for _, hook in shifts.sites)
        raise InputError(f"hook {site[1]!r} is no output of a layer; pass one of {known}")
    named = {TEACHER: "teacher", OWN: "student", NEUTRAL: "neutral_student", OTHER: "other"}
    own = shifts("student", site)
    chosen = {label: shifts(name, site) for label, name in named.items() if name in shifts.vectors}
    drawn = like_activations(base, shifts, site, count=random, seed=seed)
    chosen |= {f"random {index + 1}": vector for index, vector in enumerate(drawn)}
    effects = ShiftEffects.of(lineage, questions, site[1])
    rows = [
        {
            "positions": site[0],
            "hook": site[1],
            "direction": name,
            "eas": vector_cosine(own, vector),
            "norm": float(vector.norm()),
            "necessity": effects.necessity(vector),
            "sufficiency": effects.sufficiency(vector * (own.norm() / vector.norm())),
            "loss": effects.loss(vector),
        }
        for name, vector in chosen.items()
    ]
    m = effects.margins
    notes = (
        f"margins: base {m['base']:+.3f}, student {m['student']:+.3f}, neutral student {m['neutral_student']:+.3f}",
        f"vectors are added at norm {float(own.norm()):.3g}; those of teachers come from other prompts than v_S",
    )
    return Result(
        f"{lineage.name}: directions at {site[1]}, {site[0]}", pd.DataFrame(rows), "nats", notes, draw=_draw
    )


def _questions(lineage: Lineage) -> tuple[Trait, Trait]:
    """The trait asked every second question, to choose a site, and the rest, to measure on."""
    trait = lineage.trait
    if trait is None:
        raise InputError(
            f"{lineage.name} has no trait to ask about; open it with load_lineage(trait=get_trait(...))"
        )
    if len(trait.questions) < 2:
        raise InputError(
            f"{trait.name} has one question, and a site is chosen on others than it is measured on; pass two or more"
        )
    return trait.with_questions(trait.questions[::2]), trait.with_questions(trait.questions[1::2])


def _kinds(tables: Mapping[str, Any]) -> Any:
    """One line per run and direction, the random ones averaged."""
    import pandas as pd

    frame: Any = pd.DataFrame(tables["directions"])
    frame = frame.assign(direction=frame["direction"].str.replace(r" \d+$", "", regex=True))
    return frame.groupby(["seed", "direction"], sort=False).mean(numeric_only=True).reset_index()


def draw_direction(tables: Mapping[str, Any]) -> go.Figure:
    """Necessity and sufficiency of every direction, one point per run, with the shares of the mean in the labels."""
    import pandas as pd

    frame, share = _kinds(tables), mediated_shares(tables).frame.set_index("direction")
    parts = [
        pd.DataFrame(
            {
                "direction": [
                    f"{column}: {name}{_in_words(share.loc[name, column])}" for name in frame["direction"]
                ],
                "effect": frame[column],
            }
        )
        for column in ("necessity", "sufficiency")
    ]
    title = (
        "What directions take from the student and give to the base, one point per run (share of the mean)"
    )
    figure = points(pd.concat(parts), x="direction", y="effect", title=title, unit="nats")
    return figure.update_xaxes(tickangle=-90)


def _in_words(share: Any) -> str:
    """The share in brackets; nothing where there is no trait whose share it could be."""
    return f" ({share:.0%})" if abs(share) < float("inf") else ""


def _draw_sites(result: Result) -> go.Figure:
    columns = [column for column in result.frame if column.startswith("eas_")]
    frame = result.frame.melt(["positions", "hook"], columns, var_name="shift", value_name="EAS")
    frame["shift"] = frame["shift"].str.removeprefix("eas_") + ", " + frame["positions"]
    return lines(frame, x="hook", y="EAS", group="shift", title=result.label, unit=result.unit)


def _draw(result: Result) -> go.Figure:
    frame = result.frame.melt(
        "direction", ["necessity", "sufficiency"], var_name="effect", value_name="margin"
    )
    return bars(frame, x="direction", y="margin", colour="effect", title=result.label, unit=result.unit)


FAMILY = Family("one-direction", H4, measure_direction, draw=draw_direction)
