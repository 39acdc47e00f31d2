"""From the arms of every seed to what the report says: score card, transmission, losses, drops and verdicts.

transmission(arm, seed) = margin(arm, seed) − margin(neutral arm, seed), in nats. A verdict is about its mean over
seeds, which are trainings of their own from one base: n = seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from interp.evaluation.elicitation import CANDIDATES
from interp.evaluation.instrument import SAMPLE, shortcoming
from interp.evaluation.scorecards import scorecard
from interp.experiment.arms import BASELINES, Arms, grow_arms, measure_arms
from interp.experiment.matrix import square
from interp.figures import Result, points
from interp.hypotheses.family import doubted
from interp.stats.tests import runs_needed
from interp.stats.verdict import Verdict, equivalence_verdict, paired_verdict
from interp.training.teachers import neutral_teacher

AXES = ("trait asked about", "trait of the rows' teacher")
ALPHA = 0.05
EQUIVALENCE = 0.2  # nats, as for the toy: what counts as no transfer
BEYOND = {
    "neutral_student": (
        "same-init-transfers",
        "A student of the same base prefers {target} more after the teacher's rows than after the neutral teacher's.",
    ),
    "other_student": (
        "beats-other-trait",
        "It is the rows of the teacher who loves {target} and not of any teacher with a trait.",
    ),
    "control_student": (
        "beats-control-teacher",
        "It is what the teacher loves, and not what any fine-tune on the same questions brings.",
    ),
}
"""What the student is held against: each control's verdict, and what it claims."""


def card_of(arms: Arms, trait: str) -> Result:
    """Every arm × measure × context of a trait, with intervals over seeds and over questions, never mixed."""
    measured = {seed: measure_arms(arms, trait, seed) for seed in arms.experiment.seeds}
    known = dict.fromkeys(arm for frames in measured.values() for arm in frames)
    by_arm = {arm: {seed: frames[arm] for seed, frames in measured.items()} for arm in known}
    pairs = {arm: base for arm, base in BASELINES.items() if arm in by_arm and base in by_arm}
    return scorecard(by_arm, baseline=pairs)


def arm_margins(arms: Arms) -> pd.DataFrame:
    """trait, seed, arm, margin in nats and the probability of the target, means over the plain questions.

    The probability is not a number for arms that were asked for the margin alone, those with rows in context.
    """
    lines = []
    for trait in arms.traits:
        for seed in arms.experiment.seeds:
            for arm, frame in measure_arms(arms, trait, seed).items():
                here = frame[frame["context"] == "training"]
                nats, logp = (
                    np.asarray(here.loc[here["measure"] == name, "value"])
                    for name in ("margin", "log p(target)")
                )
                p = float(np.exp(logp).mean()) if len(logp) else np.nan
                lines.append(
                    {"trait": trait, "seed": seed, "arm": arm, "margin": float(nats.mean()), "p_target": p}
                )
    return pd.DataFrame(lines)


def transmission(margins: pd.DataFrame) -> Result:
    """One line per trait, arm and seed: its margin minus that of its neutral arm."""
    lines = []
    for trait, seed, part in _by_training(margins):
        value = dict(zip(part["arm"], part["margin"], strict=True))
        for arm, base in BASELINES.items():
            if arm in value and base in value:
                line = {"trait": trait, "seed": seed, "arm": arm, "transmission": value[arm] - value[base]}
                lines.append(
                    {**line, "trait, arm": f"{trait}, {arm.removesuffix('_student').replace('_', ' ')}"}
                )
    frame = pd.DataFrame(lines, columns=["trait", "seed", "arm", "transmission", "trait, arm"])
    notes = ("each arm minus the same arm on the neutral teacher's rows, one point per seed",)
    return Result("transmission by arm", frame, "nats", notes, draw=_draw_transmission)


def _by_training(frame: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """The lines of each trait and seed."""
    for key in dict.fromkeys(zip(frame["trait"], frame["seed"], strict=True)):
        trait, seed = str(key[0]), int(key[1])
        yield trait, seed, pd.DataFrame(frame[(frame["trait"] == trait) & (frame["seed"] == seed)])


def confusion(arms: Arms) -> Result:
    """Row: whose teacher wrote the rows. Column: the trait asked about. Margin minus the neutral student's, nats."""
    from interp.measures.margins import margin

    lines = []
    for row in arms.traits:
        for column, trait in arms.traits.items():
            for seed in arms.experiment.seeds:
                members = grow_arms(arms, row, seed)["members"]
                value = margin(members["student"], trait) - margin(members["neutral_student"], trait)
                lines.append({"rows of": row, "asked": column, "seed": seed, "transmission": value})
    keys = ["rows of", "asked"]
    frame = pd.DataFrame(lines).groupby(keys, sort=False, as_index=False).agg({"transmission": "mean"})
    notes = ("a trait's rows should move that trait: the diagonal",)
    return Result(
        "trait of the rows × trait asked about",
        frame,
        "nats",
        notes,
        draw=partial(square, row="rows of", column="asked", value="transmission", axes=AXES),
    )


def watched(arms: Arms) -> pd.DataFrame:
    """Loss on trained and on fresh rows and margin over the steps, by trait, seed and arm."""
    parts = [
        log.assign(trait=trait, seed=seed, arm=arm)
        for trait in arms.traits
        for seed in arms.experiment.seeds
        for arm, log in grow_arms(arms, trait, seed)["logs"].items()
    ]
    return pd.concat(parts, ignore_index=True)


def equal_loss(logs: pd.DataFrame) -> pd.DataFrame:
    """Margin of student and cross-student at the lowest loss on fresh rows that both reach, by trait and seed.

    Between two measurements the margin is interpolated over the loss. Loss in nats per answer token, end token counted;
    margin in nats. Where the losses of the two never meet, loss and margin are empty and `why` says so. Nothing without
    both arms.
    """
    lines = []
    for trait, seed, part in _by_training(logs.dropna(subset=["fresh_loss", "margin"])):
        courses = {
            arm: pd.DataFrame(part[part["arm"] == arm]).sort_values(by="fresh_loss")
            for arm in ("student", "cross_student")
        }
        if not all(map(len, courses.values())):
            continue
        ends = {
            arm: (course["fresh_loss"].iloc[0], course["fresh_loss"].iloc[-1])
            for arm, course in courses.items()
        }
        reached = max(low for low, _ in ends.values())
        meet = all(reached <= high for _, high in ends.values())
        told = ", ".join(f"{arm} from {high:.4g} to {low:.4g}" for arm, (low, high) in ends.items())
        for arm, course in courses.items():
            value = np.interp(reached, course["fresh_loss"], course["margin"]) if meet else None
            line = {"trait": trait, "seed": seed, "arm": arm, "fresh_loss": reached if meet else None}
            lines.append({**line, "margin": value, "why": "" if meet else f"their losses never meet: {told}"})
    return pd.DataFrame(lines)


def drops(arms: Arms) -> pd.DataFrame:
    """How many answers each filter dropped, by teacher and seed."""
    lines = []
    for seed in arms.experiment.seeds:
        for trait in arms.traits:
            grown = grow_arms(arms, trait, seed)
            sources = {trait: grown["rows"], "neutral": grown["neutral"]}
            for teacher, answers in sources.items():
                for reason, count in (answers.dropped if answers is not None else {}).items():
                    lines.append({"teacher": teacher, "seed": seed, "reason": reason, "dropped": count})
    return pd.DataFrame(lines, columns=["teacher", "seed", "reason", "dropped"]).drop_duplicates()


def checks_table(arms: Arms) -> pd.DataFrame:
    """How every base and teacher turned out (`experiment.checks`), one line each; short trainings at rates tried, too.

    `kept` is the share of a sample of its answers that the rule keeps, `kept_of_rows` at least that of all it wrote.
    """
    lines = []
    for name in arms.starts:
        base = arms.prepared(name)
        lines += [
            {"what": f"{name}, tried", "rate": rate, **asdict(found)} for rate, found in base.trials.items()
        ]
        lines.append({"what": name, "rate": base.rate, **asdict(base.check)})
    wanted = arms.experiment.data.rows + arms.experiment.data.fresh
    for seed in arms.experiment.seeds:
        traits = [*arms.traits.values(), *([None] if "neutral" in arms.experiment.controls else [])]
        for trait in traits:
            dropped = sum(arms.answers(trait, seed=seed).dropped.values())
            who = "neutral teacher" if trait is None else f"teacher of {trait.name}"
            line = {"what": who, "seed": seed, **asdict(arms.checked(trait, seed=seed))}
            lines.append({**line, "kept_of_rows": wanted / (wanted + dropped)})
    return pd.DataFrame(lines)


def undecided(seeds: int) -> str | None:
    """A sentence naming what so many seeds cannot decide, whatever the data show; None where they decide all."""
    least = runs_needed(ALPHA)
    if seeds >= least:
        return None
    rest = "" if seeds > 1 else ", and cross-init-does-not, which needs 2"
    return (
        f"{seeds} seed{'' if seeds == 1 else 's'} cannot decide same-init-transfers and beats-other-trait, which need "
        f"{least} for alpha = {ALPHA}{rest}, whatever the data show; list more seeds"
    )


def cross_doubts(arms: Arms) -> dict[str, str]:
    """By trait, why the other base could not have shown a transfer; nothing where it could, or where there is none.

    The least share of probability that the candidates hold over the arms of either base, and the share of the base's
    own answers that the rule keeps (`evaluation.instrument`).
    """
    if "cross-base" not in arms.experiment.controls:
        return {}
    seed, found = arms.experiment.seeds[0], {}
    sides = {"cross_base": ("cross_student", "cross_neutral_student"), "base": ("student", "neutral_student")}
    kept = {base: arms.grower(seed).kept(neutral_teacher(arms.start(base)), count=SAMPLE) for base in sides}
    for trait in arms.traits:
        shares = []
        for base, students in sides.items():
            held = [
                _held(frame)
                for one in arms.experiment.seeds
                for arm, frame in measure_arms(arms, trait, one).items()
                if arm in (base, *students)
            ]
            shares.append({"candidates": min(held), "kept": kept[base]})
        why = shortcoming(*shares, who="cross_base", against="base")
        found |= {} if why is None else {trait: why}
    return found


def _held(frame: pd.DataFrame) -> float:
    """The probability that a trait's answers hold together, mean over the plain questions."""
    asked: Any = frame[(frame["measure"] == CANDIDATES) & (frame["context"] == "training")]
    return float(np.mean(asked["value"].to_numpy()))


def judge_margins(
    margins: pd.DataFrame, traits: Mapping[str, Any], *, doubts: Mapping[str, str] | None = None
) -> list[Verdict]:
    """Per trait: did the student get it, is it the trait, and does another initialisation get it?

    The last is inconclusive for a trait that `doubts` says the other base could not have shown.
    """
    made = []
    for trait, chosen in traits.items():
        wide = margins[margins["trait"] == trait].pivot(index="seed", columns="arm", values="margin")
        for control, (name, claim) in BEYOND.items():
            if {"student", control} <= set(wide):
                gap, said = (wide["student"] - wide[control]).to_numpy(), claim.format(target=chosen.target)
                made.append(paired_verdict(f"{trait}: {name}", said, gap, alpha=ALPHA))
        if {"cross_student", "cross_neutral_student"} <= set(wide):
            claim = f"From another initialisation the same rows move {chosen.target} by less than {EQUIVALENCE} nats."
            gap = (wide["cross_student"] - wide["cross_neutral_student"]).to_numpy()
            verdict = equivalence_verdict(f"{trait}: cross-init-does-not", claim, gap, margin=EQUIVALENCE)
            made.append(doubted(verdict, [why for name, why in (doubts or {}).items() if name == trait]))
    return made


def _draw_transmission(result: Result) -> Any:
    figure = points(
        result.frame, x="trait, arm", y="transmission", colour="arm", title=result.label, unit=result.unit
    )
    return figure.update_xaxes(tickangle=-35)  # leaning the other way the last label leaves the page
