"""The scorecard: every arm's mean beside two intervals that answer two questions and are never pooled.

    over seeds       x_s = mean over questions,  mean ± t_{S−1} · sd(x_s) / √S    would another training do the same?
    over questions   x_q = mean over trainings,  mean ± t_{Q−1} · sd(x_q) / √Q    would other questions say the same?

Both have the same mean. A difference to a baseline arm is taken within each seed, or within each question, first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd

from interp.core.doors import door
from interp.core.runs import InputError, nearest
from interp.evaluation.elicitation import CANDIDATES
from interp.figures import Result, panels, points
from interp.figures.grammar import wrapped
from interp.measures.margins import LEAST_MASS
from interp.stats.tests import t_interval

Evaluations = Mapping[str, Mapping[int, Result | pd.DataFrame]]
Over = Literal["seeds", "questions"]
OVER: tuple[Over, ...] = ("seeds", "questions")
NEEDED = ("measure", "context", "question", "value", "unit")
REPLICATES = {"seeds": "trainings", "questions": "questions"}


@door
def scorecard(
    evaluations: Evaluations, *, baseline: Mapping[str, str] | None = None, confidence: float = 0.95
) -> Result:
    """One row per arm, measure, context and replicate: mean, interval, n, and the unit of each.

    `evaluations` maps arm -> training seed -> what `evaluate` returned. `over` is "seeds" (n trainings) or "questions"
    (n questions); with one replicate the interval is NaN and `note` says why. `baseline` maps an arm to the arm it is
    compared with: a further row, whose `minus` names the baseline, holds the paired difference over the seeds, or the
    questions, that both have. Raises InputError for seeds of one arm that were asked different questions, an unknown
    arm, and arms that share no seed.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> suite = interp.evaluation.Suite(questions=lineage.trait.questions)
    >>> found = interp.evaluate(lineage.student, "owl", suite)
    >>> scorecard({"student": {0: found}}).frame["arm"].unique().tolist()
    ['student']
    """
    tables = _tables(evaluations)
    rows = []
    for (arm, *what), table in tables.items():
        rows += _rows({"arm": arm, "minus": ""}, what, table, note="", confidence=confidence)
    for arm, other in (baseline or {}).items():
        _check_arms(evaluations, arm, other)
        for (name, *what), table in tables.items():
            against = tables.get((other, *what)) if name == arm else None
            if against is not None:
                named = {"arm": arm, "minus": other}
                difference, note = _paired(named, what, table, against)
                rows += _rows(named, what, difference, note=note, confidence=confidence)
    frame = pd.DataFrame(rows)
    notes = [f"intervals are {confidence:.0%} t-intervals", *_flags(evaluations), *_thin(tables)]
    unit = " / ".join(dict.fromkeys(frame["unit"]))
    return Result(
        "scorecard", frame, unit, tuple(notes), draw=partial(_draw, evaluations, dict(baseline or {}))
    )


def seed_points(evaluations: Evaluations, *, measure: str = "margin", context: str = "training"):
    """Figure of one measure: every training as a point, each arm's mean, and its 95 % t-interval over trainings.

    Raises InputError for a measure or context that was not evaluated.
    """
    means, unit = _seed_means(evaluations, measure, context)
    title = f"{measure}, {context} context: one point per training"
    return _seed_figure(means, measure, title=title, unit=unit)


def _seed_means(evaluations: Evaluations, measure: str, context: str) -> tuple[dict[str, pd.Series], str]:
    """The mean over questions of every seed, by arm, and its unit."""
    tables = _tables(evaluations)
    known = {key[1:]: None for key in tables}
    chosen = [key for key in known if key[:2] == (measure, context)]
    if not chosen:
        names = [f"{name}, {where}" for name, where, _ in known]
        raise InputError(
            f"Measure and context {nearest(f'{measure}, {context}', names)}; pass one that was evaluated."
        )
    means = {arm: table.mean(axis=1) for (arm, *what), table in tables.items() if tuple(what) == chosen[0]}
    return means, chosen[0][2]


def _seed_figure(means: Mapping[str, pd.Series], name: str, *, title: str, unit: str) -> Any:
    """One point per training of each arm, its mean and interval."""
    parts = []
    for arm, values in means.items():
        low, high = _interval(values.to_numpy(), 0.95)
        looks = {"arm": arm, "role": arm.partition(" ")[0], "half": (high - low) / 2}
        parts.append(pd.DataFrame({**looks, name: values.to_numpy()}))
    frame = pd.concat(parts, ignore_index=True)
    return points(frame, x="arm", y=name, colour="role", title=title, unit=unit, interval="half")


def _tables(evaluations: Evaluations) -> dict[tuple[str, ...], pd.DataFrame]:
    """Values [seed, question] by arm, measure, context and unit, in the order first seen."""
    frames = [
        _frame(arm, seed, evaluation).assign(arm=arm, seed=seed)
        for arm, seeds in evaluations.items()
        for seed, evaluation in seeds.items()
    ]
    if not frames:
        raise InputError("No evaluation is given; pass {arm: {seed: evaluate(...)}} with at least one.")
    joined = pd.concat(frames, ignore_index=True)
    tables = {}
    keys = ["arm", "measure", "context", "unit"]
    for found, part in joined.groupby(keys, sort=False):
        key = tuple(map(str, found if isinstance(found, tuple) else (found,)))
        means = part.groupby(["seed", "question"], sort=False, as_index=False).agg({"value": "mean"})
        wide = means.pivot(index="seed", columns="question", values="value")
        table = pd.DataFrame(wide, columns=list(dict.fromkeys(means["question"])))
        _check_questions(key, table)
        tables[key] = table
    return tables


def _frame(arm: str, seed: int, evaluation: Result | pd.DataFrame) -> pd.DataFrame:
    frame = evaluation.frame if isinstance(evaluation, Result) else evaluation
    if missing := [column for column in NEEDED if column not in frame.columns]:
        raise InputError(
            f"The evaluation of {arm!r}, seed {seed}, has no column {missing[0]!r}; pass what evaluate returned."
        )
    bad = frame.loc[~np.isfinite(frame["value"].to_numpy(dtype=float))]
    if len(bad):
        raise InputError(
            f"The evaluation of {arm!r}, seed {seed}, has {len(bad)} values that are not finite (first: "
            f"{bad['measure'].iloc[0]}); evaluate that training again or leave it out."
        )
    return frame


def _check_questions(key: tuple[str, ...], table: pd.DataFrame) -> None:
    partial_seeds = [seed for seed, row in table.iterrows() if row.isna().any()]
    if partial_seeds:
        raise InputError(
            f"Seed {partial_seeds[0]} of {key[0]!r} was asked other questions than its other seeds ({key[1]}, "
            f"context {key[2]!r}); evaluate every seed of an arm with one suite."
        )


def _check_arms(evaluations: Evaluations, arm: str, other: str) -> None:
    for name in (arm, other):
        if name not in evaluations:
            raise InputError(f"Arm {nearest(name, evaluations)}; name arms that were evaluated in baseline=.")


def _rows(
    named: dict[str, str], what: list[str], table: pd.DataFrame, *, note: str, confidence: float
) -> list[dict[str, Any]]:
    """Two rows, over seeds and over questions, from values [seed, question]."""
    measure, context, unit = what
    rows = []
    for over, axis in zip(OVER, (1, 0), strict=True):
        values = table.mean(axis=axis).to_numpy()
        low, high = _interval(values, confidence)
        single = f"one {REPLICATES[over].removesuffix('s')}, so no interval" if len(values) == 1 else ""
        rows.append(
            {
                **named,
                "measure": measure,
                "context": context,
                "over": over,
                "mean": float(values.mean()),
                "low": low,
                "high": high,
                "unit": unit,
                "n": len(values),
                "n_unit": REPLICATES[over],
                "note": "; ".join(filter(None, (note, single))),
            }
        )
    return rows


def _interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    return t_interval(values, confidence=confidence) if len(values) > 1 else (math.nan, math.nan)


def _paired(
    named: dict[str, str], what: list[str], table: pd.DataFrame, against: pd.DataFrame
) -> tuple[pd.DataFrame, str]:
    """Differences [seed, question] over what both arms have, and a note on what only one has."""
    notes, shared = [], []
    for kind, ours, theirs in (
        ("seed", table.index, against.index),
        ("question", table.columns, against.columns),
    ):
        both = [label for label in ours if label in set(theirs)]
        if not both:
            raise InputError(
                f"{named['arm']!r} and its baseline {named['minus']!r} share no {kind} ({what[0]}, context "
                f"{what[1]!r}), so they cannot be paired; evaluate both on the same {kind}s."
            )
        left = len(set(ours) | set(theirs)) - len(both)
        notes += [f"{left} {kind}s of one arm only left out"] if left else []
        shared.append(both)
    seeds, questions = shared
    return table.loc[seeds, questions] - against.loc[seeds, questions], "; ".join(notes)


def _flags(evaluations: Evaluations) -> list[str]:
    """Context mismatches found by `evaluate`, each once with the arms it is about."""
    found: dict[tuple[str, str], list[str]] = {}
    for arm, seeds in evaluations.items():
        for seed, evaluation in seeds.items():
            frame = _frame(arm, seed, evaluation)
            if "flagged" not in frame.columns:
                continue
            frame = frame.dropna(subset=["flagged"])  # what was never compared with training rows has no flag
            for context, flag in dict.fromkeys(zip(frame["context"], frame["flagged"], strict=True)):
                arms = found.setdefault((context, flag), [])
                arms += [arm] if flag and arm not in arms else []
    return [f"{', '.join(arms)}, context {where!r}: {flag}" for (where, flag), arms in found.items() if flag]


def _thin(tables: Mapping[tuple[str, ...], pd.DataFrame]) -> list[str]:
    """The arms whose candidates hold next to nothing of the probability, which their margins are read among."""
    held = {
        key: float(table.to_numpy().mean()) for key, table in tables.items() if key[1].startswith(CANDIDATES)
    }
    return [
        f"{arm}, context {context!r}: {measure} hold {share:.2g} of the probability, so that the margin says little"
        for (arm, measure, context, _), share in held.items()
        if share < LEAST_MASS
    ]


def _draw(evaluations: Evaluations, baseline: Mapping[str, str], result: Result):
    """The margin in the training context where it was measured, else the first measure; below it differences to the
    baselines on a scale of their own, on which a teacher far away does not flatten them."""
    names = list(zip(result.frame["measure"], result.frame["context"], strict=True))
    measure, context = ("margin", "training") if ("margin", "training") in names else names[0]
    whole = seed_points(evaluations, measure=measure, context=context)
    means, unit = _seed_means(evaluations, measure, context)
    beyond = {
        f"{arm} \N{MINUS SIGN} {other}": (means[arm] - means[other]).dropna()
        for arm, other in baseline.items()
        if arm in means and other in means
    }
    if not beyond:
        return whole
    title = "each arm less its baseline, training by training"
    parts = [whole, _seed_figure(beyond, f"{measure}, difference", title=title, unit=unit)]
    for part, names in zip(
        parts, (means, beyond), strict=True
    ):  # level names, which leave the next panel its place
        labels = [wrapped(name.replace("_", " "), 14 if part is whole else 22) for name in names]
        part.update_xaxes(ticktext=labels, tickangle=0, title="")
    return panels(parts, title="scorecard")
